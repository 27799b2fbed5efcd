"""Plans, and what lies in a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments import ExperimentRun, Plan, iterations, load
from amlsched.experiments._planning.config_changes import config_hash, settings
from amlsched.experiments._running.summary import Summary
from amlsched.experiments._storage.record import Attempt, Process, Record, State, now
from amlsched.experiments._storage.record_file import begin, end
from amlsched.experiments.results import survey

CONFIG = """
name: DEFAULT
path: out
repetitions: 2
---
name: first
params: {lr: 0.5, opt: {name: sgd, betas: [0.9, 0.99]}}
grid: {lr: [0.1, 0.2]}
---
name: second
params: {lr: 1, loss: mse}
"""


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    if params.get("loss") == "mse" and rep == 1:
        raise ValueError("second fails at 1")
    for n in range(3):
        log(loss=params["lr"] * n + rep, note="x")


@pytest.fixture
def folder(folder: Path) -> Path:
    (folder / "config.yml").write_text(CONFIG)
    return folder


def run(*words: Any, **options: Any) -> Summary:
    return ExperimentRun(experiment, Plan("config.yml", *words, **options), executor="sequential").run()


def test_a_run_tells_what_there_is(folder: Path) -> None:
    summary = run()
    assert (summary.total, summary.done, summary.ran, summary.complete) == (6, 5, 6, False)
    assert summary.states == {State.COMPLETED: 5, State.FAILED: 1}
    assert [failed[::2] for failed in summary.failed] == [("second rep 1", "ValueError: second fails at 1")]
    tally = summary.tallies["first__l0.1"]
    assert (tally.done, tally.total, tally.last) == (2, 2, {"loss": [0.2, 1.2]})
    again = run()
    assert (again.ran, again.done, len(again.failed), again.complete) == (0, 5, 1, False)


def test_subscribers_hear_of_every_repetition(folder: Path) -> None:
    heard: list[tuple[str, str]] = []
    one = ExperimentRun(experiment, "config.yml", executor="sequential")
    one.on_repetition_submitted(lambda repetition: heard.append(("submitted", str(repetition))))
    one.on_repetition_done(lambda repetition, ended: heard.append((ended.state.value, str(repetition))))
    one.run()
    assert heard[:2] == [("submitted", "first__l0.1 rep 0"), ("completed", "first__l0.1 rep 0")]
    assert len(heard) == 12
    assert heard[-1] == ("failed", "second rep 1")


# -------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("rerun", "todo"),
    [
        ((), []),
        (("failed",), ["second 1"]),
        (("second",), ["second 0", "second 1"]),
        (("first__l0.2",), ["first__l0.2 0", "first__l0.2 1"]),
        (("completed",), ["first__l0.1 0", "first__l0.1 1", "first__l0.2 0", "first__l0.2 1", "second 0"]),
        (("all",), ["first__l0.1 0", "first__l0.1 1", "first__l0.2 0", "first__l0.2 1", "second 0", "second 1"]),
    ],
)
def test_what_is_asked_for_is_run_again(folder: Path, rerun: tuple[str, ...], todo: list[str]) -> None:
    run()
    assert planned(Plan("config.yml", rerun=rerun)) == todo


def planned(plan: Plan) -> list[str]:
    return [f"{p.run.name} {p.index}" for path, one in plan.runs() for p in plan.repetitions(one, path) if p.todo]


def test_a_name_that_is_not_there_cannot_be_run_again(folder: Path) -> None:
    with pytest.raises(ExperimentError, match="--rerun frist: is neither a state nor a name"):
        Plan("config.yml", rerun=["frist"])


@pytest.mark.parametrize(
    ("state", "alive", "todo"),
    [
        (State.RUNNING, True, False),
        (State.RUNNING, False, True),
        (State.CANCELLED, True, True),
        (State.COMPLETED, True, False),
        (State.FAILED, True, False),
    ],
)
def test_what_is_left_to_run_is_what_the_record_says(folder: Path, state: State, alive: bool, todo: bool) -> None:
    place = folder / "out/second/log/rep_00"
    worker = Process.this()
    claim = begin(place, Record("second", "second"), Attempt("other", worker, worker, "threads", now())).claim
    assert claim is not None
    if not alive:
        claim.release()
    if state is not State.RUNNING:
        end(place, "other", state)
    plan = Plan("config.yml", select=["second"])
    assert ("second 0" in planned(plan)) is todo


def test_a_plan_counts_without_expanding(folder: Path) -> None:
    assert Plan("config.yml").count() == (3, 6)
    assert Plan("config.yml", debug="debug").count() == (2, 2)
    assert Plan("config.yml", debug="debugall").count() == (3, 3)
    grid = "\n".join(f"  {key}{key}: {list(range(10))}" for key in "abcdefgh")
    (folder / "config.yml").write_text(f"name: huge\npath: out\nrepetitions: 3\ngrid:\n{grid}\n")
    assert Plan("config.yml").count() == (10**8, 3 * 10**8)


def test_the_hash_of_a_config_changes_with_what_its_numbers_depend_on(folder: Path) -> None:
    def hashed(text: str) -> str:
        (folder / "config.yml").write_text(text)
        return config_hash(settings(next(run for _, run in Plan("config.yml").runs())))

    base = hashed("{name: a, path: x, iterations: 2, repetitions: 1, params: {a: 1}}")
    assert base == hashed("{name: a, path: y, iterations: 2, repetitions: 9, params: {a: 1}}")
    assert base != hashed("{name: a, path: x, iterations: 3, repetitions: 1, params: {a: 1}}")
    assert base != hashed("{name: a, path: x, iterations: 2, repetitions: 1, params: {a: 2}}")
    assert base != hashed("{name: a, path: x, iterations: 2, repetitions: 1, params: {a: 1}, seed: 4}")
    mixed = hashed("{name: a, path: x, iterations: 2, repetitions: 1, params: {a: 1, 2: b, c: {.inf: 1, d: 2}}}")
    assert mixed == hashed(
        "{name: a, path: x, iterations: 2, repetitions: 1, params: {2: b, c: {d: 2, .inf: 1}, a: 1}}"
    )


def test_a_wrong_config_is_refused_before_anything_is_made(folder: Path) -> None:
    (folder / "config.yml").write_text("{name: a, path: out, repetitons: 2}")
    with pytest.raises(ConfigError, match="repetitions"):
        ExperimentRun(experiment, "config.yml")
    assert not (folder / "out").exists()


# ------------------------------------------------------------------------------------------------------------ results


def test_a_row_a_repetition_with_settings_last_values_and_state(folder: Path) -> None:
    run()
    frame = load("out")
    assert frame.index.names == ["name", "r"]
    assert list(frame.index) == [("first", 0), ("first", 1), ("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    assert list(frame["lr"]) == [0.1, 0.1, 0.2, 0.2, 1.0, 1.0]
    assert list(frame["opt_betas_1"][:4]) == [0.99] * 4
    assert list(frame["state"]) == ["completed"] * 5 + ["failed"]
    first, second = frame.loc["first"], frame.loc["second"]
    assert np.allclose(first["loss_last"], [0.2, 1.2, 0.4, 1.4])
    assert list(second["loss"]) == ["mse", "mse"]
    assert first["loss"].isna().all()
    assert second["loss_last"].iloc[0] == 2.0
    assert frame["seed"].nunique() == 2
    assert (frame["seconds"] >= 0).all()


def test_what_was_never_begun_is_in_the_table_too(folder: Path) -> None:
    run(select=["second"])
    (folder / "config.yml").write_text(CONFIG.replace("repetitions: 2", "repetitions: 3"))
    Plan("config.yml")
    one = ExperimentRun(experiment, Plan("config.yml", select=["second"]), executor="sequential")
    one._write_configs()
    frame = load("out")
    assert list(frame["state"]) == ["completed", "failed", "pending"]
    assert np.isnan(frame["loss_last"].iloc[2])


def test_what_the_config_no_longer_has_is_found_by_its_record(folder: Path) -> None:
    run()
    (folder / "config.yml").write_text(CONFIG.replace("[0.1, 0.2]", "[0.3]"))
    run()
    found = [(one.run, one.rep, one.record.state.value) for one in survey.survey("out") if one.name == "first"]
    assert found[:2] == [("first__l0.3", 0, "completed"), ("first__l0.3", 1, "completed")]
    assert sorted(found[2:]) == [(f"first__l0.{n}", rep, "completed") for n in (1, 2) for rep in (0, 1)]
    assert sorted(set(load("out")["lr"])) == [0.1, 0.2, 0.3, 1.0]


def test_a_folder_of_results_can_be_moved(folder: Path) -> None:
    run()
    before = load("out").drop(columns="folder")
    (folder / "out").rename(folder / "elsewhere")
    after = load("elsewhere")
    assert after.drop(columns="folder").equals(before)
    assert after["folder"].str.startswith(str(folder / "elsewhere")).all()


def test_the_folder_of_one_experiment_can_be_asked_for(folder: Path) -> None:
    run()
    assert set(load("out/first").index.get_level_values("name")) == {"first"}


def test_debug_runs_are_results_of_their_own(folder: Path) -> None:
    run()
    run(debug="debug")
    assert len(load("out")) == 6
    assert len(load("out/_debug")) == 2


def test_all_rows_in_long_form(folder: Path) -> None:
    run()
    rows = iterations("out")
    settings = ["lr", "opt_name", "opt_betas_0", "opt_betas_1", "params_loss"]
    assert list(rows.columns) == ["name", "run", "r", *settings, "loss", "note", "ts", "rep", "iter"]
    assert len(rows) == 5 * 3
    picked = rows[(rows["run"] == "first__l0.2") & (rows["r"] == 1)]
    assert np.allclose(picked["loss"], [1.0, 1.2, 1.4])


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_folder_without_results_is_an_error(folder: Path, place: str) -> None:
    with pytest.raises(ExperimentError, match=f"results folder {place}"):
        load(place)


def test_a_record_that_cannot_be_read_is_in_the_table(folder: Path) -> None:
    run()
    (folder / "out/second/log/rep_00/record.json").write_text("{")
    assert list(load("out")["state"]) == ["completed"] * 4 + ["unknown", "failed"]


def test_without_parameters_there_are_no_columns_for_them(folder: Path) -> None:
    (folder / "config.yml").write_text("{name: one, path: out}")
    ExperimentRun(lambda params, rep, log: log(loss=1), "config.yml", executor="sequential").run()
    assert list(load("out").columns) == ["run", "state", "loss", "iter", "seconds", "seed", "folder"]
