"""Elements of an array that die again and again, in every way: each repetition is completed once, with all its rows."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlsched.experiments._storage import claims
from tests.clusters.project import ITERATIVE, Project
from tests.processes import alive, until

COUNT, KILLS = 40, 20
EVERY, ITERATIONS = 5, 12
STUCK_S = 90.0

CONFIG = """
name: SLURM
job-name: {section}
partition: main
time: 10
mem-per-cpu: 300
num_parallel_jobs: 8
---
name: counts
path: results
repetitions: 40
iterations: 12
params: {{pause: 0.2}}
"""

WAYS = ("worker", "element", "scancel --signal=KILL --full", "scancel", "scontrol requeue")
"""What is killed, or the command of Slurm that gets the element."""


def squeue(name: str, states: str, *columns: str) -> list[list[str]]:
    words = ["squeue", "--array", "-h", "-n", name, "-t", states, "-o", "|".join(columns)]
    return [line.split("|") for line in subprocess.check_output(words, text=True, timeout=60).splitlines()]


class Counted(Project):
    """Repetitions that count in an array of their own name."""

    @property
    def name(self) -> str:
        return f"amlsched-{self.folder.name}"

    def n_rows(self) -> int:
        return sum(map(len, self.rows("n")))

    def running(self) -> list[dict[str, Any]]:
        """The attempts that run now, by their records."""
        attempts = [record["attempts"][-1] for record in self.records() if record["state"] == "running"]
        return [attempt for attempt in attempts if alive(attempt["driver"]["pid"])]

    def elements(self) -> list[str]:
        return [element for [element] in squeue(self.name, "RUNNING", "%F_%K")]

    def keep_going(self) -> None:
        """Submit what is left if nothing is in the queue any more, and let go what Slurm holds after a requeue."""
        waiting = squeue(self.name, "PENDING", "%F_%K", "%r")
        for element, reason in waiting:
            if reason == "BeginTime":
                command = ["scontrol", "update", f"JobId={element}", "StartTime=now"]
                subprocess.run(command, check=False, capture_output=True, timeout=60)
        if not waiting and not squeue(self.name, "RUNNING,COMPLETING,CONFIGURING", "%F"):
            self.submit(target="experiment.py:Counts")


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    (tmp_path / "experiment.py").write_text(ITERATIVE)
    project = Counted(tmp_path)
    project.config(project.name, CONFIG)
    yield project
    subprocess.run(["scancel", "-n", project.name], check=False, timeout=60)
    until(lambda: not squeue(project.name, "PENDING,RUNNING,COMPLETING", "%F"), 60)


def come_to(project: Counted, rows: int) -> None:
    """Wait until so many rows are there, and somebody runs who can be killed."""
    deadline = time.monotonic() + STUCK_S
    while project.n_rows() < rows or not project.running():
        assert time.monotonic() < deadline, f"{project.n_rows()} of {rows} rows:\n{project.status()}"
        project.keep_going()
        time.sleep(0.1)


def strike(project: Counted, way: str, chance: random.Random) -> bool:
    """Have one die in this way; whether it was still there."""
    if way in ("worker", "element"):
        pids = [attempt["worker" if way == "worker" else "driver"]["pid"] for attempt in project.running()]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(pids), signal.SIGKILL)
            return True
        return False
    elements = project.elements()
    if not elements:
        return False
    words = [*way.split(), chance.choice(elements)]
    return subprocess.run(words, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_elements_that_die_at_random_lose_nothing_and_double_nothing(counted: Counted) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    counted.submit(target="experiment.py:Counts")
    struck: Counter[str] = Counter()
    for rows in sorted(chance.sample(range(COUNT * ITERATIONS * 9 // 10), KILLS)):
        way = chance.choice(WAYS)
        while True:
            come_to(counted, rows)
            if strike(counted, way, chance):
                break
        struck[way] += 1
        print(f"{rows} rows: {way}")
        if chance.random() < 0.2:  # while others run and wait
            counted.submit(target="experiment.py:Counts")
    deadline = time.monotonic() + STUCK_S
    while counted.states() != ["completed"] * COUNT:
        assert time.monotonic() < deadline, counted.status()
        counted.keep_going()
        time.sleep(0.2)
    done = counted.call("run", "experiment.py:Counts", "config.yml", "-s", "--wait")
    assert done.returncode == 0, done.stderr
    assert struck.total() == KILLS

    assert counted.completions() == [1] * COUNT
    assert counted.rows("n") == [[str(n) for n in range(ITERATIONS)]] * COUNT
    assert [rows[-1] for rows in counted.rows("sum")] == [str(sum(range(ITERATIONS)))] * COUNT
    assert [claims.holder(place) for place in counted.results.rglob("log/rep_*")] == [None] * COUNT
    interruptions = 0
    for rep, record in enumerate(counted.records()):
        steps = (counted.folder / f"steps_{rep}").read_text().split()
        assert len(steps) - ITERATIONS <= EVERY * (len(record["attempts"]) - 1)
        interruptions += len(record["attempts"]) - 1
    print(f"{interruptions} attempts were interrupted; {len(counted.arrays())} submissions")
    assert interruptions > 0
