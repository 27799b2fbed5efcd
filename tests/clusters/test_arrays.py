"""Arrays on real batch systems: submitted, watched, cancelled, killed, preempted, and submitted again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.clusters.project import CONFIG, COUNTS, EXPERIMENT, ITERATIVE, Project
from tests.faults.kinds import KINDS
from tests.processes import alive, until

SOON_S = 60.0

EVERYWHERE = pytest.mark.parametrize(
    "system",
    [
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("sge", marks=pytest.mark.sge),
        pytest.param("htcondor", marks=pytest.mark.htcondor),
    ],
)


@pytest.fixture
def system() -> str:
    return "slurm"


@pytest.fixture
def project(tmp_path: Path, system: str) -> Iterator[Project]:
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    flags = ("-s",) if system == "slurm" else ("--submit", system)
    project = Project(tmp_path, flags)
    project.config("partition: main" if system == "slurm" else "")
    yield project
    project.wait.unlink(missing_ok=True)
    if project.arrays():
        project.call("cancel", "results")
    for pid in project.pids():  # what a batch system leaves behind
        with contextlib.suppress(ProcessLookupError):
            until(lambda pid=pid: not alive(pid), SOON_S)


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def running(project: Project, count: int) -> None:
    until(lambda: project.states().count("running") == count and len(project.pids()) >= count, SOON_S)


def ended(project: Project) -> None:
    until(lambda: "array" not in project.status(), SOON_S)


# ------------------------------------------------------------------------------------------------ on every system


@EVERYWHERE
def test_an_array_runs_detached_and_its_ids_are_kept(project: Project) -> None:
    told = project.submit("--set", "params.steps=4")
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert project.arrays() == re.findall(r"array (\d+)", told)
    assert project.rows("n") == [["0", "1", "2", "3"]] * 4
    assert "4 repetitions: 4 completed." in project.status()
    assert "Nothing else to submit" in project.submit("--set", "params.steps=4")


@EVERYWHERE
def test_repetitions_end_as_their_functions_do(project: Project) -> None:
    root = Path(__file__).parents[2]
    (project.folder / "kinds_here.py").write_text(
        f"import sys\nsys.path.insert(0, {str(root)!r})\nfrom tests.faults.kinds import repetition\n"
    )
    config = project.folder / "config.yml"
    config.write_text(f"{CONFIG.partition('---')[0].format(section='')}---\nname: e\npath: results\nreps_per_job: 8\n")
    with config.open("a") as file:
        file.write(f"grid: {{kind: {json.dumps(list(KINDS))}}}\n")
    project.submit(target="kinds_here.py:repetition")
    until(lambda: len(ends := project.states()) == len(KINDS) and not {"pending", "running"} & {*ends}, 2 * SOON_S)
    for record in project.records():
        kind, (attempt,) = record["params"]["kind"], record["attempts"]
        wanted, error = KINDS[kind][1], attempt["error"]
        assert record["state"] == ("failed" if wanted else "completed"), (kind, error)
        assert not wanted or error["type"].endswith(wanted), (kind, error)


@EVERYWHERE
def test_folders_and_a_name_with_blanks_and_quotes(project: Project, system: str) -> None:
    """Grid Engine holds no quotes, and no blanks in a name."""
    folder = project.folder / ("my code" if system == "sge" else "my 'own\" code # 1")
    folder.mkdir()
    (project.folder / "experiment.py").rename(folder / "experiment.py")
    project.folder = folder
    name = "sweep" if system == "sge" else "my 'own\" sweep"
    section = json.dumps({"slurm_log": "my logs"}).strip("{}")
    project.config(section, CONFIG.replace("amlsched-test", json.dumps(name)))
    project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert len(list((folder / "my logs").iterdir())) == 8


@EVERYWHERE
def test_what_is_in_the_queue_is_shown_and_not_submitted_again(project: Project) -> None:
    project.wait.touch()
    project.config("num_parallel_jobs: 1")
    project.submit()
    running(project, 1)
    assert "4 repetitions are already in the queue. Nothing else to submit" in project.submit()
    status = project.status()
    assert re.search(r"array \S+ of .*3 pending.*1 running", status)
    assert re.search(r"running +sums__a1 rep 0 .*n 0", status)
    project.wait.unlink()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    times: list[tuple[datetime, int]] = []
    for record in project.records():
        [attempt] = record["attempts"]
        times += [(datetime.fromisoformat(attempt["started"]), 1), (datetime.fromisoformat(attempt["ended"]), -1)]
    assert max(sum(change for _, change in sorted(times)[: k + 1]) for k in range(len(times))) == 1


@EVERYWHERE
def test_what_was_cancelled_is_submitted_again_and_nothing_else(project: Project) -> None:
    project.wait.touch()
    project.submit()
    running(project, 4)
    done = project.call("cancel", "results", "sums__a2")
    assert (done.returncode, done.stdout) == (0, "Cancelled 2 elements.\n")
    until(lambda: "2 repetitions were cancelled" in project.status(), SOON_S)
    assert "lost" not in project.status()
    project.wait.unlink()
    until(lambda: project.states().count("completed") == 2, SOON_S)
    ended(project)
    assert "2 elements" in project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert project.completions() == [1] * 4
    assert project.rows("n") == [["0", "1", "2"]] * 4


@EVERYWHERE
def test_waiting_shows_progress_and_can_be_left(project: Project) -> None:
    project.wait.touch()
    waiting = project.start("run", "experiment.py:experiment", "config.yml", *project.flags, "--wait")
    running(project, 4)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=SOON_S)
    assert (waiting.returncode, "Detached; the jobs keep running" in err) == (130, True)
    again = project.start("run", "experiment.py:experiment", "config.yml", "--wait")
    assert again.stdout is not None
    assert re.match(r"Waiting for array \d+ of ", again.stdout.readline())
    project.wait.unlink()
    out, err = again.communicate(timeout=SOON_S)
    assert (again.returncode, err) == (0, "")
    assert len(re.findall(r"completed +sums__a\d rep \d", out)) == 4
    assert "Ran 4 in" in out


@EVERYWHERE
def test_elements_that_are_killed_are_taken_up_by_the_next_submission(project: Project) -> None:
    project.wait.touch()
    project.submit()
    running(project, 4)
    workers = [record["attempts"][-1]["worker"]["pid"] for record in project.records()]
    drivers = [record["attempts"][-1]["driver"]["pid"] for record in project.records()]
    for pid in [*drivers[:3], *workers[:2]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(alive, [*drivers[:3], *workers[:3]])), SOON_S)
    until(lambda: project.status().count("\nlost ") == 3, SOON_S)
    project.wait.unlink()
    until(lambda: project.states().count("completed") == 1, SOON_S)
    assert "3 elements" in project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert project.completions() == [1] * 4
    assert project.rows("n") == [["0", "1", "2"]] * 4


# --------------------------------------------------------------------------------------------------------- Slurm


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("partition: nosuch", "invalid partition specified: nosuch"),
        ("cpus-per-task: 1000", "More processors requested"),
    ],
)
def test_a_refusal_is_told_in_slurm_s_words_at_once(project: Project, section: str, words: str) -> None:
    project.config(section)
    begun = time.monotonic()
    done = project.call("run", "experiment.py:experiment", "config.yml", "-s")
    assert time.monotonic() - begun < 10
    assert (done.returncode, words in done.stderr) == (2, True)
    assert project.arrays() == []
    assert not list(project.results.glob("_arrays/*/"))


@pytest.mark.slurm
def test_debug_reaches_the_array_and_leaves_the_real_runs_alone(project: Project) -> None:
    assert ": 1 element" in project.submit("--debug")
    until(lambda: project.states() == ["completed"], SOON_S)
    assert sorted(path.name for path in project.results.iterdir()) == ["_arrays", "_debug"]
    assert "4 elements" in project.submit()
    until(lambda: project.states() == ["completed"] * 5, SOON_S)


@pytest.mark.slurm
def test_a_config_that_changes_while_elements_wait_changes_nothing(project: Project) -> None:
    project.config('sbatch_args: {begin: "now+4"}')
    project.submit()
    (project.folder / "config.yml").write_text("not: yaml: at all")
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert project.rows("n") == [["0", "1", "2"]] * 4


@pytest.mark.slurm
def test_a_template_of_cw2_is_used(project: Project) -> None:
    from tests.unit.batch_systems.test_system import TEMPLATE

    (project.folder / "template.sh").write_text(TEMPLATE)
    project.config("partition: main\npath_to_template: template.sh\nslurm_output: out/sbatch.sh")
    project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert "%%" not in (project.folder / "out/sbatch.sh").read_text()


@pytest.mark.slurm
def test_the_example_runs(project: Project) -> None:
    example = Path(__file__).parents[2] / "examples/digits"
    words = ("run", f"{example}/digits.py:Digits", f"{example}/slurm.yml", "-s", "--debug", "--results", "results")
    done = project.call(*words)
    assert (done.returncode, ": 1 element" in done.stdout) == (0, True), done.stderr
    until(lambda: project.states() == ["completed"], SOON_S)


@pytest.mark.slurm
def test_bundles_run_in_one_element(project: Project) -> None:
    config = project.folder / "config.yml"
    config.write_text(config.read_text() + "reps_per_job: 3\nreps_in_parallel: 2\n")
    assert "2 elements" in project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert len({record["attempts"][0]["driver"]["pid"] for record in project.records()}) == 2


@pytest.mark.slurm
def test_an_element_that_scancel_ends_is_told_with_its_cause(project: Project) -> None:
    project.wait.touch()
    project.submit()
    running(project, 4)
    [job] = project.arrays()
    said("scancel", f"{job}_3")
    until(lambda: re.search(rf"lost     sums__a2 rep 1 \(element {job}_3\): CANCELLED", project.status()), SOON_S)


@pytest.mark.slurm
@pytest.mark.takes_nodes
def test_what_a_node_had_when_it_went_down_runs_again(project: Project) -> None:
    project.wait.touch()
    project.config("sbatch_args: {nodelist: n4}")
    project.submit()
    running(project, 4)
    [job] = project.arrays()
    try:
        said("scontrol", "update", "NodeName=n4", "State=DOWN", "Reason=amlsched-test")
        until(lambda: "4 pending" in project.status(), SOON_S)
    finally:
        resume = ["scontrol", "update", "NodeName=n4", "State=RESUME"]
        subprocess.run(resume, check=False, capture_output=True)  # it may have come back by itself
    project.wait.unlink()
    release(job)
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert project.completions() == [1] * 4
    assert project.rows("n") == [["0", "1", "2"]] * 4


def release(job: str) -> None:
    """Slurm holds a job back for two minutes once it was requeued."""
    time.sleep(2)  # and does not listen before
    for line in said("squeue", "--array", "-h", "-j", job, "-t", "PENDING", "-o", "%A").split():
        subprocess.run(["scontrol", "update", f"JobId={line}", "StartTime=now"], check=False, capture_output=True)


# ------------------------------------------------------------------------------------------------ checkpoints

EVERY, ITERATIONS = 5, 40


@pytest.fixture
def counts(project: Project) -> Project:
    (project.folder / "experiment.py").write_text(ITERATIVE)
    return project


def steps(project: Project, rep: int) -> list[int]:
    path = project.folder / f"steps_{rep}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def gone_on(project: Project) -> None:
    """Completed: each row once, and at most one interval of checkpoints again for each interruption."""
    assert project.completions() == [1] * 2
    assert project.rows("n") == [[str(n) for n in range(ITERATIONS)]] * 2
    assert [rows[-1] for rows in project.rows("sum")] == [str(sum(range(ITERATIONS)))] * 2
    for rep, record in enumerate(project.records()):
        interruptions = len(record["attempts"]) - 1
        assert interruptions > 0
        assert [attempt["resumed"] for attempt in record["attempts"]] == [False] + [True] * interruptions
        assert len(steps(project, rep)) - ITERATIONS <= EVERY * interruptions


@pytest.mark.slurm
@pytest.mark.takes_nodes
def test_what_is_preempted_goes_on_from_its_checkpoint(counts: Project) -> None:
    counts.config(
        "partition: main\ncpus-per-task: 4\nsbatch_args: {nodelist: n3}",
        COUNTS.replace("{repetitions}", "2").replace("{time}", "10"),
    )
    counts.submit(target="experiment.py:Counts")
    until(lambda: min(len(steps(counts, rep)) for rep in (0, 1)) > 12, SOON_S)
    [job] = counts.arrays()
    urgent = said("sbatch", "--parsable", "-p", "high", "-w", "n3", "-c", "8", "-o", "/dev/null", "--wrap", "sleep 1")
    until(lambda: "2 pending" in counts.status(), SOON_S)
    until(lambda: not said("squeue", "-h", "-t", "PENDING,RUNNING", "-j", urgent.strip()), SOON_S)
    assert max(len(steps(counts, rep)) for rep in (0, 1)) < ITERATIONS
    release(job)
    until(lambda: counts.states() == ["completed"] * 2, SOON_S)
    gone_on(counts)


@EVERYWHERE
def test_one_that_runs_out_of_time_goes_on_in_the_next_start_of_its_element(counts: Project, system: str) -> None:
    counts.config("", COUNTS.replace("{repetitions}", "2").replace("{time}", '"0:30"').replace("0.2", "0.35"))
    counts.submit(target="experiment.py:Counts")
    until(lambda: "preempted" in counts.states(), SOON_S)

    def done() -> bool:
        if system == "slurm":
            release(counts.arrays()[0])
        return counts.states() == ["completed"] * 2

    until(done, 2 * SOON_S)
    gone_on(counts)


# -------------------------------------------------------------------------------------------------------- PBS


@pytest.mark.pbs
@pytest.mark.parametrize("system", ["torque"])
def test_pbs_runs_an_array(project: Project, system: str) -> None:
    """Its commands stand in front of Slurm here, and show no elements: so only what they take is tested."""
    done = project.call("run", "experiment.py:experiment", "config.yml", "--submit", system)
    assert (done.returncode, "4 elements" in done.stdout) == (0, True), done.stderr
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert "4 repetitions: 4 completed." in project.status()
