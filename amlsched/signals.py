"""Ctrl-C, a terminal that closes, and SIGTERM while a scheduler runs; and a loop that ends in spite of them."""

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

_GRACE_S = 1.0  # for tasks that are cancelled when their loop ends


@contextmanager
def handled(first: Callable[[BaseException], bool], second: Callable[[], None]) -> Generator[None]:
    """While in here, signals that would end the program are told to `first`, and from the second one on to `second`.

    Only the main thread can handle signals: elsewhere nothing is touched. A handler that the program set itself, or a
    signal that it ignores (as under `nohup`), is left alone. The former handlers are back afterwards.

    Args:
        first: Called in the main thread, between any two of its instructions, with what is to be raised in the end:
            KeyboardInterrupt, or SystemExit with 128 plus the signal's number. Returns whether it took care of it; else
            it is raised on the spot.
        second: Called before it is raised on the spot.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = False

    def handler(number: int, frame: Any) -> None:
        nonlocal told
        error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if told:
            second()
            raise error
        told = True
        if not first(error):
            raise error

    with installed(handler, unclaimed(_SIGNALS)):
        yield


def unclaimed(numbers: Iterable[int]) -> list[int]:
    """Those of these signals that Python handles as it does by itself: neither ignored, nor handled by the program."""
    return [number for number in numbers if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)]


@contextmanager
def installed(handler: Callable[[int, Any], object], numbers: Iterable[int]) -> Generator[None]:
    """While in here, these signals have this handler. The former ones are back afterwards. For the main thread."""
    former = {number: signal.getsignal(number) for number in numbers}
    for number in former:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled_before in former.items():
            signal.signal(number, handled_before)


def raised_by_handler(error: BaseException) -> bool:
    """Whether a signal that would end the program raised it in this thread, rather than the code that it came from."""
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return False
    handlers = [signal.getsignal(number) for number in _SIGNALS]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:  # it leaves no frame
        return True
    codes = [getattr(getattr(handler, "func", handler), "__code__", None) for handler in handlers]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


@contextmanager
def event_loop(debug: bool = False) -> Generator[asyncio.AbstractEventLoop]:
    """A new event loop, which is closed afterwards.

    As with `asyncio.run`, tasks that are left then are cancelled; but one that does not end is not waited for without
    end.
    """
    loop = asyncio.new_event_loop()
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
    """See to it that a signal's handler runs also when the loop has nothing to do.

    Python runs handlers in the main thread, between two of its instructions. A signal that comes after the last one
    before the loop waits, or that the kernel gives to another thread, would be seen only when something else happens.
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
        except NotImplementedError:  # on Windows, where this loop wakes for signals by itself
            yield
            return
        former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
            loop.remove_reader(ours)
