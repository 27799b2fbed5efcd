"""One repetition on each executor: its random numbers, what it returns, what it leaves to the next one."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys

import pytest

from tests.backends import THOROUGH
from tests.experiments.conftest import Project

EXECUTORS = [
    name
    for name, package in (
        ("sequential", "sys"),
        ("threads", "sys"),
        ("processes", "sys"),
        ("loky", "loky"),
        ("dask", "distributed"),
        ("ray", "ray"),
    )
    if importlib.util.find_spec(package)
]
QUICK = [name for name in EXECUTORS if THOROUGH or name not in ("dask", "ray")]
"""Where a run takes a second. The others call the same function of ours for a repetition."""
OWN_PROCESS = [name for name in EXECUTORS if name != "threads"]

CODE = """
import asyncio, contextlib, dataclasses, multiprocessing, os, random, threading, time, warnings
import numpy as np
from amlsched.experiments import Experiment, ExperimentSurrender, IterativeExperiment


def draws(params, rep, log):
    log(a=random.random(), b=float(np.random.rand()))


async def coroutine(params, rep, log):
    asyncio.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    return {"loss": 1.5}


class Awaits(IterativeExperiment):
    async def initialize(self, config, rep, logger):
        self.loop = asyncio.get_running_loop()

    async def iterate(self, config, rep, n):
        await asyncio.sleep(0)
        assert self.loop is asyncio.get_running_loop()
        return {"loss": n + 0.5}

    async def save_state(self, config, rep, n):
        self.saved = n

    async def finalize(self, surrender=None, crash=False):
        assert self.saved == 1 and not crash


class Returns(Experiment):
    def run(self, config, rep, logger):
        return {"loss": 1.5}


class Surrenders(Experiment):
    async def run(self, config, rep, logger):
        raise ExperimentSurrender(1.5)

    def finalize(self, surrender=None, crash=False):
        assert surrender.payload == 1.5


def number(params, rep, log):
    return np.float64(1.5)


def leaks(params, rep, log):
    log(folder=os.getcwd(), variable=os.environ.get("LEAKED", ""), filters=len(warnings.filters))
    os.makedirs("deeper", exist_ok=True)
    os.chdir("deeper")
    os.environ["LEAKED"] = "1"
    warnings.simplefilter("error")
    if rep == 0:
        raise ValueError


def yields(params, rep, log):
    yield 1


class Yields(IterativeExperiment):
    async def iterate(self, config, rep, n):
        yield {"loss": n}


def text(params, rep, log):
    return "done"


def forgets(params, rep, log):
    return coroutine(params, rep, log)


class Forgets(IterativeExperiment):
    def iterate(self, config, rep, n):
        pass


def removes(params, rep, log):
    import shutil
    shutil.rmtree(log.folder)


def forks(params, rep, log):
    child = os.fork()
    if params.get("logs") or child:
        log(loss=1.5)


class Forks(IterativeExperiment):
    def __init__(self):
        os.fork()

    async def iterate(self, config, rep, n):
        os.fork()
        return {"loss": n + 0.5}


class NoException(BaseException):
    pass


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    reason: str


def aborts(params, rep, log):
    log(loss=1.5)
    if params["kind"] != "not at all":
        kind = {"exit": SystemExit, "cancel": asyncio.CancelledError, "own": NoException, "frozen": Frozen}
        raise kind.get(params["kind"], KeyboardInterrupt)("the reason")


async def aborts_later(params, rep, log):
    await asyncio.sleep(0)
    aborts(params, rep, log)


def for_ever():
    while True:
        time.sleep(1)


def stays(params, rep, log):
    threading.Thread(target=for_ever, name="the one that stays").start()
    multiprocessing.get_context("fork").Process(target=for_ever).start()


def replaces(params, rep, log):
    removes(params, rep, log)
    log.folder.write_text("")
