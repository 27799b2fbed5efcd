"""A function may raise what looks like a lost worker, such as the error of a pool of its own: it is the function's."""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import ExitState, JobLostError, PoolBrokenError, Scheduler, WorkerKilledError, WorkerLostError
from amlsched.plugins import Limits, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS: dict[str, Callable[[], BrokenExecutor]] = {
    "BrokenProcessPool": lambda: BrokenProcessPool("the real reason"),
    "BrokenThreadPool": lambda: BrokenThreadPool("the real reason"),
    "WorkerKilledError": lambda: WorkerKilledError("the real reason", signal.SIGKILL),
    "WorkerLostError": lambda: WorkerLostError("the real reason", "is gone"),
    "PoolBrokenError": lambda: PoolBrokenError("the real reason", "inner", "broke"),
    "JobLostError": lambda: JobLostError("the real reason", "is gone", "4711", "LOST"),
}
WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "alone": dict,
    "under Limits": lambda: {"plugins": [Limits(walltime="10 min")]},
    "in a batch": lambda: {"batch_size": 2},
}


def raises(kind: str) -> None:
    raise KINDS[kind]()


def returns(value: int) -> int:
    return value


def _scheduler(name: str) -> tuple[Scheduler, Executor | None]:
    given: dict[str, Callable[[], Executor]] = {
        "given threads": lambda: ThreadPoolExecutor(2),
        "given processes": lambda: ProcessPoolExecutor(2),
    }
    if name in given:
        executor = given[name]()
        return Scheduler(executor), executor
    if name in ("loky", "dask"):
        pytest.importorskip("loky" if name == "loky" else "distributed")
    number = {"sequential": {}, "dask": {"n_workers": 2}}.get(name, {"max_workers": 2})
    return Scheduler.from_name(name, **number), None


@pytest.fixture(params=["sequential", "threads", "processes", "loky", "dask", "given threads", "given processes"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    made, executor = _scheduler(request.param)
    yield made
    if executor is not None:
        executor.shutdown()


@pytest.mark.parametrize("way", WAYS)
def test_what_a_function_raises_is_its_own_and_charges_nobody(scheduler: Scheduler, way: str) -> None:
    bad, good = scheduler.task(raises, **WAYS[way]()), scheduler.task(returns)
    kinds: dict[Any, str] = {}
    errors: dict[str, list[BaseException]] = {}
    results: list[int] = []
    again: list[BaseException] = []
    bad.on_exception(lambda future, error: errors.setdefault(kinds[future], []).append(error))
    good.on_result(lambda future, result: results.append(result))
    scheduler.on_future_retry(lambda future, error, attempt: again.append(error))

    @scheduler.on_start
    def start() -> None:
        for number, kind in enumerate(KINDS):
            future = bad.submit(kind)
            assert future is not None
            kinds[future] = kind
            good.submit(number)

    assert scheduler.run(on_exception="continue").code is ExitState.Code.EXHAUSTED
    assert again == []
    assert sorted(results) == list(range(len(KINDS)))
    assert {kind: [type(error).__name__ for error in found] for kind, found in errors.items()} == {
        kind: [kind] for kind in KINDS
    }
    assert all("the real reason" in str(error) for found in errors.values() for error in found)


def test_retry_runs_it_again_as_any_other_exception() -> None:
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(raises, plugins=[Retry(2, backoff=0)])
    scheduler.on_start(lambda: task.submit("BrokenProcessPool"))
    scheduler.run(on_exception="continue")
    assert (task.on_retry.count, task.on_exception.count) == (1, 1)
