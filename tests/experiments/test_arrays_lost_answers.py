"""Arrays whose batch system loses answers, is full, or does not requeue: what is submitted, and what the user reads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experiments.array_world import World, world
from tests.processes import until
from tests.unkind import Unkind


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "world", 4, "num_parallel_jobs: 2") as one:
        yield one


def jobs(made: World) -> list[str]:
    return list(made.slurm.state["jobs"])


# ------------------------------------------------------------------------------------------- the answer to a submission


@pytest.mark.parametrize("mood", ["lose", "garble", "empty"])
def test_an_array_whose_id_was_lost_is_found_by_its_mark(made: World, mood: str) -> None:
    made.slurm.moods("sbatch", mood)
    done = made.submit()
    assert done.code == 0, done.text
    assert "Submitted array 1 to Slurm: 4 elements" in done.text
    assert "But the array is in the queue: 1" in done.text
    assert "4 repetitions are already in the queue" in made.submit().text
    assert jobs(made) == ["1"]
    assert "array 1 of Slurm: 4 pending" in made.status().text
    assert "Cancelled 4 elements" in made.cancel().text
    assert made.slurm.pending() == []


def test_an_array_that_enters_the_queue_late_is_adopted_by_the_next_command(made: World) -> None:
    made.slurm.moods("sbatch", "late")
    done = made.submit()
    assert done.code == 2
    assert "Socket timed out" in done.text
    assert "may have been accepted, but is not in the queue so far (look with: squeue --me" in done.text
    assert re.search(r"\| grep [0-9a-f]{8}\)", done.text)
    text = made.status().text
    assert "4 pending (perhaps submitted)" in text
    assert "sbatch gave no answer at" in text
    made.slurm.pass_time()
    assert "Array 1 of Slurm was accepted, although sbatch did not say so" in made.status().text
    assert "4 repetitions are already in the queue" in made.submit().text
    assert jobs(made) == ["1"]


def test_an_array_that_enters_the_queue_after_another_took_its_place_does_nothing_and_is_cancelled(made: World) -> None:
    made.slurm.moods("sbatch", "late")
    assert made.submit().code == 2
    assert "Submitted array 1 to Slurm: 4 elements" in made.submit().text
    made.slurm.pass_time()
    assert jobs(made) == ["1", "2"]
    assert "Array 2 of Slurm entered the queue late, after it was given up, and does nothing" in made.status().text
    made.begin("2", "0")
    assert made.finish("2", "0") == 0
    assert made.diary() == []
    assert "it is cancelled" in made.submit().text
    assert {job for job, _ in made.slurm.pending()} == {"1"}
    assert sorted(path.name for path in made.folder.glob("results/_arrays/0*")) == ["0001", "0002"]


def test_an_array_makes_itself_known_by_its_first_element(made: World) -> None:
    made.slurm.moods("sbatch", "late")
    assert made.submit().code == 2
    made.slurm.pass_time()
    made.let_go(0)
    made.begin("1", "0")
    made.finish("1", "0")
    assert [part["job"] for part in made.parts()] == ["1"]


def test_where_the_queue_cannot_be_asked_the_user_reads_that_it_may_have_been_accepted(made: World) -> None:
    made.slurm.moods("sbatch", "lose")
    made.slurm.moods("squeue", "lose")
    done = made.submit()
    assert (done.code, "The array may have been accepted: Slurm: squeue" in done.text) == (2, True)
    assert "look with: squeue --me" in done.text
    assert "4 repetitions are already in the queue" in made.submit().text
    assert jobs(made) == ["1"]


def test_what_was_never_accepted_is_submitted_with_the_config_as_it_is_then(made: World) -> None:
    made.slurm.moods("sbatch", "break")
    assert made.submit().code == 2
    made.config(4, "num_parallel_jobs: 2", a=7)
    assert "Submitted array 1 to Slurm: 4 elements" in made.submit().text
    made.let_go(*range(4))
    made.run_all()
    assert [record["params"] for record in made.records()] == [{"a": 7}] * 4
    assert "were cancelled" not in made.status().text


def test_a_refusal_leaves_nothing_and_its_number_is_not_used_again(made: World) -> None:
    made.slurm.moods("sbatch", "refuse")
    done = made.submit()
    assert (done.code, "the moon is full" in done.text) == (2, True)
    assert not list(made.folder.glob("results/_arrays/*/"))
    assert "results/_arrays/0002" in made.submit().text


def test_of_two_arrays_with_the_same_mark_one_is_cancelled(made: World) -> None:
    """A wrapper of the site, whose first try has lost its answer, has tried again."""
    made.slurm.moods("sbatch", "twice")
    assert "Submitted array 2 to Slurm: 4 elements" in made.submit().text
    assert {job for job, _ in made.slurm.pending()} == {"2"}


def test_of_two_arrays_with_the_same_mark_one_does_nothing(made: World) -> None:
    made.slurm.moods("sbatch", "twice")
    made.slurm.moods("squeue", "", "lose")  # so that it is not seen
    made.submit()
    assert jobs(made) == ["1", "2"]
    made.let_go(*range(4))
    made.begin("1", "0")
    made.finish("1", "0")
    assert made.diary() == []
    made.run_all()
    assert made.completions() == [1] * 4


@pytest.mark.parametrize("before", ["submit", "cancel"])
def test_a_command_that_was_killed_while_it_submitted_leaves_nothing_unknown(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    unkind = Unkind(tmp_path / "unkind", "sbatch")
    unkind.next("sbatch", "hang")
    call = made.start(
        "run",
        "experiment.py:experiment",
        "config.yml",
        "-s",
        PATH=f"{unkind.path}:{made.folder}/bin:{os.environ['PATH']}",
    )
    until(lambda: jobs(made))
    os.kill(call.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(unkind.pid("sbatch"), signal.SIGKILL)
    if before == "submit":
        assert "4 repetitions are already in the queue" in made.submit().text
        assert jobs(made) == ["1"]
    else:
        assert "Cancelled 4 elements" in made.cancel().text
        assert made.slurm.pending() == []


# ------------------------------------------------------------------------------------------------- answers of the queue


def test_one_empty_answer_is_not_believed(made: World) -> None:
    made.submit()
    made.slurm.moods("squeue", "empty")
    text = made.status().text
    assert "lost" not in text
    assert "array 1 of Slurm: 4 pending" in text
    made.slurm.moods("squeue", "empty")
    assert "4 repetitions are already in the queue" in made.submit().text
    made.slurm.moods("squeue", "empty")
    assert "Cancelled 4 elements" in made.cancel().text


def test_what_the_accounting_has_is_not_lost(made: World) -> None:
    made.slurm.set(accounting=True)
    made.submit()
    made.begin("1", "0")
    made.slurm.moods("squeue", "empty", "empty")
    assert "4 repetitions are already in the queue" in made.submit().text
    made.slurm.set(accounting=False)
    made.slurm.moods("squeue", "empty", "empty")
    assert "lost" in made.status().text


def test_waiting_goes_on_through_answers_that_fail_or_are_rubbish(made: World) -> None:
    made.submit()
    waiting = made.wait()
    until(lambda: "Waiting for array 1" in waiting.text)
    made.slurm.moods("squeue", "lose", "garble", "truncate", "", "empty", "lose")
    until(lambda: "No answer since" in waiting.text)
    until(lambda: "The batch system answers again" in waiting.text)
    made.let_go(*range(4))
    made.run_all()
    assert waiting.wait().code == 0, waiting.text
    assert "4 repetitions: 4 completed." in waiting.text


def test_waiting_begins_although_the_queue_cannot_be_asked(made: World) -> None:
    made.submit()
    made.slurm.moods("squeue", "lose", "lose")
    waiting = made.wait()
    until(lambda: "answers again" in waiting.text)
    made.let_go(*range(4))
    made.run_all()
    assert waiting.wait().code == 0, waiting.text


def test_waiting_ends_when_the_patience_is_over(made: World) -> None:
    made.submit()
    made.slurm.moods("squeue", *["lose"] * 1000)
    done = made.wait("--patience", "200ms").wait()
    assert done.code == 2
    assert "no answer since" in done.text
    assert "--patience was over" in done.text
    done = made.submit("--patience", "1min")
    assert (done.code, "add --wait" in done.text) == (2, True)


def test_cancelling_works_where_the_queue_cannot_be_asked(made: World) -> None:
    made.submit()
    made.slurm.moods("squeue", *["lose"] * 5)
    done = made.cancel()
    assert done.code == 0, done.text
    assert "all elements were cancelled that are not known to have ended" in done.text
    assert made.slurm.pending() == []


# ---------------------------------------------------------------------------------------------------------- full queues


def test_a_full_queue_is_told_with_what_went_in(made: World) -> None:
    made.slurm.set(largest=2)
    made.slurm.moods("sbatch", "", "full", "full")
    done = made.submit()
    assert done.code == 0, done.text
    assert "Submitted array 1 to Slurm: 2 elements" in done.text
    assert re.search("2 more elements wait to be submitted: .*temporarily unable to accept", done.text)
    made.let_go(*range(4))
    made.run_all()
    assert made.completions() == [1] * 4


def test_what_went_in_is_told_where_the_rest_is_rejected(made: World) -> None:
    made.slurm.set(largest=2)
    made.slurm.moods("sbatch", "", "refuse")
    done = made.submit()
    assert done.code == 2
    assert "Submitted array 1 to Slurm: 2 elements" in done.text
    assert "2 more elements wait to be submitted: sbatch: error: the moon is full" in done.text
    assert "Submitted array 2 to Slurm: 2 elements of" in made.submit().text


# ----------------------------------------------------------------------------------------------------------- preemption


def test_an_element_that_the_site_preempts_and_cancels_is_submitted_again(made: World) -> None:
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    made.kill("1", "0")
    made.slurm.mark("1", "0", "PREEMPTED")
    text = made.status().text
    assert "to be submitted again: Slurm preempted it, and cancels what it preempts here (PreemptMode=CANCEL)" in text
    assert "lost" not in text
    made.let_go(*range(4))
    made.begin("1", "1")
    made.finish("1", "1")  # it submits what its sibling was to do
    assert made.slurm.sizes() == [4, 1]
    assert made.slurm.after("2") == ["#SBATCH --dependency=afterany:1"]
    made.run_all()
    assert made.completions() == [1] * 4


def test_waiting_submits_again_what_the_site_preempts_and_cancels(made: World) -> None:
    made.submit()
    waiting = made.wait()
    for index in "01":
        made.begin("1", index)
    until(lambda: len(made.diary()) == 2)
    for index in "01":
        made.kill("1", index)
        made.slurm.mark("1", index, "PREEMPTED")
    until(lambda: len(jobs(made)) == 2)
    made.let_go(*range(4))
    made.run_all()
    assert waiting.wait().code == 0, waiting.text
    assert made.completions() == [1] * 4


def test_without_requeue_nothing_is_submitted_again(made: World) -> None:
    made.config(4, "requeue: false")
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    made.kill("1", "0")
    made.slurm.mark("1", "0", "PREEMPTED")
    assert re.search(r"lost +sums rep 0 \(element 1_0\): PREEMPTED", made.status().text)


# --------------------------------------------------------------------------------------------------------------- status


def test_what_an_older_array_runs_is_not_lost_if_a_newer_one_gave_way(made: World) -> None:
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    made.slurm.moods("squeue", "empty", "empty")  # two in a row: so that it is submitted again
    made.submit("--rerun", "all")
    newer = jobs(made)[-1]
    assert newer != "1"
    made.slurm.mark(newer, "0", "FAILED")
    text = made.status().text
    assert "running  sums rep 0" in text
    assert "lost" not in text


def test_what_is_lost_is_not_counted_as_running(made: World) -> None:
    """As after the kernel has killed the element for its memory: its record still says that it runs."""
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    assert "3 pending, 1 running" in made.status().text
    made.kill("1", "0")
    text = made.status().text
    assert "lost     sums rep 0 (element 1_0): NODE_FAIL" in text
    assert "4 repetitions: 3 pending, 1 lost." in text
    assert re.search(r"^sums +0/4 .* 3 pending, 1 lost$", text, re.MULTILINE)


def test_what_was_cancelled_is_not_lost(made: World) -> None:
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    assert "Cancelled 4 elements." in made.cancel().text
    made.kill("1", "0")
    text = made.status().text
    assert "lost" not in text
    assert "4 repetitions were cancelled; amlsched run … -s submits cancelled ones again" in text


def test_settings_that_changed_while_elements_wait_are_told(made: World) -> None:
    made.submit()
    made.config(4, a=2)
    text = made.submit().text
    folder = made.folder / "results"
    assert f"4 repetitions wait with the settings of {folder}/_arrays/0001 (params.a: 1 → 2)" in text
    assert f"amlsched cancel {folder} and submit again, or let them run" in text


def test_a_results_folder_that_is_removed_while_somebody_waits_is_told_as_that(made: World) -> None:
    made.submit()
    waiting = made.wait()
    until(lambda: "Waiting for" in waiting.text)
    shutil.rmtree(made.folder / "results")
    assert waiting.wait().code == 2
    assert "results: was removed while its repetitions were in the queue" in waiting.text
    assert "to end its jobs: scancel 1" in waiting.text


@pytest.mark.parametrize(
    ("when", "outcome"), [("before", "nothing was run"), ("while", "what this element has logged is lost")]
)
def test_an_element_says_that_its_results_folder_was_removed(made: World, when: str, outcome: str) -> None:
    made.submit()
    if when == "while":
        made.begin("1", "0")
        until(made.diary)
    (made.folder / "results").rename(made.folder / "removed")
    if when == "before":
        made.begin("1", "0")
    call = made.elements["1", "0"]
    made.let_go(0)
    assert made.finish("1", "0") == 2
    said = f"results: was removed while its elements were in the queue: {outcome} (submit again with amlsched run … -s"
    assert said in call.text
    assert "Errno" not in call.text


# ------------------------------------------------------------------------------ what random schedules have found before


def test_the_lock_of_a_command_that_was_killed_holds_up_nobody(made: World) -> None:
    made.slurm.set(largest=2)
    made.slurm.moods("sbatch", "", "full", "full")
    assert "2 more elements wait to be submitted" in made.submit().text
    dead = {"host": socket.gethostname(), "pid": 2**22, "born": 1, "space": ""}
    for lock in ("submitting", "0001/feeding"):
        (made.folder / "results/_arrays" / lock).write_text(json.dumps(dead))
    assert "Submitted array 2 to Slurm: 2 elements of" in made.submit().text


def test_of_two_commands_that_submit_at_a_time_one_waits(made: World) -> None:
    halted = made.submit(stop_at=20)
    assert halted.code is None
    assert (made.folder / "results/_arrays/submitting").exists()
    done = made.submit(virtual=True)
    assert done.code == 2
    assert "; waiting for it" in done.text
    assert f"another amlsched run … -s submits to it (process {halted.pid} on " in done.text
    halted.go_on()
    assert (halted.code, jobs(made)) == (0, ["1"])
    assert "4 repetitions are already in the queue. Nothing else to submit" in made.submit().text


def test_what_was_preempted_is_submitted_by_the_command_that_finds_it_out(made: World) -> None:
    made.submit()
    made.begin("1", "0")
    until(made.diary)
    made.kill("1", "0")
    made.slurm.mark("1", "0", "PREEMPTED")
    assert "Submitted array 2 to Slurm: 1 element of" in made.submit().text


def test_a_second_array_that_could_not_be_cancelled_is_cancelled_later(made: World) -> None:
    made.slurm.moods("sbatch", "twice")
    made.slurm.moods("scancel", "break")
    assert made.submit().code == 0
    said = "Array 1 of Slurm was submitted beside another one with the same elements, and does nothing"
    assert f"{said}; amlsched cancel cancels it" in made.status().text
    assert f"{said}; it is cancelled" in made.submit().text
    assert {job for job, _ in made.slurm.pending()} == {"2"}


def test_what_could_not_be_removed_from_the_queue_is_submitted_again(made: World) -> None:
    made.submit()
    made.slurm.moods("scancel", "break")
    assert made.cancel().code == 2
    assert "Submitted array 2 to Slurm: 4 elements" in made.submit().text
    made.let_go(*range(4))
    made.run_all()
    assert made.completions() == [1] * 4
