"""Functions that use too much, in every way: of a module that every worker can import."""

import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

MiB = 1 << 20


def double(number: int) -> int:
    return 2 * number


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_deaf_to_sigterm(seconds: float) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)


def _grow(megabytes: int) -> mmap.mmap:
    """Take memory as fast as one thread can."""
    memory = mmap.mmap(-1, megabytes * MiB)
    chunk = b"x" * MiB
    for _ in range(megabytes):
        memory.write(chunk)
    return memory


def read_file(path: str, megabytes: int, seconds: float) -> int:
    """Have the pages of a file in memory, by a mapping of it."""
    with open(path, "r+b") as file:
        file.truncate(megabytes * MiB)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    total = sum(mapped[:: mmap.PAGESIZE])
    time.sleep(seconds)
    return total + len(mapped)


def grow(megabytes: int, seconds: float = 30.0) -> int:
    memory = _grow(megabytes)
    time.sleep(seconds)
    return len(memory)


def grow_at_once(megabytes: int, seconds: float = 30.0) -> int:
    """In one call of C code that holds the interpreter lock."""
    memory = bytearray(b"x") * (megabytes * MiB)
    time.sleep(seconds)
    return len(memory)


def grow_deaf_to_sigterm(megabytes: int) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return grow(megabytes)


def grow_in_a_grandchild(megabytes: int) -> None:
    program = f"from tests.faults.greedy import grow; grow({megabytes})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    subprocess.run([sys.executable, "-c", middle], env=environment, check=False)


def share_with_children(megabytes: int, children: int) -> int:
    """Takes memory once, which forked children share, who end one soon after the other."""
    memory = _grow(megabytes)
    pids = []
    for _ in range(children):
        if not (pid := os.fork()):
            total = sum(memory[place] for place in range(0, len(memory), 4096))
            time.sleep(0.3 + 0.01 * len(pids))
            os._exit(0 if total else 1)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(memory)


def burn(seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def burn_in_c() -> None:
    """Holds the interpreter lock for minutes."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def burn_in_children(seconds: float = 60.0) -> None:
    """One after the other, each too short to be seen for long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not (pid := os.fork()):
            burn(0.05)
            os._exit(0)
        os.waitpid(pid, 0)


def daemonize(pid_file: str, seconds: float = 60.0) -> None:
    """Leaves a process that has a session of its own, whose parent has gone, and that ignores SIGTERM."""
    if not (pid := os.fork()):
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(pid_file).write_text(str(os.getpid()))
        time.sleep(seconds)
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(seconds)


_kept: list[mmap.mmap] = []


def keep(megabytes: int) -> None:
    """Leaves memory with the worker."""
    _kept.append(_grow(megabytes))
