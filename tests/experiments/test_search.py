"""Callbacks of a run of experiments, and what they submit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments import ExperimentRun, load
from amlsched.experiments._running.repetition import Repetition
from amlsched.experiments._running.summary import Ended
from tests.processes import run_python

HALVING = Path(__file__).parents[2] / "examples/halving/halving.py"
CONFIG = "{name: search, path: results, params: {x: 1, deep: {y: 2}}}"


def squared(params: dict[str, Any], rep: int, log: Any) -> dict[str, Any]:
    if params["x"] == 13:
        raise ValueError("thirteen")
    return {"value": params["x"] ** 2 + params["deep"]["y"]}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)
    return tmp_path


def counting(executor: str, until: int) -> tuple[ExperimentRun, list[tuple[int, bool]]]:
    """A search that asks for the next number until it has enough."""
    run = ExperimentRun(squared, "config.yml", executor=executor)
    told: list[tuple[int, bool]] = []

    @run.on_result
    def go_on(repetition: Repetition, ended: Ended) -> None:
        x = repetition.config["params"]["x"]
        told.append((ended.last["value"], ended.left))
        if x < until:
            run.submit({"x": x + 1})

    return run, told


@pytest.mark.parametrize("executor", ["sequential", "threads"])
def test_a_search_goes_on_where_it_was(project: Path, executor: str) -> None:
    run, told = counting(executor, 3)
    summary = run.run()
    assert (told, summary.ran, summary.complete) == ([(3, False), (6, False), (11, False)], 3, True)
    assert (project / "results/search/search__x2/log/rep_00/record.json").exists()

    run, told = counting(executor, 5)
    summary = run.run()
    assert told == [(3, True), (6, True), (11, True), (18, False), (27, False)]
    assert (summary.ran, summary.total, summary.complete) == (2, 5, True)


def test_nested_parameters_repetitions_and_iterations_can_be_given(project: Path) -> None:
    run = ExperimentRun(squared, "config.yml", executor="sequential")
    names: list[str] = []

    @run.on_result(max_calls=1)
    def more(repetition: Repetition, ended: Ended) -> None:
        names.append(run.submit({"deep": {"y": 5}}, repetitions=[0, 2], iterations=7))

    run.run()
    assert names == ["search__dee.y5_i7"]
    found = sorted(str(path.parent.relative_to(project)) for path in project.glob("results/**/rep_*/record.json"))
    assert found == [
        "results/search/log/rep_00",
        "results/search/search__dee.y5_i7/log/rep_00",
        "results/search/search__dee.y5_i7/log/rep_02",
    ]


def test_who_failed_is_told_with_its_error(project: Path) -> None:
    run = ExperimentRun(squared, "config.yml", executor="sequential")
    errors: list[tuple[str, str]] = []
    run.on_result(lambda *_: run.submit({"x": 13}), max_calls=1)
    run.on_exception(lambda repetition, error: errors.append((str(repetition), str(error))))
    summary = run.run()
    assert errors == [("search__x13 rep 0", "thirteen")]
    assert (summary.total, summary.done) == (2, 1)


def test_a_search_without_initial_runs_begins_in_on_start(project: Path) -> None:
    run = ExperimentRun(squared, "config.yml", executor="threads", initial=False)
    run.on_start(lambda: run.submit({"x": 5}))
    summary = run.run()
    assert (list(summary.tallies), summary.total, summary.complete) == (["search__x5"], 1, True)
    assert str(summary) == "1 repetition: 1 completed; 1 run now"
    assert not (project / "results/search/log").exists()
    assert str(ExperimentRun(squared, "config.yml", initial=False).run()) == "0 repetitions: none has run; 0 run now"


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_failures_are_logged(project: Path, executor: str, caplog: pytest.LogCaptureFixture) -> None:
    (project / "config.yml").write_text(CONFIG.replace("x: 1", "x: 13"))
    ExperimentRun(squared, "config.yml", executor=executor).run()
    run_logger = "amlsched.experiments._running.summary"
    logged = [record.getMessage() for record in caplog.records if record.name == run_logger]
    folder = project / "results/search/log/rep_00"
    assert logged == [f"search rep 0 failed: ValueError: thirteen (see {folder})"]


def test_a_callback_that_raises_ends_the_run_with_that(project: Path) -> None:
    run = ExperimentRun(squared, "config.yml", executor="threads")

    @run.on_result
    def wrong(repetition: Repetition, ended: Ended) -> None:
        run.submit({}, experiment="other")

    with pytest.raises(ExperimentError, match="experiment other: is unknown"):
        run.run()


def test_the_example_finds_a_good_setting_and_goes_on(tmp_path: Path) -> None:
    def call() -> str:
        done = run_python(str(HALVING), folder=tmp_path, limit_s=110)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = call().splitlines()
    assert [line.split(",")[0] for line in first[:4]] == [
        " 2 epochs: 8 settings", " 4 epochs: 4 settings", " 8 epochs: 2 settings", "16 epochs: 1 settings",
    ]  # fmt: skip
    assert "15 repetitions were run" in first[-1]
    assert float(first[-1].split("accuracy ")[1].split()[0]) > 0.9
    again = call().splitlines()
    assert again[:-1] == first[:-1]
    assert "0 repetitions were run" in again[-1]


def test_parameters_of_numpy_are_plain_and_what_no_config_holds_is_an_error(project: Path) -> None:
    np = pytest.importorskip("numpy")
    seen: list[Any] = []
    run = ExperimentRun(squared, "config.yml", executor="sequential", initial=False)

    @run.on_result
    def note(repetition: Any, ended: Any) -> None:
        seen.append(repetition.config["params"]["x"])

    @run.on_start
    def begin() -> None:
        for x in (np.float32(0.5), 0.5, np.int64(2), np.array([1, 2])[0]):
            run.submit({"x": x})
        with pytest.raises(
            ConfigError, match=r"search: params, key x.0: a config cannot hold a value of the type complex: 1j,"
        ):
            run.submit({"x": [1j]})
        with pytest.raises(ConfigError, match="the key 1 is given twice"):
            run.submit({"a": {"1": 0, 1: 0}})
        with pytest.raises(ConfigError, match="half of a surrogate pair"):
            run.submit({"x": "\ud800"})

    run.run()
    assert sorted(map(repr, seen)) == ["0.5", "0.5", "1", "2"]
    assert len(load("results").with_params(x=2)) == 1


@pytest.mark.parametrize("executor", ["sequential", "threads"])
def test_settings_whose_names_are_alike_are_runs_of_their_own(project: Path, executor: str) -> None:
    seen: list[tuple[Any, bool]] = []

    def search(given: list[Any]) -> None:
        run = ExperimentRun(squared, "config.yml", executor=executor, initial=False)

        @run.on_start
        def begin() -> None:
            for value in given:
                run.submit({"x": 2, "note": value})

        @run.on_result
        def note(repetition: Repetition, ended: Ended) -> None:
            seen.append((repetition.config["params"]["note"], ended.left))

        assert run.run().complete

    values = [1, "1", True, "True", [1, 2], "_1_2"]
    search(values)
    assert sorted(map(repr, seen)) == sorted(repr((value, False)) for value in values)
    found = load("results")
    assert [len(found.with_params(note=value)) for value in values] == [1] * len(values)
    seen.clear()
    search(values[::-1])  # in another order they are found again, by their records
    assert sorted(map(repr, seen)) == sorted(repr((value, True)) for value in values)


@pytest.mark.parametrize("executor", ["sequential", "threads"])
def test_what_is_submitted_twice_runs_once_and_is_told_twice(project: Path, executor: str) -> None:
    seen: list[tuple[int, bool]] = []
    run = ExperimentRun(squared, "config.yml", executor=executor, initial=False)

    @run.on_start
    def begin() -> None:
        for x in (2, 3, 2, 2, 13, 13):
            run.submit({"x": x})

    @run.on_result
    def note(repetition: Repetition, ended: Ended) -> None:
        seen.append((ended.last["value"], ended.left))

    summary = run.run()
    assert sorted(seen) == [(6, False), (6, True), (6, True), (11, False)]
    assert (summary.total, summary.ran, summary.done, len(summary.failed)) == (6, 3, 4, 2)
