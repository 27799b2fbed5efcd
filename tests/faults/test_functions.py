"""Functions of every shape, of the main module of a program, travel to workers that do not import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import functools, sys
from amlsched import Scheduler

@functools.lru_cache(maxsize=7)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@logged
@functools.cache
def decorated(n):
    return n + 1

@functools.singledispatch
def single(n):
    return 0

@single.register
def _(n: int):
    return n + 1

class Model:
    def __init__(self):
        self.k = 1

    def __call__(self, n):
        return n + self.size

    @functools.lru_cache
    def cached(self, n):
        return n + self.k

    @functools.cached_property
    def size(self):
        return self.k

    @functools.singledispatchmethod
    def single(self, n):
        return n + self.size

    @classmethod
    def of_class(cls, n):
        return cls().cached(n)

class Slotted:
    __slots__ = ("k",)

    def __call__(self, n):
        return n + self.k

def closure():
    @functools.lru_cache
    def inner(n):
        return n + 1
    return inner

if __name__ == "__main__":
    slotted = Slotted()
    slotted.k = 1
    functions = {
        "fib": fib, "decorated": decorated, "single": single, "object": Model(), "bound": Model().cached,
        "dispatched": Model().single, "of class": Model.of_class, "slots": slotted, "closure": closure(),
        "partial": functools.partial(fib), "cache in partial": functools.partial(Model().cached),
        "lambda": lambda n: n + 1,
    }
    wanted = {name: 13 if name in ("fib", "partial") else 8 for name in functions}
    scheduler = Scheduler.from_name(sys.argv[1], max_workers=1)
    got = {}

    @scheduler.on_start
    def start():
        for name, function in functions.items():
            scheduler.submit(function, 7).context = name

    scheduler.on_future_result(lambda future, result: got.update({future.context: result}))
    scheduler.on_future_exception(lambda future, error: got.update({future.context: error}))
    scheduler.run(on_exception="continue")
    print({name: got[name] for name in functions if got[name] != wanted[name]})
    parameters = fib.cache_parameters()
    scheduler = Scheduler.from_name(sys.argv[1], max_workers=1)
    scheduler.on_start(lambda: scheduler.submit(lambda: fib.cache_parameters() == parameters))
    scheduler.on_future_result(lambda future, result: print(result))
    scheduler.run()
"""


@pytest.mark.parametrize("executor", ["processes", "loky"])
def test_functions_of_the_main_module_travel(tmp_path: Path, executor: str) -> None:
    if executor == "loky":
        pytest.importorskip("loky")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run_python("program.py", executor, folder=tmp_path, limit_s=100)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["{}", "True"]), done.stdout + done.stderr
