"""Submissions of workers whose answer is lost, late or garbled: the job is used, and nothing stays in the queue."""

from __future__ import annotations

import os
from typing import Any

import pytest

from amlsched.batch_systems import commands
from tests import calls
from tests.clusters.site import Site
from tests.processes import until
from tests.unkind import Unkind


@pytest.fixture
def unkind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Unkind:
    """The command that submits, on a bad day."""
    site: Site = request.getfixturevalue("site" if "site" in request.fixturenames else "slurm")
    found = Unkind(site.folder / "bin", site.kind.submit)
    monkeypatch.setenv("PATH", found.path, prepend=os.pathsep)
    monkeypatch.setattr(commands, "SUBMIT_S", 8.0)
    return found


def check(site: Site, unkind: Unkind, caplog: pytest.LogCaptureFixture, submissions: int) -> None:
    """All calls of two workers return, and no job of theirs remains."""
    executor: Any = site.scheduler(2).executor
    with executor:
        results = [executor.submit(calls.double_slowly, number) for number in range(20)]
        assert [result.result(120) for result in results] == [2 * number for number in range(20)]
        until(lambda: executor.status.here == 2, 60)
    until(lambda: not site.jobs(), 20)
    assert len(unkind.calls(site.kind.submit)) == submissions, caplog.text


@pytest.mark.parametrize("mood", ["lose", "garble", "hang"])
def test_a_job_whose_answer_is_lost_is_found_in_the_queue(
    site: Site, unkind: Unkind, caplog: pytest.LogCaptureFixture, mood: str
) -> None:
    unkind.next(site.kind.submit, mood)
    check(site, unkind, caplog, submissions=2)
    assert "But the job is in the queue: " in caplog.text


@pytest.mark.parametrize("mood", ["late", "truncate", "empty"])
def test_so_is_one_that_comes_late_or_whose_answer_is_cut(
    slurm: Site, unkind: Unkind, caplog: pytest.LogCaptureFixture, mood: str
) -> None:
    unkind.next("sbatch", mood)
    check(slurm, unkind, caplog, submissions=2)


def test_a_job_that_was_submitted_twice_leaves_none_in_the_queue(
    slurm: Site, unkind: Unkind, caplog: pytest.LogCaptureFixture
) -> None:
    unkind.next("sbatch", "twice")
    check(slurm, unkind, caplog, submissions=2)


def test_a_submission_that_was_not_accepted_is_repeated(
    slurm: Site, unkind: Unkind, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amlsched.executors._jobqueue.job_monitor._AGAIN_S", 2.0)
    unkind.next("sbatch", "break")
    check(slurm, unkind, caplog, submissions=3)
    assert "a job will be submitted again later, if it is not in the queue by then" in caplog.text
    assert "(look with: squeue --me " in caplog.text


def test_a_run_that_ends_while_a_submission_hangs_leaves_no_job(slurm: Site, unkind: Unkind) -> None:
    unkind.always("sbatch", "hang")
    executor: Any = slurm.scheduler(2).executor
    executor.submit(calls.double, 1)
    until(slurm.jobs, 60)  # the command has submitted it, and does not return
    executor.kill_workers()
    until(lambda: not slurm.jobs(), 20)


def test_jobs_whose_cancellation_fails_are_cancelled_all_the_same(
    slurm: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unkind = Unkind(slurm.folder / "bin", "scancel")
    monkeypatch.setenv("PATH", unkind.path, prepend=os.pathsep)
    executor: Any = slurm.scheduler(2).executor
    with executor:
        assert executor.submit(calls.double, 1).result(90) == 2
        until(lambda: executor.status.here == 2, 60)
        unkind.next("scancel", "break")
    assert "could not be cancelled: Slurm: scancel: scancel: error" in caplog.text
    until(lambda: not slurm.jobs(), 20)
