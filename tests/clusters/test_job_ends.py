"""The error of a call that is lost with its job is how the job ended, as the batch system reports it."""

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import Future
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
)
from amlsched.executors._dask.clusters import SETTINGS
from tests import calls
from tests.clusters.site import Site, said
from tests.processes import until


@pytest.fixture(autouse=True)
def _no_second_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 0)


def lost(site: Site, tmp_path: Path, provoke: Callable[[str], object], limit_s: float = 60, **options: Any) -> Any:
    """The error of a call during which `provoke` is called with the id of its job, and that id."""
    executor: Any = site.scheduler(1, **options).executor
    with executor:
        call: Future[object] = executor.submit(calls.until_released, tmp_path / "started", tmp_path / "release")
        try:
            until((tmp_path / "started").exists, 90)
            (job,) = (each.job_id for each in executor.cluster.workers.values())
            provoke(job)
            error = call.exception(limit_s)
        finally:
            (tmp_path / "release").touch()
    assert isinstance(error, WorkerLostError)
    if isinstance(error, JobLostError):
        assert error.job == job
        assert f"its job {job}" in str(error)
    return error


def test_a_cancelled_job_is_a_job_cancelled_error(site: Site, tmp_path: Path) -> None:
    error = lost(site, tmp_path, site.cancel)
    if site.name == "pbs":  # these commands of PBS know of no exit status
        assert (type(error), error.state) == (JobLostError, "C")
        return
    assert type(error) is JobCancelledError
    words = {"slurm": "CANCELLED", "sge": "137 (Killed)", "htcondor": "via condor_rm"}
    assert words[site.name] in str(error)


@pytest.mark.slow
def test_a_job_that_reaches_its_walltime_is_a_job_walltime_error(slurm_or_sge: Site, tmp_path: Path) -> None:
    walltime = "00:01:00" if slurm_or_sge.name == "slurm" else "00:00:20"
    extra = ["--lifetime", "1h"]  # else the worker leaves before
    error = lost(slurm_or_sge, tmp_path, str, 150, walltime=walltime, worker_extra_args=extra)
    assert type(error) is JobWalltimeError
    assert ("TIMEOUT" if slurm_or_sge.name == "slurm" else "h_rt=20") in str(error)


@pytest.mark.takes_nodes
def test_a_preempted_job_is_a_preempted_error(slurm: Site, tmp_path: Path) -> None:
    other: list[str] = []

    def need_all_of_its_node(job: str) -> None:
        node = said("squeue", "-h", "-j", job, "-o", "%N").strip()
        words = ["--parsable", "-p", "high", "-w", node, "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap", "true"]
        other.append(said("sbatch", *words).strip())

    try:
        error = lost(slurm, tmp_path, need_all_of_its_node, job_extra_directives=["--exclude=n1"])
    finally:
        subprocess.run(["scancel", *other], check=False, timeout=60)
    assert (type(error), error.state) == (PreemptedError, "PREEMPTED")


@pytest.mark.takes_nodes
def test_a_job_on_a_lost_node_is_a_node_lost_error(slurm: Site, tmp_path: Path) -> None:
    def fail_its_node(job: str) -> None:
        node = said("squeue", "-h", "-j", job, "-o", "%N").strip()
        said("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")  # it comes back by itself

    error = lost(slurm, tmp_path, fail_its_node, job_extra_directives=["--exclude=n1"])
    assert (type(error), error.state) == (NodeLostError, "NODE_FAIL")


def test_a_requeued_job_is_a_job_lost_error(slurm: Site, tmp_path: Path) -> None:
    error = lost(slurm, tmp_path, lambda job: said("scontrol", "requeue", job), job_extra_directives=["--requeue"])
    assert type(error) is JobLostError
    assert "requeued" in error.reason


def test_a_worker_that_dies_in_a_running_job_is_a_plain_loss(slurm_or_sge: Site, tmp_path: Path) -> None:
    with slurm_or_sge.scheduler(1).executor as executor:
        error = executor.submit(os.kill, executor.submit(os.getpid).result(90), signal.SIGKILL).exception(60)
    assert type(error) is WorkerLostError
