"""What the monitor of jobs makes of the answers of a batch system."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amlsched import BatchSystemError
from amlsched.batch_systems import WORKER_SYSTEMS, Element, Stage
from amlsched.executors._jobqueue import job_monitor
from amlsched.executors._jobqueue.job_monitor import JobMonitor
from tests.backends import needs

pytestmark = needs("dask_jobqueue")


class Job:
    """A submitted job of a cluster."""

    error = None

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def monitor_of(system: str, cluster: Any, logs: Path) -> JobMonitor:
    canceller: Any = SimpleNamespace(add=lambda job: None)
    return JobMonitor(
        WORKER_SYSTEMS[system],
        cluster,
        logs=logs,
        script=logs / "job.sh",
        start_timeout=None,
        canceller=canceller,
        busy=lambda: True,
        fail=lambda error: None,
    )


def test_a_job_that_waits_is_kept_where_the_queue_has_forgotten_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qstat = tmp_path / "qstat"
    words = "qstat: 1.srv Job has finished, use -x or -H to obtain historical job information"
    answer = r"Job Id: 2.srv\n    job_state = Q\n"
    qstat.write_text(f"#!/bin/sh\necho '{words}' >&2\nprintf '{answer}'\nexit 35\n")
    qstat.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(job_monitor, "_SETTLED_S", 0.0)
    finished, waiting = Job("1"), Job("2")
    cluster: Any = SimpleNamespace(
        scheduler=SimpleNamespace(add_plugin=lambda plugin: None),
        workers={0: finished, 1: waiting},
        worker_spec={0: {}, 1: {}},
    )
    monitor = monitor_of("pbs", cluster, tmp_path)

    async def tick() -> None:
        monitor._next_ask = 0.0
        await monitor._tick()

    async def look_twice() -> None:
        await tick()
        assert not finished.closed  # one answer may lack jobs
        await tick()

    asyncio.run(look_twice())
    assert (finished.closed, waiting.closed) == (True, False)
    assert cluster.workers == {1: waiting}


def test_the_log_of_a_job_is_not_that_of_one_with_a_longer_id(tmp_path: Path) -> None:
    for name in ("amlsched-12.err", "amlsched-123.err", "amlsched.o12", "amlsched.o512", "slurm-job-x12.sh"):
        (tmp_path / name).write_text(f"a line of {name}\n")
    cluster: Any = SimpleNamespace(scheduler=SimpleNamespace(add_plugin=lambda plugin: None))
    tail = monitor_of("slurm", cluster, tmp_path)._tail("12")
    assert [line for line in tail.splitlines() if "a line" in line] == [
        "    a line of amlsched-12.err",
        "    a line of amlsched.o12",
    ]


# ------------------------------------------------------------------------------------ a queue that does not answer


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Queries are answered, with nothing, once this is set."""
    event = asyncio.Event()

    async def call(system: object, words: Sequence[str], **more: object) -> str:
        await event.wait()
        return ""

    monkeypatch.setattr(job_monitor, "call", call)
    monkeypatch.setattr(job_monitor, "_TICK_S", 0.01)
    return event


def one_job(tmp_path: Path) -> tuple[JobMonitor, Job]:
    async def correct_state() -> None:
        """Submits jobs."""

    job = Job("7")
    cluster: Any = SimpleNamespace(
        scheduler=SimpleNamespace(add_plugin=lambda plugin: None),
        workers={0: job},
        worker_spec={0: {}},
        _correct_state=correct_state,
    )
    return monitor_of("slurm", cluster, tmp_path), job


def lose_worker(monitor: JobMonitor, ago_s: float, retired: bool = False) -> None:
    """The worker of the job has come, and has left so long ago."""
    monitor._history.came("tcp://1", "0")
    monitor._history.left("tcp://1", busy=False, retired=retired)
    (record,) = monitor._history.of("0")
    record.gone = time.monotonic() - ago_s


