"""The client side of the watchdog, in the process that kills calls; and child processes that run limited calls."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import multiprocessing.util
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from amlsched._context import contextmanager
from amlsched.errors import WorkerLostError
from amlsched.executors.worker_exit import is_loss
from amlsched.plugins._limits import watchdog
from amlsched.plugins._limits.limited_call import Bounds, LimitedCall
from amlsched.resources.binding import shared_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future as Work

    Handler = Callable[[int, bytes, float], object]

__all__ = ["InChild", "KEYS", "Subscription", "end_children", "subscribe"]

logger = logging.getLogger(__name__)

KEYS = 1 << 40
"""How many calls a subscription can distinguish."""


class Subscription:
    """A subscription to calls that exceed a limit.

    Attributes:
        base: The keys of its calls are this plus a number below `KEYS`.
        address: Where workers reach the watchdog.
    """

    def __init__(self, process: _Watchdog, base: int) -> None:
        self._watchdog = process
        self.base = base
        self.address = process.address

    @property
    def up(self) -> bool:
        """Whether the watchdog is still running; if not, call `subscribe` again."""
        return self._watchdog.up

    def close(self) -> None:
        """Unsubscribe; the watchdog exits when there are no subscriptions."""
        with _lock:
            self._watchdog.handlers.pop(self.base, None)
            if not self._watchdog.handlers:
                self._watchdog.end()


class _Watchdog:
    """The handle of the watchdog process."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.up = True
        # In the abstract name space, so that no file can be left behind. The watchdog only accepts its own user.
        self.address = f"\0amlsched-{secrets.token_hex(16)}".encode()
        # Plain descriptors: file objects have a lock, which a thread may hold while another one forks.
        its_lifeline, self._lifeline = os.pipe()
        self._reports, its_reports = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(self.address)
                listener.listen(512)
                fd = listener.fileno()
                command = [sys.executable, "-I", "-S", watchdog.__file__, str(fd)]
                self._process = subprocess.Popen(
                    command, stdin=its_lifeline, stdout=its_reports, pass_fds=(fd,), start_new_session=True
                )
        except BaseException:
            self.release()
            raise
        finally:
            os.close(its_lifeline)
            os.close(its_reports)
        threading.Thread(target=self._read, name="amlsched-limits", daemon=True).start()

    def _read(self) -> None:
        while report := os.read(self._reports, watchdog.REPORT.size):
            key, which, used = watchdog.REPORT.unpack(report)
            number = key % KEYS
            handler = self.handlers.get(key - number)
            if handler is not None:
                try:
                    handler(number, which, used)
                except Exception:
                    logger.exception("a call exceeded its limit, but could not be killed")
        if self.up:
            logger.error("the watchdog process for limits has exited; running calls are no longer limited")
        with _lock:
            self.release()
        self._process.wait()

    def end(self) -> None:
        """Have the watchdog exit."""
        self.up = False
        fd, self._lifeline = self._lifeline, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> None:
        """Close the descriptors."""
        self.end()
        fd, self._reports = self._reports, -1
        if fd >= 0:
            os.close(fd)

    def forget(self) -> None:
        """In a forked process: release the watchdog, which belongs to the parent."""
        self.release()
        self._process.returncode = 0  # not a child of this process, which must not wait for it


_lock = threading.RLock()
_watchdog: _Watchdog | None = None
_bases = itertools.count(KEYS, KEYS)


def subscribe(handler: Handler) -> Subscription:
    """Subscribe: have a function called, in a thread, when a call has exceeded a limit.

    Args:
        handler: Called with the number of the call, the kind of limit, and how much was used.
    """
    global _watchdog
    with _lock:
        if _watchdog is None or not _watchdog.up:
            _watchdog = _Watchdog()
        base = next(_bases)
        _watchdog.handlers[base] = handler
        return Subscription(_watchdog, base)


class InChild:
    """Runs a function under limits in a child process of the worker. Children are kept for later calls.

    Args:
        function: The function.
        bounds: The limits.
        run: Identifies the run, for `end_children`.
        n_workers: How many workers, each with a child, share the CPUs of this machine.
    """

    def __init__(self, function: Callable[..., Any], bounds: Bounds, run: str, n_workers: int) -> None:
        self.in_child = function
        self.bounds, self.run, self.n_workers = bounds, run, n_workers
        self.__name__ = getattr(function, "__name__", None) or type(function).__name__
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def with_function(self, function: Callable[..., Any]) -> InChild:
        """A copy for another function."""
        return InChild(function, self.bounds, self.run, self.n_workers)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with _child(self.run, self.n_workers) as child:
            return child.call(self.in_child, self.bounds, args, kwargs)


