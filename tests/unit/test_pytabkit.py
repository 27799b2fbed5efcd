"""Jobs written for pytabkit's scheduler, on this machine."""

from __future__ import annotations

import os
import re
import signal
import types
from pathlib import Path
from typing import Any

import pytest

from amlsched.pytabkit import (
    AbstractJob,
    JobInfo,
    NodeResources,
    RayJobManager,
    RequiredResources,
    SimpleJobScheduler,
)
from amlsched.resources import Resources, free_memory
from tests.backends import needs, start_ray


class Noted(AbstractJob):
    """Writes its number when it runs."""

    def __init__(self, number: int, seconds: float, folder: Path, how: str = "well", **needs: Any) -> None:
        self.number, self.seconds, self.folder, self.how = number, seconds, folder, how
        self.needs = {"n_threads": 1, "cpu_ram_gb": 0.01, **needs}

    def get_group(self) -> str:
        return "noted"

    def get_desc(self) -> str:
        return f"job {self.number}"

    def get_required_resources(self) -> RequiredResources:
        return RequiredResources(self.seconds, **self.needs)

    def __call__(self, assigned_resources: NodeResources) -> bool:
        with (self.folder / "started").open("a") as file:
            file.write(f"{self.number} {assigned_resources.get_n_threads()}\n")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "raises":
            raise MemoryError("not here")
        return self.how != "was there"


def started(folder: Path) -> list[int]:
    return [int(line.split()[0]) for line in (folder / "started").read_text().splitlines()]


def test_the_longest_go_first_and_reports_say_how_long_it_takes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scheduler = SimpleJobScheduler(RayJobManager(max_n_threads=1))
    scheduler.add_jobs([Noted(number, number + 1.0, tmp_path) for number in range(20)])
    scheduler.run()
    assert started(tmp_path) == list(reversed(range(20)))
    assert all(info.is_succeed() and info.job_result for info in scheduler.job_infos)
    printed = capfd.readouterr().out
    assert re.search(
        r"of 20 jobs finished \(0 failed\).* left \(.* to .*\), until \d{4}-.*; longest remaining", printed
    )
    assert re.search(
        r"20 jobs ended in .* s, 0 failed\n  group .*\n  noted, over its expected time +20 .* times", printed
    )


def test_a_job_that_dies_raises_or_fits_nowhere_has_failed_and_the_others_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scheduler = SimpleJobScheduler(RayJobManager(max_n_threads=2))
    hows = ["well", "killed", "raises", "was there"]
    jobs = [Noted(number, 1, tmp_path, how) for number, how in enumerate(hows)]
    scheduler.add_jobs([*jobs, Noted(4, 1, tmp_path, cpu_ram_gb=1e6), Noted(5, 1, tmp_path, n_threads=3)])
    scheduler.run()
    results = [info.job_result for info in scheduler.job_infos]
    assert [result.failed for result in results if result] == [False, True, True, False, True, True]
    assert [result.finished_normally for result in results if result] == [True, False, False, False, False, False]
    assert [result.oom_cpu for result in results if result] == [False, False, True, False, False, False]
    output = capfd.readouterr()
    assert "SIGKILL" in output.err
    assert "short of memory: 976.6 TiB requested" in output.err
    assert "short of CPUs: 3 requested, 2 there" in output.err
    assert "6 jobs ended" in output.out
    assert re.search(r" 4 failed\n.*\n  noted.* time +1 ", output.out)  # one that had less to do does not count


