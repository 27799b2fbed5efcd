"""Pools of processes in calls, and our executors in the workers of such pools; with functions of the main module."""

from __future__ import annotations

import multiprocessing
import sys
from typing import TYPE_CHECKING

import pytest

from amlsched import Scheduler
from amlsched.plugins import Limits
from tests.backends import THOROUGH
from tests.calls import double
from tests.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="ProcessPool is for Linux")]

PROGRAM = """\
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import joblib, loky
from amlsched import Scheduler
from amlsched.plugins import Limits

def square(x):
    return x * x

def by_joblib(backend):
    return joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(square)(x) for x in range(3))

def by_multiprocessing(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, range(3))

def by_futures(method):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(square, range(3)))

def by_loky():
    return list(loky.get_reusable_executor(2).map(square, range(3)))

def by_ours(name):
    return list(Scheduler.from_name(name, max_workers=2).task(square).map(range(3)))

CALLS = [
    (by_joblib, "loky"),
    (by_joblib, "multiprocessing"),
    (by_multiprocessing, None),
    (by_futures, "spawn"),
    (by_loky,),
    (by_ours, "processes"),
    (by_ours, "loky"),
]

def run(call, *args):
    return [call.__name__, *args, call(*args)]

if __name__ == "__main__":
    name, plugins = sys.argv[1], [Limits(walltime="100 s")] if sys.argv[2] else []
    scheduler = Scheduler.from_name(name, **{"n_workers" if name == "dask" else "max_workers": 1})
    task = scheduler.task(run, plugins=plugins, retries_on_loss=0)
    scheduler.on_start(lambda: [task.submit(*call) for call in CALLS])
    task.on_result(lambda _, found: print(found))
    task.on_exception(lambda _, error: print(repr(error)))
    scheduler.run(on_exception="continue")
"""
FOUND = [
    ["by_joblib", "loky", [0, 1, 4]],
    ["by_joblib", "multiprocessing", [0, 1, 4]],
    ["by_multiprocessing", None, [0, 1, 4]],
    ["by_futures", "spawn", [0, 1, 4]],
    ["by_loky", [0, 1, 4]],
    ["by_ours", "processes", [0, 1, 4]],
    ["by_ours", "loky", [0, 1, 4]],
]


@pytest.mark.parametrize(
    ("executor", "limits"),
    [("processes", ""), ("threads", "limits"), *([("loky", ""), ("dask", "")] if THOROUGH else ())],
)
def test_calls_use_pools_with_functions_of_the_main_module(executor: str, limits: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run_python("-W", "ignore", "program.py", executor, limits, folder=tmp_path, limit_s=110)
    assert done.stdout.splitlines() == list(map(str, FOUND)), done.stderr
    assert "Traceback" not in done.stderr


UNGUARDED = """\
import multiprocessing, sys
from amlsched import Scheduler
from amlsched.plugins import Limits

def square(x):
    return x * x

def squares(_):
    with multiprocessing.get_context().Pool(2) as pool:
        return pool.map(square, range(3))

for name in sys.argv[1:]:
    scheduler = Scheduler.from_name(name)
    print(*scheduler.task(squares, plugins=Limits(walltime="30 s")).map([0]))
"""


if sys.version_info < (3, 14):  # from then on, multiprocessing itself needs a guard

    def test_pools_of_a_program_without_a_main_guard_start_as_they_do_outside_of_calls(tmp_path: Path) -> None:
        (tmp_path / "program.py").write_text(UNGUARDED)
        done = run_python("-W", "ignore", "program.py", "processes", "sequential", folder=tmp_path, limit_s=90)
        assert done.stdout.splitlines() == ["[0, 1, 4]", "[0, 1, 4]"], done.stderr[-2000:]


def ours(name: str, limited: bool) -> list[int]:
    plugins = [Limits(walltime="100 s")] if limited else []
    return list(Scheduler.from_name(name, max_workers=1).task(double, plugins=plugins).map(range(3)))


@pytest.mark.parametrize("executor", ["processes", "threads", "loky"])
def test_a_worker_of_multiprocessing_may_use_our_executors(executor: str) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # its workers are daemonic
        for limited in (False, True):
            assert pool.apply_async(ours, (executor, limited)).get(60) == [0, 2, 4]
