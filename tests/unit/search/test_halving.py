"""Which trials go on, by rungs and brackets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from amlsched import Scheduler
from amlsched.search import Failure, Float, Search, Trial, asha, hyperband, successive_halving
from amlsched.search.halving import HalvingSearcher

X = {"x": Float(0, 1)}


def run(searcher: HalvingSearcher, value: Any = lambda trial: trial["x"]) -> list[Trial]:
    """Run one trial after the other, as a search with one worker does."""
    trials: list[Trial] = []
    while True:
        asked = searcher.ask(1)
        if not asked:
            return trials
        asked[0].number = len(trials)
        trials.append(asked[0])
        searcher.tell([(asked[0], value(asked[0]))])


def test_one_of_three_goes_on_with_three_times_the_budget() -> None:
    trials = run(asha(X, max_iterations=9, n_configs=9))
    assert Counter(trial.budget for trial in trials) == {1: 9, 3: 3, 9: 1}


def test_a_trial_that_goes_on_names_the_one_it_continues_and_has_its_parameters() -> None:
    trials = run(asha(X, max_iterations=9, n_configs=9))
    for trial in trials:
        if trial.budget == 1:
            assert trial.resumes is None
        else:
            assert trial.resumes is not None
            before = trials[trial.resumes]
            assert before.budget is not None
            assert (before.params, before.budget * 3) == (trial.params, trial.budget)


@pytest.mark.parametrize(("mode", "best"), [("min", min), ("max", max)])
def test_the_best_go_on_once_all_of_a_rung_have_ended(mode: Any, best: Any) -> None:
    trials = run(successive_halving(X, max_iterations=9, n_configs=9, mode=mode))
    first = [trial["x"] for trial in trials if trial.budget == 1]
    second = [trial["x"] for trial in trials if trial.budget == 3]
    assert [trial.budget for trial in trials] == [1] * 9 + [3] * 3 + [9]
    assert sorted(second) == (sorted(first)[:3] if mode == "min" else sorted(first)[-3:])
    assert trials[-1]["x"] == best(first)


def test_asynchronous_halving_does_not_wait_for_the_rest_of_a_rung() -> None:
    searcher = asha(X, max_iterations=3, n_configs=9)
    first = searcher.ask(4)
    for number, trial in enumerate(first):
        trial.number = number
    searcher.tell([(trial, trial["x"]) for trial in first[:3]])
    (on,) = searcher.ask(1)
    assert (on.budget, on["x"]) == (3, min(trial["x"] for trial in first[:3]))


def test_a_synchronous_rung_waits_for_its_last_trial() -> None:
    searcher = successive_halving(X, max_iterations=3, n_configs=3)
    trials = searcher.ask(5)
    assert len(trials) == 3
    for number, trial in enumerate(trials):
        trial.number = number
    searcher.tell([(trial, trial["x"]) for trial in trials[:2]])
    assert searcher.ask(1) == []
    searcher.tell([(trials[2], trials[2]["x"])])
    assert [trial.budget for trial in searcher.ask(5)] == [3]


def test_a_failed_trial_never_goes_on_but_counts_in_its_rung() -> None:
    failed = Failure("crashed", ValueError())
    trials = run(asha(X, max_iterations=3, n_configs=9), lambda trial: failed if trial["x"] < 0.5 else trial["x"])
    assert all(trial["x"] >= 0.5 for trial in trials if trial.budget == 3)
    assert sum(trial.budget == 3 for trial in trials) == min(
        3, sum(trial["x"] >= 0.5 for trial in trials if trial.budget == 1)
    )


def test_budgets_end_at_the_largest_and_begin_at_or_above_the_smallest() -> None:
    trials = run(asha(X, min_iterations=4, max_iterations=100, n_configs=27))
    assert (
        sorted({trial.budget for trial in trials if trial.budget is not None})
        == [11, 33, 100][: len({t.budget for t in trials})]
    )


def test_hyperband_has_the_numbers_of_its_paper() -> None:
    trials = run(hyperband(X, max_iterations=81))
    begun = Counter(trial.budget for trial in trials if trial.resumes is None)
    assert begun == {1: 81, 3: 34, 9: 15, 27: 8, 81: 5}


def test_in_the_order_of_submission_it_decides_the_same_on_any_number_of_workers() -> None:
    def decisions(workers: int) -> list[tuple[Any, ...]]:
        search = Search(
            asha(X, max_iterations=9, n_configs=12, seed=5),
            lambda trial: trial["x"] / trial.budget,
            scheduler=Scheduler.with_threads(workers),
            order="submission",
            in_flight=3,
        )
        search.run()
        return sorted((result.trial.number, result.trial["x"], result.trial.budget) for result in search.trials)

    assert decisions(1) == decisions(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"max_iterations": 3, "min_iterations": 5}, "min_iterations=5: must be at most max_iterations=3"),
        ({"max_iterations": 3, "reduction_factor": 1}, "reduction_factor=1"),
        ({"max_iterations": 3, "mode": "best"}, "mode='best'"),
        ({"max_iterations": 3, "n_configs": 0}, "n_configs=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asha(X, **options)
