"""Measures wall time, CPU time of this thread, this process and its children, and the resources of a command."""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path


def children_cpu_s() -> float:
    """CPU seconds of all living descendants, from the kernel's counters in nanoseconds."""
    return sum(_cpu_s(pid) for pid in _descendants(os.getpid()))


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        for thread in threads:
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *_descendants(child)]
    except OSError:  # it exited meanwhile
        pass
    return found


def _cpu_s(pid: int) -> float:
    total = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except OSError:
        pass
    return total / 1e9


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """A stopwatch; its numbers are microseconds per call.

    It only measures the CPU time of the thread if it is started and stopped in the same thread.
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.numbers: dict[str, float] = {}

    def start(self) -> None:
        """Start measuring."""
        self._thread = threading.get_ident()
        self._children = children_cpu_s()
        self._wall, self._cpu, self._thread_cpu = time.perf_counter(), time.process_time(), time.thread_time()

    def stop(self) -> None:
        """Stop, and compute the numbers."""
        wall, cpu, thread_cpu = time.perf_counter(), time.process_time(), time.thread_time()
        children = children_cpu_s()
        each = 1e6 / self.calls
        self.numbers = {
            "wall_us": (wall - self._wall) * each,
            "CPU_us": (cpu - self._cpu) * each,
            "CPU_of_all_processes_us": (cpu - self._cpu + children - self._children) * each,
        }
        if threading.get_ident() == self._thread:
            self.numbers["CPU_of_the_loop's_thread_us"] = (thread_cpu - self._thread_cpu) * each


def used_by(folder: Path, *words: str) -> tuple[dict[str, float], str]:
    """The resources that a command of amlsched uses, and its output."""
    with (folder / "out").open("w") as out:
        command = [sys.executable, "-m", "amlsched", *words]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    output = (folder / "out").read_text()
    if process.returncode:
        raise RuntimeError(output[-500:])
    return {"CPU_s": used.ru_utime + used.ru_stime, "memory_MiB": used.ru_maxrss / 1024}, output
