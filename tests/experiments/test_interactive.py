"""Experiments that no worker can import: of `python -c`, of stdin, of code that was executed, of a notebook."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amlsched.experiments import ExperimentRun, Plan
from amlsched.experiments._storage.record import State
from tests.processes import run_python

PROGRAM = """
import sys
from amlsched.experiments import Experiment, ExperimentRun, Plan

FACTOR = 3

def scaled(x):
    return FACTOR * x

def function(params, rep, log):
    log(value=scaled(params["x"] + rep))

class Class(Experiment):
    def run(self, config, rep, log):
        log({"value": scaled(config["params"]["x"] + rep)})

    def initialize(self, config, rep, log): ...

    def finalize(self, surrender=None, crash=False): ...

if __name__ in ("__main__", "<none>"):
    for executor in ("sequential", "threads", "processes", "loky"):
        for experiment in (function, Class):
            plan = Plan("config.yml", results=f"{executor}-{experiment.__name__}")
            run = ExperimentRun(experiment, plan, executor=executor)
            values = []
            run.on_result(lambda repetition, ended: values.append(ended.last["value"]))
            complete = run.run().complete
            print(executor, experiment.__name__, sorted(values), complete)
"""
CONFIG = "{name: base, path: results, repetitions: 2, params: {x: 1}}"
EXPECTED = [
    f"{executor} {name} [3, 6] True"
    for executor in ("sequential", "threads", "processes", "loky")
    for name in ("function", "Class")
]


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        pytest.param(["-c", PROGRAM], "", id="-c"),
        pytest.param(["-"], PROGRAM, id="stdin"),
        pytest.param(["program"], "", id="a script whose name has no suffix"),
        pytest.param(["-c", "exec(open('program').read(), {'__name__': '__main__'})"], "", id="executed in __main__"),
        pytest.param(["-c", "exec(open('program').read(), {'__name__': '<none>'})"], "", id="executed in no module"),
    ],
)
def test_an_experiment_in_no_file_runs_on_every_local_executor(words: list[str], stdin: str, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(CONFIG)
    (tmp_path / "program").write_text(PROGRAM)
    done = run_python(*words, folder=tmp_path, given=stdin, limit_s=120)
    assert (done.stdout.splitlines(), done.returncode) == (EXPECTED, 0), done.stderr


def test_code_that_was_given_no_module_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)
    space: dict[str, Any] = {}
    exec("def function(params, rep, log): log(value=rep)", space)
    assert ExperimentRun(space["function"], Plan("config.yml"), executor="processes").run().complete


def test_a_function_that_another_replaced_in_its_module_is_the_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)
    former = replaced
    monkeypatch.setattr(sys.modules[__name__], "replaced", lambda params, rep, log: None)
    summary = ExperimentRun(former, Plan("config.yml"), executor="processes").run()
    assert summary.tallies["base"].last == {"value": [7, 7]}


def replaced(params: dict[str, Any], rep: int, log: Any) -> dict[str, Any]:
    return {"value": 7}


# A loop that runs


def saves_when_told(params: dict[str, Any], rep: int, log: Any) -> None:
    log.restore()
    log.save({"value": rep})
    deadline = time.monotonic() + 60
    while not log.should_stop():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes", "loky"])
def test_async_run_in_a_loop(executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)

    async def main() -> Any:
        run = ExperimentRun(replaced, "config.yml", executor=executor)
        with pytest.raises(RuntimeError, match=r"await run.async_run\(\)"):
            run.run()
        assert not (tmp_path / "results").exists()
        ticks = asyncio.ensure_future(count())
        summary = await run.async_run()
        assert ticks.cancel()
        assert ticking
        return summary

    ticking: list[int] = []

    async def count() -> None:
        while True:
            ticking.append(1)
            await asyncio.sleep(0)

    assert asyncio.run(main()).tallies["base"].last == {"value": [7, 7]}


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_async_run_that_is_cancelled_lets_repetitions_save(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)

    async def main() -> ExperimentRun:
        run = ExperimentRun(saves_when_told, "config.yml", executor=executor, max_workers=1)
        running = asyncio.ensure_future(run.async_run())
        async with asyncio.timeout(60):
            while not list(tmp_path.rglob("checkpoint/*")):
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return run

    run = asyncio.run(main())
    assert run.summary.states[State.PREEMPTED] + run.summary.states[State.CANCELLED] >= 1
    assert list(tmp_path.rglob("checkpoint/*"))
    assert not run.running
