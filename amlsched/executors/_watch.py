"""The driver's side of its watchman: from when to when what the driver starts is ended with it.

Workers of our own pool have a keeper each. Calls that run in the driver itself, and workers of loky's pool, have none;
for them one watchman is enough. It runs while there is an executor that needs it, and after that as long as something
that was started meanwhile still runs.
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

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "let_go", "watched"]

logger = logging.getLogger(__name__)

MARK = "AMLSCHED_WATCHED_"
"""What the variable begins with that a process inherits which is to end with the driver."""
_SHORT_S = 0.5


class _Watchman:
    """The process, as the driver knows it."""

    def __init__(self) -> None:
        self.mark = f"{MARK}{os.urandom(8).hex()}"
        self.driver = os.getpid()
        self.pid: int | None = None
        self.theirs, self.pipe = os.pipe()

    def start(self) -> None:
        """Have it watch."""
        from amlsched.executors import _watchman

        self.end()
        nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", _watchman.__file__, str(self.driver), self.mark],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, self.theirs, 0), *nowhere],
            setsid=True,  # a terminal's signals are not for it
        )
        os.environ[self.mark] = "1"

    def stop(self, *, at_once: bool) -> None:
        """Have it go: at once, or when nothing is left that was started meanwhile."""
        from amlsched.executors._watchman import LINGER, left_behind

        os.environ.pop(self.mark, None)
        inode = os.fstat(self.pipe).st_ino
        if self.pid is None or at_once or not left_behind(self.mark.encode(), inode, self.driver, self.pid):
            self.end()
        else:
            os.write(self.pipe, LINGER)

    def end(self) -> None:
        """End it; it ends nothing then."""
        pid, self.pid = self.pid, None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # somebody has waited for any child
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.set_blocking(self.theirs, False)
            with contextlib.suppress(BlockingIOError):  # what it has not read
                os.read(self.theirs, 16)
            os.set_blocking(self.theirs, True)

    def let_go(self) -> None:
        """In a process forked from the driver."""
        for fd in (self.theirs, self.pipe):
            os.close(fd)


_lock = threading.RLock()
_watchman: _Watchman | None = None
_owners = 0
_since = 0.0
_inherited: list[_Watchman] = []  # who watch the process that this one was forked from, and so this one


def watched(owner: object) -> Callable[[], object]:
    """See to it that what this process starts from now on ends with this process, however that ends.

    Args:
        owner: An executor; when it is collected, it needs this no longer.

    Returns:
        To be called when it needs this no longer; more than once does no harm.
    """
    _enter()
    leave = weakref.finalize(owner, _leave, os.getpid())
    leave.atexit = False  # then there is nobody to be spared
    return leave


def _enter() -> None:
    global _watchman, _owners, _since
    if sys.platform != "linux" or not sys.executable:
        return
    with _lock:
        _owners += 1
        if _owners > 1:
            return
        _since = time.monotonic()
        try:
            _watchman = _watchman or _Watchman()
            _watchman.start()
        except (OSError, NotImplementedError) as error:  # no more processes; a libc without sessions for spawned ones
            logger.warning("what calls start may outlive this program: it cannot be watched (%s)", error)


def _leave(pid: int) -> None:
    global _owners
    if sys.platform != "linux" or not sys.executable or pid != os.getpid():
        return
    with _lock:
        _owners -= 1
        if _owners or _watchman is None:
            return
        # To look at all processes takes milliseconds; after a short time at this one's children alone, which is enough
        # unless one of them has become a daemon by then.
        was_short = time.monotonic() - _since < _SHORT_S
        _watchman.stop(at_once=was_short and not _has_children_but(_watchman.pid))


def _has_children_but(pid: int | None) -> bool:
    children: set[bytes] = set()
    for task in os.listdir("/proc/self/task"):
        # Suppressed: the thread has ended; or a kernel without this file.
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb") as file:
            children |= {*file.read().split()}
    return bool(children - {str(pid).encode()})


def let_go() -> None:
    """In a process forked from the driver that somebody else ends when the time has come: it is not watched."""
    while _inherited:
        _inherited.pop().let_go()


def _begin_anew() -> None:
    """In a process forked from the driver: it is watched together with it, if that is watched now."""
    global _lock, _owners, _watchman
    _lock = threading.RLock()
    if _watchman is not None:
        if _owners:
            _inherited.append(_watchman)
        else:
            _watchman.let_go()
    _watchman, _owners = None, 0


os.register_at_fork(after_in_child=_begin_anew)
