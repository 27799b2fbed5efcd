"""Arrays on real batch systems that lose answers, are full, cancel what they preempt, or lack `scontrol` on nodes."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.clusters.project import COUNTS, EXPERIMENT, ITERATIVE, Project
from tests.clusters.site import said
from tests.processes import alive, until
from tests.unkind import Unkind

SOON_S = 90.0

EVERYWHERE = pytest.mark.parametrize(
    ("system", "command"),
    [
        pytest.param("slurm", "sbatch", marks=pytest.mark.slurm),
        pytest.param("sge", "qsub", marks=pytest.mark.sge),
        pytest.param("htcondor", "condor_submit", marks=pytest.mark.htcondor),
    ],
)


@pytest.fixture
def system() -> str:
    return "slurm"


@pytest.fixture
def project(tmp_path: Path, system: str) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "experiment.py").write_text(EXPERIMENT)
    project = Project(folder, ("-s",) if system == "slurm" else ("--submit", system))
    project.config("num_parallel_jobs: 2")
    yield project
    project.wait.unlink(missing_ok=True)
    if project.arrays():
        project.call("cancel", "results")
    for pid in project.pids():
        with contextlib.suppress(ProcessLookupError):
            until(lambda pid=pid: not alive(pid), SOON_S)


@pytest.fixture
def counts(project: Project) -> Project:
    (project.folder / "experiment.py").write_text(ITERATIVE)
    return project


def at_once(project: Project) -> int:
    """How many repetitions ran at a time, at most."""
    times: list[tuple[datetime, int]] = []
    for record in project.records():
        for attempt in record["attempts"]:
            times += [(datetime.fromisoformat(attempt["started"]), 1), (datetime.fromisoformat(attempt["ended"]), -1)]
    return max(sum(change for _, change in sorted(times)[: k + 1]) for k in range(len(times)))


@EVERYWHERE
@pytest.mark.parametrize("mood", ["lose", "garble"])
def test_an_array_whose_id_was_lost_is_found_by_its_mark(
    project: Project, unkind: Unkind, system: str, command: str, mood: str
) -> None:
    project.wait.touch()
    unkind.next(command, mood)
    told = project.submit()
    assert "But the array is in the queue: " in told
    [job] = project.arrays()
    assert f"Submitted array {job} to " in told
    until(lambda: project.states().count("running") == 2, SOON_S)
    assert "4 repetitions are already in the queue. Nothing else to submit" in project.submit()
    assert "lost" not in project.status()
    assert re.search(rf"array {job} of .*2 pending.*2 running", project.status())
    project.wait.unlink()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    assert len(unkind.calls(command)) == 1
    assert project.completions() == [1] * 4
    assert at_once(project) == 2


@EVERYWHERE
def test_an_array_that_enters_the_queue_late_is_adopted_or_does_nothing(
    project: Project, unkind: Unkind, system: str, command: str
) -> None:
    """It enters the queue within `LATE_S`; the command that failed looks for that long, and may be faster or slower."""
    project.wait.touch()
    unkind.next(command, "late")
    done = project.call("run", "experiment.py:experiment", "config.yml", *project.flags)
    assert done.returncode == 0 or "may have been accepted, but is not in the queue so far" in done.stderr
    assert "4 repetitions are already in the queue" in project.submit() or len(unkind.calls(command)) == 2
    project.wait.unlink()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)
    project.submit()
    assert project.completions() == [1] * 4
    assert at_once(project) <= 2


@pytest.mark.slurm
def test_waiting_goes_on_through_answers_that_fail_and_are_rubbish(project: Project, unkind: Unkind) -> None:
    project.wait.touch()
    project.submit()
    until(lambda: project.states().count("running") == 2, SOON_S)
    unkind.next("squeue", "lose", "garble", "lose", "truncate", "", "empty")
    waiting = project.start("run", "experiment.py:experiment", "config.yml", "--wait")
    until(lambda: len(unkind.calls("squeue")) > 8, SOON_S)
    project.wait.unlink()
    out, err = waiting.communicate(timeout=SOON_S)
    assert waiting.returncode == 0, out + err
    assert "No answer since" in err
    assert "The batch system answers again" in err
    assert "4 repetitions: 4 completed." in out


@pytest.mark.slurm
def test_a_full_queue_is_told_with_what_waits(project: Project, full: Unkind) -> None:
    done = project.call("run", "experiment.py:experiment", "config.yml", *project.flags)
    assert (done.returncode, "temporarily unable to accept job" in done.stderr) == (2, True)
    assert project.arrays() == []
    full.always("sbatch", "")
    project.submit()
    until(lambda: project.states() == ["completed"] * 4, SOON_S)


def preempt(node: str) -> None:
    words = ["sbatch", "--parsable", "-p", "high", "-w", node, "-c", "8", "-o", "/dev/null", "--wrap", "sleep 1"]
    job = said(*words).strip()
    until(lambda: not said("squeue", "-h", "-t", "PENDING,RUNNING", "-j", job), SOON_S)


def went_on(project: Project, repetitions: int) -> None:
    assert project.completions() == [1] * repetitions
    assert project.rows("n") == [[str(n) for n in range(40)]] * repetitions
    assert [rows[-1] for rows in project.rows("sum")] == [str(sum(range(40)))] * repetitions


@pytest.mark.slurm
@pytest.mark.parametrize("by", ["waiting", "status and a sibling"])
@pytest.mark.takes_nodes
def test_what_the_site_preempts_and_cancels_is_submitted_again(counts: Project, cancelling: str, by: str) -> None:
    section = f"partition: {cancelling}\ncpus-per-task: 4\nsbatch_args: {{nodelist: n3}}"
    count = 2 if by == "waiting" else 3
    text = COUNTS.replace("{time}", "10").replace("{repetitions}", str(count))
    counts.config(section + ("" if by == "waiting" else "\nnum_parallel_jobs: 2"), text)
    counts.submit(target="experiment.py:Counts")
    waiting = counts.start("run", "experiment.py:Counts", "config.yml", "--wait") if by == "waiting" else None
    until(lambda: counts.states().count("running") == 2 and min(map(len, counts.rows("n")), default=0) > 8, SOON_S)
    preempt("n3")
    if waiting is None:
        until(lambda: "PreemptMode=CANCEL" in counts.status(), SOON_S)
    until(lambda: counts.states() == ["completed"] * count, 2 * SOON_S)
    went_on(counts, count)
    assert [len(record["attempts"]) for record in counts.records()][:2] == [2, 2]
    if waiting is not None:
        out, err = waiting.communicate(timeout=SOON_S)
        assert waiting.returncode == 0, out + err


@pytest.mark.slurm
def test_an_element_without_scontrol_is_submitted_again_when_its_time_is_over(
    counts: Project, without_scontrol: str
) -> None:
    lines = json.dumps({"sh_lines": [without_scontrol]}).strip("{}")
    text = COUNTS.replace("{time}", '"0:30"').replace("{repetitions}", "1").replace("0.2", "0.5")
    counts.config(lines, text)
    counts.submit(target="experiment.py:Counts")
    done = counts.start("run", "experiment.py:Counts", "config.yml", "--wait")
    out, err = done.communicate(timeout=3 * SOON_S)
    assert done.returncode == 0, out + err
    went_on(counts, 1)
    assert len(counts.arrays()) > 1
    first = counts.arrays()[0]
    assert (
        "COMPLETED"
        in subprocess.run(
            ["squeue", "-h", "-t", "all", "-j", first, "-o", "%T"], capture_output=True, text=True, check=False
        ).stdout
    )
    [log] = counts.results.glob(f"_arrays/*/logs/err_{first}_0.log")
    assert "amlsched: not requeued: scontrol: there is no such command here" in log.read_text()
