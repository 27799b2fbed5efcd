"""The driver's side of workers: `Worker` starts one, sends it calls and stops it; `Workers` has all of a pool.

`Stall` detects stalled calls in processes forked from this one, which may wait for locks or threads lost by the fork.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from enum import Enum
from multiprocessing import process
from multiprocessing.context import BaseContext
from typing import Any, cast

from amlsched import _proc
from amlsched.errors import WorkerLostError
from amlsched.executors._payload import Large, SharedFile
from amlsched.executors._processes import supervisor
from amlsched.executors._processes.call_future import CallFuture
from amlsched.executors._processes.poller import Poller
from amlsched.executors._processes.transport import DriverEnd
from amlsched.executors._processes.worker_main import Portable, main, portable
from amlsched.executors.worker_exit import OutOfMemoryKills, WorkerExit
from amlsched.executors.worker_setup import hash_seed_set

__all__ = ["Workers", "Stall", "State", "Worker"]

logger = logging.getLogger(__name__)
_START_ATTEMPTS = 3  # in a row, while no worker comes up
_QUIT_GRACE_S = 0.5
_START_S = 120.0  # until the worker has its supervisor; no code of the user runs before
_LATE_S = 3.0  # what a supervisor, and then the kernel, may take beyond the deadline
_CHECK_S = 30.0  # a call is reported if nothing has happened between two checks


class State(Enum):
    """The state of a worker."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """It was asked to quit, or is being killed."""


class Worker:
    """The driver's handle of one worker.

    Args:
        context: How to start its process.
        environment: Returns its environment variables, in addition to those of this process.
        initializer: What it calls first.
        initargs: Arguments of the initializer.
        calls_left: How many calls it may run in all.

    Attributes:
        pid: Process id; `None` before it is ready.
        calls: Its calls, in the order in which it runs them. If it is ready, the first one is running.
        since: When the first call started, on the monotonic clock.
        killed_for: The call because of which it is being killed.
        kill_error: The exception of that call; `None` for cancelled.
        start_error: Why it could not start, if it reported that.
        status: Its exit status, as of `os.waitpid`, reported by its supervisor.
        peak_bytes: Its peak resident memory, likewise.
    """

    def __init__(
        self,
        context: BaseContext,
        environment: Callable[[], dict[str, str]],
        initializer: Portable | None,
        initargs: tuple[Any, ...],
        calls_left: float,
    ) -> None:
        self.calls_left = calls_left
        self.pid: int | None = None
        self.state = State.STARTING
        self.calls: deque[CallFuture] = deque()
        self.since = time.monotonic()
        self.killed_for: CallFuture | None = None
        self.kill_error: BaseException | None = None
        self.start_error: BaseException | None = None
        self.status: int | None = None
        self.peak_bytes: int | None = None
        self._end_by = self.since + _START_S  # deadline of its present step: start, or exit
        self._stall: Stall | None = None
        self._forked = context.get_start_method() == "fork"
        self._killed = False
        self.ended_fd = -1
        self.channel = DriverEnd()
        theirs, self._lifeline = os.pipe()
        _open.add(self)
        # Copies for the child: the driver's own descriptors are closed in every process forked from it.
        fds = (theirs, *self.channel.fds())
        try:
            self._process = _start(context, environment(), fds, initializer, initargs)
        except BaseException:
            self.close()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        try:
            self.ended_fd = os.pidfd_open(self._process.pid)
        except OSError:  # Linux before 5.3
            self.ended_fd = os.dup(self._process.sentinel)

    def supervisor_started(self) -> None:
        """It has its supervisor. From now on there is no deadline: main module and initializer are the user's code."""
        if self.state is State.STARTING and not self._killed:
            self._end_by = float("inf")

    def became_ready(self, pid: int) -> None:
        """It is ready."""
        self.supervisor_started()
        self.pid = pid
        if self.state is State.STARTING:
            self.state = State.READY
            self._stall = Stall(pid) if self._forked else None

    def put(self, call: CallFuture, spare: list[SharedFile]) -> bool:
        """Assign a call, to be sent by the next `channel.post`, and return whether there was room.

        Args:
            call: A call without a worker.
            spare: Unused shared files for large calls.
        """
        if isinstance(call.payload, Large):
            if self.calls:
                return False
            shared_file = spare.pop() if spare else SharedFile()
            shared_file.write(call.payload)
            call.payload = shared_file
        assert call.payload is not None
        if not self.channel.put(call.payload):
            return False
        self.calls_left -= 1
        call.worker = self
        self.calls.append(call)
        if len(self.calls) == 1:
            self.begin()
        return True

    def fds(self) -> tuple[int, int, int]:
        """The descriptors to poll: for messages, answers, and its exit."""
        return self.channel.packets_fd, self.channel.answers_fd, self.ended_fd

    def begin(self) -> None:
        """Record that the first call is now running, if the worker is ready."""
        self.since = time.monotonic()
        if self.state is State.READY:
            self.calls[0].start()

    def can_queue(self, begun_after: float) -> bool:
        """Whether it may prefetch a call: only if its running call started after this time."""
        return self.since > begun_after and self.calls_left > 0 and self.state is State.READY and self.status is None

    def reclaim(self) -> list[CallFuture]:
        """Reclaim and return the calls that it has not started."""
        unread = self.channel.reclaim() if self.calls else 0
        taken = [self.calls.pop() for _ in range(unread)]
        taken.reverse()
        for call in taken:
            call.worker = None
        self.calls_left += unread
        return taken

    def quit(self) -> None:
        """Ask it to exit by itself, with a time limit. It must have no calls."""
        self.state = State.LEAVING
        self.channel.quit()
        self._order_end(supervisor.QUIT_S, _QUIT_GRACE_S)

    def kill_for(self, call: CallFuture, kill_error: BaseException | None, grace_s: float) -> None:
        """Kill it and all of its descendants because of its running call."""
        self.state, self.killed_for, self.kill_error = State.LEAVING, call, kill_error
        self._order_end(0.0, grace_s)

    def kill(self) -> None:
        """Kill it and all of its descendants at once."""
        self.state = State.LEAVING
        if self._lifeline >= 0:
            self._order_end(0.0, 0.0)

    def _order_end(self, after_s: float, grace_s: float) -> None:
        supervisor.order_end(self._lifeline, after_s, grace_s)
        self._stall = None
        self._end_by = min(self._end_by, time.monotonic() + after_s + grace_s + _LATE_S)

    @property
    def check_at(self) -> float:
        """When to call `check`, on the monotonic clock."""
        return self._end_by if self._stall is None else min(self._end_by, self._stall.check_at)

    def check(self) -> bool:
        """Kill it in place of its supervisor, if the deadline has passed; otherwise check its running call for a stall.

        A supervisor may have been stopped (SIGSTOP), or may hang before it has started: a process forked from a program
        with threads may wait for a lock forever.

        Returns:
            Whether killing it has failed before, so that it must be abandoned.
        """
        if self._stall is not None and time.monotonic() < self._end_by:
            self._stall.check(self.calls[0] if self.calls else None)
            return False
        pid = self._process.pid
        if self._killed:
            logger.warning("process %s of a pool cannot be killed and was abandoned: %s", pid, _proc.state_of(pid))
            return True
        if self.state is State.STARTING:
            self.start_error = TimeoutError(
                f"process {pid} did not start working within {_START_S:g} s: {_proc.state_of(pid)}"
            )
        self._killed = True
        self._end_by = time.monotonic() + _LATE_S
        _proc.signal_below(pid, signal.SIGKILL)
        self._process.kill()  # only now: its children would be reparented
        return False

    def close(self) -> None:
        """Close the descriptors; safe in a process forked from the driver."""
        fds, self._lifeline, self.ended_fd = (self._lifeline, self.ended_fd), -1, -1  # before: see DriverEnd.close
        self.channel.close()
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def reap(self) -> int | None:
        """Exit code of the supervisor; `None` if it has not exited, although it should have."""
        if self._process.exitcode is None and not self._killed:  # a fork server may send it a little later
            self._process.join(1.0)
        code: int | None = self._process.exitcode
        if code is None:  # otherwise multiprocessing would wait for it at the exit of the program
            cast("Any", process)._children.discard(self._process)
        with contextlib.suppress(ValueError):
            self._process.close()
        return code

    def exit_error(self, call: str, supervisor_code: int | None, kills: OutOfMemoryKills) -> BaseException:
        """The exception of a call that it was running when it exited.

        Args:
            call: Name of the call.
            supervisor_code: Exit code of the supervisor, in case it was killed before it could report.
            kills: The kernel's count of out-of-memory kills.
        """
        if self.pid is None and self.start_error is not None:
            return self.start_error
        if self.status is not None:
            return WorkerExit(os.waitstatus_to_exitcode(self.status), self.pid, self.peak_bytes).error(call, kills)
        if supervisor_code is not None and supervisor_code < 0:
            return WorkerExit(supervisor_code, self.pid).error(call, kills)
        return WorkerLostError(call, "exited without reporting a status", self.pid)


