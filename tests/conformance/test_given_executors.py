"""Executors of others, given to a scheduler: what their futures do not say, and their `submit` keeps for itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import threading
from concurrent.futures import Executor
from concurrent.futures import Future as Work
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ExitState, Future, Scheduler
from tests import calls
from tests.backends import GIVEN, Backend, needs
from tests.conftest import over_shared

if TYPE_CHECKING:
    from pathlib import Path

Code = ExitState.Code

# What dask's `submit`, or that of some library or program, takes for its own.
TAKEN = ("fn", "self", "key", "workers", "pure", "resources", "retries", "priority", "allow_other_workers", "actor")
TAKEN += ("fifo_timeout", "timeout", "args", "kwargs", "func", "function", "task", "callback", "block", "num_cpus")


def keywords(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


async def exists(path: Path) -> None:
    async with asyncio.timeout(45):
        while not path.exists():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_keywords_of_the_function_reach_it_whatever_their_names(given_scheduler: Scheduler, batch_size: int) -> None:
    task = given_scheduler.task(keywords, batch_size=batch_size)
    given = {name: number for number, name in enumerate(TAKEN)}
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    given_scheduler.on_start(lambda: task.submit(1, **given))
    given_scheduler.run()
    assert results == [((1,), given)]


def test_calls_that_have_begun_when_the_run_ends_are_waited_for_and_no_other_runs(
    given_scheduler: Scheduler, given_backend: Backend, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    task = given_scheduler.task(calls.until_released)
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))

    @given_scheduler.on_start
    async def start() -> None:
        for number in range(5):
            task.submit(tmp_path / str(number), release, number)
        await exists(tmp_path / "0")
        await exists(tmp_path / "1")
        given_scheduler.stop()

    given_scheduler.on_finishing(release.touch)
    assert given_scheduler.run().code is Code.STOPPED
    assert {0, 1} <= set(results)
    assert len(results) + task.on_cancelled.count == 5
    begun = [number for number in range(5) if (tmp_path / str(number)).exists()]
    # Elsewhere, one that is cancelled may begin before the word of it arrives.
    assert sorted(results) == begun or (given_backend.capabilities.remote and set(results) <= set(begun))


def test_a_timeout_waits_for_a_call_that_runs(given_scheduler: Scheduler, tmp_path: Path) -> None:
    task = given_scheduler.task(calls.until_released)
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    given_scheduler.on_start(lambda: task.submit(tmp_path / "started", tmp_path / "release"))
    given_scheduler.on_finishing((tmp_path / "release").touch)
    assert given_scheduler.run(timeout=0.5).code is Code.TIMEOUT
    begun = (tmp_path / "started").exists()  # it is, unless the machine is very busy
    assert (results, task.on_cancelled.count) == ((["released"], 0) if begun else ([], 1))


@pytest.mark.parametrize("end", ["timeout", "interrupt"])
def test_a_run_that_does_not_wait_cancels_what_runs(given_scheduler: Scheduler, tmp_path: Path, end: str) -> None:
    task = given_scheduler.task(calls.until_released)

    @given_scheduler.on_start
    async def start() -> None:
        task.submit(tmp_path / "started", tmp_path / "release")
        await exists(tmp_path / "started")
        if end == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            given_scheduler.stop()

    try:
        if end == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                given_scheduler.run()
        else:
            assert given_scheduler.run(wait=False).code is Code.STOPPED
        assert (task.on_cancelled.count, task.on_done.count) == (1, 0)
    finally:
        (tmp_path / "release").touch()  # threads cannot be ended


def test_equal_calls_are_calls_of_their_own(given_scheduler: Scheduler) -> None:
    task = given_scheduler.task(os.urandom)
    results: set[bytes] = set()
    futures: list[Future[bytes] | None] = []
    task.on_result(lambda _, result: results.add(result))

    @given_scheduler.on_start
    def start() -> None:
        futures.extend(task.submit(8) for _ in range(5))
        assert futures[4] is not None
        futures[4].cancel()

    given_scheduler.run(on_cancelled="continue")
    assert len(results) == task.on_result.count >= 4


def test_it_is_left_open_and_can_be_used_again(given_scheduler: Scheduler) -> None:
    task = given_scheduler.task(abs)
    given_scheduler.on_start(lambda: task.submit(-1))
    for _ in range(2):
        assert given_scheduler.run().code is Code.EXHAUSTED
        assert task.on_result.count == 1
    assert given_scheduler.executor.submit(abs, -2).result(45) == 2


# Of a dask client


@pytest.fixture
def dask_client(shared_executors: dict[str, Executor]) -> Any:
    (row,) = (row for row in GIVEN if row.name == "given-dask")
    executor: Any = over_shared(row, shared_executors).executor
    return executor._client


def fails_twice(path: Path) -> int:
    with path.open("a") as file:
        file.write("x")
    if len(path.read_text()) < 3:
        raise ValueError("no luck")
    return len(path.read_text())


@needs("distributed")
@pytest.mark.parametrize("retries", [1, 2, None])
def test_what_get_executor_was_given_holds(dask_client: Any, tmp_path: Path, retries: int | None) -> None:
    address = random.choice(list(dask_client.nthreads()))
    scheduler = Scheduler(dask_client.get_executor(retries=retries, workers=[address], pure=True))
    task = scheduler.task(fails_twice)
    place = scheduler.task(calls.where)
    pids: set[int] = set()
    place.on_result(lambda _, result: pids.add(result[0]))
    scheduler.on_start(lambda: (task.submit(tmp_path / "tries"), [place.submit() for _ in range(4)]))
    scheduler.run(on_exception="continue")
    assert (task.on_result.count, task.on_exception.count) == ((1, 0) if retries == 2 else (0, 1))
    assert pids == {dask_client.run(os.getpid)[address]}


@needs("distributed")
def test_an_executor_of_a_client_that_is_shut_down_takes_no_call(dask_client: Any) -> None:
    executor = dask_client.get_executor()
    executor.shutdown()
    scheduler = Scheduler(executor)
    scheduler.on_start(lambda: scheduler.submit(abs, -1))
    with pytest.raises(RuntimeError, match="after shutdown"):
        scheduler.run()


@needs("distributed")
def test_a_client_in_place_of_an_executor_is_an_error_that_says_what_takes_it(dask_client: Any) -> None:
    with pytest.raises(TypeError, match=r"pass clients and clusters of dask to Scheduler\.with_dask\(…\)"):
        Scheduler(dask_client)


@needs("distributed")
def test_terminate_gets_the_executor_that_was_given(dask_client: Any) -> None:
    ended: list[object] = []
    executor = dask_client.get_executor()
    scheduler = Scheduler(executor, terminate=ended.append)
    scheduler.on_start(scheduler.stop)
    scheduler.run(wait=False)
    assert ended == [executor]
    assert scheduler.executor is executor


class Pooled(Executor):
    """Over `multiprocessing.Pool`, whose results do not say when their calls begin."""

    def __init__(self) -> None:
        self.pool = multiprocessing.get_context("fork").Pool(2)

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Work[Any]:  # type: ignore[override]
        work: Work[Any] = Work()
        self.pool.apply_async(fn, args, kwargs, work.set_result, work.set_exception)
        return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.terminate()
        self.pool.join()


class Leaving:
    """A number on the other side; here it says when it has been pickled, and its call with it."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        self.left.set()
        return int, (self.number,)