"""


@pytest.fixture
def ways(project: Project) -> Project:
    (project.folder / "ways.py").write_text(CODE)
    project.config("name: w\npath: results\nrepetitions: 3\niterations: 2\n")
    return project


def rows(project: Project, name: str = "w") -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for file in sorted((project.folder / "results" / name).glob("log/rep_*/rep_*.csv")):
        found += csv.DictReader(file.read_text().splitlines())
    return found


def run(project: Project, name: str, executor: str, *words: str, code: int = 0) -> str:
    workers = () if executor == "sequential" else ("--max-workers", "1")
    done = project.call("run", f"ways.py:{name}", "config.yml", "--executor", executor, *workers, *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_global_random_numbers_are_equal_over_executors(ways: Project) -> None:
    numbers: dict[str, list[tuple[str, str]]] = {}
    for executor in OWN_PROCESS:
        run(ways, "draws", executor, "--results", "results", "-o")
        numbers[executor] = [(row["a"], row["b"]) for row in rows(ways)]
    first = numbers["sequential"]
    assert len({number for pair in first for number in pair}) == 6
    assert all(one == first for one in numbers.values()), numbers


def test_seeding_can_be_switched_off(ways: Project) -> None:
    ways.config("name: w\npath: results\nrepetitions: 3\nseed_globals: false\n")
    run(ways, "draws", "sequential")
    first = rows(ways)
    run(ways, "draws", "sequential", "-o")
    assert not {row["a"] for row in first} & {row["a"] for row in rows(ways)}


def test_threads_say_that_they_share_the_generators(ways: Project) -> None:
    assert "not seeded; use log.seed" in run(ways, "draws", "threads")
    assert "not seeded" not in run(ways, "number", "threads", "-o")


LOGGED = {
    "coroutine": ("loss", ["1.5"] * 3),
    "Awaits": ("loss", ["0.5", "1.5"] * 3),
    "Returns": ("loss", ["1.5"] * 3),
    "Surrenders": ("value", ["1.5"] * 3),
    "number": ("value", ["1.5"] * 3),
}


@pytest.mark.parametrize(
    ("name", "column", "values", "executor"),
    [
        (name, *logged, executor)
        for name, logged in LOGGED.items()
        for executor in QUICK  # those left out run the same code as processes do
        if executor == "processes" or name == "Awaits"
    ],
)
def test_what_is_awaited_or_returned_is_logged(
    ways: Project, executor: str, name: str, column: str, values: list[str]
) -> None:
    run(ways, name, executor)
    assert [row[column] for row in rows(ways)] == values


@pytest.mark.parametrize(
    ("name", "values", "executor"),
    [
        (name, values, executor)
        for name, values in (("forks", ["1.5"] * 3), ("Forks", ["0.5", "1.5"] * 3))
        for executor in QUICK
        if name == "forks" or executor in ("sequential", "threads", "processes")
    ],
)
def test_a_child_that_a_repetition_forks_ends_where_it_returns(
    ways: Project, executor: str, name: str, values: list[str]
) -> None:
    run(ways, name, executor)
    assert [row["loss"] for row in rows(ways)] == values
    assert ways.states() == ["completed"] * 3
    assert [len(record["attempts"]) for record in ways.records().values()] == [1] * 3


def test_a_child_that_a_repetition_forks_does_not_log(ways: Project) -> None:
    run(ways, "forks", "processes", "--set", "params.logs=true", "--set", "repetitions=1")
    assert [row["loss"] for row in rows(ways)] == ["1.5"]


@pytest.mark.parametrize(
    ("name", "executor"),
    [*(("aborts", name) for name in EXECUTORS if name in QUICK or name == "ray"), ("aborts_later", "sequential")],
)
def test_what_is_no_exception_fails_its_repetition_alone(ways: Project, executor: str, name: str) -> None:
    kinds = "exit, ctrl-c, cancel, own, frozen, not at all"
    ways.config(f"name: w\npath: results\nparams: {{kind: }}\nlist: {{kind: [{kinds}]}}\n")
    said = run(ways, name, executor, code=1)
    wanted = ["SystemExit", "KeyboardInterrupt", "CancelledError", "NoException", "Frozen"]
    if executor == "ray":  # it interrupts calls that it is to cancel, so that this is no doing of theirs
        wanted.remove("KeyboardInterrupt")
    assert f"1 completed, {len(wanted)} failed" in said
    for raised in wanted:
        assert re.search(f"rep 0: {raised}: .*the reason", said)


def test_what_repetitions_leave_behind_does_not_hold_up_the_command(ways: Project) -> None:
    said = run(ways, "stays", "sequential")
    assert "threads that are still running: the one that stays" in said
    assert ways.states() == ["completed"] * 3


GOES_ON = """
import threading
from amlsched import cli

