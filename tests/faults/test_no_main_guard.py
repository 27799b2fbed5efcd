"""Programs without a main guard: no worker runs them, and their functions and classes travel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.processes import METHODS, run_python

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="ProcessPool is for Linux"),
]

POOL = """
import multiprocessing, os, sys
from amlsched.executors.processes import ProcessPool

class Point:
    def __init__(self, x): self.x = x

def add(a, b): return Point(a.x + b.x + found)

def begin(point): multiprocessing.begun = point.x

def began(): return multiprocessing.begun

print("imported", flush=True)
found = 3
context = None if sys.argv[1] == "default" else multiprocessing.get_context(sys.argv[1])
with ProcessPool(2, context, begin, (Point(5),)) as pool:
    sums = [pool.submit(add, Point(1), Point(n)).result() for n in range(2)]
    print([(type(each) is Point, each.x) for each in sums], pool.submit(began).result())
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["a file", "a module", "standard input", "the command line"])
def test_a_pool_works_and_no_worker_runs_the_program(method: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    script = tmp_path / "pkg" / "unguarded.py"
    script.write_text(POOL)
    arguments = {
        "a file": [str(script)],
        "a module": ["-m", "pkg.unguarded"],
        "standard input": ["-"],
        "the command line": ["-c", POOL],
    }
    done = run_python(*arguments[how], method, folder=tmp_path, given=POOL, limit_s=100)
    assert done.stdout == "imported\n[(True, 4), (True, 5)] 5\n", done.stderr
    assert done.returncode == 0


SCHEDULER = """
import sys
from amlsched import Scheduler
from amlsched.plugins import Comm, Limits

class Point:
    def __init__(self, x): self.x = x

def add(point): return Point(point.x + base)

def say(point, *, comm):
    comm.send(point.x)
    return point

print("imported", flush=True)
base = 10
name = sys.argv[1]
with Scheduler.from_name(name, **{"n_workers" if name == "dask" else "max_workers": 1}) as scheduler:
    for options in ({}, {"plugins": Limits(walltime="10 min")}, {"batch_size": 2}):
        print([(type(point) is Point, point.x) for point in scheduler.task(add, **options).map([Point(1), Point(2)])])
    print(*(type(point) is Point for point in scheduler.task(say, plugins=Comm.Plugin()).map([Point(1)])))
"""


@pytest.mark.parametrize("executor", ["processes", "threads", "loky", pytest.param("dask", marks=pytest.mark.slow)])
def test_so_do_calls_of_a_scheduler(executor: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SCHEDULER)
    done = run_python("program.py", executor, folder=tmp_path, limit_s=100)
    assert done.stdout == "imported\n" + 3 * "[(True, 11), (True, 12)]\n" + "True\n", done.stderr
    assert done.returncode == 0
