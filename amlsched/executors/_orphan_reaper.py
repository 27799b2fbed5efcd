"""The orphan reaper: a process that terminates what a driver leaves behind when it exits, in whatever way.

The driver runs this file as a script, without amlsched and without any installed package, so that it starts within some
20 ms. Its standard input is a pipe whose other end the driver holds. A byte on the pipe means that the driver starts no
more calls: then the reaper stays for as long as a process started before remains.

Such processes are recognized in two ways, even after they have become orphans with their own session: programs have a
mark in their environment, and processes forked from the driver hold the other end of the pipe. The descendants of
these processes belong to them.

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
# These exit by themselves, and clean up after others.
_PYTHONS_OWN = (b"resource_tracker", b"multiprocessing.forkserver")


def left_behind(mark: bytes, pipe: int, *but: int) -> set[int]:
    """Processes that the driver's calls have started and that are still running.

    Args:
        mark: Name of the variable in their environment.
        pipe: Inode of the pipe.
        *but: The driver and the reaper, to exclude.
    """
    link = f"pipe:[{pipe}]"
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it has exited, or belongs to another user
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
            if os.readlink(f"{folder}/{fd}") == link:  # noqa: PTH115  (pathlib is slow to import)
                return True
    return False


def _is_pythons_own(pid: int) -> bool:
    try:
        command = _read(pid, "cmdline")
    except OSError:
        return True
    return any(name in command for name in _PYTHONS_OWN)


def _wait_for_the_end_of(driver: int, mark: bytes) -> bool:
    """Wait until the driver has exited, and return whether there may be processes to terminate."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(OSError):  # Linux before 5.3: wait for the pipe alone; or the driver has exited
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
    terminated: set[int] = set()
    clean = 0
    while clean < 2 and time.monotonic() - begun < _STUCK_S:  # twice, since one may have been starting another
        left = left_behind(mark, pipe, driver, os.getpid())
        clean = 0 if left else clean + 1
        hard = time.monotonic() - begun > _GRACE_S
        for pid in left if hard else left - terminated:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        terminated |= left
        time.sleep(0.05)


if __name__ == "__main__":
    _driver, _mark = int(sys.argv[1]), sys.argv[2].encode()
    if _wait_for_the_end_of(_driver, _mark):
        _end_all(_mark, _driver)
