"""Spaces, and the searchers that need nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest

from amlsched.search import Choice, Float, Int, grid, random
from amlsched.search.space import domains_of


def params_of(searcher: Any, n: int) -> list[dict[str, Any]]:
    return [dict(trial.params) for trial in searcher.ask(n)]


def test_random_values_lie_in_their_ranges_and_reach_both_ends() -> None:
    space = {"x": Float(1e-4, 1, log=True), "n": Int(1, 3), "m": Int(1, 100, log=True), "c": ["a", "b"], "fixed": 7}
    found = params_of(random(space, seed=1), 2000)
    assert all(1e-4 <= one["x"] <= 1 for one in found)
    assert {one["n"] for one in found} == {1, 2, 3}
    assert {one["c"] for one in found} == {"a", "b"}
    assert {one["fixed"] for one in found} == {7}
    assert min(one["m"] for one in found) == 1
    assert max(one["m"] for one in found) > 90


def test_a_logarithmic_range_has_as_many_values_in_each_decade() -> None:
    found = [one["x"] for one in params_of(random({"x": Float(1e-4, 1, log=True)}, seed=1), 4000)]
    decades = [sum(10.0**low <= value < 10.0 ** (low + 1) for value in found) for low in range(-4, 0)]
    assert all(850 < count < 1150 for count in decades)


def test_the_ends_of_a_range_are_its_own_values() -> None:
    assert [Float(0.1, 0.7).at(share) for share in (0, 1)] == [0.1, 0.7]
    assert Float(3e-5, 1, log=True).at(1.0) == 1
    assert math.isclose(Float(3e-5, 1, log=True).at(0.0), 3e-5, rel_tol=1e-12)
    assert [Int(2, 5).at(share) for share in (0, 0.999, 1)] == [2, 5, 5]
    assert [Int(1, 8, log=True).at(share) for share in (0, 1)] == [1, 8]


def test_the_same_seed_gives_the_same_trials_however_many_are_asked_for_at_once() -> None:
    space = {"x": Float(0, 1), "n": Int(1, 9)}
    one_by_one = random(space, seed=3)
    assert params_of(random(space, seed=3), 20) == [params_of(one_by_one, 1)[0] for _ in range(20)]
    assert params_of(random(space, seed=3), 20) != params_of(random(space, seed=4), 20)


def test_a_parameter_with_a_condition_is_there_only_if_it_holds() -> None:
    space = {
        "optimizer": ["sgd", "adam", "none"],
        "momentum": Float(0, 1, when={"optimizer": "sgd"}),
        "lr": Float(0, 1, when={"optimizer": ["sgd", "adam"]}),
    }
    for one in params_of(random(space), 200):
        assert ("momentum" in one) == (one["optimizer"] == "sgd")
        assert ("lr" in one) == (one["optimizer"] != "none")


def test_a_condition_does_not_shift_the_values_of_other_parameters() -> None:
    plain = {"a": ["x", "y"], "b": Float(0, 1), "c": Float(0, 1)}
    conditional = plain | {"b": Float(0, 1, when={"a": "x"})}
    assert [one["c"] for one in params_of(random(plain), 50)] == [
        one["c"] for one in params_of(random(conditional), 50)
    ]


def test_a_grid_has_each_combination_once_and_then_ends() -> None:
    searcher = grid({"n": Int(1, 2), "c": ["a", "b"], "d": Choice([None, 0], when={"c": "b"})})
    found = params_of(searcher, 4) + params_of(searcher, 10)
    assert found == [
        {"n": 1, "c": "a"},
        {"n": 1, "c": "b", "d": None},
        {"n": 1, "c": "b", "d": 0},
        {"n": 2, "c": "a"},
        {"n": 2, "c": "b", "d": None},
        {"n": 2, "c": "b", "d": 0},
    ]
    assert params_of(searcher, 1) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(2, 1), "low must be below high"),
        (lambda: Float(0, 1, log=True), "log=True needs low above 0"),
        (lambda: Float(0, math.inf), "high=inf must be a finite number"),
        (lambda: Float("0", 1), "low='0' must be a finite number"),  # type: ignore[arg-type]
        (lambda: Int(0, 1.5), "high=1.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: Int(True, 3), "low=True must be a whole number"),
        (lambda: Choice([]), "must be a list of at least one value"),
        (lambda: Choice("ab"), "must be a list of at least one value"),
        (lambda: grid({"x": Float(0, 1)}), "a grid cannot take 'x'.*give a list of its values"),
        (
            lambda: domains_of({"b": Float(0, 1, when={"a": 1}), "a": [1]}),
            "'b' depends on 'a', which does not stand before",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("space", [None, [], {}, "x", {1: Float(0, 1)}])
def test_a_space_is_a_mapping_from_names(space: Any) -> None:
    with pytest.raises(TypeError, match="space"):
        random(space)
