"""Wakes an event loop from other threads."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Self

__all__ = ["Waker"]


class Waker:
    """Has a function called in a loop's thread, from any thread, while it is entered.

    It does what `loop.call_soon_threadsafe` does, for a third of the cost: one write and one read of an eventfd, where
    asyncio makes a handle, copies a context, and reads its socket until that refuses. Where the system or the loop has
    no such thing, it is `call_soon_threadsafe`.

    Args:
        loop: The loop.
        function: What is called; once for several calls that come before the loop gets to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        self._loop = loop
        self._function = function
        self._descriptor: int | None = None
        self._lock = Lock()  # a thread that is late must not write into a file that has got the number since

    def __enter__(self) -> Self:
        if hasattr(os, "eventfd"):  # Linux
            descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._loop.add_reader(descriptor, self._woken, descriptor)
                self._descriptor = descriptor
            except NotImplementedError:
                os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def wake(self) -> None:
        """Have the function called.

        Raises:
            RuntimeError: The loop is closed.
        """
        with self._lock:
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)
                return
        self._loop.call_soon_threadsafe(self._function)

    def _woken(self, descriptor: int) -> None:
        os.eventfd_read(descriptor)
        self._function()
