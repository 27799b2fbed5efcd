"""The workers that a pool has: how they are started, watched, and struck off when they have ended."""

import time
from collections.abc import Callable

from amlsched.executors._driven import Worker
from amlsched.executors._listener import Listener

__all__ = ["Roster"]

_START_ATTEMPTS = 3  # in a row, while no worker comes up


class Roster:
    """Everything is called under the lock of its crew.

    Args:
        size: Number of workers at most.
        new_worker: Starts one.
        listener: Hears what they say, and that they have ended.

    Attributes:
        workers: Those that have not been struck off, oldest first.
        failed_starts: How many workers in a row did not come up.
        due_by: When `overdue` has something to do, on the monotonic clock.
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
        """Whether no worker is there, and none comes up."""
        return not self.workers and self.failed_starts >= _START_ATTEMPTS

    def may_start(self) -> bool:
        """Whether to start another worker, should one be needed."""
        return self.has_room and self.failed_starts < _START_ATTEMPTS

    def start(self) -> Worker:
        """A new worker.

        Raises:
            Exception: No memory, no process to be had, an initializer that cannot be pickled. There is no use in
                trying again.
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
        """Whose descriptor it is; nobody's, if the worker has been struck off."""
        return self._by_fd.get(fd)

    def strike_off(self, worker: Worker) -> int | None:
        """Forget a worker that has ended; the exit code of its keeper, as far as that has ended."""
        for fd in worker.fds():
            self._listener.unwatch(fd)
            del self._by_fd[fd]
        self.workers.remove(worker)
        self.set_alarm()
        keeper_code = worker.reap()
        worker.close()
        return keeper_code

    def set_alarm(self) -> None:
        """Have the listener call in time for the worker that is overdue next; after all that changes its `due_by`."""
        former, self.due_by = self.due_by, min((worker.due_by for worker in self.workers), default=float("inf"))
        if self.due_by < former:
            self._listener.wake()

    def overdue(self) -> list[Worker]:
        """See to workers that have not done in time what they should; those that nothing can end."""
        now = time.monotonic()
        lost = [worker for worker in self.workers if worker.due_by <= now and worker.overdue()]
        self.set_alarm()
        return lost

    def forget_all(self) -> None:
        """In a process forked from the driver: they are the parent's."""
        self.workers, self._by_fd = [], {}
