"""What the monitor of jobs makes of the answers of a batch system."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amlsched.batch_systems import WORKER_SYSTEMS
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
    asyncio.run(monitor_of("pbs", cluster, tmp_path)._tick())
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