def test_a_second_run_runs_what_was_added_since(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scheduler = SimpleJobScheduler(RayJobManager())
    scheduler.run()
    assert "no jobs to run" in capfd.readouterr().out
    for number in range(2):
        scheduler.add_jobs([Noted(number, 1, tmp_path)])
        scheduler.run()
    assert started(tmp_path) == [0, 1]


def test_a_job_of_pytabkit_itself_is_accepted(tmp_path: Path) -> None:
    """It has its own base class and its own class of requests."""
    needs = types.SimpleNamespace(
        time_s=60.0, n_threads=2, cpu_ram_gb=1.5, n_gpus=1, gpu_usage=0.5, gpu_ram_gb=2.0, n_explicit_physical_cores=3
    )
    job: Any = types.SimpleNamespace(get_required_resources=lambda: needs, get_desc=lambda: "theirs")
    assert JobInfo(job, 0).requested == Resources(3, "1.5 GiB", 0.5, "2 GiB", "1 min")


@pytest.mark.parametrize(
    ("needs", "requested"),
    [
        ({"n_gpus": 2, "gpu_usage": 0.5}, Resources(1, "10 MiB", 2, time="1 s")),
        ({"n_threads": 0.5, "gpu_ram_gb": 3}, Resources(0.5, "10 MiB", time="1 s")),
    ],
)
def test_what_is_requested(needs: dict[str, Any], requested: Resources, tmp_path: Path) -> None:
    found = JobInfo(Noted(0, 1, tmp_path, **{"cpu_ram_gb": 10 / 1024, **needs}), 0).requested
    assert (found, found.time) == (requested, requested.time)


@pytest.mark.parametrize("needs", [{"n_threads": -1}, {"cpu_ram_gb": -1.0}, {"n_gpus": 1.5}, {"n_threads": None}])
def test_a_wrong_amount_names_the_job(needs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match="the job 'job 7' requires what cannot be requested"):
        SimpleJobScheduler(RayJobManager()).add_jobs([Noted(7, 1, tmp_path, **needs)])


def test_what_jobs_need_together_one_after_the_other() -> None:
    both = RequiredResources.combine_sequential([RequiredResources(3, 1, 2.0, n_gpus=1), RequiredResources(4, 2, 1.0)])
    assert (both.time_s, both.n_threads, both.cpu_ram_gb, both.n_gpus) == (7, 2, 2.0, 1)


def test_what_a_job_got() -> None:
    got = NodeResources("node1", 2.0, 4.0, [0.5], [8.0])
    assert got.get_interface_resources() == (2, ["cuda:0"], None)
    assert (got.get_cpu_ram_gb(), got.get_total_gpu_usage(), got.get_total_gpu_ram_gb()) == (4.0, 0.5, 8.0)
    assert (got.get_used_gpu_ids(), got.get_gpu_usages(), got.get_gpu_rams_gb()) == ([0], [0.5], [8.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "rays"}, "there is no executor 'rays'"),
        ({"address": "auto"}, "executor 'processes': has no option 'address'"),
        ({"max_n_threads": 2, "executor": "dask"}, "max_n_threads=2: the nodes of 'dask' have their own number"),
        ({"available_cpu_ram_multiplier": 0}, "available_cpu_ram_multiplier=0: must be above 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RayJobManager(**options)


def test_a_part_of_the_machine_is_used(tmp_path: Path) -> None:
    """What is 70 % of the free memory does not fit into half of it."""
    needs = 0.7 * free_memory() / 2**30
    for part, failed in ((1.0, False), (0.5, True)):
        scheduler = SimpleJobScheduler(RayJobManager(available_cpu_ram_multiplier=part))
        scheduler.add_jobs([Noted(0, 1, tmp_path, cpu_ram_gb=needs)])
        scheduler.run()
        assert scheduler.job_infos[0].is_failed() == failed


def test_what_is_requested_if_a_part_of_the_memory_is_used() -> None:
    manager = RayJobManager(available_cpu_ram_multiplier=0.5, available_gpu_ram_multiplier=0.8)
    requested = manager.scaled(Resources(2, "1 GiB", 0.5, "8 GiB", "3 s"))
    assert (requested, requested.time) == (Resources(2, "2 GiB", 0.5, "10 GiB", "3 s"), 3)


def runs_on_a_cluster(manager: RayJobManager, folder: Path) -> str:
    """Run jobs, one of which fits nowhere, and return what was printed about it."""
    scheduler = SimpleJobScheduler(manager)
    scheduler.add_jobs([Noted(number, number + 1.0, folder) for number in range(4)])
    scheduler.add_jobs([Noted(4, 1, folder, n_threads=999)])
    scheduler.run()
    assert [info.is_failed() for info in scheduler.job_infos] == [False, False, False, False, True]
    assert sorted(started(folder)) == [0, 1, 2, 3]
    result = scheduler.job_infos[4].job_result
    assert result is not None
    return result.exception_msg or ""


@needs("distributed")
def test_jobs_run_on_dask(tmp_path: Path) -> None:
    manager = RayJobManager(executor="dask", available_gpu_ram_multiplier=0.7, n_workers=1)
    assert "CPUs: 999 requested" in runs_on_a_cluster(manager, tmp_path)


@needs("ray")
def test_jobs_run_on_ray(tmp_path: Path) -> None:
    start_ray()
    assert "CPUs: 999 requested" in runs_on_a_cluster(RayJobManager(executor="ray"), tmp_path)


def test_the_address_of_a_ray_cluster_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ip_head", "10.0.0.1:6379")
    monkeypatch.setenv("redis_password", "secret")
    assert RayJobManager(executor="ray").options == {"address": "10.0.0.1:6379", "_redis_password": "secret"}
    assert RayJobManager().options == {}
    assert "ip_head=10.0.0.1:6379 is ignored: RayJobManager(executor='ray')" in capfd.readouterr().err
