"""Logarithms of times as normal variables: what was seen of them, and what that says about the next ones.

Pure functions and values. `z` is the logarithm of a time over the one that was expected of the call, or over 1 s. `x`
is the logarithm of the expected time, or 0. Calls that were expected to take longest tend to take less than that, and
those of which least was expected take more: `z` falls with `x`, by a slope that is learned, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

__all__ = [
    "Line",
    "Moments",
    "Spread",
    "draw_longer_than",
    "of_equal_arguments",
    "of_expectation",
    "of_group",
    "of_other_groups",
    "with_running",
]

_STANDARD = NormalDist()
_PRIOR_FREEDOM = 2.0
_PRIOR_VARIANCE = 0.5**2
"""What is assumed of the spread of a group, as strongly as two calls would say it: a factor of 1.6 either way."""
_EQUAL_FREEDOM = 2.0
_EQUAL_VARIANCE = 0.15**2
"""The same for calls with equal arguments: 15 %."""
_SLOPE, _SLOPE_VARIANCE = -0.25, 0.35**2
"""What is assumed of the slope."""
_LARGEST_SIGMA = 3.0
_STEPS = 30
_ENOUGH = 1e-3


@dataclass(slots=True)
class Moments:
    """Number, mean and sum of squared deviations of numbers.

    Attributes:
        n: How many; may be a fraction, if some count less.
        mean: Their mean.
        m2: The sum of the squared deviations from it.
    """

    n: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, value: float) -> None:
        """Count one more."""
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self.m2 += delta * (value - self.mean)

    def merged(self, other: Moments) -> Moments:
        """The moments of both together."""
        n = self.n + other.n
        if not n:
            return Moments()
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        return Moments(n, mean, self.m2 + other.m2 + delta * delta * self.n * other.n / n)

    def weighing(self, most: float) -> Moments:
        """The same, counted as this many at most."""
        part = min(1.0, most / self.n) if self.n else 1.0
        return Moments(self.n * part, self.mean, self.m2 * part)


@dataclass(slots=True)
class Line:
    """Pairs of `x` and `z`.

    Attributes:
        n: How many; may be a fraction, if some count less.
        x: The mean of `x`.
        z: The mean of `z`.
        xx: The sum of the squared deviations of `x` from its mean.
        xz: The sum of the products of both deviations.
        zz: The sum of the squared deviations of `z`.
    """

    n: float = 0.0
    x: float = 0.0
    z: float = 0.0
    xx: float = 0.0
    xz: float = 0.0
    zz: float = 0.0

    def add(self, x: float, z: float) -> None:
        """Count one more."""
        self.n += 1
        dx, dz = x - self.x, z - self.z
        self.x += dx / self.n
        self.z += dz / self.n
        self.xx += dx * (x - self.x)
        self.xz += dx * (z - self.z)
        self.zz += dz * (z - self.z)

    def merged(self, other: Line) -> Line:
        """Both together."""
        n = self.n + other.n
        if not n:
            return Line()
        dx, dz, part = other.x - self.x, other.z - self.z, self.n * other.n / n
        return Line(
            n,
            self.x + dx * other.n / n,
            self.z + dz * other.n / n,
            self.xx + other.xx + dx * dx * part,
            self.xz + other.xz + dx * dz * part,
            self.zz + other.zz + dz * dz * part,
        )

    def weighing(self, most: float) -> Line:
        """The same, counted as this many at most."""
        part = min(1.0, most / self.n) if self.n else 1.0
        return Line(self.n * part, self.x, self.z, self.xx * part, self.xz * part, self.zz * part)


class Spread(NamedTuple):
    """What is known of `z`.

    Attributes:
        mean: Its expected mean, where `x` is `center`.
        certainty: As many calls as would tell the mean as well.
        variance: The expected variance of a call around the mean.
        freedom: As many calls as would tell the variance as well.
        slope: How the mean changes with `x`.
        slope_deviation: The standard deviation of that.
        center: See `mean`.
    """

    mean: float
    certainty: float
    variance: float
    freedom: float
    slope: float = 0.0
    slope_deviation: float = 0.0
    center: float = 0.0

    def at(self, x: float) -> float:
        """The expected mean there."""
        return self.mean + self.slope * (x - self.center)

    def draw(self, rng: Random) -> tuple[float, float, float]:
        """What may be true: the logarithm of a time is the first plus the second times `x`; its standard deviation."""
        variance = self.variance * self.freedom / max(rng.gammavariate(self.freedom / 2, 2.0), 1e-9)
        sigma = min(_LARGEST_SIGMA, math.sqrt(variance))
        mean = self.mean + sigma / math.sqrt(self.certainty) * rng.gauss(0.0, 1.0)
        slope = self.slope + self.slope_deviation * rng.gauss(0.0, 1.0) if self.slope_deviation else self.slope
        return mean - slope * self.center, 1.0 + slope, sigma


def of_expectation() -> Spread:
    """What is known of a call if nothing was seen, but a time is expected of it."""
    return Spread(0.0, 1.0, 2 * _PRIOR_VARIANCE, _PRIOR_FREEDOM)


def of_group(seen: Line, running: Sequence[tuple[float, float]] = ()) -> Spread:
    """What calls of a group say about the next one, of which at least one was seen.

    Args:
        seen: The calls that have finished.
        running: Those that run: `x`, and what `z` would be if they ended now.
    """
    spread = _fitted(seen, 0.0, seen.n)
    for _ in range(_STEPS if running else 0):
        former, spread = spread, _fitted(*_with_censored(seen, running, spread))
        if abs(former.at(seen.x) - spread.at(seen.x)) < _ENOUGH and abs(former.slope - spread.slope) < _ENOUGH:
            break
    return spread


def _fitted(line: Line, hidden: float, n: float) -> Spread:
    """A line through calls.

    Args:
        line: The calls; of those that run, with what is expected of them.
        hidden: The sum of the variances of these.
        n: As many calls as count.
    """
    spread, slope, weight = Spread(0.0, 0.0, _PRIOR_VARIANCE, _PRIOR_FREEDOM), 0.0, 0.0
    for _ in range(2):
        weight = spread.variance / _SLOPE_VARIANCE
        if line.xx:  # else no times are expected, or always the same
            slope = (line.xz + weight * _SLOPE) / (line.xx + weight)
        m2 = max(0.0, line.zz - 2 * slope * line.xz + slope * slope * line.xx) + hidden
        spread = _of_moments(Moments(n, line.z, m2 * n / line.n))
    deviation = math.sqrt(spread.variance / (line.xx * n / line.n + weight)) if line.xx else 0.0
    return spread._replace(slope=slope, slope_deviation=deviation, center=line.x)


def _with_censored(seen: Line, running: Iterable[tuple[float, float]], spread: Spread) -> tuple[Line, float, float]:
    """The calls with those that run, the sum of the variances of these, and as how many calls all of them count.

    Each one that runs will take longer than it has. It counts by the probability that it would have finished by now.
    """
    line, hidden, finished = replace(seen), 0.0, seen.n
    sigma = math.sqrt(spread.variance)
    for x, z in running:
        mean = spread.at(x)
        expected, variance, below = _beyond((z - mean) / sigma)
        line.add(x, mean + sigma * expected)
        hidden += spread.variance * variance
        finished += below
    return line, hidden, finished


def _beyond(at: float) -> tuple[float, float, float]:
    """Mean and variance of a standard normal variable that is larger than this, and the probability that it is not."""
    beyond = max(1.0 - _STANDARD.cdf(at), 1e-12)
    hazard = _STANDARD.pdf(at) / beyond if beyond > 1e-12 else at
    return hazard, max(0.0, 1 + at * hazard - hazard * hazard), 1.0 - beyond


def _of_moments(seen: Moments) -> Spread:
    freedom = _PRIOR_FREEDOM + max(0.0, seen.n - 1)
    return Spread(seen.mean, seen.n, (_PRIOR_FREEDOM * _PRIOR_VARIANCE + seen.m2) / freedom, freedom)


def of_other_groups(groups: Iterable[Line]) -> Spread | None:
    """What calls of other groups say about a group of which none was seen; `None` if none was seen at all."""
    seen = [group for group in groups if group.n]
    if not seen:
        return None
    means = Moments()
    for group in seen:
        means.add(group.z)
    # The mean of this group may be as far from the others' as these are from each other.
    between = (means.m2 + 1.0) / means.n
    within = sum(of_group(group).variance for group in seen) / len(seen)
    return Spread(means.mean, within / (between + within), within, _PRIOR_FREEDOM + len(seen))


def of_equal_arguments(seen: Moments, within: Moments, group: Spread, x: float = 0.0) -> Spread:
    """What calls with equal arguments say about the next one, together with the others of the group.

    Args:
        seen: The calls with these arguments.
        within: Deviations of calls from the mean of those with equal arguments, over the group: `n` is the number of
            degrees of freedom.
        group: What the group says.
        x: Of these calls.
    """
    freedom = _EQUAL_FREEDOM + within.n
    variance = min(group.variance, (_EQUAL_FREEDOM * _EQUAL_VARIANCE + within.m2) / freedom)
    between = max(group.variance - variance, 1e-6)
    # Arguments differ by `between`; calls with the same ones differ by `variance`.
    precision = seen.n / variance + 1 / between
    mean = (seen.n / variance * seen.mean + group.at(x) / between) / precision
    return Spread(mean, variance * precision, variance, freedom)


def with_running(seen: Moments, running: Sequence[float]) -> Moments:
    """The moments of finished calls, corrected by those that still run, of which each will take longer than it has.

    Without it, the finished ones are too short on average: long calls are the last to finish. This is the method of
    expectation and maximization for normal variables that are censored.

    Args:
        seen: Of calls that have finished, at least one.
        running: Logarithms of the times that calls have run for, in the same scale.

    Returns:
        Their moments. A call that runs counts by the probability that it would have finished by now.
    """
    if not running:
        return seen
    mean, variance = seen.mean, _of_moments(seen).variance
    total = seen.n + len(running)
    m2 = finished = 0.0
    for _ in range(_STEPS):
        sigma = math.sqrt(variance)
        expected: list[tuple[float, float]] = []
        finished = 0.0
        for elapsed in running:
            hazard, part, below = _beyond((elapsed - mean) / sigma)
            expected.append((mean + sigma * hazard, variance * part))
            finished += below
        former, mean = mean, (seen.n * seen.mean + sum(value for value, _ in expected)) / total
        m2 = seen.m2 + seen.n * (seen.mean - mean) ** 2
        m2 += sum((value - mean) ** 2 + spread for value, spread in expected)
        variance = (_PRIOR_FREEDOM * _PRIOR_VARIANCE + m2) / (_PRIOR_FREEDOM + max(0.0, total - 1))
        if abs(mean - former) < _ENOUGH:
            break
    n = seen.n + finished
    return Moments(n, mean, m2 * n / total)


def draw_longer_than(elapsed: float, mean: float, sigma: float, rng: Random) -> float:
    """A logarithm of a time that is larger than the one that has elapsed."""
    at = (elapsed - mean) / sigma
    below = _STANDARD.cdf(at)
    if below > 1 - 1e-9:  # far beyond what was expected: the tail falls off by this much
        return elapsed + sigma * rng.expovariate(1.0) / at
    return mean + sigma * _STANDARD.inv_cdf(min(below + (1 - below) * (rng.random() or 0.5), 1 - 1e-12))
