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

__all__ = ["let_go", "watched"]

logger = logging.getLogger(__name__)

_SHORT_S = 0.5


class _Watchman:
    """The process, as the driver knows it."""

    def __init__(self) -> None:
        from amlsched.executors import _watchman

        self.mark = f"AMLSCHED_WATCHED_{os.urandom(8).hex()}"
        self.driver = os.getpid()
        theirs, self.pipe = os.pipe()
        self.inode = os.fstat(theirs).st_ino
        command = [sys.executable, "-I", "-S", _watchman.__file__, str(self.driver), self.mark]
        try:
            nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
            self.pid = os.posix_spawn(
                sys.executable,
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0), *nowhere],
                setsid=True,  # a terminal's signals are not for it
            )
        except BaseException:
            os.close(self.pipe)
            raise
        finally:
            os.close(theirs)

    def is_needed(self) -> bool:
        """Whether something still runs that was started while the driver was watched, and does not end right now."""
        from amlsched.executors._watchman import left_behind

        for _ in range(10):
            if not left_behind(self.mark.encode(), self.inode, self.driver, self.pid):
                return False
            time.sleep(0.02)
        return True

    def end(self) -> None:
        """End it; it ends nothing then."""
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # somebody has waited for any child
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_lock = threading.RLock()
_watchman: _Watchman | None = None
_owners = 0
_since = 0.0
_inherited: list[int] = []  # other ends of the pipes of watchmen that watch the process that this one was forked from


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
        except (OSError, NotImplementedError) as error:  # no more processes; a libc without sessions for spawned ones
            logger.warning("what calls start may outlive this program: it cannot be watched (%s)", error)
            return
        os.environ[_watchman.mark] = "1"


def _leave(pid: int) -> None:
    global _watchman, _owners
    if sys.platform != "linux" or not sys.executable or pid != os.getpid():
        return
    with _lock:
        _owners -= 1
        if _owners or _watchman is None:
            return
        os.environ.pop(_watchman.mark, None)
        was_short = time.monotonic() - _since < _SHORT_S and not _has_children_but(_watchman.pid)
        if was_short or not _watchman.is_needed():
            _watchman.end()
            _watchman = None


def _has_children_but(pid: int) -> bool:
    children: set[bytes] = set()
    for task in os.listdir("/proc/self/task"):
        # Suppressed: the thread has ended; or a kernel without this file.
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb") as file:
            children |= {*file.read().split()}
    return bool(children - {b"%d" % pid})


def let_go() -> None:
    """In a process forked from the driver that somebody else ends when the time has come: it is not watched."""
    while _inherited:
        os.close(_inherited.pop())


def _begin_anew() -> None:
    """In a process forked from the driver: it is watched together with it, if that is watched now."""
    global _lock, _owners, _watchman
    _lock = threading.RLock()
    if _watchman is not None:
        if _owners:
            _inherited.append(_watchman.pipe)
        else:
            os.close(_watchman.pipe)
    _watchman, _owners = None, 0


os.register_at_fork(after_in_child=_begin_anew)
