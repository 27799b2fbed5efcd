"""What was seen of times, and what that says about the next ones."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import astuple

import pytest

from amlsched.estimates.lognormal import (
    Line,
    Moments,
    draw_longer_than,
    of_equal_arguments,
    of_expectation,
    of_group,
    of_other_groups,
    with_running,
)


def moments(values: list[float]) -> Moments:
    found = Moments()
    for value in values:
        found.add(value)
    return found


def line(values: list[float], x: float = 0.0) -> Line:
    found = Line()
    for value in values:
        found.add(x, value)
    return found


def normals(seed: int, count: int, mean: float = 2.0, sigma: float = 0.7) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, sigma) for _ in range(count)]


def test_moments_are_those_of_the_numbers() -> None:
    values = normals(1, 50)
    found = moments(values)
    assert found.n == 50
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.m2 / 49 == pytest.approx(statistics.variance(values))


def test_moments_merge_as_if_they_were_seen_together() -> None:
    values = normals(2, 60)
    merged = moments(values[:13]).merged(moments(values[13:]))
    whole = moments(values)
    assert (merged.n, merged.mean, merged.m2) == pytest.approx((whole.n, whole.mean, whole.m2))
    assert Moments().merged(Moments()).n == 0
    assert moments(values).merged(Moments()) == whole
    assert Moments().merged(whole).mean == pytest.approx(whole.mean)


def test_moments_may_weigh_less_with_the_same_mean_and_variance() -> None:
    whole = moments(normals(3, 100))
    less = whole.weighing(30)
    assert (less.n, less.mean) == (pytest.approx(30), whole.mean)
    assert less.m2 / less.n == pytest.approx(whole.m2 / whole.n)
    assert whole.weighing(1000) == whole
    assert Moments().weighing(30) == Moments()


def test_the_more_calls_were_seen_the_surer_is_what_they_say() -> None:
    few, many = of_group(line(normals(4, 3))), of_group(line(normals(4, 300)))
    assert few.certainty < many.certainty
    assert few.freedom < many.freedom
    assert math.sqrt(many.variance) == pytest.approx(0.7, rel=0.1)

    def width(spread: object) -> float:
        rng = random.Random(0)
        return statistics.stdev(spread.draw(rng)[0] for _ in range(2000))  # type: ignore[attr-defined]

    assert width(many) == pytest.approx(0.7 / math.sqrt(300), rel=0.2)
    assert width(few) > 5 * width(many)


def test_one_call_says_something_and_a_spread_is_assumed() -> None:
    spread = of_group(line([3.0]))
    assert (spread.mean, spread.certainty, spread.variance) == (3.0, 1.0, 0.25)


def test_calls_that_still_run_correct_what_the_finished_ones_say() -> None:
    """Ten workers, and a look when a third of the calls has finished: the short ones are over-represented."""
    naive, corrected = [], []
    for seed in range(200):
        times = [math.exp(z) for z in normals(seed, 40, sigma=1.0)]
        free, ends = [0.0] * 10, []
        for seconds in times:
            worker = free.index(min(free))
            ends.append((free[worker], free[worker] + seconds))
            free[worker] += seconds
        now = sorted(end for _, end in ends)[12]
        finished = moments([math.log(end - start) for start, end in ends if end <= now])
        running = [math.log(now - start) for start, end in ends if start < now < end]
        naive.append(finished.mean)
        corrected.append(with_running(finished, running).mean)
    assert statistics.fmean(naive) < 1.75
    assert statistics.fmean(corrected) == pytest.approx(2.0, abs=0.1)


def test_without_running_calls_nothing_is_corrected_and_young_ones_change_nothing() -> None:
    seen = moments(normals(5, 40))
    assert with_running(seen, []) == seen
    young = with_running(seen, [math.log(1e-6)] * 4)
    assert (young.n, young.mean) == (pytest.approx(seen.n, abs=0.01), pytest.approx(seen.mean, abs=0.05))


def test_a_call_that_runs_far_longer_than_expected_widens_the_spread() -> None:
    seen = line(normals(6, 20, sigma=0.1))
    before, late = of_group(seen), of_group(seen, [(0.0, 6.0)])
    assert late.mean > before.mean
    assert late.variance > 5 * before.variance
    assert all(map(math.isfinite, late))


@pytest.mark.parametrize("elapsed", [-20.0, 0.0, 2.0, 3.5, 8.0, 60.0])
def test_what_still_runs_takes_longer_than_it_has(elapsed: float) -> None:
    rng = random.Random(1)
    drawn = [draw_longer_than(elapsed, 2.0, 0.7, rng) for _ in range(500)]
    assert min(drawn) >= elapsed
    assert all(map(math.isfinite, drawn))
    if elapsed == -20.0:
        assert statistics.fmean(drawn) == pytest.approx(2.0, abs=0.1)
    if elapsed == 2.0:  # the mean of a half-normal variable
        assert statistics.fmean(drawn) == pytest.approx(2.0 + 0.7 * math.sqrt(2 / math.pi), abs=0.1)


def test_equal_arguments_say_more_the_more_often_they_were_seen() -> None:
    group = of_group(line(normals(7, 100, mean=3.0, sigma=1.0)))
    within = Moments(30, 0.0, 30 * 0.1**2)
    once, often = (of_equal_arguments(moments([5.0] * n), within, group) for n in (1, 20))
    assert group.mean < once.mean < often.mean <= 5.0
    assert often.mean == pytest.approx(5.0, abs=0.01)
    assert once.variance == pytest.approx(0.1**2, rel=0.3)
    assert often.certainty > once.certainty > 1


def test_arguments_that_make_no_difference_say_what_the_group_says() -> None:
    values = normals(8, 200, sigma=0.5)
    group = of_group(line(values))
    within = Moments(100, 0.0, 100 * 0.5**2)  # calls with equal arguments differ as much as others
    told = of_equal_arguments(moments(values[:2]), within, group)
    assert told.mean == pytest.approx(group.mean, abs=0.2)
    assert told.variance == pytest.approx(group.variance, rel=0.1)


def test_other_groups_say_little_about_one_that_nobody_has_seen() -> None:
    assert of_other_groups([]) is None
    assert of_other_groups([Line()]) is None
    told = of_other_groups([line(normals(seed, 30, mean=seed)) for seed in (1, 3, 5)])
    assert told is not None
    assert told.mean == pytest.approx(3.0, abs=0.3)
    rng = random.Random(0)
    assert statistics.stdev(told.draw(rng)[0] for _ in range(1000)) > 1.0


# ------------------------------------------------------------------------------------------------- expected times


def pairs(seed: int, count: int, slope: float) -> Line:
    rng, found = random.Random(seed), Line()
    for _ in range(count):
        x = rng.gauss(5.0, 1.0)
        found.add(x, 1.0 + slope * (x - 5.0) + rng.gauss(0.0, 0.3))
    return found


def test_lines_merge_as_if_they_were_seen_together_and_may_weigh_less() -> None:
    rng = random.Random(1)
    points = [(rng.gauss(3, 1), rng.gauss(1, 2)) for _ in range(30)]
    parts = [Line(), Line(), Line()]
    for number, point in enumerate(points):
        parts[number % 2].add(*point)
        parts[2].add(*point)
    assert astuple(parts[0].merged(parts[1])) == pytest.approx(astuple(parts[2]))
    assert Line().merged(Line()) == Line()
    less = parts[2].weighing(10)
    assert (less.n, less.x, less.xz / less.n) == pytest.approx((10, parts[2].x, parts[2].xz / 30))


@pytest.mark.parametrize("slope", [0.0, -0.5, -0.9])
def test_the_slope_of_wrong_expectations_is_learned(slope: float) -> None:
    spread = of_group(pairs(2, 200, slope))
    assert spread.slope == pytest.approx(slope, abs=0.1)
    assert math.sqrt(spread.variance) == pytest.approx(0.3, rel=0.15)
    assert spread.at(7.0) == pytest.approx(1.0 + 2 * slope, abs=0.15)
    assert of_group(pairs(2, 5, slope)).slope_deviation > 2 * spread.slope_deviation


def test_without_expected_times_there_is_no_slope() -> None:
    spread = of_group(line(normals(9, 50)))
    assert (spread.slope, spread.slope_deviation, spread.at(0.0)) == (0.0, 0.0, spread.mean)


def test_an_expected_time_is_all_that_is_known_of_the_first_call() -> None:
    mean, slope, sigma = of_expectation().draw(random.Random(1))
    assert slope == 1.0
    assert abs(mean) < 3
    assert sigma > 0.1


def test_what_is_drawn_is_a_line_through_the_center() -> None:
    spread = of_group(pairs(3, 500, -0.5))
    rng = random.Random(0)
    drawn = [spread.draw(rng) for _ in range(500)]
    at_7 = [mean + slope * 7.0 - 7.0 for mean, slope, _ in drawn]
    assert statistics.fmean(at_7) == pytest.approx(0.0, abs=0.1)  # 1 - 0.5 · 2


def test_calls_that_run_correct_how_expected_times_are_wrong() -> None:
    """Of the calls of which most was expected, only those that took less have finished."""
    rng = random.Random(1)
    seen, running = Line(), list[tuple[float, float]]()
    for _ in range(400):
        x = rng.uniform(0, 3)
        z = 1 - 0.3 * x + rng.gauss(0, 0.6)
        if x + z < 2.5:
            seen.add(x, z)
        else:
            running.append((x, 2.5 - x))  # it has run for as long as any other could
    slopes = of_group(seen).slope, of_group(seen, running).slope
    assert abs(slopes[1] + 0.3) < 0.1 < abs(slopes[0] + 0.3)
    assert of_group(seen, running).at(3.0) == pytest.approx(1 - 0.3 * 3, abs=0.15)