def test_calls_in_processes_of_an_executor_that_does_not_say_when_they_begin_are_waited_for(tmp_path: Path) -> None:
    with Pooled() as executor:
        scheduler = Scheduler(executor)
        task = scheduler.task(calls.until_released)
        results: list[Any] = []
        task.on_result(lambda _, result: results.append(result))

        @scheduler.on_start
        async def start() -> None:
            numbers = [Leaving(number) for number in range(3)]
            for number in numbers:
                task.submit(tmp_path / str(number.number), tmp_path / "release", number)
            await exists(tmp_path / "0")
            await exists(tmp_path / "1")
            while not numbers[2].left.is_set():  # the third waits for a process
                await asyncio.sleep(0.01)
            scheduler.stop()

        scheduler.on_finishing((tmp_path / "release").touch)
        assert scheduler.run().code is Code.STOPPED
        assert {0, 1} <= set(results)
        assert len(results) + task.on_cancelled.count == 3
        assert executor.submit(abs, -1).result(20) == 1  # its thread has not died of a result that nobody wanted


class Returns(Executor):
    def submit(self, fn: Any, *args: Any) -> Any:  # type: ignore[override]
        return fn(*args)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_executor_that_returns_no_future_is_an_error_that_names_it(batch_size: int) -> None:
    scheduler = Scheduler(Returns())
    task = scheduler.task(abs, batch_size=batch_size)
    scheduler.on_start(lambda: task.submit(-1))
    with pytest.raises(TypeError, match=r"Returns\.submit returned .+: must be a concurrent\.futures\.Future"):
        scheduler.run()