def _use_start_method(method: str | None) -> None:
    """Have pools that a call starts use the same start method as without a limit."""
    multiprocessing.set_start_method(method, force=True)


class _Child:
    """A process that runs one call at a time."""

    def __init__(self, n_workers: int) -> None:
        from amlsched.executors.processes import ProcessPool

        # Not forked from this process, which may have threads, whose locks would stay locked in the child. And a
        # process forked from the driver cannot use the fork server that the driver has started.
        method = multiprocessing.get_start_method(allow_none=True)
        self.pool = ProcessPool(
            1,
            multiprocessing.get_context("spawn"),
            _use_start_method,
            (method if method in ("fork", "forkserver", "spawn") else None,),
            threads_per_worker=shared_threads(n_workers),
        )
        self._numbers = itertools.count()
        self._subscription = subscribe(self._passed)
        self._call: tuple[int, Work[Any], Bounds, str] | None = None

    @property
    def usable(self) -> bool:
        return self._subscription.up

    def call(self, function: Callable[..., Any], bounds: Bounds, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function and return its result.

        Raises:
            LimitError: It exceeded a limit and was terminated.
        """
        number = next(self._numbers)
        limited = LimitedCall(function, bounds, self._subscription.base + number, self._subscription.address)
        work = self.pool.submit(limited, *args, **kwargs)
        self._call = number, work, bounds, limited.__qualname__
        try:
            if isinstance(error := work.exception(), WorkerLostError) and is_loss(error):
                error.in_limits = True
            return work.result()
        except BaseException:
            if not work.done():  # interrupted
                self.pool.kill_call(work, grace_s=bounds.grace_s)
            raise
        finally:
            self._call = None

    def _passed(self, number: int, which: bytes, used: float) -> None:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            call = self._call
            if call is not None and call[0] == number:
                _, work, bounds, name = call
                self.pool.kill_call(work, bounds.error(name, which, used), grace_s=bounds.grace_s)
                return
            if call is not None and call[0] > number:
                return
            time.sleep(0.001)  # its thread has not recorded the call yet

    def begin_to_leave(self) -> None:
        self._subscription.close()
        self.pool.shutdown(wait=False)

    def end(self) -> None:
        self._subscription.close()
        self.pool.kill_workers()


_idle: list[_Child] = []
_busy: dict[_Child, str] = {}


@contextmanager
def _child(run: str, n_workers: int) -> Generator[_Child]:
    with _lock:
        child = _idle.pop() if _idle else None
        if child is not None and not child.usable:
            child.end()
            child = None
        if child is None:
            child = _Child(n_workers)
            _end_children_at_exit()
        _busy[child] = run
    try:
        yield child
    finally:
        with _lock:
            if _busy.pop(child, None) is not None:
                _idle.append(child)


def end_children(run: str | None = None) -> None:
    """Terminate child processes of this process: kill those that still run calls of a run, and stop the idle ones.

    Args:
        run: The run; `None` for all.
    """
    with _lock:
        busy = [child for child, owner in _busy.items() if run in (owner, None)]
        for child in busy:
            del _busy[child]
        idle = _idle[:]
        _idle.clear()
    for child in idle:
        child.begin_to_leave()
    for child in busy:
        child.end()
    for child in idle:
        child.pool.shutdown(wait=True)


_finalizer: multiprocessing.util.Finalize | None = None


def _end_children_at_exit() -> None:
    """Terminate children at the exit of this process, by multiprocessing, whose own exit functions would wait."""
    global _finalizer
    if _finalizer is None:
        _finalizer = multiprocessing.util.Finalize(None, end_children, exitpriority=100)


def _reset_in_child() -> None:
    """In a forked process: everything belongs to the parent."""
    global _watchdog, _lock, _finalizer
    _lock = threading.RLock()
    _finalizer = None
    if _watchdog is not None:
        _watchdog.forget()
        _watchdog = None
    _idle.clear()
    _busy.clear()


os.register_at_fork(after_in_child=_reset_in_child)
