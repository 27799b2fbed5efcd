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
    canceller: Any = SimpleNamespace(add=lambda job: None)
    monitor = JobMonitor(
        WORKER_SYSTEMS["pbs"],
        cluster,
        logs=tmp_path,
        script=tmp_path / "job.sh",
        start_timeout=None,
        canceller=canceller,
        busy=lambda: True,
        fail=lambda error: None,
    )
    asyncio.run(monitor._tick())
    assert (finished.closed, waiting.closed) == (True, False)
    assert cluster.workers == {1: waiting}
