"""How long a run still takes: many times, the calls are given times that they may take, and run forward."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from amlsched.estimates.lognormal import draw_longer_than
from amlsched.policies import SimulatedCall, simulate
from amlsched.resources.pool import Lease, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from amlsched.estimates.lognormal import Spread
    from amlsched.policies import Policy, WaitingCall
    from amlsched.resources.request import Resources

__all__ = ["Estimate", "Pending", "run_forward", "run_policy_forward", "summarize"]

_MOST_SAMPLES, _FEWEST_SAMPLES = 200, 40
_DRAWS = 40_000
_ONE_BY_ONE = 20
"""How many of the last calls of a worker are run one by one, if there are more than one and a half times as many."""
_PLACED_SAMPLES = 40
_PLACED_DIRECTLY = 300
"""Up to so many calls, a policy is run with each sample."""
_PLACED_RUNS, _PLACED_AT_MOST = 5, 2000
"""With more, it is run so often with so many of the calls, to find how well it packs them."""
_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (0.0, "s"))


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run still takes, counting the calls submitted so far.

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
        x: The logarithm of the time that was expected of it, in seconds, or 0.
        elapsed: For how many seconds it has run; `None` if it waits.
    """

    kind: int
    x: float = 0.0
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
    running: list[Pending] = []
    waiting: list[tuple[int, float]] = []
    for call in pending:
        if call.elapsed is None:
            waiting.append((call.kind, call.x))
        else:
            running.append(call)
    workers = max(workers, len(running), 1)
    bulk = _Bulk()
    if len(waiting) > 1.5 * _ONE_BY_ONE * workers:
        many = len(waiting) - _ONE_BY_ONE * workers
        for kind, x in waiting[:many]:
            bulk.add(kind, x)
        waiting = waiting[many:]
    samples = min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, _DRAWS // (len(waiting) + len(running) + 1)))
    return [_run_once(running, waiting, bulk, kinds, workers, rng) for _ in range(samples)]


def _run_once(
    running: Sequence[Pending],
    waiting: Sequence[tuple[int, float]],
    bulk: _Bulk,
    kinds: Sequence[Spread],
    workers: int,
    rng: Random,
) -> float:
    true = [kind.draw(rng) for kind in kinds]
    free = [0.0] * (workers - len(running))  # when each worker is free
    free += (_remaining(call, true, rng) for call in running)
    if bulk:
        free = _filled(free, bulk.draw(true, rng))
    heapq.heapify(free)
    gauss, exp, replace = rng.gauss, math.exp, heapq.heapreplace
    last = max(free) if running or bulk else 0.0
    for kind, x in waiting:
        mean, slope, sigma = true[kind]
        end = free[0] + exp(mean + slope * x + sigma * gauss(0.0, 1.0))
        replace(free, end)
        last = max(last, end)
    return last


