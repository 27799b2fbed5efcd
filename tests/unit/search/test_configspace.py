"""Searches over spaces of the real ConfigSpace."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ConfigSpace", reason="ConfigSpace is not installed")

from ConfigSpace import (
    Categorical,
    ConfigurationSpace,
    EqualsCondition,
    Float,
    ForbiddenAndConjunction,
    ForbiddenEqualsClause,
    Integer,
)

from amlsched.search.configspace import ConfigSpaceSearcher


def space() -> ConfigurationSpace:
    made = ConfigurationSpace()
    kind, lr = Categorical("kind", ["a", "b"]), Float("lr", (1e-4, 1), log=True)
    layers, extra = Integer("layers", (1, 4)), Integer("extra", (0, 9))
    made.add(kind, lr, layers, extra)
    made.add(EqualsCondition(extra, kind, "b"))
    made.add(ForbiddenAndConjunction(ForbiddenEqualsClause(kind, "a"), ForbiddenEqualsClause(layers, 4)))
    return made


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_conditions_and_forbidden_clauses_hold_and_values_are_plain(sampler: Any) -> None:
    trials = ConfigSpaceSearcher(space(), sampler, seed=1).ask(200)
    for trial in trials:
        assert ("extra" in trial.params) == (trial["kind"] == "b")
        assert (trial["kind"], trial["layers"]) != ("a", 4)
        assert [type(trial[name]) for name in ("kind", "lr", "layers")] == [str, float, int]
    assert {trial["layers"] for trial in trials} == {1, 2, 3, 4}
    assert sum(trial["lr"] < 1e-2 for trial in trials) == pytest.approx(100, abs=25)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_the_same_seed_gives_the_same_configurations_and_leaves_the_space_alone(sampler: Any) -> None:
    shared = space()
    first = [trial.params for trial in ConfigSpaceSearcher(shared, sampler, seed=1).ask(10)]
    assert [trial.params for trial in ConfigSpaceSearcher(shared, sampler, seed=1).ask(10)] == first
    assert [trial.params for trial in ConfigSpaceSearcher(shared, sampler, seed=2).ask(10)] != first


def test_a_sobol_sequence_covers_a_range_evenly() -> None:
    line = ConfigurationSpace()
    line.add(Float("x", (0, 1)))
    found = [int(trial["x"] * 16) for trial in ConfigSpaceSearcher(line, "sobol", seed=1).ask(16)]
    assert sorted(found) == list(range(16))


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="sampler='halton': must be 'random' or 'sobol'"):
        ConfigSpaceSearcher(space(), "halton")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a ConfigurationSpace"):
        ConfigSpaceSearcher({"x": (0, 1)})  # type: ignore[arg-type]
