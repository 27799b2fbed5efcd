"""Repetitions that are told to stop, or are killed, and go on where they were."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import pytest

from tests.experiments.conftest import Project, members, wait_until

EXPERIMENT = """
import json, os, time
from pathlib import Path
from amlsched.experiments import IterativeExperiment


def step(n):
    with open("steps", "a") as file:
        file.write(f"{n}\\n")
    time.sleep(0.02)


def function(params, rep, log):
    first = log.restore() or 0
    for n in range(first, params["n"]):
        step(n)
        log(value=n)
        log.save(n + 1)
        if log.should_stop():
            return


class Iterates(IterativeExperiment):
    def iterate(self, cw_config, rep, n):
        step(n)
        self.sum = getattr(self, "sum", 0) + n
        return {"value": n, "sum": self.sum}

    def save_state(self, cw_config, rep, n):
        if n % 3 == 0:
            path = Path(cw_config["_checkpoint_dir"], "state.json")
            path.with_suffix(".new").write_text(json.dumps([n, self.sum]))
            path.with_suffix(".new").replace(path)

    def load_state(self, cw_config, rep):
        n, self.sum = json.loads(Path(cw_config["_checkpoint_dir"], "state.json").read_text())
        return n


def restless(params, rep, log):
    \"\"\"Can stop, and does not.\"\"\"
    log.save(1)
    log.should_stop()
    Path("begun").touch()
    time.sleep(600)


def forgetful(params, rep, log):
    \"\"\"Saves, and does not look at what it saved.\"\"\"
    for n in range(params["n"]):
        step(n)
        log(value=n)
        log.save(n)
        log.should_stop()
