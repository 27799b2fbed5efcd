"""The bound on the threads of native libraries."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from amlsched import MissingExtraError, Scheduler
from amlsched.plugins import ThreadPoolCTLPlugin
from amlsched.plugins.threadpoolctl import set_thread_environment, thread_environment


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in thread_environment(1)}


def in_a_thread(function: Callable[[], Any]) -> None:
    """threadpoolctl lets one thread at a time set OpenBLAS: ours must be over before a call begins."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The machine may have one CPU only, where a bound of 1 would change nothing."""
    limits: list[Any] = []
    in_a_thread(lambda: limits.append(threadpoolctl.threadpool_limits(limits=2)))
    assert blas_threads() == {2}
    yield
    in_a_thread(limits[0].restore_original_limits)


def run_one(scheduler: Scheduler, plugin: ThreadPoolCTLPlugin | tuple[()], function: Any) -> Any:
    task = scheduler.task(function, plugins=plugin)
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(task.submit)
    scheduler.run()
    return results[0]


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_a_call_runs_under_the_bound(executor: str) -> None:
    assert run_one(Scheduler.from_name(executor), ThreadPoolCTLPlugin(max_threads=1), blas_threads) == {1}
    assert blas_threads() == {2}


@pytest.mark.parametrize(
    ("limits", "api", "expected"),
    [({"blas": 1}, None, {1}), (1, "blas", {1}), (1, "openmp", {2}), (None, None, {2})],
)
def test_a_bound_reaches_what_it_names(limits: Any, api: Any, expected: set[int]) -> None:
    assert run_one(Scheduler.with_sequential(), ThreadPoolCTLPlugin(limits, api), blas_threads) == expected


def wrapped(function: Any, *args: Any) -> Any:
    submitted = ThreadPoolCTLPlugin(*args).pre_submit(function)
    assert submitted is not None
    return submitted[0]


def test_what_travels_to_the_worker_pickles_and_keeps_the_name() -> None:
    copy = pickle.loads(pickle.dumps(wrapped(blas_threads, 1)))
    assert copy() == {1}
    assert copy.__name__ == "blas_threads"


LOADS = """\
import os, sys
from amlsched import Scheduler
from amlsched.plugins import ThreadPoolCTLPlugin

def threads():
    import numpy, threadpoolctl
    blas = {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}
    return [*blas, os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")]

scheduler = Scheduler.from_name(sys.argv[1])
bounded = scheduler.task(threads, plugins=ThreadPoolCTLPlugin(*eval(sys.argv[2])))
plain = scheduler.task(threads)
scheduler.on_start(bounded.submit)
bounded.on_result(lambda *_: plain.submit())
scheduler.on_future_result(lambda _, found: print(*found))
assert "numpy" not in sys.modules
scheduler.run()
"""


@pytest.mark.parametrize(
    ("executor", "arguments", "during"),
    [
        ("sequential", (1,), "1 1 1"),
        ("threads", (1, "openmp"), "2 1 2"),
        ("threads", ({"blas": 1},), "1 2 1"),
        ("sequential", (None,), "2 2 None"),
    ],
)
def test_libraries_that_the_function_loads_are_bounded_while_it_runs(
    executor: str, arguments: tuple[Any, ...], during: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS, executor, repr(arguments)],
        env={**{key: value for key, value in os.environ.items() if key not in variables()}, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [during, "2 2 None"], done.stderr


@dataclass(frozen=True)
class Frozen(Exception):
    """It takes no attributes, such as `__traceback__`."""

    why: str


def raise_frozen() -> None:
    raise Frozen("the reason")


def test_an_exception_that_takes_no_attributes_passes_through() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(raise_frozen, plugins=ThreadPoolCTLPlugin(1))
    scheduler.on_start(task.submit)
    assert scheduler.run(on_exception="end").exception == Frozen("the reason")


def test_a_fresh_worker_loads_its_libraries_under_the_bound() -> None:
    scheduler = Scheduler.with_processes(
        1, multiprocessing.get_context("spawn"), initializer=set_thread_environment, initargs=(1,)
    )
    assert run_one(scheduler, (), variables) == thread_environment(1)


def test_the_environment_names_the_common_libraries() -> None:
    environment = thread_environment(3)
    assert set(environment) >= {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
    assert set(environment.values()) == {"3"}


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_number_below_one_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"max_threads={value}"):
        ThreadPoolCTLPlugin(value)
    with pytest.raises(ValueError, match=f"max_threads={value}"):
        thread_environment(value)


def test_an_unknown_interface_is_refused() -> None:
    with pytest.raises(ValueError, match=r"user_api='cuda'.*'blas', 'openmp'"):
        ThreadPoolCTLPlugin(1, user_api="cuda")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(MissingExtraError, match=r"needs threadpoolctl: pip install 'amlsched\[threadpoolctl\]'"):
        ThreadPoolCTLPlugin(1)


def test_it_says_what_it_bounds() -> None:
    assert str(ThreadPoolCTLPlugin(2)) == "threadpoolctl-plugin: at most 2 threads of every interface"
