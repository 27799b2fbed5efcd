"""The driver's side of one worker: start it, send it calls, take them back, hear its answers, end it."""

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

from amlsched.errors import WorkerLostError, WorkerStartError
from amlsched.executors import _keeper
from amlsched.executors._calls import CallFuture
from amlsched.executors._channel import DriverEnd
from amlsched.executors._hash_seed import hash_seed_set
from amlsched.executors._payload import Large, Sheet
from amlsched.executors._pickling import describe
from amlsched.executors._stalled import Stall
from amlsched.executors._worker import Portable, main, portable
from amlsched.executors.deaths import Death, OutOfMemoryKills

__all__ = ["State", "Worker"]

logger = logging.getLogger(__name__)

_QUIT_GRACE_S = 0.5
_START_S = 120.0  # until the worker has its keeper: nothing of the user's comes before
_LATE_S = 3.0  # what a keeper, and then the kernel, may take beyond the time at which all is to be over


class State(Enum):
    """Where a worker stands."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """It was told to quit, or is being ended."""


class Worker:
    """One worker, as the driver knows it.

    Args:
        context: How to start its process.
        environment: Gives the variables that it starts with, beside those of this process.
        initializer: What it calls first.
        initargs: Arguments of that.
        calls_left: How many calls it may be given, in all.

    Attributes:
        pid: Process id; `None` before it has come up.
        calls: What it has, in the order in which it runs them. If it is ready, the first one runs.
        since: When the first one began, on the monotonic clock.
        doomed: The call for whose sake it is being ended.
        verdict: How that call shall end; `None` for cancelled.
        start_error: Why it could not come up, as far as it could tell.
        status: How it ended, as `os.waitpid` tells it and its keeper reports it.
        peak_bytes: The most resident memory that it had, likewise.
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
        self.doomed: CallFuture | None = None
        self.verdict: BaseException | None = None
        self.start_error: BaseException | None = None
        self.status: int | None = None
        self.peak_bytes: int | None = None
        self._end_by = self.since + _START_S  # what it does now, whatever that is
        self._stall: Stall | None = None
        self._forked = context.get_start_method() == "fork"
        self._killed = False
        self.ended_fd = -1
        self.channel = DriverEnd()
        theirs, self._lifeline = os.pipe()
        _held.add(self)
        # Copies for the child: what the driver keeps is closed in every process forked from it.
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

    def kept(self) -> None:
        """It has its keeper; from here on it may take its time: main module and initializer are the user's."""
        if self.state is State.STARTING and not self._killed:
            self._end_by = float("inf")

    def come_up(self, pid: int) -> None:
        """It is ready."""
        self.kept()
        self.pid = pid
        if self.state is State.STARTING:
            self.state = State.READY
            self._stall = Stall(pid) if self._forked else None

    def put(self, call: CallFuture, spare: list[Sheet]) -> bool:
        """Whether there was room for a call; it is posted with the next `channel.post`, and runs after those before it.

        Args:
            call: It must be with no worker.
            spare: Sheets that are free to carry it.
        """
        if isinstance(call.payload, Large):
            if self.calls:
                return False
            sheet = spare.pop() if spare else Sheet()
            sheet.write(call.payload)
            call.payload = sheet
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
        """What to watch: messages, answers, its end."""
        return self.channel.packets_fd, self.channel.answers_fd, self.ended_fd

    def begin(self) -> None:
        """Note that the first call runs now, if the worker is up."""
        self.since = time.monotonic()
        if self.state is State.READY:
            self.calls[0].start()

    def can_queue(self, begun_after: float) -> bool:
        """Whether a call may wait here, behind those that it has: the first of them must have begun after this."""
        return self.since > begun_after and self.calls_left > 0 and self.state is State.READY and self.status is None

    def take_back(self) -> list[CallFuture]:
        """The calls that the worker has not begun; it will not see them."""
        unread = self.channel.take_back() if self.calls else 0
        taken = [self.calls.pop() for _ in range(unread)]
        taken.reverse()
        for call in taken:
            call.worker = None
        self.calls_left += unread
        return taken

    def quit(self) -> None:
        """Let it leave by itself, but not for ever. It must have no calls."""
        self.state = State.LEAVING
        self.channel.quit()
        self._order_end(_keeper.QUIT_S, _QUIT_GRACE_S)

    def doom(self, call: CallFuture, verdict: BaseException | None, grace_s: float) -> None:
        """End it, and all below it, because of the call that it runs."""
        self.state, self.doomed, self.verdict = State.LEAVING, call, verdict
        self._order_end(0.0, grace_s)

    def kill(self) -> None:
        """End it, and all below it, at once."""
        self.state = State.LEAVING
        if self._lifeline >= 0:
            self._order_end(0.0, 0.0)

    def _order_end(self, after_s: float, grace_s: float) -> None:
        _keeper.order_end(self._lifeline, after_s, grace_s)
        self._stall = None
        self._end_by = min(self._end_by, time.monotonic() + after_s + grace_s + _LATE_S)

    @property
    def due_by(self) -> float:
        """When to call `overdue`, on the monotonic clock."""
        return self._end_by if self._stall is None else min(self._end_by, self._stall.look_at)

    def overdue(self) -> bool:
        """Do what its keeper should have done by now; whether that was in vain before, and there is no end to wait for.

        If it is not yet time for that, only have a look at the call that it runs.

        A keeper can be stopped (SIGSTOP), or stuck before it is one: a process forked from a program with threads may
        wait for a lock for ever.
        """
        if self._stall is not None and time.monotonic() < self._end_by:
            self._stall.look(self.calls[0] if self.calls else None)
            return False
        pid = self._process.pid
        if self._killed:
            logger.warning("process %s of a pool cannot be ended, and is left: %s", pid, _keeper.state_of(pid))
            return True
        if self.state is State.STARTING:
            self.start_error = TimeoutError(
                f"process {pid} has not begun to work within {_START_S:g} s: {_keeper.state_of(pid)}"
            )
        self._killed = True
        self._end_by = time.monotonic() + _LATE_S
        _keeper.signal_below(pid, signal.SIGKILL)
        self._process.kill()  # only now: its children would come to somebody else
        return False

    def close(self) -> None:
        """Close the descriptors; safe in a process forked from the driver."""
        fds, self._lifeline, self.ended_fd = (self._lifeline, self.ended_fd), -1, -1  # before: see DriverEnd.close
        self.channel.close()
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def reap(self) -> int | None:
        """Exit code of the keeper; `None` where it has not ended, though it should have."""
        if self._process.exitcode is None and not self._killed:  # under forkserver it may take a moment
            self._process.join(1.0)
        code: int | None = self._process.exitcode
        if code is None:  # at the exit of the program, multiprocessing would wait for it
            cast("Any", process)._children.discard(self._process)
        with contextlib.suppress(ValueError):
            self._process.close()
        return code

    def death(self, call: str, keeper_code: int | None, kills: OutOfMemoryKills) -> BaseException:
        """What a call is told of its end.

        Args:
            call: Name of the call.
            keeper_code: Exit code of the keeper, should it have been killed before it could report.
            kills: What the kernel says of processes that it killed.
        """
        if self.pid is None and self.start_error is not None:
            return self.start_error
        if self.status is not None:
            return Death(os.waitstatus_to_exitcode(self.status), self.pid, self.peak_bytes).error(call, kills)
        if keeper_code is not None and keeper_code < 0:
            return Death(keeper_code, self.pid).error(call, kills)
        return WorkerLostError(call, "ended without a word", self.pid)


