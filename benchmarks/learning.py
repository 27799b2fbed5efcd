"""Calls that declare nothing, against the same calls with perfect declarations: makespan, kills, memory in use.

python -m benchmarks.learning [--calls 1000] [--memory "3 GiB"] [--seed 1]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched import MemoryLimitError, Scheduler, _proc
from amlsched.plugins import Limits
from amlsched.resources import Pool, Resources
from amlsched.units import parse_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIB = 2**20
_KINDS = 12
_WORKERS = 12


class Job(NamedTuple):
    """A call: its kind, memory in MiB, and seconds."""

    kind: int
    mib: int
    seconds: float


class Found(NamedTuple):
    """What a run took.

    Attributes:
        makespan_s: Seconds from its start to its end.
        n_killed: How many attempts of each kind were killed for memory.
        n_returned: How many calls returned.
        most_bytes: The most memory that all processes below this one had, seen from outside.
    """

    makespan_s: float
    n_killed: dict[int, int]
    n_returned: int
    most_bytes: int


def jobs(count: int, seed: int) -> list[Job]:
    """Calls of 12 kinds: 20 to 800 MiB, 0.05 to 2 s, within a kind 10 % more or less memory, 30 % of time."""
    chance = random.Random(seed)
    kinds = [(20 * 40 ** chance.random(), 0.05 * 40 ** chance.random()) for _ in range(_KINDS)]
    found: list[Job] = []
    for number in range(count):
        kind = number % _KINDS
        mib, seconds = kinds[kind]
        mib = min(800.0, mib * chance.uniform(0.9, 1.1))
        found.append(Job(kind, round(mib), min(2.0, seconds * chance.lognormvariate(0, 0.3))))
    chance.shuffle(found)
    return found


def hold(kind: int, mib: int, seconds: float) -> int:
    """Hold memory for a time, counted from the start."""
    until = time.monotonic() + seconds
    data = bytearray(mib * _MIB)
    data[::4096] = bytes(len(data) // 4096)
    time.sleep(max(0.0, until - time.monotonic()))
    return kind


def declared(kind: int, mib: int, seconds: float) -> Resources:
    """What a call needs, and 8 MiB for what Python itself takes."""
    return Resources(1, f"{mib + 8} MiB", time=f"{seconds:.3f} s")


class _Watch(threading.Thread):
    """Looks at the memory of all processes below this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._own = 0, _proc.tree_bytes()
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.most = max(self.most, _proc.tree_bytes() - self._own)


def run(calls: Sequence[Job], memory: str, resources: Any, folder: Path) -> Found:
    """Run calls in processes."""
    pool = Pool(_WORKERS, memory)  # calls wait, so that they share the CPUs
    scheduler = Scheduler.with_processes(pool=pool, estimates=folder / f"{time.time()}.json")
    task = scheduler.task(
        hold, resources=resources, group=lambda kind, *_: f"kind {kind}", plugins=Limits(memory="request")
    )
    killed: dict[int, int] = {}
    returned: list[int] = []

    @task.on_retry
    def count(future: Any, error: BaseException, _: int) -> None:
        assert isinstance(error, MemoryLimitError), error
        killed[future.args[0]] = killed.get(future.args[0], 0) + 1

    task.on_result(lambda _, kind: returned.append(kind))
    scheduler.on_start(lambda: [task.submit(*job) for job in calls])
    watch, began = _Watch(), time.monotonic()
    scheduler.run()
    makespan = time.monotonic() - began
    watch.ended.set()
    return Found(makespan, killed, len(returned), watch.most)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--memory", default="3 GiB")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    calls = jobs(given.calls, given.seed)
    area = sum(job.mib * _MIB * job.seconds for job in calls) / parse_memory(given.memory)
    print(f"{len(calls)} calls; memory alone takes {area:.1f} s; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: run(calls, given.memory, resources, Path(folder))
            for name, resources in (("declared", declared), ("learned", "learn"))
        }
    for name, each in found.items():
        print(
            f"{name}: {each.makespan_s:.1f} s, {each.n_returned} returned, killed by kind {each.n_killed}, "
            f"at most {each.most_bytes / 2**30:.2f} GiB"
        )
    print(f"learned over declared: {found['learned'].makespan_s / found['declared'].makespan_s:.2f}")


if __name__ == "__main__":
    main()
