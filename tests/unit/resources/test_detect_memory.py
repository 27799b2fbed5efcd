"""How much memory a process may use, and how much of it is free."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from amlsched.resources import cpus, free_memory, memory
from amlsched.resources.detect import memory_limit

GIB, MIB = 2**30, 2**20


def put(root: Path, place: str, text: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "proc/meminfo", f"MemTotal: {64 * MIB} kB\nMemFree: 100 kB\nMemAvailable: {48 * MIB} kB\n")
    return tmp_path


def test_this_machine_has_memory_of_which_some_is_free() -> None:
    assert 0 < free_memory() <= memory()


def test_without_a_limit_it_is_that_of_the_machine(root: Path) -> None:
    assert (memory({}, root), free_memory({}, root), memory_limit(root)) == (64 * GIB, 48 * GIB, None)


def test_a_group_limits_it_and_what_the_group_uses_is_not_free_version_2(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/user/job_7/step\n")
    put(root, "sys/fs/cgroup/user/memory.max", "max\n")
    put(root, "sys/fs/cgroup/user/job_7/memory.max", f"{8 * GIB}\n")
    put(root, "sys/fs/cgroup/user/job_7/memory.current", f"{5 * GIB}\n")
    put(root, "sys/fs/cgroup/user/job_7/memory.stat", f"anon 17\ninactive_file {2 * GIB}\nactive_file 5\n")
    put(root, "sys/fs/cgroup/user/job_7/step/memory.max", f"{16 * GIB}\n")
    put(root, "sys/fs/cgroup/user/job_7/step/memory.current", f"{3 * GIB}\n")
    assert (memory({}, root), memory_limit(root)) == (8 * GIB, 8 * GIB)
    assert free_memory({}, root) == 5 * GIB  # 8 - (5 - 2 of files that can be dropped)


def test_a_group_limits_it_version_1(root: Path) -> None:
    put(root, "proc/self/cgroup", "4:cpu,cpuacct:/other\n5:memory:/job_7\n0::/\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(root, "sys/fs/cgroup/memory/job_7/memory.limit_in_bytes", f"{4 * GIB}\n")
    put(root, "sys/fs/cgroup/memory/job_7/memory.usage_in_bytes", f"{3 * GIB}\n")
    put(root, "sys/fs/cgroup/memory/job_7/memory.stat", f"inactive_file 5\ntotal_inactive_file {GIB}\n")
    assert (memory({}, root), free_memory({}, root)) == (4 * GIB, 2 * GIB)


def test_a_group_that_uses_more_than_its_limit_has_none_free(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/memory.max", f"{GIB}\n")
    put(root, "sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert free_memory({}, root) == 0


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "16384"}, 16 * GIB),
        ({"SLURM_MEM_PER_NODE": "8G"}, 8 * GIB),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "4"}, 8 * GIB),
        ({"SLURM_MEM_PER_GPU": "4096", "SLURM_GPUS_ON_NODE": "2"}, 8 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, 64 * GIB),  # all of the node's
        ({"SLURM_MEM_PER_CPU": "2048"}, 64 * GIB),
        ({}, 64 * GIB),
    ],
)
def test_slurm_gives_a_job_its_part(root: Path, variables: dict[str, str], expected: int) -> None:
    assert memory({"SLURM_JOB_ID": "7", **variables}, root) == expected
    assert memory(variables, root) == 64 * GIB
    assert free_memory({"SLURM_JOB_ID": "7", **variables}, root) == min(expected, 48 * GIB)


def test_condor_describes_the_slot_in_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    put(root, "machine.ad", 'Arch = "X86_64"\nCpus = 3\nTotalMemory = 65536\nMemory = 2048\n')
    environ = {"_CONDOR_MACHINE_AD": str(root / "machine.ad")}
    assert (memory(environ, root), len(cpus(environ, root))) == (2 * GIB, 3)
    gone = {"_CONDOR_MACHINE_AD": str(root / "nothing")}
    assert (memory(gone, root), len(cpus(gone, root))) == (64 * GIB, 16)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PBS_JOBID": "7", "NCPUS": "4"}, 4),
        ({"PBS_JOBID": "7", "PBS_NUM_PPN": "5"}, 5),
        ({"NCPUS": "4"}, 16),
        ({"JOB_ID": "7", "SGE_TASK_ID": "undefined", "NSLOTS": "6"}, 6),
        ({"NSLOTS": "6"}, 16),
        ({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "other 8 node7 3"}, 3),
        ({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "other 8"}, 16),
        ({"PBS_JOBID": "7", "NCPUS": "many"}, 16),
        ({"PBS_JOBID": "7", "NCPUS": "0"}, 16),
    ],
)
def test_other_batch_systems_say_how_many_cpus_a_job_has(
    root: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(platform, "node", lambda: "node7.cluster.example")
    assert len(cpus(environ, root)) == expected


def test_files_of_a_job_on_several_hosts_count_for_this_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(platform, "node", lambda: "node7")
    put(root, "hosts", "node6.example 4 all.q UNDEFINED\nnode7.example 2 all.q UNDEFINED\n")
    of_sge = {"JOB_ID": "7", "SGE_TASK_ID": "1", "NSLOTS": "6", "PE_HOSTFILE": str(root / "hosts")}
    assert len(cpus(of_sge, root)) == 2
    put(root, "nodes", "node6\nnode7\nnode7\nnode7\n")
    assert len(cpus({"OAR_JOB_ID": "7", "OAR_NODEFILE": str(root / "nodes")}, root)) == 3