@pytest.mark.parametrize(
    ("ago_s", "retired", "replaced"),
    [(59, False, False), (61, False, True), (14, True, False), (16, True, True)],
)
def test_a_job_that_lost_its_worker_is_replaced_within_a_bound_though_the_queue_is_silent(
    tmp_path: Path,
    silent: asyncio.Event,
    caplog: pytest.LogCaptureFixture,
    ago_s: float,
    retired: bool,
    replaced: bool,
) -> None:
    async def run() -> None:
        monitor, job = one_job(tmp_path)
        lose_worker(monitor, ago_s, retired)
        await monitor._tick()
        assert not job.closed  # the queue may answer
        monitor._asked = time.monotonic() - 20
        await monitor._tick()
        assert job.closed is replaced
        assert bool(monitor._cluster.workers) is not replaced
        assert not monitor._failed.ends  # it is not known how it ended
        silent.set()

    asyncio.run(run())
    assert ("Slurm job 7 lost its worker and is replaced; squeue has not answered" in caplog.text) is replaced


def test_a_job_whose_worker_has_not_come_is_kept_while_the_queue_is_silent(
    tmp_path: Path, silent: asyncio.Event
) -> None:
    async def run() -> None:
        monitor, job = one_job(tmp_path)
        await monitor._tick()
        monitor._asked = time.monotonic() - 600
        await monitor._tick()
        assert not job.closed
        silent.set()

    asyncio.run(run())


def test_no_state_is_shown_that_is_no_longer_known(tmp_path: Path, silent: asyncio.Event) -> None:
    async def run() -> None:
        monitor, _ = one_job(tmp_path)
        monitor._states = {"7": Element(Stage.RUNNING, "RUNNING")}
        await monitor._tick()
        assert monitor.status.instead == ("1 job RUNNING",)
        monitor._asked = time.monotonic() - 30
        await monitor._tick()
        assert monitor.status.instead == ("1 job in a state unknown for 30 s, as squeue does not answer",)
        silent.set()

    asyncio.run(run())


def test_an_answer_that_cannot_be_read_is_reported_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(*words: object, **more: object) -> str:
        return "welcome to the cluster"

    async def run() -> None:
        monitor, job = one_job(tmp_path)
        for _ in range(5):
            await monitor._tick()
        assert not job.closed

    monkeypatch.setattr(job_monitor, "call", call)
    asyncio.run(run())
    assert caplog.text.count("the state of jobs is unknown: the output of squeue cannot be parsed") == 1


def test_a_worker_that_dask_restarts_is_not_charged_to_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(*words: object, **more: object) -> str:
        return "7|RUNNING|n1|None"

    async def run() -> None:
        monitor, job = one_job(tmp_path)
        for ago_s in (50, 30, 10):  # three workers, one after the other
            monitor._history.came("tcp://1", "0")
            monitor._history.left("tcp://1", busy=True, retired=False)
            monitor._history.of("0")[-1].gone = time.monotonic() - ago_s
            monitor._next_ask = 0.0
            await monitor._tick()
        assert not job.closed
        assert not monitor._failed.ends

    monkeypatch.setattr(job_monitor, "call", call)
    asyncio.run(run())


@pytest.mark.parametrize(("other", "ends"), [("n2", False), ("n1", True)])
def test_three_jobs_that_end_on_one_host_do_not_end_a_run_that_has_one_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, other: str, ends: bool
) -> None:
    async def call(*words: object, **more: object) -> str:
        return "7|FAILED|n1|None\n8|FAILED|n1|None\n9|FAILED|n1|None\n10|RUNNING|" + f"{other}|None"

    async def run() -> None:
        monitor, _ = one_job(tmp_path)
        monitor._cluster.workers = {number: Job(str(number)) for number in range(7, 11)}
        monitor._cluster.worker_spec = {number: {} for number in range(7, 11)}
        await monitor._tick()
        assert set(monitor._cluster.workers) == {10}

    monkeypatch.setattr(job_monitor, "call", call)
    if ends:
        with pytest.raises(BatchSystemError, match="3 jobs in a row ended before their worker started"):
            asyncio.run(run())
    else:
        asyncio.run(run())
        assert "job after job ended early on n1, others do not: job_extra_directives can leave it out" in caplog.text