class Workers:
    """The workers of a pool. All methods are called under the manager's lock.

    Args:
        size: Maximum number of workers.
        new_worker: Starts a worker.
        poller: Polls their descriptors.

    Attributes:
        workers: The present workers, oldest first.
        failed_starts: How many workers in a row failed to start.
        check_at: When to call `check_due`, on the monotonic clock.
    """

    def __init__(self, size: int, new_worker: Callable[[], Worker], poller: Poller) -> None:
        self._size, self._new_worker, self._poller = size, new_worker, poller
        self._by_fd: dict[int, Worker] = {}
        self.all: list[Worker] = []
        self.failed_starts = 0
        self.check_at = float("inf")

    @property
    def has_room(self) -> bool:
        """Whether there could be more workers."""
        return len(self.all) < self._size

    @property
    def cannot_start(self) -> bool:
        """Whether there is no worker and none can be started."""
        return not self.all and self.failed_starts >= _START_ATTEMPTS

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
            try:
                self._poller.ensure_polling()
            except RuntimeError:
                worker.close()  # its supervisor notices that and terminates it
                raise
        except Exception:
            self.failed_starts = _START_ATTEMPTS
            raise
        self.all.append(worker)
        for fd in worker.fds():
            self._by_fd[fd] = worker
            self._poller.watch(fd)
        self.update_check_at()
        return worker

    def at(self, fd: int) -> Worker | None:
        """The worker with this descriptor; `None` if it has been removed."""
        return self._by_fd.get(fd)

    def remove(self, worker: Worker) -> int | None:
        """Remove a worker that has exited, and return the exit code of its supervisor, if that has exited."""
        for fd in worker.fds():
            self._poller.unwatch(fd)
            del self._by_fd[fd]
        self.all.remove(worker)
        self.update_check_at()
        supervisor_code = worker.reap()
        worker.close()
        return supervisor_code

    def update_check_at(self) -> None:
        """Wake up the poller if the next deadline of a worker is earlier now. Call it after every change of one."""
        former, self.check_at = self.check_at, min((worker.check_at for worker in self.all), default=float("inf"))
        if self.check_at < former:
            self._poller.wake()

    def check_due(self) -> list[Worker]:
        """Kill workers that missed their deadline, and return those that cannot be killed."""
        now = time.monotonic()
        lost = [worker for worker in self.all if worker.check_at <= now and worker.check()]
        self.update_check_at()
        return lost

    def forget_all(self) -> None:
        """In a process forked from the driver: drop the workers, which belong to the parent."""
        self.all, self._by_fd = [], {}


