"""The set of workers of a pool: starts them, checks their deadlines, and removes them when they have exited."""

import time
from collections.abc import Callable

from amlsched.executors._driven import Worker
from amlsched.executors._listener import Listener

__all__ = ["Roster"]

_START_ATTEMPTS = 3  # in a row, while no worker comes up


class Roster:
    """The workers of a pool. All methods are called under the manager's lock.

    Args:
        size: Maximum number of workers.
        new_worker: Starts a worker.
        listener: Polls their descriptors.

    Attributes:
        workers: The present workers, oldest first.
        failed_starts: How many workers in a row failed to start.
        due_by: When to call `overdue`, on the monotonic clock.
    """

    def __init__(self, size: int, new_worker: Callable[[], Worker], listener: Listener) -> None:
        self._size, self._new_worker, self._listener = size, new_worker, listener
        self._by_fd: dict[int, Worker] = {}
        self.workers: list[Worker] = []
        self.failed_starts = 0
        self.due_by = float("inf")

    @property
    def has_room(self) -> bool:
        """Whether there could be more workers."""
        return len(self.workers) < self._size

    @property
    def hopeless(self) -> bool:
        """Whether there is no worker and none can be started."""
        return not self.workers and self.failed_starts >= _START_ATTEMPTS

    def may_start(self) -> bool:
        """Whether another worker may be started if needed."""
        return self.has_room and self.failed_starts < _START_ATTEMPTS

    def start(self) -> Worker:
        """Start a new worker.

        Raises:
            Exception: There is no memory, no process can be created, or the initializer cannot be pickled; trying again
                would be useless.
        """
        try:
            worker = self._new_worker()
        except Exception:
            self.failed_starts = _START_ATTEMPTS
            raise
        self.workers.append(worker)
        for fd in worker.fds():
            self._by_fd[fd] = worker
            self._listener.watch(fd)
        self._listener.ensure()
        self.set_alarm()
        return worker

    def at(self, fd: int) -> Worker | None:
        """The worker with this descriptor; `None` if it has been removed."""
        return self._by_fd.get(fd)

    def strike_off(self, worker: Worker) -> int | None:
        """Remove a worker that has exited, and return the exit code of its supervisor, if that has exited."""
        for fd in worker.fds():
            self._listener.unwatch(fd)
            del self._by_fd[fd]
        self.workers.remove(worker)
        self.set_alarm()
        keeper_code = worker.reap()
        worker.close()
        return keeper_code

    def set_alarm(self) -> None:
        """Wake up the poller if the next deadline of a worker is earlier now. Call it after every change of one."""
        former, self.due_by = self.due_by, min((worker.due_by for worker in self.workers), default=float("inf"))
        if self.due_by < former:
            self._listener.wake()

    def overdue(self) -> list[Worker]:
        """Kill workers that missed their deadline, and return those that cannot be killed."""
        now = time.monotonic()
        lost = [worker for worker in self.workers if worker.due_by <= now and worker.overdue()]
        self.set_alarm()
        return lost

    def forget_all(self) -> None:
        """In a process forked from the driver: drop the workers, which belong to the parent."""
        self.workers, self._by_fd = [], {}