cli._EXIT_GRACE_S = cli._SIGNAL_GRACE_S = 0
leave = threading.Event()
thread = threading.Thread(target=leave.wait)
thread.start()
for code in (1, 130):
    cli.exit_despite_threads(code)
thread.join(1)  # where it was ended before
leave.set()
thread.join()
print("goes on")
"""


def test_a_program_with_threads_that_catches_the_end_of_a_command_goes_on() -> None:
    """As a notebook does, and pytest."""
    done = subprocess.run([sys.executable, "-c", GOES_ON], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@pytest.mark.parametrize("executor", [name for name in OWN_PROCESS if name in QUICK])
def test_what_a_repetition_changes_does_not_reach_the_next(ways: Project, executor: str) -> None:
    run(ways, "leaks", executor, code=1)
    found = rows(ways)
    assert [row["variable"] for row in found] == ["", "", ""]
    assert len({row["folder"] for row in found}) == len({row["filters"] for row in found}) == 1
    assert ways.states() == ["failed", "completed", "completed"]


@pytest.mark.parametrize(
    ("name", "told"),
    [("yields", "is a generator function"), ("Yields", "iterate is a generator function")],
)
def test_generator_functions_are_bad_input(ways: Project, name: str, told: str) -> None:
    assert told in run(ways, name, "processes", code=2)
    assert not ways.records()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "text",
            "text returned a str, but must return a row: a mapping such as {'loss': 0.5}, or a number, or nothing",
        ),
        ("forgets", "forgets: returned a coroutine, which did not run"),
        ("Forgets", "iterate of Forgets returned None, but must return a row: a mapping"),
    ],
)
def test_a_result_that_is_no_row_fails_with_its_name_and_type(ways: Project, name: str, told: str) -> None:
    assert told in " ".join(run(ways, name, "processes", "--set", "repetitions=1", code=1).split())


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
@pytest.mark.parametrize("name", ["removes", "replaces"])
def test_a_repetition_that_removes_its_folder_failed(ways: Project, executor: str, name: str) -> None:
    out = run(ways, name, executor, code=1)
    assert "3 failed" in out
    assert "pending" not in out


@pytest.mark.parametrize("python", [(), ("-m",)])
def test_a_script_or_module_that_runs_its_own_experiment(ways: Project, python: tuple[str, ...]) -> None:
    package = ways.folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "values.py").write_text("VALUE = 1.5\n")
    first = "from .values import VALUE" if python else "from values import VALUE"
    (package / "train.py").write_text(
        f"{first}\nfrom amlsched.experiments import ExperimentRun\n\n\n"
        "def f(params, rep, log):\n    return VALUE\n\n\n"
        'if __name__ == "__main__":\n    import sys\n'
        '    print(ExperimentRun(f, "config.yml", executor=sys.argv[1]).run().complete)\n'
    )
    for executor in [name for name in EXECUTORS if name != "ray"] if THOROUGH or not python else ["processes", "loky"]:
        where = ("package.train",) if python else ("package/train.py",)
        words = [sys.executable, *python, *where, executor]
        done = subprocess.run(words, cwd=ways.folder, capture_output=True, text=True, timeout=60, check=False)
        assert "True" in done.stdout, f"{executor}: {done.stdout}{done.stderr}"
        assert [row["value"] for row in rows(ways)] == ["1.5"] * 3
        shutil.rmtree(ways.folder / "results")
