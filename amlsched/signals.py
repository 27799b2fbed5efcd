"""Ctrl-C, a terminal that closes, and SIGTERM while a scheduler runs."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["handled"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


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

    former = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number in _SIGNALS if former[number] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, former[number])
