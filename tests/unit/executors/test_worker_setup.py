"""What workers begin with: their share of threads, and random numbers of their own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threadpoolctl

from amlsched import Scheduler
from amlsched.plugins import Limits
from amlsched.resources import thread_environment
from tests.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

FORK = multiprocessing.get_context("fork")
LOCAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fork": ("processes", {"max_workers": 1, "mp_context": FORK}),
    "loky": ("loky", {"max_workers": 1}),
}
TORCH = """\
import random
generator = random.Random(0)  # as torch, which begins with a constant
seed, rand = generator.seed, generator.random
"""


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)


def draw(_: int) -> list[float]:
    return [random.random(), np.random.rand(), importlib.import_module("torch").rand()]


def draw_one(_: int) -> float:
    return random.random()


def variables(_: int) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in thread_environment(1)}


def loaded_threads(_: int) -> set[int]:
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


# ---------------------------------------------------------------------------------------------- threads of libraries


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in thread_environment(1):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize("kind", LOCAL)
def test_workers_start_with_variables_for_their_share_of_the_cpus(kind: str) -> None:
    name, options = LOCAL[kind]
    scheduler = Scheduler.from_name(name, **{**options, "max_workers": 2})
    assert list(scheduler.task(variables).map([0])) == [dict.fromkeys(thread_environment(1), "4")]


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize("kind", ["fork", "loky"])
def test_a_number_of_threads_for_each_worker(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    name, options = LOCAL[kind]
    for threads, expected in ((3, thread_environment(3)), (None, {"OMP_NUM_THREADS": "5"})):
        scheduler = Scheduler.from_name(name, **options, threads_per_worker=threads)
        assert list(scheduler.task(variables).map([0])) == [{**dict.fromkeys(thread_environment(1)), **expected}]


@pytest.mark.usefixtures("eight_cpus")
def test_children_of_threads_share_the_cpus_under_limits() -> None:
    task = Scheduler.with_threads(4).task(variables, plugins=Limits(walltime="60 s"))
    assert list(task.map([0])) == [dict.fromkeys(thread_environment(1), "2")]


def test_libraries_that_a_forked_worker_has_already_are_bounded_too() -> None:
    assert loaded_threads(0), "numpy brings a BLAS"
    scheduler = Scheduler.with_processes(1, mp_context=FORK, threads_per_worker=1)
    assert list(scheduler.task(loaded_threads).map([0])) == [{1}]


PROGRAM = """\
import multiprocessing, os, sys
seen = os.environ.get("OMP_NUM_THREADS")

def at_import(_):
    return seen

if __name__ == "__main__":
    from amlsched import Scheduler
    context = multiprocessing.get_context(sys.argv[1])
    print(*Scheduler.with_processes(1, mp_context=context, threads_per_worker=3).task(at_import).map([0]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_variables_are_set_before_the_main_module_is_imported(method: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run_python("program.py", method, folder=tmp_path)
    assert done.stdout == "3\n", done.stderr


# -------------------------------------------------------------------------------------------------- hashes of texts


def hash_here(text: str) -> tuple[int, str | None]:
    return hash(text), os.environ.get("PYTHONHASHSEED")  # the latter for what the call starts


@pytest.mark.parametrize("given", [None, "0", "7"])
@pytest.mark.parametrize("kind", ["processes", "spawn", "loky", "dask"])
def test_hashes_are_the_same_in_all_workers(kind: str, given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if given is not None:
        monkeypatch.setenv("PYTHONHASHSEED", given)
    command = [sys.executable, "-c", "print(hash('text'))"]
    expected = subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": given or "0"}, text=True)
    name, options = {
        "spawn": ("processes", {"max_workers": 1, "mp_context": multiprocessing.get_context("spawn")}),
        "dask": ("dask", {"n_workers": 1}),
    }.get(kind, (kind, {"max_workers": 1}))
    with Scheduler.from_name(name, **options) as scheduler:
        assert list(scheduler.task(hash_here).map(["text"])) == [(int(expected), given or "0")]
    assert os.environ.get("PYTHONHASHSEED") == given


# ----------------------------------------------------------------------------------------------- random numbers


@pytest.fixture
def torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def equal_numbers(numbers: list[float]) -> list[float]:
    """Those that the driver would draw next, or every process first."""
    first = random.Random(0).random()
    return [
        mine
        for mine, other in zip(numbers, (first, np.random.RandomState(0).rand(), first), strict=True)
        if mine == other
    ]


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("kind", LOCAL)
def test_a_worker_has_neither_the_drivers_numbers_nor_those_of_every_process(kind: str) -> None:
    name, options = LOCAL[kind]
    seed_all()
    (numbers,) = Scheduler.from_name(name, **options).task(draw).map([0])
    assert equal_numbers(numbers) == []


@pytest.mark.usefixtures("torch", "eight_cpus")
def test_so_it_is_on_dask() -> None:
    seed_all()
    before = dict(os.environ)
    with Scheduler.with_dask(n_workers=1) as scheduler:
        (found,) = scheduler.task(variables).map([0])
        (numbers,) = scheduler.task(draw).map([0])
    assert found == dict.fromkeys(thread_environment(1), "8")
    assert equal_numbers(numbers) == []
    assert dict(os.environ) == before


@pytest.mark.parametrize("kind", LOCAL)
def test_functions_of_a_global_generator_draw_from_that_of_the_worker(kind: str) -> None:
    name, options = LOCAL[kind]
    scheduler = Scheduler.from_name(name, **options)
    functions: list[Any] = [random.random, np.random.rand, partial(random.gauss, 0, 1)]
    scheduler.on_start(lambda: [scheduler.submit(function) for function in (*functions, *functions)])
    drawn: list[float] = []
    scheduler.on_future_result(lambda _, number: drawn.append(number))
    seed_all()
    equal = [function() for function in functions]
    seed_all()
    scheduler.run()
    assert len({*drawn, *equal}) == 9
    own = random.Random(3)
    assert pickle.loads(pickle.dumps(own)).random() == own.random()


@pytest.mark.parametrize("kind", ["fork", "loky"])
def test_an_initializer_that_seeds_wins(kind: str) -> None:
    name, options = LOCAL[kind]
    scheduler = Scheduler.from_name(name, **options, initializer=seed_all)
    assert list(scheduler.task(draw_one).map([0])) == [random.Random(0).random()]
