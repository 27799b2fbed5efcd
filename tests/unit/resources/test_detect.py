"""What a process may use: by its affinity, its control groups, and the variables that it inherited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amlsched import Scheduler
from amlsched.executors.capabilities import worker_count
from amlsched.resources import cpus, devices

MIG = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"
UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 2, 5, 8, 9, 10, 11})
    return tmp_path


def put(root: Path, place: str, text: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)


# ------------------------------------------------------------------------------------------------------ CPUs


@pytest.mark.parametrize(("executor", "workers"), [("processes", 1), ("loky", 1), ("dask", 1), ("threads", 5)])
def test_executors_have_as_many_workers_as_this_process_was_given_cpus(
    executor: str, workers: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    with Scheduler.from_name(executor) as scheduler:
        assert worker_count(scheduler.executor) == workers


def test_cpus_are_those_of_the_affinity(root: Path) -> None:
    assert cpus({}, root) == (1, 2, 3, 5, 8, 9, 10, 11)


def test_a_quota_of_a_group_above_allows_less_version_2(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/user/job_7/step\n")
    put(root, "sys/fs/cgroup/user/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/user/job_7/cpu.max", "350000 100000\n")
    put(root, "sys/fs/cgroup/user/job_7/step/cpu.max", "max 100000\n")
    assert cpus({}, root) == (1, 2, 3)


def test_a_quota_allows_less_version_1(root: Path) -> None:
    put(root, "proc/self/cgroup", "5:memory:/other\n4:cpu,cpuacct:/job_7\n0::/\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(root, "sys/fs/cgroup/cpu/job_7/cpu.cfs_quota_us", "200000\n")
    put(root, "sys/fs/cgroup/cpu/job_7/cpu.cfs_period_us", "100000\n")
    assert cpus({}, root) == (1, 2)


def test_a_part_of_a_cpu_counts_as_one(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert cpus({}, root) == (1,)


def test_slurm_allows_less_within_a_job_only(root: Path) -> None:
    assert cpus({"SLURM_CPUS_ON_NODE": "4"}, root) == (1, 2, 3, 5, 8, 9, 10, 11)
    assert cpus({"SLURM_CPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}, root) == (1, 2, 3, 5)


# ------------------------------------------------------------------------------------------------------ GPUs


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0,1", ("0", "1")),
        ("3", ("3",)),
        (f"{UUID}, {MIG}", (UUID, MIG)),
        ("GPU-8932f937,MIG-GPU-8932f937/1/0", ("GPU-8932f937", "MIG-GPU-8932f937/1/0")),
        ("2,-1,3", ("2",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_a_variable_that_was_inherited_is_taken_as_it_is(tmp_path: Path, given: str, found: tuple[str, ...]) -> None:
    put(tmp_path, "dev/nvidia0", "")
    assert devices({"CUDA_VISIBLE_DEVICES": given}, tmp_path) == found


def test_without_it_slurm_counts_and_then_what_the_machine_shows(tmp_path: Path) -> None:
    for name in ("nvidia3", "nvidia12", "nvidiactl", "nvidia-uvm"):
        put(tmp_path, f"dev/{name}", "")
    assert devices({}, tmp_path) == ("0", "1")
    assert devices({"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}, tmp_path) == ("0", "1", "2", "3")
    assert devices({"SLURM_GPUS_ON_NODE": "4"}, tmp_path) == ("0", "1")
    assert devices({}, tmp_path / "nowhere") == ()
