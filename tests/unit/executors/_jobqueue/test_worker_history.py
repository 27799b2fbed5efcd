"""Jobs that die before they have done anything, again and again."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlsched import BatchSystemError, JobLostError
from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.executors import jobqueue
from amlsched.executors._jobqueue import worker_history
from amlsched.executors._jobqueue.worker_history import (
    EARLY_ENDS,
    SOON_S,
    EndedJob,
    FailedJobs,
    WorkerHistory,
    WorkerRecord,
)
from tests import calls
from tests.backends import needs
from tests.processes import until

pytestmark = needs("dask_jobqueue")

ONE_CALL = 4
"""So many workers may die with one call."""


@pytest.fixture
def failed() -> FailedJobs:
    return FailedJobs(WorkerHistory())


def end(round_: int, *, job: str = "7", came: bool = True, busy: bool = False, lasted: float = 1.0) -> EndedJob:
    """Of a job of this round: all of one are submitted, and end, before those of the next."""
    begun = 10.0 * round_
    records = [WorkerRecord("w", begun + 1, begun + 1 + lasted, busy=busy)] if came else []
    return EndedJob(job, "FAILED", begun, begun + 5, records)


def too_many(failed: FailedJobs, *ends: EndedJob) -> list[bool]:
    """After each of them, whether that is so."""
    found: list[bool] = []
    for one in ends:
        failed.add(one)
        found.append(bool(failed.too_many(time.monotonic())))
    return found


def test_jobs_whose_worker_never_came_are_too_many_at_three(failed: FailedJobs) -> None:
    assert too_many(failed, *(end(0, came=False) for _ in range(3))) == [False, False, True]
    assert failed.too_many(0.0).startswith("3 jobs in a row ended before their worker started: job 7: FAILED")


def test_so_are_those_that_died_soon_with_nothing_to_do(failed: FailedJobs) -> None:
    assert too_many(failed, *map(end, range(3))) == [False, False, True]
    assert failed.too_many(0.0).startswith("3 jobs in a row ended before they completed a call")


def test_both_count_together(failed: FailedJobs) -> None:
    assert too_many(failed, end(0), end(1, came=False), end(2)) == [False, False, True]


def test_what_ends_together_is_one_fault(failed: FailedJobs) -> None:
    assert not any(too_many(failed, *(end(0) for _ in range(20)), *(end(1) for _ in range(20))))


def test_what_dies_with_a_call_is_the_fault_of_that_as_long_as_it_can_be(failed: FailedJobs) -> None:
    bound = ONE_CALL + EARLY_ENDS
    assert too_many(failed, *(end(round_, busy=True) for round_ in range(bound))) == [*[False] * (bound - 1), True]


def test_a_call_that_is_completed_anywhere_begins_anew(failed: FailedJobs) -> None:
    too_many(failed, end(0), end(1))
    failed.history.done("elsewhere")
    failed.update(time.monotonic())
    assert too_many(failed, end(2)) == [False]


def test_a_worker_that_outlasts_them_shows_that_others_are_well(failed: FailedJobs) -> None:
    failed.history.came("address", "well")
    for round_ in range(9):
        failed.add(end(round_))
    now = time.monotonic()
    assert failed.too_many(now + 0.5)  # as far as is known, it will go like the others
    assert not failed.too_many(now + 2)
    failed.update(now + SOON_S + 1)
    assert not failed.ends


@pytest.mark.parametrize(
    ("record", "failed"),
    [
        (WorkerRecord("w", 0, 5), True),
        (WorkerRecord("w", 0, 5, busy=True), True),
        (WorkerRecord("w", 0, 5, useful=True), False),
        (WorkerRecord("w", 0, 5, retired=True), False),
        (WorkerRecord("w", 0, SOON_S + 1), False),
    ],
)
def test_a_job_has_done_nothing_if_it_dies_soon_without_a_call(record: WorkerRecord, failed: bool) -> None:
    assert EndedJob("7", "FAILED", 0, 100, [record]).ended_early is failed


def test_each_round_waits_longer_until_a_worker_proves_itself(failed: FailedJobs) -> None:
    ends = [end(0), end(0), end(1), end(2)]
    for one in ends:
        failed.add(one)
    assert failed.not_before == ends[-1].ended + 4
    failed.history.came("address", "w")
    failed.history.done("address")
    failed.update(time.monotonic())
    failed.add(end(3))
    assert failed.not_before == end(3).ended + 1


def test_dask_tells_what_workers_did() -> None:
    import distributed

    history = WorkerHistory()
    options: dict[str, Any] = {"processes": False, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(n_workers=0, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        history.listen(cluster.scheduler)
        cluster.scale(1)
        until(history.here)
        assert client.submit(calls.double, 3, pure=False).result(45) == 6
        assert client.submit(calls.double, 4, pure=False).result(45) == 8
        (record,) = history.here()
        assert (history.completed, history.proved, record.useful, record.gone) == (2, 1, True, None)
        assert history.of(record.name) == [record]
        until(lambda: not cluster.scheduler.tasks)  # else there are results that nobody else can take
        client.retire_workers()
        until(lambda: not history.here())
        assert record.gone is not None
        assert (record.retired, record.busy) == (True, False)
        history.give_up(record.name)
        assert history.of(record.name) == []


# --------------------------------------------------------------------------------- jobs on this host, as Slurm's would

JOB = """\
cp "$1" script.$$
mkdir -p logs
setsid sh -c 'exec sh "$0" >logs/amlsched-$$.err 2>&1' script.$$ >/dev/null 2>&1 </dev/null &
echo $! >>jobs
echo "Submitted batch job $!"
"""
STATES = """\
for job in $(cat jobs); do
    kill -0 $job 2>/dev/null && echo "$job|RUNNING|n1|None" || echo "$job|FAILED|n1|NonZeroExitCode"
