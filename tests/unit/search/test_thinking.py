"""How much a searcher is asked for at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amlsched.search._thinking import AskSize

if TYPE_CHECKING:
    from collections.abc import Callable


def sizes(seconds: Callable[[int], float], n_requests: int = 40, wanted: int = 64) -> list[int]:
    asked = AskSize()
    found: list[int] = []
    for _ in range(n_requests):
        n = asked.at_once(wanted)
        found.append(n)
        asked.learn(n, seconds(n))
    return found


def test_the_first_request_is_for_one_trial() -> None:
    assert AskSize().at_once(64) == 1


def test_of_a_searcher_that_takes_the_same_time_for_any_number_all_are_asked_for() -> None:
    found = sizes(lambda _n: 1.0)
    assert found[-20:] == [64] * 20
    assert found.index(64) < 8


def test_of_a_searcher_that_needs_its_time_for_each_trial_few_are_asked_for() -> None:
    found = sizes(lambda n: 0.2 * n)
    assert max(found[10:]) <= 2


@pytest.mark.parametrize("fixed", [0.1, 1.0])
def test_with_a_fixed_part_and_one_for_each_trial_both_parts_take_about_as_long(fixed: float) -> None:
    found = sizes(lambda n: fixed + 0.05 * n)
    assert found[-1] == pytest.approx(fixed / 0.05, abs=1)


def test_a_quick_searcher_is_asked_for_all() -> None:
    assert sizes(lambda n: 1e-5 * n)[-1] == 64


def test_no_more_than_wanted_is_asked_for() -> None:
    assert sizes(lambda _n: 1.0, wanted=3)[-1] == 3
    assert AskSize().at_once(0) == 0
