"""A process that ends what a driver leaves behind, when the driver has ended in whatever way.

`_watch` runs it as a file, without amlsched and without any installed package, so that it starts within some 20 ms. Its
standard input is a pipe whose other end the driver holds. A byte from there says that the driver does nothing more that
is to be watched: then it stays for as long as something is left.

What the driver started while it was watched is known by one of two things, also after it has become an orphan with a
session of its own: programs have a mark in their environment, and processes forked from the driver hold the other end
of the pipe. What runs below these belongs to them.

Sources: proc(5), pidfd_open(2).
"""

import contextlib
import os
import select
import signal
import sys
import time

__all__ = ["LINGER", "left_behind"]

LINGER = b"l"

_GRACE_S = 1.5  # between SIGTERM and SIGKILL
_STUCK_S = 20.0
_LOOK_S = 0.25
# These end by themselves, and clean up behind others.
_PYTHONS_OWN = (b"resource_tracker", b"multiprocessing.forkserver")


def left_behind(mark: bytes, pipe: int, *but: int) -> set[int]:
    """Processes that were started while their driver was watched.

    Args:
        mark: Name of the variable in their environment.
        pipe: Inode of the pipe.
        *but: The driver and the watchman, which are none.
    """
    link = f"pipe:[{pipe}]"
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            state, parent = _read(pid, "stat").rpartition(b")")[2].split()[:2]
            if pid in but or state in (b"Z", b"X"):
                continue
            parents[pid] = int(parent)
            if mark in _read(pid, "environ") or _holds(pid, link):
                found.add(pid)
    grows = True
    while grows:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grows = bool(below)
    return {pid for pid in found if not _is_pythons_own(pid)}


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def _holds(pid: int, link: str) -> bool:
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"{folder}/{fd}") == link:  # noqa: PTH115  (it imports nothing that is slow)
                return True
    return False


def _is_pythons_own(pid: int) -> bool:
    try:
        command = _read(pid, "cmdline")
    except OSError:
        return True
    return any(name in command for name in _PYTHONS_OWN)


def _wait_for_the_end_of(driver: int, mark: bytes) -> bool:
    """Whether there may be something to be ended then."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(OSError):  # Linux before 5.3: then until nobody holds the pipe; or it has ended
        poll.register(os.pidfd_open(driver), select.POLLIN)
    wait_s = float("inf")
    while os.getppid() == driver:
        events = poll.poll(None if wait_s == float("inf") else 1000 * wait_s)
        if [fd for fd, _ in events] == [0] and os.read(0, 1) == LINGER:
            wait_s = _LOOK_S
        elif events:
            return True
        elif not left_behind(mark, os.fstat(0).st_ino, driver, os.getpid()):
            return False
        else:
            wait_s = min(2 * wait_s, 5.0)
    return True


def _end_all(mark: bytes, driver: int) -> None:
    pipe = os.fstat(0).st_ino
    begun = time.monotonic()
    told: set[int] = set()
    clean = 0
    while clean < 2 and time.monotonic() - begun < _STUCK_S:  # twice, since one may have been starting another
        left = left_behind(mark, pipe, driver, os.getpid())
        clean = 0 if left else clean + 1
        hard = time.monotonic() - begun > _GRACE_S
        for pid in left if hard else left - told:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        told |= left
        time.sleep(0.05)


if __name__ == "__main__":
    _driver, _mark = int(sys.argv[1]), sys.argv[2].encode()
    if _wait_for_the_end_of(_driver, _mark):
        _end_all(_mark, _driver)
