"""Submissions whose answer is lost, and commands that do not answer."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from amlsched import BatchSystemError
from amlsched.batch_systems import SYSTEMS, ArrayJob, commands
from amlsched.errors import MaybeSubmittedError
from tests.processes import alive, until
from tests.readers import directives

MARK = "1f2e3d4c"
JOB = ArrayJob("digits", ("true",), 3, Path("/a"), Path("/b"), mark=MARK)
SLURM = SYSTEMS["slurm"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(commands, "_LOOK_AFTER_S", (0.0, 0.01, 0.01))
    return tmp_path


def command(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def submitted(folder: Path) -> tuple[list[str], list[str]]:
    """The ids, and what the user reads."""
    notes: list[str] = []
    return commands.submit(SLURM, folder / f"part_0.{MARK}.sh", MARK, notes.append), notes


# ------------------------------------------------------------------------------------------------------------ the mark


@pytest.mark.parametrize("name", ["sge", "pbs", "torque"])
def test_the_mark_is_in_the_name_where_the_queue_shows_no_script(name: str) -> None:
    words = directives(name, SYSTEMS[name].script(JOB))
    assert words[words.index("-N") + 1] == f"digits.{MARK}"
    words = directives(name, SYSTEMS[name].script(replace(JOB, mark="")))
    assert words[words.index("-N") + 1] == "digits"


def test_a_name_is_shortened_for_its_mark() -> None:
    words = directives("torque", SYSTEMS["torque"].script(replace(JOB, name="digits_of_pi")))
    assert words[words.index("-N") + 1] == f"digits.{MARK}"


def test_squeue_is_searched_for_the_script() -> None:
    own = f"12|/r/_arrays/0001/part_0.{MARK}.sh\n"
    said = f"{own}{own}13|/r/part_0.00000000.sh\n14|(null)\n15|/r/{MARK}/x.sh\n"
    assert set(SLURM.found(said, MARK)) == {"12"}
    with pytest.raises(ValueError, match="unpack"):
        list(SLURM.found("welcome to the cluster", MARK))


def test_qstat_of_grid_engine_is_searched_for_the_name() -> None:
    jobs = "".join(
        f"<job_list><JB_job_number>{job}</JB_job_number><JB_name>{name}</JB_name></job_list>"
        for job, name in ((4, f"digits.{MARK}"), (5, "digits"), (4, f"digits.{MARK}"))
    )
    said = f"<?xml version='1.0'?><job_info><queue_info>{jobs}</queue_info></job_info>"
    assert set(SYSTEMS["sge"].found(said, MARK)) == {"4"}


@pytest.mark.parametrize("name", ["pbs", "torque"])
def test_qstat_of_pbs_and_torque_is_searched_for_the_name(name: str) -> None:
    said = (
        f"Job Id: 12[].srv\n    Job_Name = digits.{MARK}\n    job_state = B\n\nJob Id: 9.srv\n    Job_Name = digits\n"
    )
    assert list(SYSTEMS[name].found(said, MARK)) == ["12"]
    assert list(SYSTEMS[name].found("", MARK)) == []


def test_condor_q_is_searched_for_the_script() -> None:
    assert MARK in " ".join(SYSTEMS["htcondor"].find(MARK))
    said = json.dumps([{"ClusterId": 7, "Cmd": f"/r/part_0.{MARK}.sh"}, {"ClusterId": 8, "Cmd": "/r/part_0.0.sh"}])
    assert list(SYSTEMS["htcondor"].found(said, MARK)) == ["7"]
    assert list(SYSTEMS["htcondor"].found("", MARK)) == []


@pytest.mark.parametrize(
    ("name", "variables", "array"),
    [
        ("slurm", {"SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_ID": "13"}, "12"),
        ("sge", {"JOB_ID": "12", "SGE_TASK_ID": "3"}, "12"),
        ("pbs", {"PBS_JOBID": "12[3].srv"}, "12"),
        ("torque", {"PBS_JOBID": "12-3.srv"}, "12"),
        ("torque", {"SLURM_ARRAY_JOB_ID": "12"}, "12"),
        ("htcondor", {"_CONDOR_JOB_AD": "{folder}/ad"}, "12"),
        ("htcondor", {"_CONDOR_JOB_AD": "{folder}/none"}, ""),
        *((name, {}, "") for name in SYSTEMS),
    ],
)
def test_an_element_knows_its_array(name: str, variables: dict[str, str], array: str, tmp_path: Path) -> None:
    (tmp_path / "ad").write_text('Cmd = "/x"\nClusterId = 12\nProcId = 3\n')
    variables = {key: value.replace("{folder}", str(tmp_path)) for key, value in variables.items()}
    assert SYSTEMS[name].own_array(variables) == array


# ---------------------------------------------------------------------------------------------------------- submissions


@pytest.mark.parametrize("answer", ["echo 'error: Socket timed out' >&2; exit 1", "echo hello", "true", "exit 3"])
def test_an_array_is_found_whatever_its_submission_has_said(folder: Path, answer: str) -> None:
    command(folder, "sbatch", answer)
    command(folder, "squeue", f'echo "12|/r/part_0.{MARK}.sh"')
    jobs, [note] = submitted(folder)
    assert jobs == ["12"]
    assert note.endswith("But the array is in the queue: 12")


def test_an_array_that_enters_the_queue_a_moment_later_is_found(folder: Path) -> None:
    command(folder, "sbatch", "echo 'error: Socket timed out' >&2; exit 1")
    command(folder, "squeue", f'if [ -e {folder}/seen ]; then echo "12|/r/part_0.{MARK}.sh"; fi; touch {folder}/seen')
    assert submitted(folder)[0] == ["12"]


def test_the_id_is_used_and_other_arrays_with_the_mark_are_named(folder: Path) -> None:
    command(folder, "sbatch", "echo 12")
    assert submitted(folder) == (["12"], [])
    command(folder, "squeue", f'echo "11|/r/part_0.{MARK}.sh"; echo "12|/r/part_0.{MARK}.sh"')
    assert submitted(folder) == (["12", "11"], [])


def test_without_a_mark_nothing_is_found(folder: Path) -> None:
    """Otherwise all jobs of the user would be."""
    command(folder, "squeue", "echo '11|/r/x.sh'")
    with pytest.raises(BatchSystemError, match="cannot be searched"):
        commands.find(SLURM, "")


def test_a_refusal_is_one_and_the_queue_is_asked_once(folder: Path) -> None:
    command(folder, "sbatch", "echo 'invalid partition specified: nosuch' >&2; exit 1")
    command(folder, "squeue", f"echo x >> {folder}/asked")
    with pytest.raises(BatchSystemError, match="invalid partition") as raised:
        submitted(folder)
    assert not isinstance(raised.value, MaybeSubmittedError)
    assert (folder / "asked").read_text() == "x\n"


@pytest.mark.parametrize("queue", ["true", "echo 'Unable to contact slurm controller' >&2; exit 1", "echo hello"])
def test_without_an_answer_it_may_have_been_submitted(folder: Path, queue: str) -> None:
    command(folder, "sbatch", "echo 'error: Unable to contact slurm controller' >&2; exit 1")
    command(folder, "squeue", queue)
    with pytest.raises(
        MaybeSubmittedError, match=rf"may have been accepted(?s:.*)look with: squeue --me .* \| grep {MARK}"
    ):
        submitted(folder)


def test_a_system_whose_queue_cannot_be_searched_says_so(folder: Path) -> None:
    command(folder, "sbatch", "echo hello")
    with pytest.raises(MaybeSubmittedError, match=f"the queue cannot be searched for it .look for {MARK} in the queue"):
        commands.submit(replace(SLURM, find=lambda mark: ()), folder / "x.sh", MARK)


# ----------------------------------------------------------------------------------------------------------- no answers


def test_what_a_command_has_printed_before_its_time_was_over_is_told(folder: Path) -> None:
    command(folder, "squeue", "echo 'sleeping and retrying' >&2; exec sleep 60")
    with pytest.raises(BatchSystemError, match=r"did not answer within 0\.5 s, but printed: sleeping and retrying"):
        commands.run(SLURM, ["squeue"], 0.5)


def test_a_command_that_waits_for_a_full_queue_is_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SUBMIT_S", 0.5)
    command(folder, "sbatch", "echo 'Slurm job queue full, sleeping and retrying' >&2; exec sleep 60")
    command(folder, "squeue", "true")
    with pytest.raises(BatchSystemError) as raised:
        submitted(folder)
    assert SLURM.too_many.search(raised.value.words)
    assert not isinstance(raised.value, MaybeSubmittedError)


def test_the_children_of_a_command_end_with_it(folder: Path) -> None:
    command(folder, "squeue", f"sleep 60 & echo $! > {folder}/pid; wait")
    begun = time.process_time()
    with pytest.raises(BatchSystemError, match="did not answer"):
        commands.run(SLURM, ["squeue"], 0.5)
    until(lambda: not alive(int((folder / "pid").read_text())))
    assert time.process_time() - begun < 5


def test_a_slow_command_is_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_SLOW_S", 0.1)
    command(folder, "sbatch", f"while [ ! -e {folder}/go ]; do sleep 0.05; done; echo 12")
    notes: list[str] = []

    def notify(text: str) -> None:
        notes.append(text)
        (folder / "go").touch()

    assert commands.submit(SLURM, folder / "x.sh", MARK, notify) == ["12"]
    assert len(notes) == 1
    assert notes[0].startswith("sbatch has not answered for 0.1 s")
