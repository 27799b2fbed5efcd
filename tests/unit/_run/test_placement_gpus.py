"""GPUs as NVML reports them, by a small library behind the real nvidia-ml-py: shares, memory and binding."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amlsched import ResourcesError, Scheduler
from amlsched.resources import Pool, Resources, current_allocation
from tests.nvml import GIB, Device, Library, loaded


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def library() -> Iterator[Library]:
    """A GPU of which 10 GiB are used, and one that is divided."""
    instances = [Device(f"MIG-{n}", total=10 * GIB, ids=(n, 0)) for n in (1, 2)]
    devices = [Device("GPU-aa", used=10 * GIB, mig=[]), Device("GPU-bb", mig=instances, divided=True)]
    with loaded(Library(devices)) as library:
        yield library


def seen() -> tuple[Any, str | None]:
    """What the call got, and what its libraries will see."""
    return current_allocation(), os.environ.get("CUDA_VISIBLE_DEVICES")


def results(scheduler: Scheduler, *requests: Resources) -> list[tuple[Any, str | None]]:
    tasks = [scheduler.task(seen, resources=request) for request in requests]
    found: dict[int, Any] = {}
    scheduler.on_future_result(lambda future, result: found.__setitem__(future.number, result))
    scheduler.on_start(lambda: [task.submit() for task in tasks])
    scheduler.run()
    return [found[number] for number in sorted(found)]


def test_the_pool_here_has_what_is_free_of_each_gpu(library: Library) -> None:
    pool = Pool.here()
    assert pool.gpus == ("GPU-aa", "MIG-1", "MIG-2")
    assert pool.gpu_memory == (30 * GIB, 10 * GIB, 10 * GIB)


def test_an_inherited_variable_selects_what_calls_may_get(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-2,GPU-a")
    pool = Pool.here()
    assert (pool.gpus, pool.gpu_memory) == (("MIG-2", "GPU-a"), (10 * GIB, 30 * GIB))
    ((got, variable),) = results(Scheduler.with_processes(1, pool=pool), Resources(gpus=1, gpu_memory="20 GiB"))
    assert (got.gpus, variable) == (("GPU-a",), "GPU-a")


def test_each_process_sees_its_own_gpus(library: Library) -> None:
    both, one, none = results(
        Scheduler.with_processes(2, pool=Pool.here()),
        Resources(gpus=2, gpu_memory="5 GiB"),
        Resources(gpus=0.5, gpu_memory="11 GiB"),
        Resources(),
    )
    assert both[1] == ",".join(both[0].gpus)
    assert set(both[0].gpus) < {"GPU-aa", "MIG-1", "MIG-2"}
    assert (one[0].gpus, one[0].gpu_share, one[0].gpu_memory, one[1]) == (("GPU-aa",), 0.5, 11 * GIB, "GPU-aa")
    assert none[1] == ""


@pytest.mark.parametrize(
    ("request_of_each", "at_once"),
    [
        (Resources(gpus=0.25), 4),
        (Resources(gpus=0.25, gpu_memory="15 GiB"), 2),
        (Resources(gpus=1), 1),
        (Resources(0.1, gpus=0.1, gpu_memory="7.6 GiB"), 3),
    ],
)
def test_as_many_share_a_gpu_as_its_shares_and_its_memory_allow(
    library: Library, monkeypatch: pytest.MonkeyPatch, request_of_each: Resources, at_once: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    running: list[int] = []
    most: list[int] = []
    meet = threading.Barrier(at_once)  # which nobody passes before so many run at once

    def hold() -> None:
        running.append(1)
        most.append(len(running))
        meet.wait(60)
        meet.wait(60)
        running.pop()

    pool = Pool(8, gpus=Pool.here().gpus, gpu_memory=f"{30 * GIB} B")
    scheduler = Scheduler.with_threads(8, pool=pool)
    task = scheduler.task(hold, resources=request_of_each)
    scheduler.on_start(lambda: [task.submit() for _ in range(2 * at_once)])
    scheduler.run()
    assert max(most) == at_once


def test_more_memory_than_any_gpu_has_is_an_error_that_names_it(library: Library) -> None:
    with pytest.raises(ResourcesError, match=r"short of GPU memory: 31 GiB requested, 30 GiB there"):
        results(Scheduler.with_sequential(pool=Pool.here()), Resources(gpus=1, gpu_memory="31 GiB"))


def test_a_request_for_gpus_says_what_was_looked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = r"short of GPUs: 1 requested, 0 there .*on this machine: no GPUs \(CUDA_VISIBLE_DEVICES=; NVML reports 2"
    with pytest.raises(ResourcesError, match=words):
        results(Scheduler.with_sequential(pool=Pool.here()), Resources(gpus=1))


def test_a_pool_with_more_gpus_than_the_machine_is_a_warning(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    Scheduler.with_sequential(pool=Pool(1, gpus=4))
    assert "the pool has 4 GPUs, but this process may use 3 GPUs (" in caplog.text
