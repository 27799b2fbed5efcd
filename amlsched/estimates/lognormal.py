"""Logarithms of times as normal variables: what was seen of them, and what that says about the next ones.

Pure functions and values. A time is `scale · exp(z)`: `scale` is the time that was expected of the call, or 1 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

__all__ = ["Moments", "Spread", "draw_longer_than", "of_equal_arguments", "of_group", "of_other_groups", "with_running"]

_STANDARD = NormalDist()
_PRIOR_FREEDOM = 2.0
_PRIOR_VARIANCE = 0.5**2
"""What is assumed of the spread of a group, as strongly as two calls would say it: a factor of 1.6 either way."""
_EQUAL_FREEDOM = 2.0
_EQUAL_VARIANCE = 0.15**2
"""The same for calls with equal arguments: 15 %."""
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


class Spread(NamedTuple):
    """What is known of the logarithm of a time.

    Attributes:
        mean: Its expected mean.
        certainty: As many calls as would tell the mean as well.
        variance: The expected variance of a call around the mean.
        freedom: As many calls as would tell the variance as well.
    """

    mean: float
    certainty: float
    variance: float
    freedom: float

    def draw(self, rng: Random) -> tuple[float, float]:
        """Mean and standard deviation as they may be in truth."""
        variance = self.variance * self.freedom / max(rng.gammavariate(self.freedom / 2, 2.0), 1e-9)
        sigma = min(_LARGEST_SIGMA, math.sqrt(variance))
        return self.mean + sigma / math.sqrt(self.certainty) * rng.gauss(0.0, 1.0), sigma


def of_group(seen: Moments) -> Spread:
    """What calls of a group say about the next one, of which at least one was seen."""
    freedom = _PRIOR_FREEDOM + max(0.0, seen.n - 1)
    return Spread(seen.mean, seen.n, (_PRIOR_FREEDOM * _PRIOR_VARIANCE + seen.m2) / freedom, freedom)


def of_other_groups(groups: Iterable[Moments]) -> Spread | None:
    """What calls of other groups say about a group of which none was seen; `None` if none was seen at all."""
    seen = [group for group in groups if group.n]
    if not seen:
        return None
    means = Moments()
    for group in seen:
        means.add(group.mean)
    # The mean of this group may be as far from the others' as these are from each other.
    between = (means.m2 + 1.0) / means.n
    within = sum(of_group(group).variance for group in seen) / len(seen)
    return Spread(means.mean, within / (between + within), within, _PRIOR_FREEDOM + len(seen))


def of_equal_arguments(seen: Moments, within: Moments, group: Spread) -> Spread:
    """What calls with equal arguments say about the next one, together with the others of the group.

    Args:
        seen: The calls with these arguments.
        within: Deviations of calls from the mean of those with equal arguments, over the group: `n` is the number of
            degrees of freedom.
        group: What the group says.
    """
    freedom = _EQUAL_FREEDOM + within.n
    variance = min(group.variance, (_EQUAL_FREEDOM * _EQUAL_VARIANCE + within.m2) / freedom)
    between = max(group.variance - variance, 1e-6)
    # Arguments differ by `between`; calls with the same ones differ by `variance`.
    precision = seen.n / variance + 1 / between
    mean = (seen.n / variance * seen.mean + group.mean / between) / precision
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
    mean, variance = seen.mean, of_group(seen).variance
    total = seen.n + len(running)
    m2 = finished = 0.0
    for _ in range(_STEPS):
        sigma = math.sqrt(variance)
        expected: list[tuple[float, float]] = []
        finished = 0.0
        for elapsed in running:
            at = (elapsed - mean) / sigma
            beyond = max(1.0 - _STANDARD.cdf(at), 1e-12)
            hazard = _STANDARD.pdf(at) / beyond if beyond > 1e-12 else at
            expected.append((mean + sigma * hazard, variance * max(0.0, 1 + at * hazard - hazard * hazard)))
            finished += 1.0 - beyond
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
