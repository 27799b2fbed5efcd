"""Every executor of ours, and those of others that we lean on, against the checks of `amlsched.testing`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from amlsched import SequentialExecutor
from amlsched.executors import dask, local
from amlsched.executors.capabilities import worker_count
from amlsched.testing import EXECUTOR_CHECKS, ExecutorCheck
from tests import backends
from tests.backends import Lent, MakesScheduler

SLOW = {f"with_{row.name}": row for row in backends.BACKENDS if row.name in ("dask", "loky")}


class Backend(NamedTuple):
    name: str
    make: Callable[[], Executor]
    inline: bool = False
    pickles: bool = True
    #: What does not hold of an executor that is not ours, and why.
    lacks: tuple[str, ...] = ()


def process_pool() -> Any:
    from amlsched.executors.processes import ProcessPool

    return ProcessPool(2)


BACKENDS = (
    Backend("SequentialExecutor", SequentialExecutor, inline=True, pickles=False),
    Backend("with_threads", lambda: local.threads(2), pickles=False),
    Backend("with_processes", lambda: local.processes(2)),
    Backend(
        "with_loky",
        lambda: local.loky(2),
        lacks=(
            "arguments arrive whatever their names",  # its submit(fn, …) takes the keyword fn for its own
            "shutdown can cancel the calls that wait",  # its shutdown has no cancel_futures
        ),
    ),
    Backend("with_dask", lambda: dask.dask(n_workers=2)),
    Backend("ProcessPool", process_pool),
    Backend("ThreadPoolExecutor", lambda: ThreadPoolExecutor(2), pickles=False),
    Backend("ProcessPoolExecutor", lambda: ProcessPoolExecutor(2, multiprocessing.get_context("fork"))),
)


def applies(check: ExecutorCheck, backend: Backend) -> bool:
    return not (check.background and backend.inline) and (backend.pickles or not check.pickles)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_an_executor_declares_what_the_checks_go_by(backend: Backend) -> None:
    executor = backend.make()
    try:
        answers = [check.applies_to(executor) for check in EXECUTOR_CHECKS]
        assert answers == [applies(check, backend) for check in EXECUTOR_CHECKS]
    finally:
        executor.shutdown()


@pytest.mark.parametrize("backend", [each for each in BACKENDS if not each.inline], ids=lambda backend: backend.name)
def test_an_executor_tells_how_many_workers_it_has(backend: Backend) -> None:
    executor = backend.make()
    try:
        assert worker_count(executor) == 2
    finally:
        executor.shutdown()


def cases(lacking: bool) -> list[Any]:
    return [
        pytest.param(backend, check, id=f"{backend.name}-{check.name}")
        for backend in BACKENDS
        for check in EXECUTOR_CHECKS
        if applies(check, backend) and (check.name in backend.lacks) == lacking
    ]


@pytest.mark.parametrize(("backend", "check"), cases(lacking=False))
def test_an_executor_holds_the_contract(
    backend: Backend, check: ExecutorCheck, shared_scheduler: MakesScheduler
) -> None:
    make: Any = backend.make
    if backend.name in SLOW and Lent.serves(check):  # workers take seconds to start
        make = lambda: Lent(shared_scheduler(SLOW[backend.name]).executor)  # noqa: E731
    check.run(make, timeout_s=45)  # raises an AssertionError where it does not hold


@pytest.mark.parametrize(("backend", "check"), cases(lacking=True))
def test_what_an_executor_is_said_to_lack_it_lacks(backend: Backend, check: ExecutorCheck) -> None:
    with pytest.raises(AssertionError):
        check.run(backend.make, timeout_s=20)