class Stall:
    """Checks one worker from time to time, and logs a warning about a stalled call, once.

    Args:
        pid: Process id of the worker.

    Attributes:
        check_at: When to check next, on the monotonic clock.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: tuple[CallFuture, int] | None = None
        self._named: CallFuture | None = None
        self.check_at = time.monotonic() + _CHECK_S

    def check(self, call: CallFuture | None) -> None:
        """Check the worker.

        Args:
            call: Its running call.
        """
        self.check_at = time.monotonic() + _CHECK_S
        ticks = _proc.cpu_ticks_if_stalled(self._pid) if call is not None else None
        last, self._last = self._last, None if call is None or ticks is None else (call, ticks)
        if self._last is None or self._last != last or call is self._named:
            return
        self._named = call
        logger.warning(
            "%s has waited for a lock or a thread for %g s in process %s, which was forked from this program: after a "
            "fork, locks may stay locked, and the threads of OpenMP and other libraries are missing. If it never "
            'finishes, remove mp_context=get_context("fork"), or use "spawn"',
            self._last[0].name,
            _CHECK_S,
            self._pid,
        )


def _start(
    context: BaseContext,
    environment: dict[str, str],
    fds: tuple[int, ...],
    initializer: Portable | None,
    initargs: tuple[Any, ...],
) -> Any:
    method = context.get_start_method()
    forks = method == "fork"
    name = supervisor.SupervisedName("amlsched-worker")
    if not forks:
        name.fds, name.environment = fds, environment
        initargs = portable(initargs)
    child: Any = cast("Any", context).Process(
        target=main, name=name, args=(fds if forks else None, environment, initializer, initargs)
    )
    with _may_have_children(), hash_seed_set() if method == "spawn" else contextlib.nullcontext():
        child.start()
    return child


_starting = threading.Lock()
_started_at_once = 0
_as_before: tuple[bool, str | None] = (False, None)


@contextlib.contextmanager
def _may_have_children() -> Generator[None]:
    """Allow any process to start children through multiprocessing.

    Daemonic processes, such as workers of dask, may not start any, since they may be killed before they can terminate
    their children; ours exit by themselves in that case. Also, a child inherits the name of the start method and fails
    if that is not one of Python's, as in loky's workers. Several threads may start children at the same time: the last
    one restores both.
    """
    global _as_before, _started_at_once
    own = multiprocessing.current_process()
    with _starting:
        if not _started_at_once:
            method = multiprocessing.get_start_method(allow_none=True)
            _as_before = own.daemon, method if method not in (None, "fork", "forkserver", "spawn") else None
            if own.daemon:
                own.daemon = False
            if _as_before[1]:
                multiprocessing.set_start_method("spawn", force=True)
        _started_at_once += 1
    try:
        yield
    finally:
        with _starting:
            _started_at_once -= 1
            if not _started_at_once:
                daemon, foreign = _as_before
                if daemon:
                    own.daemon = True
                if foreign:
                    multiprocessing.set_start_method(foreign, force=True)


_open: weakref.WeakSet[Worker] = weakref.WeakSet()


def _release() -> None:
    global _starting, _started_at_once
    _starting, _started_at_once = threading.Lock(), 0
    for worker in list(_open):
        worker.close()


# Otherwise a process forked from the driver would hold the lifelines open, and workers would outlive the driver.
os.register_at_fork(after_in_child=_release)
