"""What ends a session before its repetitions."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ExperimentError
from amlsched.experiments import ExperimentRun
from amlsched.experiments._storage import record_file
from amlsched.task import Task

CONFIG = {"name": "e", "path": "out", "repetitions": 3}


def nothing(params: dict[str, Any], rep: int, log: Any) -> int:
    return rep


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentRun:
    monkeypatch.chdir(tmp_path)
    return ExperimentRun(nothing, CONFIG, executor="sequential")


def states() -> list[str]:
    return [record_file.read(Path(f"out/e/log/rep_{rep:02d}")).state.value for rep in range(3)]


@pytest.mark.parametrize(("message", "shown"), [((), ""), (("the pool\nis gone",), ": the pool")])
def test_an_executor_that_breaks_ends_the_run_with_that(
    run: ExperimentRun, monkeypatch: pytest.MonkeyPatch, message: tuple[str, ...], shown: str
) -> None:
    def breaks(*_: object) -> None:
        raise BrokenExecutor(*message)

    monkeypatch.setattr(Task, "submit", breaks)
    with pytest.raises(ExperimentError) as caught:
        run.run()
    assert caught.value.problem == f"broke: BrokenExecutor{shown}"
    assert states() == ["pending"] * 3
    assert run.running == {}


def test_what_the_library_of_an_executor_raises_is_one_error(
    run: ExperimentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise KeyError("no network\ninterface")

    monkeypatch.setattr(Task, "submit", breaks)
    with pytest.raises(ExperimentError, match="executor sequential: could not be started: KeyError: 'no network") as it:
        run.run()
    assert isinstance(it.value.__cause__, KeyError)
    assert states() == ["pending"] * 3


def test_a_callback_of_submissions_that_raises_ends_the_run(run: ExperimentRun) -> None:
    @run.on_repetition_submitted
    def raises(repetition: Any) -> None:
        if repetition.index == 1:
            raise LookupError("no")

    with pytest.raises(LookupError):
        run.run()
    assert states()[::2] == ["completed", "pending"]
    assert run.running == {}
    assert run.workers is None


def test_a_run_keeps_what_it_runs_only_while_it_runs(run: ExperimentRun) -> None:
    seen: list[tuple[str, ...]] = []
    run.on_repetition_submitted(lambda _: seen.append(tuple(map(str, run.running.values()))))
    run.on_repetition_done(lambda *_: seen.append(tuple(map(str, run.running.values()))))
    assert run.run().ran == 3
    assert seen == [("e rep 0",), (), ("e rep 1",), (), ("e rep 2",), ()]
