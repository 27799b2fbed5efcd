"""Whoever dies, and whoever else runs the same: each repetition is completed once, with all of its rows."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from amlsched.cli import main
from tests.experiments.conftest import Project, members, wait_until

WITNESSED = """
import os, time

def experiment(params, rep, log):
    with open("witness", "a") as file:
        file.write(f"{params.get('a')} {rep}\\n")
    for n in range(log.restore() or 0, 5):
        time.sleep(params["sleep"])
        log(n=n)
        if params.get("saves") and n % 2:
            log.save(n + 1)
"""


def witnessed(project: Project, text: str) -> tuple[str, ...]:
    (project.folder / "experiment.py").write_text(WITNESSED)
    project.config(text)
    return ("run", "experiment.py:experiment", "config.yml", "--max-workers", "2", "--quiet")


def rows(folder: Path) -> list[list[str]]:
    """The column `n` of each repetition."""
    paths = sorted(folder.rglob("log/rep_*/rep_*.csv"))
    return [[row["n"] for row in csv.DictReader(path.read_text().splitlines())] for path in paths]


ASKED = int(os.environ.get("AMLSCHED_EXAMPLES", "0"))


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_drivers_started_at_the_same_moment_run_nothing_twice(project: Project, executor: str) -> None:
    count = 60
    text = f"{{name: sums, path: results, repetitions: {count // 2}, params: {{sleep: 0.001}}, grid: {{a: [1, 2]}}}}"
    words = (*witnessed(project, text), "--executor", executor)
    drivers = [project.start(*words) for _ in range(3)]
    told = [driver.communicate(timeout=90) for driver in drivers]
    assert {driver.returncode for driver in drivers} <= {0, 1}, told
    assert project.completions() == [1] * count
    assert [len(record["attempts"]) for record in project.records().values()] == [1] * count
    assert set(Counter((project.folder / "witness").read_text().splitlines()).values()) == {1}
    assert rows(project.folder / "results") == [list("01234")] * count
    assert project.call(*words).returncode == 0
    assert list((project.folder / "results").rglob("*claim*")) == []


def test_a_repetition_that_ends_while_another_run_is_planned_is_not_run_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*witnessed(project, "{name: sums, path: results, params: {sleep: 0}}"), "--executor", "sequential")
    assert project.call(*words).returncode == 0
    (path,) = project.folder.rglob("record.json")
    ended = path.read_text()
    record = json.loads(ended)
    record["state"], record["attempts"][0]["outcome"] = "running", None
    path.write_text(json.dumps(record))

    def ends(_: Path) -> None:
        """It was running when its record was read, and is gone when its claim is read."""
        path.write_text(ended)

    monkeypatch.setattr("amlsched.experiments._storage.claims.holder", ends)
    monkeypatch.chdir(project.folder)
    assert main(list(words)) == 0
    assert path.read_text() == ended
    assert (project.folder / "witness").read_text() == "None 0\n"


def has_come_to(project: Project, process: subprocess.Popen[str], completed: int) -> bool:
    return process.poll() is not None or project.states().count("completed") >= completed


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("saves", [False, True], ids=["", "with checkpoints"])
def test_a_driver_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing(
    project: Project, saves: bool
) -> None:
    count, kills = 60, min(50, ASKED or 8)
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    params = f"{{sleep: 0.01, saves: {str(saves).lower()}}}"
    words = witnessed(project, f"{{name: sums, path: results, repetitions: {count}, params: {params}}}")
    begun: list[int] = []
    for completed in sorted(chance.sample(range(count - 4), kills)):
        process = project.start(*words)
        wait_until(partial(has_come_to, project, process, completed))
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        begun.append(process.pid)
    assert project.call(*words).returncode == 0
    assert project.completions() == [1] * count
    assert rows(project.folder / "results") == [list("01234")] * count
    wait_until(lambda: not any(members(group) for group in begun))
    resumed = [attempt["resumed"] for record in project.records().values() for attempt in record["attempts"]]
    print(f"{len(resumed)} attempts, {sum(resumed)} went on from a checkpoint")
    assert saves or not any(resumed)
