"""How long a run still takes: many times, the calls are given times that they may take, and run forward."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from amlsched.estimates.lognormal import draw_longer_than

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

    from amlsched.estimates.lognormal import Spread

__all__ = ["Estimate", "Pending", "run_forward", "summarize"]

_MOST_SAMPLES, _FEWEST_SAMPLES = 200, 40
_DRAWS = 40_000
_ONE_BY_ONE = 20
"""How many of the last calls of a worker are run one by one, if there are more than one and a half times as many."""
_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (0.0, "s"))


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run still takes, as far as calls have been submitted.

    Attributes:
        seconds: As likely to be too long as too short.
        low: With a probability of 10 %, it takes less.
        high: With a probability of 10 %, it takes more.
        n_calls: How many calls have not finished.
    """

    seconds: float
    low: float
    high: float
    n_calls: int

    def __str__(self) -> str:
        unit, name = next((unit, name) for unit, name in _UNITS if self.seconds >= 2 * unit)
        point, low, high = (_rounded(value / (unit or 1.0)) for value in (self.seconds, self.low, self.high))
        return f"{point} {name} left ({low} to {high})"


def _rounded(value: float) -> str:
    """Two significant digits, or all before the point."""
    if value >= 9.95 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.095 else f"{value:.2g}"


class Pending(NamedTuple):
    """A call that has not finished.

    Attributes:
        kind: The index of what is known of calls like it.
        scale: The time that was expected of it, or 1, in seconds.
        elapsed: For how many seconds it has run; `None` if it waits.
    """

    kind: int
    scale: float
    elapsed: float | None = None


def summarize(times: Sequence[float], n_calls: int) -> Estimate:
    """The estimate from the ends of many runs, in seconds from now."""
    ordered = sorted(times)

    def quantile(probability: float) -> float:
        place = min(max(probability * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return Estimate(quantile(0.5), quantile(0.1), quantile(0.9), n_calls)


def run_forward(pending: Iterable[Pending], kinds: Sequence[Spread], workers: int, rng: Random) -> list[float]:
    """When the last call ends, many times: each worker takes the next call as soon as it is free.

    Args:
        pending: The calls, in the order in which they start.
        kinds: What is known of the logarithms of their times.
        workers: How many calls run at a time, at least 1.
        rng: Random numbers.

    Returns:
        Seconds from now.
    """
    running: list[tuple[int, float, float]] = []
    waiting: list[tuple[int, float]] = []
    for call in pending:
        if call.elapsed is None:
            waiting.append((call.kind, call.scale))
        else:
            running.append((call.kind, call.scale, call.elapsed))
    workers = max(workers, len(running), 1)
    bulk: dict[int, tuple[float, float]] = {}
    if len(waiting) > 1.5 * _ONE_BY_ONE * workers:
        many = len(waiting) - _ONE_BY_ONE * workers
        for kind, scale in waiting[:many]:
            total, squares = bulk.get(kind, (0.0, 0.0))
            bulk[kind] = total + scale, squares + scale * scale
        waiting = waiting[many:]
    samples = min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, _DRAWS // (len(waiting) + len(running) + 1)))
    return [_run_once(running, waiting, bulk, kinds, workers, rng) for _ in range(samples)]


def _run_once(
    running: Sequence[tuple[int, float, float]],
    waiting: Sequence[tuple[int, float]],
    bulk: dict[int, tuple[float, float]],
    kinds: Sequence[Spread],
    workers: int,
    rng: Random,
) -> float:
    true = [kind.draw(rng) for kind in kinds]
    free = [0.0] * (workers - len(running))  # when each worker is free
    for kind, scale, elapsed in running:
        mean, sigma = true[kind]
        z = draw_longer_than(math.log(max(elapsed, 1e-9) / scale), mean, sigma, rng)
        free.append(max(0.0, scale * math.exp(z) - elapsed))
    if bulk:
        free = _filled(free, _sum_of_many(bulk, true, rng))
    heapq.heapify(free)
    gauss, exp, replace = rng.gauss, math.exp, heapq.heapreplace
    last = max(free) if running or bulk else 0.0
    for kind, scale in waiting:
        mean, sigma = true[kind]
        end = free[0] + scale * exp(mean + sigma * gauss(0.0, 1.0))
        replace(free, end)
        last = max(last, end)
    return last


def _sum_of_many(bulk: dict[int, tuple[float, float]], true: Sequence[tuple[float, float]], rng: Random) -> float:
    """The sum of the times of so many calls that it is normal."""
    total = variance = 0.0
    for kind, (scales, squares) in bulk.items():
        mean, sigma = true[kind]
        expected = math.exp(mean + sigma * sigma / 2)
        total += scales * expected
        variance += squares * expected * expected * math.expm1(sigma * sigma)
    return max(total / 2, rng.gauss(total, math.sqrt(variance)))


def _filled(free: list[float], work: float) -> list[float]:
    """When each worker is free after work that goes to whoever is free first."""
    ordered = sorted(free)
    level = ordered[0]
    for count, at in enumerate(ordered[1:], 1):
        if work < count * (at - level):
            break
        work -= count * (at - level)
        level = at
    else:
        count = len(ordered)
    level += work / count
    return [max(level, at) for at in ordered]
