"""Arguments of a wrong type or value: the error names the argument and its value, and nothing has run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from amlsched import Scheduler
from amlsched.executors import jobqueue
from tests.backends import needs

if TYPE_CHECKING:
    from collections.abc import Callable

NAN = float("nan")
NO_COUNTS = ["2", True, 2.5, 2.0, NAN, 0, -1, [2]]
JOB = {"n_workers": 1, "cores": 1, "memory": "1 GB"}


def check(make: Callable[[], object], name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert f"{name}={value!r}: must be" in str(caught.value)


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize(
    ("executor", "name"),
    [
        ("processes", "max_workers"),
        ("processes", "max_tasks_per_child"),
        ("threads", "max_workers"),
        ("loky", "max_workers"),
        pytest.param("ray", "max_workers", marks=needs("ray")),
        ("dask", "n_workers"),
        ("slurm", "n_workers"),
        ("htcondor", "n_workers"),
    ],
)
def test_a_number_of_workers(executor: str, name: str, value: Any) -> None:
    job = {key: one for key, one in JOB.items() if key != name} if executor in ("slurm", "htcondor") else {}
    check(lambda: Scheduler.from_name(executor, **job, **{name: value}), name, value)


def test_numbers_of_numpy_count() -> None:
    for name in ("processes", "threads", "loky"):
        with Scheduler.from_name(name, max_workers=np.int64(2)) as scheduler:
            assert getattr(scheduler.executor, "max_workers", 2) == 2


@pytest.mark.parametrize(
    ("executor", "options"),
    [
        ("processes", {"mp_context": "spawn"}),
        ("processes", {"initargs": 5}),
        ("processes", {"threads_per_worker": "2"}),
        ("threads", {"receipts": 1}),
        ("loky", {"timeout": "5"}),
        ("loky", {"initargs": "a"}),
        ("loky", {"env": 5}),
        ("dask", {"client": 4}),
        ("dask", {"n_workers": 1, "memory_limit": "lots"}),
        ("dask", {"n_workers": 1, "threads_per_worker": "2"}),
        ("dask", {"n_workers": 1, "native_threads": 0}),
        pytest.param("ray", {"num_cpus": "1"}, marks=needs("ray")),
        pytest.param("ray", {"num_gpus": -1}, marks=needs("ray")),
        pytest.param("ray", {"memory": "1 GB"}, marks=needs("ray")),
        pytest.param("ray", {"resources": 5}, marks=needs("ray")),
        pytest.param("ray", {"address": 5}, marks=needs("ray")),
    ],
    ids=str,
)
def test_other_arguments_of_executors(executor: str, options: dict[str, Any]) -> None:
    name, value = list(options.items())[-1]
    check(lambda: Scheduler.from_name(executor, **options), name, value)


@pytest.mark.parametrize("executor", ["processes", "threads", "loky"])
def test_an_initializer_that_cannot_be_called(executor: str) -> None:
    with pytest.raises(TypeError, match="initializer needs a function, not 5"):
        Scheduler.from_name(executor, initializer=5)


def test_an_option_that_dask_does_not_have_is_named_before_a_worker_starts() -> None:
    with pytest.raises(TypeError, match=r"memory_limt='1 GB': .* no such option \(did you mean memory_limit\?\)"):
        Scheduler.with_dask(n_workers=1, memory_limt="1 GB")


@pytest.mark.parametrize("system", ["slurm", "htcondor"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cores", "2"),
        ("cores", 1.5),
        ("processes", True),
        ("memory", 4),
        ("memory", "4"),
        ("memory", "lots"),
        ("job_extra_directives", "--gres=gpu:1"),
        ("job_script_prologue", "ls"),
        ("worker_extra_args", "--nthreads 2"),
        ("walltime", 1.5),
        ("start_timeout", "5"),
        ("start_timeout", NAN),
        ("adaptive", "yes"),
        ("submit_command", 5),
        ("native_threads", "2"),
    ],
)
def test_options_of_jobs(system: str, name: str, value: Any) -> None:
    options = {**JOB, **({"disk": "1 GB"} if system == "htcondor" else {}), name: value}
    check(lambda: jobqueue.job_script(system, **options), name, value)


def test_arguments_of_calls() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(abs)
    for value in NO_COUNTS:
        check(lambda value=value: task.map([1], max_in_flight=value), "max_in_flight", value)  # type: ignore[misc]
        check(lambda value=value: asyncio.run(scheduler.gather([], max_in_flight=value)), "max_in_flight", value)  # type: ignore[misc]
    check(lambda: asyncio.run(scheduler.gather(5)), "futures", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="1 is not a future"):
        asyncio.run(scheduler.gather([1]))  # type: ignore[list-item]
    with ThreadPoolExecutor(1) as executor:
        check(lambda: Scheduler(executor, terminate="no"), "terminate", "no")  # type: ignore[arg-type]
