"""Polls the descriptors of a pool's workers: in an event loop while one is attached, otherwise in a thread."""

import contextlib
import os
import select
import threading
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Protocol

__all__ = ["Poller"]


class Handle(Protocol):
    """The handler of a poller."""

    def __call__(self, fds: list[int], due: bool, is_my_turn: Callable[[], bool]) -> float | None:
        """Handle readable descriptors.

        Args:
            fds: The readable descriptors.
            due: Whether the time has passed that the previous call returned.
            is_my_turn: Whether the calling thread is still the one that polls; to be called under the lock.

        Returns:
            Seconds after which to call it again in any case; `None` if that is not needed.
        """
        ...


class Poller:
    """Polls descriptors with one epoll object, and calls a handler when they are readable.

    The epoll object is itself one descriptor of an event loop. So any thread can register descriptors, even while a
    loop polls, and polling can move between a loop and a thread at any time.

    Args:
        lock: Guards which loop or thread polls; the handler takes it while it processes what has happened.
        handle: The handler, called without the lock.
    """

    def __init__(self, lock: threading.Lock, handle: Handle) -> None:
        self._lock, self._handle = lock, handle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.RLock()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._loop: AbstractEventLoop | None = None
        self._timer: TimerHandle | None = None
        self._thread: threading.Thread | None = None  # the polling one
        self._around: Callable[[Callable[[], object]], object] | None = None
        self._ended = threading.Event()

    def watch(self, fd: int) -> None:
        """Register a descriptor."""
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Unregister a descriptor."""
        self._epoll.unregister(fd)

    def wake(self) -> None:
        """Have the handler called. Takes only its own lock, as a garbage collection may call it anywhere."""
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @property
    def is_idle(self) -> bool:
        """Whether nothing polls: the loop was closed without `detach`, or no thread was needed or could be started."""
        return self._thread is None if self._loop is None else self._loop.is_closed()

    def attach(self, loop: AbstractEventLoop, around: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Poll in an event loop. Must be called in its thread.

        Args:
            loop: The loop.
            around: A wrapper of the handler: must call the function that it gets, and may do more.
        """
        self.detach()
        self._around = around
        with self._lock:
            if not self._epoll.closed:
                self._loop, self._thread = loop, threading.current_thread()
                loop.add_reader(self._epoll.fileno(), self._in_loop, False)
        self.wake()  # a polling thread stops, and the handler may need to be called again later

    def detach(self) -> None:
        """Stop polling in an event loop."""
        self._around = None
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                self._thread = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if not loop.is_closed() and not self._epoll.closed:
                    loop.remove_reader(self._epoll.fileno())

    def ensure_polling(self) -> None:
        """Start a thread if nothing polls. To be called under the lock.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self._loop is not None and self._loop.is_closed():
            self._loop = self._thread = self._timer = None
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._in_thread, name="amlsched-processes", daemon=True)
            try:
                self._thread.start()
            except BaseException:
                self._thread = None
                raise
            self.wake()

    def end(self) -> None:
        """Stop: there is nothing to poll any more."""
        self._ended.set()
        self.wake()

    def wait(self, patience_s: float = float("inf")) -> None:
        """Wait for `end`. Polls meanwhile if nothing else does, as the loop's own thread may be the one that waits.

        Args:
            patience_s: Seconds after which it polls in any case, as the polling thread may be stuck in a callback.
        """
        impatient_at = time.monotonic() + patience_s
        while not self._ended.is_set():
            is_polled = self._thread is not None and (self._loop is None or self._loop.is_running())
            if time.monotonic() < impatient_at and is_polled and self._thread is not threading.current_thread():
                self._ended.wait(0.05)
            else:
                self._handle(self._poll(0.05), True, lambda: True)
        self._release()

    def abandon(self, lock: threading.Lock) -> None:
        """In a process forked from this one: release what belongs to the parent.

        Args:
            lock: Replaces the former lock, which a thread of the parent may have held.
        """
        self._lock, self._wake_lock = lock, threading.RLock()
        self._ended = threading.Event()
        self._ended.set()
        self._loop = self._thread = None
        self._release()

    def _in_loop(self, due: bool) -> None:
        if self._around is None:
            self._poll_in_loop(due)
        else:
            self._around(partial(self._poll_in_loop, due))

    def _poll_in_loop(self, due: bool) -> None:
        if due:
            self._timer = None
        loop = self._loop
        next_s = self._handle([] if due else self._poll(0), due, lambda: True)
        if next_s is not None and loop is not None and loop is self._loop:
            if self._timer is not None:
                if self._timer.when() <= loop.time() + next_s:
                    next_s = None
                else:
                    self._timer.cancel()
            if next_s is not None:
                self._timer = loop.call_later(next_s, self._in_loop, True)
        if self._ended.is_set():
            self._release()

    def _in_thread(self) -> None:
        me = threading.current_thread()
        due_at = float("inf")
        try:
            while self._thread is me and not self._ended.is_set():
                fds = self._poll(-1 if due_at == float("inf") else max(0.0, due_at - time.monotonic()))
                now = time.monotonic()
                due = now >= due_at
                next_s = self._handle(fds, due, lambda: self._thread is me)
                if next_s is None:
                    due_at = float("inf")
                else:
                    due_at = now + next_s if due else min(due_at, now + next_s)
        except BaseException:  # such as a SystemExit in a callback: polling must go on
            with self._lock:
                if self._thread is me:
                    self._thread = None
                    self.ensure_polling()
            raise
        if self._ended.is_set():
            self._release()

    def _poll(self, timeout_s: float) -> list[int]:
        try:
            fds = [fd for fd, _ in self._epoll.poll(timeout_s)]
        except ValueError:  # closed meanwhile
            return []
        if self._wake in fds and not self._ended.is_set():  # keep it readable for all others once it has ended
            fds.remove(self._wake)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return fds

    def _release(self) -> None:
        """Close the descriptors, unless a thread still polls them and will close them itself."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                self._thread = None
                if not loop.is_closed() and not self._epoll.closed:
                    loop.remove_reader(self._epoll.fileno())
            if self._thread in (None, threading.current_thread()):
                self._epoll.close()
                with self._wake_lock:
                    wake, self._wake = self._wake, -1  # before it is closed: see DriverEnd.close
                    if wake >= 0:
                        os.close(wake)
