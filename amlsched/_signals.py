"""Signals during a run (Ctrl-C, SIGTERM, a closed terminal), and an event loop that shuts down in spite of them."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any

from amlsched._context import contextmanager

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

__all__ = ["event_loop", "handled", "installed", "raised_by_handler", "unclaimed"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_GRACE_S = 1.0  # for tasks that are cancelled when their loop is closed


@contextmanager
def handled(first: Callable[[BaseException], bool], second: Callable[[], None]) -> Generator[None]:
    """In this context, the first signal that would terminate the program calls `first`, each later one `second`.

    Only the main thread can handle signals: in others this does nothing. Handlers that the program has set itself, and
    signals that it ignores (as under `nohup`), are left alone. The former handlers are restored afterwards.

    Args:
        first: Called in the main thread, between any two of its instructions, with the exception to raise in the end:
            KeyboardInterrupt, or SystemExit with 128 plus the signal's number. Returns whether it handles the
            exception; otherwise the exception is raised at once.
        second: Called before the exception is raised at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def handler(number: int, frame: Any) -> None:
        nonlocal interrupted
        error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if interrupted:
            second()
            raise error
        interrupted = True
        if not first(error):
            raise error

    with installed(handler, unclaimed(_SIGNALS)):
        yield


def unclaimed(numbers: Iterable[int]) -> list[int]:
    """The signals that have Python's default handling: neither ignored, nor handled by the program."""
    return [number for number in numbers if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)]


@contextmanager
def installed(handler: Callable[[int, Any], object], numbers: Iterable[int]) -> Generator[None]:
    """In this context, these signals have this handler; the former ones are restored afterwards. Main thread only."""
    former = {number: signal.getsignal(number) for number in numbers}
    for number in former:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled_before in former.items():
            signal.signal(number, handled_before)


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal handler raised this exception, rather than the code that was running in this thread."""
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return False
    handlers = [signal.getsignal(number) for number in _SIGNALS]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:  # which leaves no frame
        return True
    codes = [getattr(getattr(handler, "func", handler), "__code__", None) for handler in handlers]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


@contextmanager
def event_loop(
    debug: bool = False, factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> Generator[asyncio.AbstractEventLoop]:
    """Create a new event loop, and close it afterwards.

    As with `asyncio.run`, remaining tasks are cancelled; unlike there, the wait for them has a time limit.

    Args:
        debug: Whether it is in asyncio's debug mode.
        factory: Creates the loop; `None` for asyncio's default.
    """
    loop = (factory or asyncio.new_event_loop)()
    loop.set_debug(debug)
    try:
        with _woken_by_signals(loop):
            yield loop
    finally:
        try:
            if tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=_GRACE_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Make sure that signal handlers run even if the loop is idle.

    Python runs handlers in the main thread, between two of its instructions. A signal that arrives just before the loop
    waits, or that the kernel delivers to another thread, would otherwise be handled only when something else happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        try:
            loop.add_reader(ours, ours.recv, 4096)
        except NotImplementedError:  # on Windows, where the loop wakes up for signals by itself
            yield
            return
        former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
            loop.remove_reader(ours)