class _Bulk:
    """Calls of which only the sum of the times matters, which is normal, as there are many."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, float], tuple[float, float]] = {}

    def add(self, kind: int, x: float, weight: float = 1.0) -> None:
        """Add a call, of whose time a multiple counts."""
        key = kind, round(x, 1)  # so that few different ones remain
        weight *= math.exp(x - key[1])
        sums, squares = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = sums + weight, squares + weight * weight

    def draw(self, true: Sequence[tuple[float, float, float]], rng: Random) -> float:
        """A sum that it may be."""
        total = variance = 0.0
        for (kind, x), (weights, squares) in self._sums.items():
            mean, slope, sigma = true[kind]
            expected = math.exp(mean + slope * x + sigma * sigma / 2)
            total += weights * expected
            variance += squares * expected * expected * math.expm1(sigma * sigma)
        return max(total / 2, rng.gauss(total, math.sqrt(variance)))

    def __bool__(self) -> bool:
        return bool(self._sums)


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


# With a policy


def run_policy_forward(
    running: Sequence[tuple[Pending, Lease]],
    waiting: Sequence[tuple[Pending, WaitingCall]],
    kinds: Sequence[Spread],
    nodes: Sequence[Node],
    policy: Callable[[], Policy],
    now: float,
    rng: Random,
    overhead_s: float = 0.0,
) -> list[float]:
    """When the last call ends, many times, if a policy decides which call starts next and where.

    Running a policy takes time. With many calls, it is run a few times with some of them. That shows how much longer a
    run takes than its work alone, and the work of all calls is then drawn many times.

    Args:
        running: The calls that run, and what they hold.
        waiting: The calls that wait, and what the policy knows of them.
        kinds: What is known of the logarithms of their times.
        nodes: The nodes, which are not changed.
        policy: Creates a policy.
        now: The time, in the seconds of the policy.
        rng: Random numbers.
        overhead_s: For how many seconds a call holds what it got besides its own time.

    Returns:
        Seconds from now.

    Raises:
        RuntimeError: Calls wait, nothing runs, and the policy starts none of them.
    """
    if len(waiting) <= _PLACED_DIRECTLY:
        runs = [
            _place_once(running, waiting, kinds, nodes, policy, now, rng, overhead_s) for _ in range(_PLACED_SAMPLES)
        ]
        return [makespan for makespan, _ in runs]
    most = max(_PLACED_AT_MOST, _ONE_BY_ONE * len(running))
    some = waiting if len(waiting) <= most else rng.sample(waiting, most)
    pace = [
        makespan / work
        for makespan, work in (
            _place_once(running, some, kinds, nodes, policy, now, rng, overhead_s) for _ in range(_PLACED_RUNS)
        )
    ]
    total = _capacity(nodes)
    bulk, overhead = _Bulk(), 0.0
    for pending, call in waiting:
        share = _share(call.requests[0], total)
        bulk.add(pending.kind, pending.x, share)
        overhead += overhead_s * share
    times: list[float] = []
    for number in range(_MOST_SAMPLES):
        true = [kind.draw(rng) for kind in kinds]
        work = bulk.draw(true, rng) + overhead
        work += sum(_remaining(pending, true, rng) * _share(lease.request, total) for pending, lease in running)
        times.append(pace[number % _PLACED_RUNS] * work)
    return times


def _place_once(
    running: Sequence[tuple[Pending, Lease]],
    waiting: Sequence[tuple[Pending, WaitingCall]],
    kinds: Sequence[Spread],
    nodes: Sequence[Node],
    policy: Callable[[], Policy],
    now: float,
    rng: Random,
    overhead_s: float,
) -> tuple[float, float]:
    """When the last call ends, in seconds from now, and the work of all, in seconds of everything that there is."""
    true = [kind.draw(rng) for kind in kinds]
    total = _capacity(nodes)
    leases: dict[Lease, Lease] = {}
    twins = [node.twin(leases) for node in nodes]
    remaining = {twin: max(0.0, lease.until - now) for lease, twin in leases.items()}  # those of cancelled calls, too
    remaining |= {leases[lease]: _remaining(pending, true, rng) for pending, lease in running}
    work = sum(seconds * _share(lease.request, total) for lease, seconds in remaining.items())
    calls: list[SimulatedCall] = []
    for pending, call in waiting:
        mean, slope, sigma = true[pending.kind]
        seconds = overhead_s + math.exp(mean + slope * pending.x + sigma * rng.gauss(0.0, 1.0))
        work += seconds * _share(call.requests[0], total)
        calls.append(SimulatedCall(call, seconds))
    schedule = simulate(calls, twins, policy(), now=now, running=remaining)
    return schedule.makespan - now, work or 1.0


def _remaining(pending: Pending, true: Sequence[tuple[float, float, float]], rng: Random) -> float:
    """How long a running call still takes, in one of its possible lives."""
    elapsed = max(pending.elapsed or 0.0, 1e-9)
    mean, slope, sigma = true[pending.kind]
    return math.exp(draw_longer_than(math.log(elapsed), mean + slope * pending.x, sigma, rng)) - elapsed


def _capacity(nodes: Sequence[Node]) -> tuple[float, float, float]:
    """CPUs, memory and GPUs of all nodes."""
    pools = [node.pool for node in nodes if not node.lost]
    return (
        sum(pool.cpus for pool in pools),
        sum(math.inf if pool.memory is None else pool.memory for pool in pools),
        sum(len(pool.gpus) for pool in pools),
    )


def _share(request: Resources, total: tuple[float, float, float]) -> float:
    """The share of all nodes that a call takes, of the resource of which it takes most."""
    asked = (request.cpus, request.memory, request.gpus)
    return max((amount / there for amount, there in zip(asked, total, strict=True) if there), default=0.0) or 1e-9
