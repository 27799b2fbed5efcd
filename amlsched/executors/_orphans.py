"""Terminates orphans: processes that calls have started and that are still running when the driver exits.

Each worker of our own process pool has a supervisor for this. Calls that run in the driver itself, and workers of
loky's pool, have none; for all of them there is one process, the orphan reaper. It runs while an executor needs it, and
after that for as long as a process started meanwhile still runs. This module is the driver's side.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

from amlsched import _proc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "release", "require_reaper"]

logger = logging.getLogger(__name__)

MARK = "AMLSCHED_WATCHED_"
"""Prefix of the environment variable inherited by processes that must not outlive the driver."""
_SHORT_S = 0.5


class _Reaper:
    """The driver's handle of the orphan reaper."""

    def __init__(self) -> None:
        self.mark = f"{MARK}{os.urandom(8).hex()}"
        self.driver = os.getpid()
        self.pid: int | None = None
        self.theirs, self.pipe = os.pipe()

    def start(self) -> None:
        """Start the reaper."""
        from amlsched.executors import _orphan_reaper

        self.end()
        nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _orphan_reaper.__file__, str(self.driver), self.mark],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, self.theirs, 0), *nowhere],
            setsid=True,  # so that it gets no signals of the terminal
        )
        os.environ[self.mark] = "1"

    def stop(self, *, at_once: bool) -> None:
        """Stop the reaper: at once, or when no process started meanwhile remains."""
        from amlsched.executors._orphan_reaper import LINGER, left_behind

        os.environ.pop(self.mark, None)
        inode = os.fstat(self.pipe).st_ino
        if self.pid is None or at_once or not left_behind(self.mark.encode(), inode, self.driver, self.pid):
            self.end()
        else:
            os.write(self.pipe, LINGER)

    def end(self) -> None:
        """Kill the reaper, before it reaps anything."""
        pid, self.pid = self.pid, None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # other code has waited for any child
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.set_blocking(self.theirs, False)
            with contextlib.suppress(BlockingIOError):  # discard what it has not read
                os.read(self.theirs, 16)
            os.set_blocking(self.theirs, True)

    def release(self) -> None:
        """Close the pipe in a process forked from the driver."""
        for fd in (self.theirs, self.pipe):
            os.close(fd)


_lock = threading.RLock()
_reaper: _Reaper | None = None
_owners = 0
_since = 0.0
_inherited: list[_Reaper] = []  # those of the process that this one was forked from, which also apply to this one


def require_reaper(owner: object) -> Callable[[], object]:
    """From now on, terminate the processes that this process starts when it exits, in whatever way.

    Args:
        owner: An executor; ends when it is garbage-collected.

    Returns:
        A function that ends it; can be called more than once.
    """
    _enter()
    leave = weakref.finalize(owner, _leave, os.getpid())
    leave.atexit = False  # at exit, orphans are to be terminated
    return leave


def _enter() -> None:
    global _reaper, _owners, _since
    if sys.platform != "linux" or not sys.executable:
        return
    with _lock:
        _owners += 1
        if _owners > 1:
            return
        _since = time.monotonic()
        try:
            _reaper = _reaper or _Reaper()
            _reaper.start()
        except (OSError, NotImplementedError) as error:  # no more processes; a libc without sessions for spawned ones
            logger.warning(
                "processes that calls start may outlive this program: the orphan reaper cannot be started (%s)", error
            )


def _leave(pid: int) -> None:
    global _owners
    if sys.platform != "linux" or not sys.executable or pid != os.getpid():
        return
    with _lock:
        _owners -= 1
        if _owners or _reaper is None:
            return
        # Checking all processes takes milliseconds. After a short time, check only this one's children, which is enough
        # unless one of them has already become a daemon.
        was_short = time.monotonic() - _since < _SHORT_S
        _reaper.stop(at_once=was_short and not _proc.children() - {_reaper.pid})


def release() -> None:
    """In a process forked from the driver that has a supervisor of its own: leave it to that."""
    while _inherited:
        _inherited.pop().release()


def _reset_in_child() -> None:
    """In a process forked from the driver: the driver's reaper, if there is one now, also applies to this process."""
    global _lock, _owners, _reaper
    _lock = threading.RLock()
    if _reaper is not None:
        if _owners:
            _inherited.append(_reaper)
        else:
            _reaper.release()
    _reaper, _owners = None, 0


os.register_at_fork(after_in_child=_reset_in_child)