def start_error(call: str, reason: BaseException) -> WorkerStartError:
    """The error of a call that no worker could be started for."""
    if isinstance(reason, WorkerLostError):
        return WorkerStartError(call, f"{reason.cause} before it was ready", reason.pid)
    error = WorkerStartError(call, f"could not start: {describe(reason)}")
    error.__cause__ = reason
    return error


def _start(
    context: BaseContext,
    environment: dict[str, str],
    fds: tuple[int, ...],
    initializer: Portable | None,
    initargs: tuple[Any, ...],
) -> Any:
    method = context.get_start_method()
    forks = method == "fork"
    name = _keeper.KeptName("amlsched-worker")
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
    """Let any process start a child through multiprocessing.

    A daemonic process, such as a worker of dask, may not, since it may be ended without a chance to end its children.
    Ours end by themselves then. And the child takes over the name of the start method, which it does not know where it
    is not one of Python's, as in loky's workers. Several threads may start children at once: the last restores both.
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


_held: "weakref.WeakSet[Worker]" = weakref.WeakSet()


def _let_go() -> None:
    global _starting, _started_at_once
    _starting, _started_at_once = threading.Lock(), 0
    for worker in list(_held):
        worker.close()


# Otherwise a process forked from the driver would hold the lifelines, and workers would outlive the driver.
os.register_at_fork(after_in_child=_let_go)
