"""Bundles of repetitions: as cw2 forms them, over the runs of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from amlsched.errors import ExperimentError
from amlsched.experiments import Plan
from amlsched.experiments._planning.jobs import Bundle, JobNumbers, JobThrottle, bundle, bundles, count

CONFIG = """
name: DEFAULT
path: results
---
name: wide
repetitions: 3
reps_per_job: 4
reps_in_parallel: 2
grid: {a: [1, 2, 3]}
---
name: single
repetitions: 2
"""


def plan(tmp_path: Path, text: str = CONFIG, **options) -> Plan:
    file = tmp_path / "config.yml"
    file.write_text(text)
    return Plan(file, **options)


def members(made: Bundle) -> list[tuple[str, int]]:
    return [(run.name, index) for run, index in made.members]


def test_bundles_are_formed_over_the_runs_of_an_experiment_and_end_with_it(tmp_path: Path) -> None:
    made = list(bundles(plan(tmp_path)))
    assert [members(one) for one in made] == [
        [("wide__a1", 0), ("wide__a1", 1), ("wide__a1", 2), ("wide__a2", 0)],
        [("wide__a2", 1), ("wide__a2", 2), ("wide__a3", 0), ("wide__a3", 1)],
        [("wide__a3", 2)],
        [("single", 0)],
        [("single", 1)],
    ]
    assert [one.index for one in made] == list(range(5))
    assert [one.reps_in_parallel for one in made] == [2, 2, 2, 1, 1]
    assert [[run.name for run in one.runs] for one in made[:2]] == [["wide__a1", "wide__a2"], ["wide__a2", "wide__a3"]]


def test_one_bundle_is_found_without_those_before_it(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    assert count(whole) == 5
    assert [members(bundle(whole, k)) for k in range(5)] == [members(one) for one in bundles(whole)]


@pytest.mark.parametrize("index", [-1, 5])
def test_a_job_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path, index: int) -> None:
    with pytest.raises(ExperimentError, match=rf"job {index}: there is no such job.*0 to 4"):
        plan(tmp_path, job=index)


def test_a_plan_of_one_job_has_its_repetitions_only(tmp_path: Path) -> None:
    part = plan(tmp_path, job=1)
    found = [(run.name, p.index) for path, run in part.runs() for p in part.repetitions(run, path)]
    assert found == [("wide__a2", 1), ("wide__a2", 2), ("wide__a3", 0), ("wide__a3", 1)]
    assert part.count() == (2, 4)


def test_a_run_of_another_job_can_be_named_by_rerun(tmp_path: Path) -> None:
    assert plan(tmp_path, job=4, rerun=["wide__a1"]).count() == (1, 1)


@pytest.mark.parametrize("debug", ["debug", "debugall"])
def test_in_debug_each_repetition_is_a_job(tmp_path: Path, debug) -> None:
    made = list(bundles(plan(tmp_path, debug=debug)))
    assert [len(one.members) for one in made] == [1] * {"debug": 2, "debugall": 4}[debug]


def test_numbers_agree_with_the_bundles(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    numbers, found = JobNumbers(), []
    for _, run in whole.runs():
        numbers.enter(run)
        found += [numbers.job(index) for index in range(run.repetitions)]
    assert found == [one.index for one in bundles(whole) for _ in one.members]


@dataclass(frozen=True)
class Work:
    job: int
    reps_in_parallel: int
    name: str


def test_turns_let_no_more_of_a_job_run_than_it_allows() -> None:
    work = [Work(0, 2, f"a{i}") for i in range(4)] + [Work(1, 1, f"b{i}") for i in range(2)]
    turns = JobThrottle(iter(work))
    out = [turns.take() for _ in range(4)]
    assert [one and one.name for one in out] == ["a0", "a1", "b0", None]
    turns.give_back(out[0])
    assert [one and one.name for one in (turns.take(), turns.take())] == ["a2", None]
    turns.give_back(out[2])
    assert [one and one.name for one in (turns.take(), turns.take())] == ["b1", None]
    turns.give_back(out[1])
    last = turns.take()
    assert last is not None
    assert last.name == "a3"
