"""Searches by the real SMAC3."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from amlsched import Scheduler
from amlsched.search import Search

pytest.importorskip("smac", reason="SMAC3 is not installed")

from ConfigSpace import ConfigurationSpace
from ConfigSpace import Float as FloatParameter
from smac import HyperbandFacade, HyperparameterOptimizationFacade, RandomFacade, Scenario

from amlsched.search.smac import SmacSearcher, smac_runner

if TYPE_CHECKING:
    from pathlib import Path

    from amlsched.search import Trial

# Of SMAC and what it imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def scenario(folder: Path, **options: Any) -> Scenario:
    space = ConfigurationSpace(seed=0)
    space.add(FloatParameter("x", (-5, 5)), FloatParameter("y", (-5, 5)))
    options = {"n_trials": 9, "deterministic": True, "seed": 3, "crash_cost": 100.0} | options
    return Scenario(space, output_directory=folder, **options)


def facade(given: Scenario, function: Any, kind: Any = RandomFacade) -> Any:
    return kind(given, function, overwrite=True, logging_level=False)


def parabola(config: Any, seed: int = 0) -> float:
    time.sleep(0.001 * (int(config["x"] * 1000) % 5))  # differs from trial to trial
    return float((config["x"] - 1) ** 2 + config["y"] ** 2)


def greedy(config: Any, seed: int = 0) -> float:
    if config["x"] > 3:
        held = bytearray(1_500_000_000)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(60)
    if config["x"] < -3:
        raise ValueError("x is too small")
    return float(config["x"] ** 2)


def with_budget(config: Any, seed: int = 0, budget: float = 0) -> tuple[float, dict[str, Any]]:
    return float(config["x"] ** 2 + 1 / budget), {"budget": budget}


def two(config: Any, seed: int = 0) -> dict[str, float]:
    return {"second": float(config["y"]), "first": float(config["x"])}


def of_trial(trial: Trial) -> float:
    return float((trial["x"] - 1) ** 2 + trial["y"] ** 2)


def history(of: Any) -> list[tuple[Any, ...]]:
    runs = of.runhistory
    return [(dict(runs.get_config(key.config_id)), key.budget, one.cost, one.status.name) for key, one in runs.items()]


@pytest.mark.parametrize("name", ["sequential", "processes"])
def test_a_program_of_smac_runs_on_an_executor_by_one_line(name: str, tmp_path: Path) -> None:
    given = scenario(tmp_path)
    scheduler = Scheduler.from_name(name, **({} if name == "sequential" else {"max_workers": 2}))
    with smac_runner(parabola, given, scheduler) as runner:
        smac = facade(given, runner)
        incumbent = smac.optimize()
    assert len(history(smac)) == 9
    assert {state for *_, state in history(smac)} == {"SUCCESS"}
    assert smac.runhistory.get_cost(incumbent) == min(cost for *_, cost, _ in history(smac))


def test_in_the_order_of_submission_smac_decides_the_same_each_time(tmp_path: Path) -> None:
    def run(number: int, scheduler: Scheduler) -> list[tuple[Any, ...]]:
        given = scenario(tmp_path / str(number), n_trials=6)
        with smac_runner(parabola, given, scheduler, order="submission", n_workers=2) as runner:
            smac = facade(given, runner, HyperparameterOptimizationFacade)  # with a model
            smac.optimize()
        return history(smac)

    first = run(1, Scheduler.with_processes(2))
    assert run(2, Scheduler.with_threads(2)) == first


def test_limits_of_the_scenario_hold_and_failures_have_smacs_own_states(tmp_path: Path) -> None:
    given = scenario(tmp_path, trial_memory_limit=900, trial_walltime_limit=50, n_workers=2)
    with smac_runner(greedy, given, Scheduler.with_processes(2)) as runner:
        smac = facade(given, runner)
        smac.optimize()
    states = {config["x"]: state for config, _, _, state in history(smac)}
    assert {state for x, state in states.items() if x > 3} == {"MEMORYOUT"}
    assert {state for x, state in states.items() if x < -3} == {"CRASHED"}
    assert {state for x, state in states.items() if -3 <= x <= 3} == {"SUCCESS"}
    errors = [one.additional_info["error"] for one in smac.runhistory.values() if one.status.name == "CRASHED"]
    assert all("ValueError: x is too small" in error for error in errors)


def test_budgets_and_additional_information_pass_through(tmp_path: Path) -> None:
    given = scenario(tmp_path, min_budget=1, max_budget=9, n_trials=12)
    with smac_runner(with_budget, given, Scheduler.with_threads(2)) as runner:
        smac = facade(given, runner, HyperbandFacade)
        smac.optimize()
    assert len({budget for _, budget, *_ in history(smac)}) > 1
    for key, one in smac.runhistory.items():
        assert one.additional_info == {"budget": key.budget}


def test_objectives_are_told_in_the_order_of_the_scenario(tmp_path: Path) -> None:
    given = scenario(tmp_path, objectives=["first", "second"], n_trials=8, crash_cost=[9.0, 9.0])
    with smac_runner(two, given, Scheduler.with_sequential()) as runner:
        smac = facade(given, runner)
        smac.optimize()
    assert all(cost == [config["x"], config["y"]] for config, _, cost, _ in history(smac))


def test_smac_is_a_searcher_of_a_search(tmp_path: Path) -> None:
    smac = facade(scenario(tmp_path), None, HyperparameterOptimizationFacade)
    search = Search(SmacSearcher(smac), of_trial, scheduler=Scheduler.with_threads(2), n_trials=5)
    search.run()
    assert search.n_done == 5
    assert search.best.value == min(cost for *_, cost, _ in history(smac))
    assert {state for *_, state in history(smac)} == {"SUCCESS"}


def test_a_facade_is_not_taken_for_a_searcher(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"is an object of smac: use amlsched\.search\.smac\.SmacSearcher\(facade\)"):
        Search(facade(scenario(tmp_path), None), of_trial, scheduler=Scheduler.with_sequential())


def test_a_script_as_target_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"target_function='run\.sh': must be a function"):
        smac_runner("run.sh", scenario(tmp_path), Scheduler.with_sequential())  # type: ignore[arg-type]