done
"""
CANCEL = 'for job in "$@"; do kill -KILL -- -$job 2>/dev/null; done; true\n'


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the ids of the jobs; each dies half a second after its worker came."""
    for name, body in {"sbatch": JOB, "squeue": STATES, "scancel": CANCEL, "scontrol": "exit 1\n"}.items():
        (tmp_path / name).write_text(f'#!/bin/sh\ncd "{tmp_path}"\n{body}')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]), prepend=os.pathsep)
    monkeypatch.setattr(worker_history, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(worker_history, "EARLY_ENDS", 1)  # each takes seconds
    return tmp_path / "jobs"


def test_a_run_ends_whose_jobs_all_die_soon_after_their_worker_came(jobs: Path) -> None:
    executor = jobqueue.slurm(
        n_workers=1,
        cores=1,
        memory="1 GB",
        interface="lo",
        log_directory=str(jobs.parent / "logs"),
        worker_extra_args=["--preload", "tests.mortal"],
    )
    failures: list[BaseException] = []
    executor.on_failure = failures.append
    try:
        lost = executor.submit(time.sleep, 120)
        with pytest.raises(JobLostError, match=r"attempt 4, the last.* its job \d+ ended \(FAILED: NonZero") as caught:
            lost.result(90)
        assert "this node is no good" in "".join(caught.value.__notes__)
        until(lambda: failures, 90)  # those that come now have nothing to do
        with pytest.raises(BatchSystemError, match="5 jobs in a row") as ended:
            executor.submit(calls.double, 1)
    finally:
        executor.kill_workers()
    assert ended.value is failures[0]
    assert "before they completed a call" in str(ended.value)
    assert "this node is no good" in str(ended.value)
    assert len(jobs.read_text().split()) == 5


# ------------------------------------------------------------------------------------------------------------ bad hosts


def on_host(round_: int, host: str) -> EndedJob:
    return replace(end(round_, came=False), host=host, ended=time.monotonic())


def test_a_host_on_which_job_after_job_ends_is_bad_while_workers_on_others_stay(failed: FailedJobs) -> None:
    for round_ in range(EARLY_ENDS):
        failed.add(on_host(round_, "n2"))
        failed.add(replace(on_host(round_, ""), ended=time.monotonic()))
    assert failed.bad_hosts(time.monotonic()) == {}  # all jobs fail, which is another matter
    failed.history.came("tcp://1", "0")
    now = time.monotonic() + 1
    assert failed.bad_hosts(now) == {"n2": EARLY_ENDS}
    assert failed.too_many(now) == ""
    assert failed.bad_hosts(now + 3600) == {}  # it may have been repaired


def test_a_host_on_which_one_job_ended_is_not_bad(failed: FailedJobs) -> None:
    for host in ("n1", "n2", "n2", "n3"):
        failed.add(on_host(0, host))
    failed.history.came("tcp://1", "0")
    assert failed.bad_hosts(time.monotonic() + 1) == {}


@pytest.mark.parametrize(
    ("name", "directives", "options"),
    [
        ("sge", ["-l gpu=1"], ["-l", "h=!(n2|n3)"]),
        ("sge", ["-l gpu=1,h=!n1", "-l mem=1G"], ["-l", "h=(!n1)&!(n2|n3)"]),
        ("sge", ["-l hostname=n*"], ["-l", "h=(n*)&!(n2|n3)"]),
        (
            "htcondor",
            ["requirements = Memory > 5 || Gpus > 1", "rank = Memory"],
            [
                "-append",
                'requirements = (Memory > 5 || Gpus > 1) && (TARGET.Machine =!= "n2") && (TARGET.Machine =!= "n3")',
            ],
        ),
        ("lsf", ["-R rusage[mem=1]"], ["-R", "select[hname!='n2' && hname!='n3']"]),
        ("pbs", [], []),
    ],
)
def test_other_systems_leave_out_hosts(name: str, directives: list[str], options: list[str]) -> None:
    assert list(WORKER_SYSTEMS[name].leave_out(["n2", "n3"], directives)) == options


@pytest.mark.parametrize(
    ("directives", "option"),
    [
        ([], "--exclude=n2,n3"),
        (["--gres=gpu:1", "--exclude=n[7-9]"], "--exclude=n[7-9],n2,n3"),
        (["-x n1 # slow"], "--exclude=n1,n2,n3"),
    ],
)
def test_slurm_leaves_out_hosts_beside_those_of_the_user(directives: list[str], option: str) -> None:
    assert WORKER_SYSTEMS["slurm"].leave_out(["n2", "n3"], directives) == [option]
