"""Calls that declare nothing: the first of a kind alone, the others as learned; and calls that run out of memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amlsched import MemoryLimitError, Scheduler, WorkerOutOfMemoryError
from amlsched.executors.simulation import VirtualCall
from amlsched.plugins import Limits, Retry
from amlsched.resources import Pool, Resources, current_allocation

_MIB = 2**20


def hold(mib: int, fails: bool = False) -> tuple[float, int]:
    """Hold memory, and return how many CPUs and MiB the call got."""
    data = bytearray(mib * _MIB)
    data[::4096] = bytes(len(data) // 4096)
    if fails:
        raise ValueError("no")
    got = current_allocation()
    assert got is not None
    return got.cpus, got.memory // _MIB


def in_children(mib: int, children: int) -> int:
    """Have several children hold memory at the same time."""
    code = f"import time; data = b'x' * ({mib} << 20); print(1, flush=True); time.sleep(60)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(children)]
    try:
        for child in started:
            assert child.stdout is not None
            child.stdout.readline()
        time.sleep(0.3)  # several looks at the memory
    finally:
        for child in started:
            child.kill()
            child.communicate()
    return mib


def got_by(scheduler: Scheduler, calls: list[tuple[Any, ...]], **options: Any) -> list[int]:
    """The MiB that each call got, in the order of submission."""
    task = scheduler.task(hold, resources="learn", **options)
    found: dict[int, int] = {}
    task.on_result(lambda future, result: found.__setitem__(future.number, result[1]))
    scheduler.on_start(lambda: [task.submit(*call) for call in calls])
    scheduler.run(on_exception="continue", order="submission")
    return [found.get(number + 1, -1) for number in range(len(calls))]


def test_the_first_call_gets_all_memory_and_the_next_ones_what_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    scheduler = Scheduler.with_processes(pool=Pool(2, "1 GiB"), estimates=path)
    first, *others = got_by(scheduler, [(60,)] * 6)
    assert first == 1024
    assert all(60 <= mib < 240 for mib in others)
    # The next run knows it from the file.
    again = got_by(Scheduler.with_processes(pool=Pool(2, "1 GiB"), estimates=path), [(60,)] * 2)
    assert all(60 <= mib < 240 for mib in again)


def test_the_first_call_of_another_kind_leaves_room_for_calls_that_are_known() -> None:
    scheduler = Scheduler.with_processes(pool=Pool(2, "1 GiB"))
    found = got_by(scheduler, [(10,), (10,), (60,), (60,)], group=lambda mib: f"{mib} MiB")
    assert sorted(found)[-2:] == [512, 1024]
    assert sorted(found)[1] < 240
    assert set(scheduler.learned()) == {"10 MiB", "60 MiB"}


def test_equal_arguments_learn_on_their_own() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "1 GiB"))
    found = got_by(scheduler, [(10,), (150,), (10,), (150,)], plugins=Limits(memory="request"))
    assert found[0] == 1024
    assert found[2] < found[3]
    assert found[3] >= 150


def test_a_call_that_needs_more_than_was_learned_runs_again_with_more() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "2 GiB"))
    retried: list[tuple[int, BaseException]] = []
    scheduler.on_future_retry(lambda future, error, _: retried.append((future.number, error)))
    found = got_by(scheduler, [(10,), (11,), (12,), (300,), (301,)], plugins=Limits(memory="request"))
    assert all(mib > 0 for mib in found)
    assert {number for number, _ in retried} == {4}
    assert all(isinstance(error, MemoryLimitError) for _, error in retried)
    assert found[3] >= 300
    assert found[4] >= 300


def test_if_the_first_call_fails_the_next_one_is_the_first() -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2, "1 GiB"))
    found = got_by(scheduler, [(10, True), (10, True), (10,), (10,)], plugins=Retry(2))
    assert found[:3] == [-1, -1, 1024]
    assert 10 <= found[3] < 240


def test_calls_that_wait_for_the_first_one_can_be_cancelled_and_so_can_the_first_one() -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2, "1 GiB"))
    task = scheduler.task(hold, resources="learn")
    futures: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        futures.extend(task.submit(10) for _ in range(4))
        futures[1].cancel()
        futures[0].cancel()

    scheduler.run(on_cancelled="continue")
    assert [future.cancelled() for future in futures] == [True, True, False, False]


def test_a_run_that_stops_leaves_no_call_that_waits_for_the_first_one() -> None:
    scheduler = Scheduler.with_processes(2, pool=Pool(2, "1 GiB"))
    task = scheduler.task(hold, resources="learn")
    futures: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        futures.extend(task.submit(10) for _ in range(4))
        scheduler.stop()

    scheduler.run()
    assert all(future.cancelled() for future in futures)


def test_the_memory_of_all_descendants_counts() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "1 GiB"))
    task = scheduler.task(in_children, resources="learn")
    scheduler.on_start(lambda: task.submit(60, 2))
    scheduler.run()
    (learned,) = scheduler.learned().values()
    assert learned.peak_memory_bytes is not None
    assert learned.peak_memory_bytes > 2 * 60 * _MIB
    assert learned.resources.memory > learned.peak_memory_bytes


@pytest.mark.parametrize("make", [Scheduler.with_sequential, Scheduler.with_threads], ids=["sequential", "threads"])
def test_calls_in_this_process_learn_too(make: Any) -> None:
    scheduler = make(pool=Pool(1, "1 GiB"))
    assert got_by(scheduler, [(1,)] * 3)[0] == 1024
    assert next(iter(scheduler.learned().values())).n_calls == 3


def test_what_was_used_and_requested_as_text() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "1 GiB"))
    got_by(scheduler, [(60,)] * 2, group="large ones")
    title, row = str(scheduler.learned()).splitlines()
    assert title.split("  ")[0] == "group"
    assert row.startswith("large ones  2 ")
    assert row.endswith("MiB of memory")


# Declared memory


def test_a_limit_that_is_what_each_call_requests() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "1 GiB"))
    task = scheduler.task(
        hold, resources=lambda mib: Resources(memory=f"{mib // 2} MiB"), plugins=Limits(memory="request")
    )
    scheduler.on_start(lambda: task.submit(200))
    with pytest.raises(MemoryLimitError, match=r"its limit is 100\.0 MiB"):
        scheduler.run()


@pytest.mark.parametrize("make", [Scheduler.with_processes, Scheduler.with_threads], ids=["processes", "threads"])
def test_the_next_attempt_requests_more_of_the_pool(make: Any) -> None:
    scheduler = make(1, pool=Pool(1, "1 GiB"))
    task = scheduler.task(
        hold, resources=Resources(memory="60 MiB"), plugins=[Limits(memory="request"), Retry(4, memory_growth=2.5)]
    )
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(200))
    scheduler.run()
    assert results == [(1, 375)]


def test_memory_grows_up_to_the_largest_node_and_no_further() -> None:
    scheduler = Scheduler.with_processes(1, pool=Pool(1, "100 MiB"))
    task = scheduler.task(
        hold, resources=Resources(memory="60 MiB"), plugins=[Limits(memory="request"), Retry(9, memory_growth=2)]
    )
    scheduler.on_start(lambda: task.submit(200))
    with pytest.raises(MemoryLimitError, match=r"its limit is 100\.0 MiB") as raised:
        scheduler.run()
    assert "has requested the memory_cap, or all memory of the largest node" in raised.value.__notes__[-1]


@pytest.mark.parametrize(("growth", "requested"), [(3.0, "8 GiB"), (None, "1 GiB")])
def test_a_call_that_was_killed_by_the_kernel_requests_more_if_it_may_grow(
    growth: float | None, requested: str
) -> None:
    def killed(call: VirtualCall) -> BaseException | None:
        return WorkerOutOfMemoryError("train", "oom_kill rose by 1") if call.attempt < 3 else None

    scheduler = Scheduler.with_simulation(duration=1, failures=killed, pool=[Pool(1, "8 GiB"), Pool(2, "4 GiB")])
    task = scheduler.task(hold, resources=Resources(memory="1 GiB"), plugins=Retry(9, memory_growth=growth))
    futures: list[Any] = []
    scheduler.on_start(lambda: futures.append(task.submit(1)))
    scheduler.run()
    assert futures[0].attempt == 3
    assert futures[0].wanted.requests == (Resources(memory=requested),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plugins": lambda: Limits(memory="request")}, r"Limits\(memory='request'\) needs resources="),
        ({"resources": "lern"}, "or 'learn'"),
    ],
)
def test_wrong_options_of_a_task(options: dict[str, Any], words: str) -> None:
    made: dict[str, Any] = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises((TypeError, ValueError), match=words):
        Scheduler.with_sequential().task(hold, **made)


def test_a_limit_is_given_once() -> None:
    with pytest.raises(ValueError, match="memory='request' and memory_bytes=3: give only one of them"):
        Limits(memory="request", memory_bytes=3)


def test_a_task_that_learns_is_registered_before_a_run_without_estimates() -> None:
    scheduler = Scheduler.with_sequential(pool=Pool(1))
    scheduler.on_start(lambda: scheduler.task(hold, resources="learn"))
    with pytest.raises(RuntimeError, match="the run has begun without estimates"):
        scheduler.run()
