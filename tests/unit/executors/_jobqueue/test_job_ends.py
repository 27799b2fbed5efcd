"""How jobs ended, by recorded answers of each batch system, and which error a call ends with that was lost with one."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlsched import (
    JobCancelledError,
    JobLostError,
    JobWalltimeError,
    NodeLostError,
    PreemptedError,
    WorkerLostError,
    WorkerOutOfMemoryError,
)
from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.batch_systems.system import JobEnd
from amlsched.executors._jobqueue import job_ends
from amlsched.executors._jobqueue.job_ends import JobEnds, how_ended
from amlsched.executors._jobqueue.worker_history import WorkerRecord

QACCT = """\
==============================================================
qname        all.q
hostname     n1
owner        me
jobname      amlsched
jobnumber    119
failed       {failed}
exit_status  {status}
ru_wallclock {wall}s
maxvmem      1.758MB
category     {category}
"""
QSTAT = """\
Job Id: 7.server
    Job_Name = amlsched
    job_state = F
    comment = {comment}
    Exit_status = {status}
    substate = 91
"""
TORQUE = "<Data><Job><Job_Id>7.server</Job_Id><job_state>C</job_state><exit_status>{}</exit_status></Job></Data>"
CONDOR = '[{{"JobStatus": {}, "RemoveReason": "{}", "ExitBySignal": true, "ExitSignal": 15}}]'


def qacct(failed: str, status: str, wall: int = 9, category: str = "-l h_rt=600") -> str:
    return QACCT.format(failed=failed, status=status, wall=wall, category=category)


@pytest.mark.parametrize(
    ("line", "kind", "state", "reason"),
    [
        ("7|CANCELLED|n1|None", JobCancelledError, "CANCELLED", ""),
        ("7|TIMEOUT|n1|TimeLimit", JobWalltimeError, "TIMEOUT", "TimeLimit"),
        ("7|PREEMPTED|n1|None", PreemptedError, "PREEMPTED", ""),
        ("7|NODE_FAIL|n1|NodeDown", NodeLostError, "NODE_FAIL", "NodeDown"),
        ("7|BOOT_FAIL|n1|None", NodeLostError, "BOOT_FAIL", ""),
        ("7|OUT_OF_MEMORY|n1|OutOfMemory", WorkerOutOfMemoryError, "OUT_OF_MEMORY", "OutOfMemory"),
        ("7|FAILED|n1|NonZeroExitCode", JobLostError, "FAILED", "NonZeroExitCode"),
        ("7|COMPLETED|n1|None", JobLostError, "COMPLETED", ""),
    ],
)
def test_the_queue_of_slurm_says_how_a_job_ended(
    line: str, kind: type[WorkerLostError], state: str, reason: str
) -> None:
    queue = WORKER_SYSTEMS["slurm"]
    end = asyncio.run(how_ended(queue, "7", queue.job_states(line)["7"]))
    assert (end.kind, end.state, end.reason) == (kind, state, reason)


@pytest.mark.parametrize(
    ("system", "text", "kind", "words"),
    [
        ("slurm", "REQUEUED|0:0\nPREEMPTED|0:0\nPENDING|0:0\n", PreemptedError, "PREEMPTED"),
        ("slurm", "CANCELLED by 1000|0:15\n", JobCancelledError, "by 1000, exit code 0:15"),
        ("slurm", "NODE_FAIL|1:0\n", NodeLostError, "NODE_FAIL"),
        ("sge", qacct("100 : assumedly after job", "137                  (Killed)"), JobCancelledError, "137 (Killed)"),
        ("sge", qacct("100 : assumedly after job", "138 (User defined 1)"), JobLostError, "138"),
        ("sge", qacct("0", "1"), JobLostError, "exit status 1"),
        ("sge", qacct("37  : qmaster enforced h_rt", "137", 9, "-l h_rt=8"), JobWalltimeError, "h_rt=8"),
        ("sge", qacct("37  : qmaster enforced h_rt", "137", 9, "-l h_rt=0:0:8,h_vmem=1G"), JobWalltimeError, "37"),
        ("sge", qacct("37  : qmaster enforced h_rt", "137", 9, "NONE"), JobWalltimeError, "37"),
        ("sge", qacct("37  : enforced", "137", 9, "-l h_rt=600,h_vmem=1G"), WorkerOutOfMemoryError, "h_vmem=1G"),
        ("sge", qacct("37  : enforced", "137", 9, "-l h_cpu=8"), JobLostError, "h_cpu"),
        ("sge", qacct("25  : rescheduling", "137") + qacct("0", "0"), JobLostError, "exit status 0"),
        ("sge", qacct("100 : x", "137") + "deleted_by   admin@host\n", JobCancelledError, "deleted by admin@host"),
        ("htcondor", CONDOR.format(3, "via condor_rm (by user me)"), JobCancelledError, "by user me"),
        ("htcondor", CONDOR.format(3, "the time limit was reached"), JobWalltimeError, "REMOVED"),
        ("htcondor", CONDOR.format(3, "memory usage exceeded request_memory"), WorkerOutOfMemoryError, "memory"),
        ("htcondor", CONDOR.format(3, "PeriodicRemove evaluated to TRUE"), JobLostError, "PeriodicRemove"),
        ("htcondor", CONDOR.format(4, ""), JobLostError, "signal 15"),
        ("pbs", QSTAT.format(status=271, comment="Job run at 05:54 and terminated"), JobCancelledError, "terminated"),
        ("pbs", QSTAT.format(status=-29, comment="Job run and failed"), JobWalltimeError, "-29"),
        ("pbs", QSTAT.format(status=-27, comment="Job run and failed"), WorkerOutOfMemoryError, "-27"),
        ("pbs", QSTAT.format(status=271, comment="job preempted\n\tby job 8"), PreemptedError, "preemptedby job 8"),
        ("pbs", QSTAT.format(status=1, comment="Job run and finished"), JobLostError, "exit status 1"),
        ("moab", TORQUE.format(271), JobCancelledError, "271"),
        ("moab", TORQUE.format(-11), JobWalltimeError, "-11"),
        ("moab", TORQUE.format(-10), WorkerOutOfMemoryError, "-10"),
    ],
)
def test_accounting_reports_how_a_job_ended(system: str, text: str, kind: type[WorkerLostError], words: str) -> None:
    end = WORKER_SYSTEMS[system].end_recorded(text)
    assert end is not None
    assert end.kind is kind
    assert words in f"{end.state}: {end.reason}"


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("slurm", "RUNNING|0:0\n"),
        ("slurm", ""),
        ("sge", "error: job id 7 not found\n"),
        ("htcondor", "[\n]\n"),
        ("htcondor", ""),
        ("pbs", "Job Id: 7.server\n    job_state = E\n"),
    ],
)
def test_accounting_without_the_end_is_not_an_answer(system: str, text: str) -> None:
    assert WORKER_SYSTEMS[system].end_recorded(text) is None


@pytest.mark.parametrize("kind", [JobLostError, JobCancelledError, JobWalltimeError, NodeLostError, PreemptedError])
def test_the_error_has_what_is_known_as_attributes_and_in_words(kind: type[JobLostError]) -> None:
    error = JobEnd(kind, "STATE", "why").error("work", "Slurm", "7", "n1")
    assert type(error) is kind
    error.attempts = 4
    loaded: Any = pickle.loads(pickle.dumps(error))
    assert (loaded.call, loaded.job, loaded.state, loaded.reason, loaded.host) == ("work", "7", "STATE", "why", "n1")
    for word in ("work was lost (attempt 4, the last)", "on n1", "its job 7", "(STATE: why)"):
        assert word in str(loaded)


def test_memory_that_ran_out_is_the_error_that_it_is_elsewhere() -> None:
    error = JobEnd(WorkerOutOfMemoryError, "OUT_OF_MEMORY").error("work", "Slurm", "7", "n1")
    assert isinstance(error, WorkerOutOfMemoryError)
    assert error.evidence == "Slurm job 7: OUT_OF_MEMORY"


# ----------------------------------------------------------------------------------------------- the search for the end


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a command first in the path."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def make(name: str, body: str) -> None:
        (tmp_path / name).write_text(f'#!/bin/sh\ncd "{tmp_path}"\n{body}\n')
        (tmp_path / name).chmod(0o755)

    return make


class Asked:
    """A search for the end of job 7, whose queue gives these answers in turn, the last again and again."""

    def __init__(self, system: str, *lines: str, came_back: bool = False) -> None:
        self.queue = WORKER_SYSTEMS[system]
        self.lines = list(lines)
        self.ends = JobEnds(self.queue, lambda job, since: came_back)

    async def _answer(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            if self.ends.asked_for:
                assert self.ends.asked_for == ["7"]
                line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
                self.ends.answered(["6"], {})  # asked before this search began
                self.ends.answered(["7"], self.queue.job_states(line))

    async def _end(self, calls: int) -> list[JobEnd | None]:
        answering = asyncio.ensure_future(self._answer())
        try:
            record = WorkerRecord("w", 0.0, time.monotonic(), job="7")
            return await asyncio.gather(*(self.ends.of(record) for _ in range(calls)))
        finally:
            answering.cancel()

    def end(self, calls: int = 1) -> JobEnd | None:
        first, *others = asyncio.run(self._end(calls))
        assert others == [first] * (calls - 1)
        return first


def test_one_search_waits_for_the_end_of_a_job_for_all_its_calls() -> None:
    end = Asked("slurm", "7|RUNNING|n1|None", "7|COMPLETING|n1|None", "7|CANCELLED|n1|None").end(calls=3)
    assert end == JobEnd(JobCancelledError, "CANCELLED")


def test_a_job_that_still_runs_is_no_lost_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Asked("slurm", "7|RUNNING|n1|None", came_back=True).end() is None
    monkeypatch.setattr(job_ends, "_RUNS_ON_S", 0.1)
    assert Asked("slurm", "7|RUNNING|n1|None").end() is None


def test_the_wait_for_an_end_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_ends, "_WITHIN_S", 0.2)
    assert Asked("slurm", "7|COMPLETING|n1|None").end() == JobEnd(JobLostError, "COMPLETING")
    ends = JobEnds(WORKER_SYSTEMS["slurm"], lambda job, since: False)  # whose queue never answers
    end = asyncio.run(ends.of(WorkerRecord("w", 0.0, 1.0, job="7")))
    assert end == JobEnd(JobLostError, "not known", "Slurm did not say within 0.2 s")


def test_a_job_that_is_cancelled_to_be_replaced_keeps_its_own_end() -> None:
    asked = Asked("slurm", "7|CANCELLED|n1|None")
    asked.ends.given_up("7", WORKER_SYSTEMS["slurm"].job_states("7|NODE_FAIL|n1|NodeDown")["7"])
    assert asked.end() == JobEnd(NodeLostError, "NODE_FAIL", "NodeDown")
    asked = Asked("slurm", "7|CANCELLED|n1|None")
    asked.ends.given_up("7", WORKER_SYSTEMS["slurm"].job_states("7|RUNNING|n1|None")["7"])
    assert asked.end() is None


def test_late_accounting_is_asked_again(command: Callable[[str, str], None]) -> None:
    late = 'if mkdir first 2>/dev/null; then echo "error: job id $2 not found" >&2; exit 1; fi\ncat account'
    command("qacct", late)
    command("account", "")
    folder = Path(os.environ["PATH"].partition(os.pathsep)[0])
    (folder / "account").write_text(qacct("100 : assumedly after job", "137"))
    end = Asked("sge", "").end()
    assert end is not None
    assert end.kind is JobCancelledError


@pytest.mark.parametrize(
    ("body", "longest_s"), [("exit 1", 5.0), ("echo 'error: job id 7 not found' >&2; exit 1", 5.0), ("true", 5.0)]
)
def test_the_wait_for_accounting_times_out(
    command: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, body: str, longest_s: float
) -> None:
    monkeypatch.setattr(job_ends, "_RECORDED_S", 0.5)
    monkeypatch.setattr(job_ends, "_AGAIN_S", 0.1)
    command("qacct", body)
    began = time.monotonic()
    assert Asked("sge", "").end() == JobEnd(JobLostError, "gone", "the queue has forgotten it")
    assert time.monotonic() - began < longest_s


def test_a_requeued_job_is_lost(command: Callable[[str, str], None]) -> None:
    command("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    lost = JobEnd(JobLostError, "PENDING (BeginTime)", "requeued")
    assert Asked("slurm", "7|PENDING||BeginTime").end() == lost
    command("sacct", "echo 'PREEMPTED|0:0'; echo 'PENDING|0:0'")
    assert Asked("slurm", "7|PENDING||BeginTime").end() == JobEnd(PreemptedError, "PREEMPTED")


def test_a_search_ends_with_its_cluster() -> None:
    async def close_while_it_waits() -> list[JobEnd | None]:
        ends = JobEnds(WORKER_SYSTEMS["slurm"], lambda job, since: False)
        record = WorkerRecord("w", 0.0, 1.0, job="7")
        waiting = asyncio.ensure_future(ends.of(record))
        await asyncio.sleep(0.05)
        ends.close()
        return [await waiting, await ends.of(record)]

    assert asyncio.run(close_while_it_waits()) == [None, None]
