"""Who listens to the workers of a pool: an event loop while it is attached, otherwise a thread."""

import contextlib
import os
import select
import threading
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Protocol

__all__ = ["Listener"]


class Handle(Protocol):
    """What a listener calls."""

    def __call__(self, fds: list[int], due: bool, is_my_turn: Callable[[], bool]) -> float | None:
        """Handle what has happened.

        Args:
            fds: Descriptors that are readable.
            due: Whether the time that the last call asked for is over.
            is_my_turn: Whether the thread that calls is still the one to handle this; to be asked under the lock.

        Returns:
            Seconds after which to be called again, whatever happens; `None` for no such wish.
        """
        ...


class Listener:
    """Waits for descriptors, in one epoll object, and tells when they are readable.

    The object is itself one descriptor of an event loop. So descriptors can be watched from any thread, also while a
    loop listens, and who listens can change at any time.

    Args:
        lock: Guards who listens; whoever handles holds it while it takes note of what has happened.
        handle: Called with what has happened, without the lock.
    """

    def __init__(self, lock: threading.Lock, handle: Handle) -> None:
        self._lock, self._handle = lock, handle
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.RLock()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._loop: AbstractEventLoop | None = None
        self._timer: TimerHandle | None = None
        self._thread: threading.Thread | None = None  # who listens
        self._around: Callable[[Callable[[], object]], object] | None = None
        self._ended = threading.Event()

    def watch(self, fd: int) -> None:
        """Tell from now on when it is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Tell no more."""
        self._epoll.unregister(fd)

    def wake(self) -> None:
        """Have the handler called. Takes only a lock of its own: a garbage collection may come here from anywhere."""
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @property
    def is_deaf(self) -> bool:
        """Whether the loop that listened was closed without `detach`."""
        return self._loop is not None and self._loop.is_closed()

    def attach(self, loop: AbstractEventLoop, around: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Have this loop listen, in whose thread this is called.

        Args:
            loop: The loop.
            around: Calls the function that it is given, and may do more.
        """
        self.detach()
        self._around = around
        with self._lock:
            if not self._epoll.closed:
                self._loop, self._thread = loop, threading.current_thread()
                loop.add_reader(self._epoll.fileno(), self._in_loop, False)
        self.wake()  # a thread that listened goes, and the handler may have a wish

    def detach(self, needed: bool = False) -> None:
        """Have no loop listen.

        Args:
            needed: Whether a thread shall.
        """
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
            if needed:
                self.ensure()

    def ensure(self) -> None:
        """Start a thread if nobody listens. To be called under the lock."""
        if self.is_deaf:
            self._loop = self._thread = self._timer = None
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._in_thread, name="amlsched-processes", daemon=True)
            self._thread.start()
            self.wake()

    def end(self) -> None:
        """There is nothing to listen to any more."""
        self._ended.set()
        self.wake()

    def wait(self, patience_s: float = float("inf")) -> None:
        """Return after `end`. Listens meanwhile if nobody else does: the loop's thread may be the one that waits.

        Args:
            patience_s: Seconds after which it listens in any case: who should may be stuck in a callback.
        """
        impatient_at = time.monotonic() + patience_s
        while not self._ended.is_set():
            listens = self._thread is not None and (self._loop is None or self._loop.is_running())
            if time.monotonic() < impatient_at and listens and self._thread is not threading.current_thread():
                self._ended.wait(0.05)
            else:
                self._handle(self._poll(0.05), True, lambda: True)
        self._let_go()

    def abandon(self, lock: threading.Lock) -> None:
        """In a process forked from this one: let go of what is the parent's.

        Args:
            lock: Instead of the former one, which a thread of the parent may hold for ever.
        """
        self._lock, self._wake_lock = lock, threading.RLock()
        self._ended = threading.Event()
        self._ended.set()
        self._loop = self._thread = None
        self._let_go()

    def _in_loop(self, due: bool) -> None:
        if self._around is None:
            self._listen_in_loop(due)
        else:
            self._around(partial(self._listen_in_loop, due))

    def _listen_in_loop(self, due: bool) -> None:
        if due:
            self._timer = None
        loop = self._loop
        wish = self._handle([] if due else self._poll(0), due, lambda: True)
        if wish is not None and loop is not None and loop is self._loop:
            if self._timer is not None:
                if self._timer.when() <= loop.time() + wish:
                    wish = None
                else:
                    self._timer.cancel()
            if wish is not None:
                self._timer = loop.call_later(wish, self._in_loop, True)
        if self._ended.is_set():
            self._let_go()

    def _in_thread(self) -> None:
        me = threading.current_thread()
        due_at = float("inf")
        try:
            while self._thread is me and not self._ended.is_set():
                fds = self._poll(-1 if due_at == float("inf") else max(0.0, due_at - time.monotonic()))
                now = time.monotonic()
                due = now >= due_at
                wish = self._handle(fds, due, lambda: self._thread is me)
                if wish is None:
                    due_at = float("inf")
                else:
                    due_at = now + wish if due else min(due_at, now + wish)
        except BaseException:  # such as a SystemExit of a callback: somebody has to listen
            with self._lock:
                if self._thread is me:
                    self._thread = None
                    self.ensure()
            raise
        if self._ended.is_set():
            self._let_go()

    def _poll(self, timeout_s: float) -> list[int]:
        try:
            fds = [fd for fd, _ in self._epoll.poll(timeout_s)]
        except ValueError:  # closed meanwhile
            return []
        if self._wake in fds and not self._ended.is_set():  # everyone who listens shall see that it has ended
            fds.remove(self._wake)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return fds

    def _let_go(self) -> None:
        """Close the descriptors, unless a thread still listens to them: it does it then."""
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