"""

COUNT = 30
EXECUTORS = ("sequential", "threads", "processes", "loky")


def words(project: Project, target: str, executor: str, *more: str) -> tuple[str, ...]:
    (project.folder / "experiment.py").write_text(EXPERIMENT)
    project.config(f"{{name: sums, path: results, repetitions: 1, iterations: {COUNT}, params: {{n: {COUNT}}}}}")
    return ("run", f"experiment.py:{target}", "config.yml", "--executor", executor, "--quiet", *more)


def steps(project: Project) -> list[int]:
    """The steps that were made, over all attempts."""
    path = project.folder / "steps"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(project: Project) -> list[dict[str, str]]:
    path = project.folder / "results/sums/log/rep_00/rep_0.csv"
    return list(csv.DictReader(path.read_text().splitlines()))


def complete(project: Project) -> None:
    """Every iteration is there once, in order; nothing is left of signs between processes."""
    assert project.states() == ["completed"]
    assert [row["value"] for row in rows(project)] == [str(n) for n in range(COUNT)]
    assert [row["iter"] for row in rows(project)] == [str(n) for n in range(COUNT)]
    place = project.folder / "results/sums/log/rep_00"
    assert sorted(path.name for path in place.iterdir()) == [
        "checkpoint", "err.log", "out.log", "record.json", "rep_0.csv",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "executor"), [*(("Iterates", executor) for executor in EXECUTORS), ("function", "processes")]
)
def test_after_a_signal_it_goes_on_where_it_was(project: Project, target: str, executor: str) -> None:
    command = words(project, target, executor)
    for number, at in ((signal.SIGTERM, 4), (signal.SIGUSR1, 12), (signal.SIGINT, 20)):
        process = project.start(*command)
        wait_until(lambda at=at: len(steps(project)) >= at)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == (130 if number == signal.SIGINT else 128 + number), err
        assert project.states() == ["preempted"], err
        assert "Stopping: 1 repetition has" in err
    assert project.call(*command).returncode == 0
    complete(project)
    repeated = len(steps(project)) - COUNT
    assert repeated <= (0 if target == "function" else 3 * 3), "at most what was not saved"
    record = project.records()["sums/log/rep_00"]
    assert [attempt["resumed"] for attempt in record["attempts"]] == [False, True, True, True]
    if target == "Iterates":
        assert rows(project)[-1]["sum"] == str(sum(range(COUNT)))


@pytest.mark.parametrize("target", ["function", "Iterates"])
def test_after_kills_it_goes_on_where_it_was(project: Project, target: str) -> None:
    command = words(project, target, "processes")
    for at in (4, 10, 16, 22):
        process = project.start(*command)
        wait_until(lambda at=at: len(steps(project)) >= at)
        process.kill()
        process.communicate(timeout=10)
    assert project.call(*command).returncode == 0
    complete(project)
    assert len(steps(project)) - COUNT <= 4 * 4


def test_a_signal_to_the_worker_alone_tells_its_repetition(project: Project) -> None:
    command = words(project, "function", "processes")
    process = project.start(*command)
    wait_until(lambda: len(steps(project)) >= 4)
    worker = project.records()["sums/log/rep_00"]["attempts"][-1]["worker"]["pid"]
    assert worker != process.pid
    os.kill(worker, signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, project.states()) == (1, ["preempted"])
    assert project.call(*command).returncode == 0
    complete(project)


def test_every_process_of_a_job_may_get_the_signal(project: Project) -> None:
    """As a batch system does it, which knows no process groups."""
    command = words(project, "function", "processes")
    process = project.start(*command)
    wait_until(lambda: len(steps(project)) >= 4)
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, project.states()) == (143, ["preempted"]), err
    assert project.call(*command).returncode == 0
    complete(project)


def descendants(root: int) -> list[int]:
    from amlsched._proc import descendants

    return [*descendants(root), root]


def test_a_batch_job_near_its_end_stops_by_itself(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    command = words(project, "function", "processes", "--grace", "3600")
    project.config("{name: sums, path: results, repetitions: 1, params: {n: 1000000}}")
    # The warning comes at once, before the repetition can stop.
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    process = project.start(*command)
    process.communicate(timeout=60)
    assert (process.returncode, project.states()) == (128 + signal.SIGUSR1, ["preempted"])


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("ends", ["the grace is over", "a second signal"])
def test_one_that_can_stop_and_does_not_is_ended(project: Project, executor: str, ends: str) -> None:
    waits = ends == "the grace is over"
    command = words(project, "restless", executor, "--grace", "1" if waits else "600")
    process = project.start(*command)
    wait_until((project.folder / "begun").exists)
    process.send_signal(signal.SIGINT)
    if not waits:
        wait_until((project.folder / "results/sums/log/rep_00/stop").exists)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert (process.returncode, project.states()) == (130, ["cancelled"])
    wait_until(lambda: not members(process.pid))


@pytest.mark.parametrize("executor", ["processes", "loky"])
def test_one_whose_worker_is_killed_while_it_should_stop_did_not_fail(project: Project, executor: str) -> None:
    """As batch systems do: they tell all processes of a job, and soon kill them, one before the other."""
    process = project.start(*words(project, "restless", executor))
    wait_until((project.folder / "begun").exists)
    process.send_signal(signal.SIGTERM)
    wait_until((project.folder / "results/sums/log/rep_00/stop").exists)
    [attempt] = project.records()["sums/log/rep_00"]["attempts"]
    os.kill(attempt["worker"]["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, project.states()) == (128 + signal.SIGTERM, ["cancelled"])
    assert "failed" not in err


def test_one_that_does_not_look_at_its_checkpoint_begins_anew(project: Project) -> None:
    command = words(project, "forgetful", "processes")
    process = project.start(*command)
    wait_until(lambda: len(steps(project)) >= 4)
    process.kill()
    process.communicate(timeout=10)
    assert project.call(*command).returncode == 0
    complete_rows = [row["value"] for row in rows(project)]
    assert complete_rows == [str(n) for n in range(COUNT)]
    assert (project.folder / "results/sums/log/rep_00/earlier/01/rep_0.csv").exists()


def test_overwriting_begins_anew(project: Project) -> None:
    command = words(project, "function", "processes")
    process = project.start(*command)
    wait_until(lambda: len(steps(project)) >= 4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert project.call(*command, "-o").returncode == 0
    assert [attempt["resumed"] for attempt in project.records()["sums/log/rep_00"]["attempts"]] == [False, False]
    assert steps(project)[-COUNT:] == list(range(COUNT))
    assert Path(project.folder / "results/sums/log/rep_00/earlier/01/checkpoint").is_dir()
