"""What Linux reports about processes, in `/proc`. Elsewhere, and for a process that has exited, nothing is known.

All of amlsched that reads `/proc` does it here, but for the two programs that run without amlsched (the orphan reaper
and the watchdog). What it reports about CPUs and memory is in `amlsched.resources.detect`.

Sources: proc(5), namespaces(7).
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "children",
    "cpu_ticks_if_stalled",
    "descendants",
    "kernel_and_namespace",
    "own_bytes",
    "own_mapped_files",
    "own_umask",
    "reset_own_peak",
    "signal_below",
    "start_ticks",
    "state_of",
    "tree_bytes",
]

_DEAD = (b"Z", b"X")
_STATE, _PARENT, _USER_TICKS, _SYSTEM_TICKS, _START_TICKS = 0, 1, 11, 12, 19  # in what `_stat` returns


def _stat(pid: int | str) -> list[bytes]:
    """The fields of `/proc/PID/stat` from the third one on, after the name; empty if the process has exited."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def descendants(root: int) -> Iterator[int]:
    """Ids of the descendants of a process, parents first, without zombies."""
    children_of: dict[int, list[tuple[int, bool]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)):
            children_of.setdefault(int(stat[_PARENT]), []).append((int(entry), stat[_STATE] in _DEAD))
    front = [root]
    while front:
        for pid, dead in children_of.get(front.pop(), ()):
            front.append(pid)
            if not dead:
                yield pid


def signal_below(root: int, number: int) -> None:
    """Send a signal to all descendants of a process."""
    for pid in descendants(root):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has exited, or runs as another user
            os.kill(pid, number)


def children() -> set[int]:
    """Ids of the children of this process."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        # Suppressed: the thread has exited, or the kernel has no such file.
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb") as file:
            found.update(map(int, file.read().split()))
    return found


def state_of(pid: int) -> str:
    """The state of a process, in words."""
    words = {"D": "it hangs in the kernel", "T": "it was stopped by a signal", "t": "a debugger has stopped it"}
    stat = _stat(pid)
    if not stat:
        return "it has exited"
    state = stat[_STATE].decode()
    return words.get(state, f"its state is {state}")


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if unknown, or for a zombie."""
    stat = _stat(pid)
    return 0 if len(stat) <= _START_TICKS or stat[_STATE] in _DEAD else int(stat[_START_TICKS])


def cpu_ticks_if_stalled(pid: int) -> int | None:
    """CPU time of a process so far, in clock ticks, if all of its threads wait for a futex; otherwise `None`."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/wchan", "rb") as file:
                if b"futex" not in file.read():
                    return None
    except OSError:  # it has exited, or the kernel has no such file
        return None
    stat = _stat(pid)
    return int(stat[_USER_TICKS]) + int(stat[_SYSTEM_TICKS]) if stat else None


@functools.cache
def kernel_and_namespace() -> str:
    """The boot id of the host, and the pid namespace of this process; empty if unknown.

    Two processes for which it is the same see the same process behind a process id.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  (pathlib is slow)
    except OSError:
        return ""


def _own_status(name: str) -> str | None:
    with contextlib.suppress(OSError), open("/proc/self/status", "rb", 0) as file:
        start = f"{name}:".encode()
        for line in file.read().split(b"\n"):
            if line.startswith(start):
                return line[len(start) :].decode().strip()
    return None


def _private_bytes(pid: int) -> int:
    """Resident memory of a process without the pages of files; 0 if it has exited."""
    try:
        with open(f"/proc/{pid}/statm", "rb", 0) as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE_BYTES


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree_bytes() -> int:
    """Resident memory of this process and all its descendants, without pages of files and shared memory."""
    root = os.getpid()
    return _private_bytes(root) + sum(map(_private_bytes, descendants(root)))


def own_mapped_files() -> bytes | None:
    """What this process has mapped, with the paths of its loaded libraries; `None` if that is unknown."""
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb", 0) as file:
        return file.read()
    return None


def own_umask() -> int:
    """The umask of this process, which `os.umask` would have to change in order to read it."""
    return int(_own_status("Umask") or "022", 8)


def own_bytes(name: str) -> int | None:
    """An amount of memory of this process; `None` if unknown.

    Args:
        name: The name in `/proc/PID/status`: `VmRSS` for the resident memory, `VmHWM` for its peak, `VmSize` for the
            address space.
    """
    text = _own_status(name)
    return None if text is None else int(text.split()[0]) * 1024


def reset_own_peak() -> bool:
    """Reset `VmHWM` to the present value, and return whether the system allows that."""
    try:
        with open("/proc/self/clear_refs", "wb", 0) as file:
            file.write(b"5")
    except OSError:
        return False
    return True
