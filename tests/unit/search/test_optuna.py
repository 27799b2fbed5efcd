"""Searches by the real Optuna."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Scheduler
from amlsched.search import Choice, Float, Int, Search

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

from amlsched.search.optuna import OptunaSearcher  # noqa: E402

if TYPE_CHECKING:
    from amlsched.search import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {
    "x": Float(-10, 10),
    "n": Int(1, 64, log=True),
    "kind": ["a", "b"],
    "extra": Choice([1, 2], when={"kind": "b"}),
}


def value(trial: Trial) -> float:
    return float((trial["x"] - 3) ** 2 + abs(trial["n"] - 4) + trial.params.get("extra", 0))


def curve(trial: Trial) -> float:
    """Reports on the way, and takes a time that differs from trial to trial."""
    final = value(trial)
    for step in range(6):
        time.sleep(0.001 * ((trial.number + step) % 3))
        if trial.report(step, final + 10 / (step + 1)):
            break
    return final


def raise_for_b(trial: Trial) -> float:
    if trial["kind"] == "b":
        raise ValueError("no b")
    return value(trial)


def study_of(**options: Any) -> Any:
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1), **options)


def told(study: Any) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state.name, trial.params, trial.value) for trial in study.trials]


@pytest.mark.parametrize("name", ["sequential", "threads", "processes"])
def test_values_go_into_the_study_with_the_parameters(name: str) -> None:
    study = study_of()
    options = {} if name == "sequential" else {"max_workers": 2}
    search = Search(OptunaSearcher(study, SPACE), value, scheduler=Scheduler.from_name(name, **options), n_trials=25)
    search.run()
    assert len(study.trials) == 25
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert study.best_value == search.best.value
    assert study.best_params == search.best.trial.params
    assert all(("extra" in trial.params) == (trial.params["kind"] == "b") for trial in study.trials)


def test_distributions_of_optuna_are_a_space_too() -> None:
    study = study_of(direction="maximize")
    space = {"x": optuna.distributions.FloatDistribution(0, 1), "n": optuna.distributions.IntDistribution(2, 8, step=2)}
    search = Search(
        OptunaSearcher(study, space), lambda trial: trial["x"], scheduler=Scheduler.with_sequential(), n_trials=10
    )
    search.run()
    assert search.mode == "max"
    assert search.best.value == study.best_value == max(trial.params["x"] for trial in study.trials)
    assert {trial.params["n"] for trial in study.trials} <= {2, 4, 6, 8}


def test_a_failed_trial_is_fail_in_the_study_with_its_reason() -> None:
    study = study_of()
    search = Search(
        OptunaSearcher(study, SPACE), raise_for_b, scheduler=Scheduler.with_threads(2), n_trials=20, keep_going=True
    )
    search.run()
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert {trial.params["kind"] for trial in failed} == {"b"}
    assert {trial.user_attrs["failure"] for trial in failed} == {"crashed: ValueError: no b"}
    assert not [trial for trial in study.trials if trial.state.name == "RUNNING"]


@pytest.mark.parametrize(
    "pruner", [lambda: optuna.pruners.MedianPruner(n_startup_trials=3), optuna.pruners.SuccessiveHalvingPruner]
)
def test_in_the_order_of_submission_sampler_and_pruner_decide_the_same_on_any_number_of_workers(pruner: Any) -> None:
    def run(scheduler: Scheduler) -> list[tuple[Any, ...]]:
        study = study_of(pruner=pruner())  # it keeps a state
        search = Search(
            OptunaSearcher(study, SPACE), curve, scheduler=scheduler, n_trials=30, order="submission", in_flight=2
        )
        search.run()
        return told(study)

    one = run(Scheduler.with_threads(1))
    assert {state for _, state, *_ in one} == {"COMPLETE", "PRUNED"}
    assert run(Scheduler.with_processes(2)) == one


def test_a_study_without_a_pruner_needs_no_channel() -> None:
    study = study_of(pruner=optuna.pruners.NopPruner())
    search = Search(OptunaSearcher(study, SPACE), curve, scheduler=Scheduler.with_threads(2), n_trials=5)
    assert search.task.plugins == []
    search.run()
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def test_several_objectives_are_told_together() -> None:
    study = study_of(directions=["minimize", "maximize"])
    search = Search(
        OptunaSearcher(study, {"x": Float(0, 1)}),
        lambda trial: (trial["x"], trial["x"] ** 2),
        scheduler=Scheduler.with_sequential(),
        n_trials=5,
    )
    search.run()
    assert [trial.values for trial in study.trials] == [
        [trial.params["x"], trial.params["x"] ** 2] for trial in study.trials
    ]


def test_a_space_that_optuna_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Optuna cannot take the value \[1, 2\] of 'layers'"):
        OptunaSearcher(study_of(), {"layers": Choice([[1, 2], [3]])})
    with pytest.raises(TypeError, match=r"must be a study of Optuna"):
        OptunaSearcher("sqlite:///x.db", SPACE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"is an object of optuna: use amlsched\.search\.optuna"):
        Search(study_of(), value, scheduler=Scheduler.with_sequential())
