"""Learns from the calls of a scheduler's runs, and estimates how long the present run still takes."""

from __future__ import annotations

import math
import random
import time
from array import array
from typing import TYPE_CHECKING, Any

from amlsched.estimates.forecast import Estimate, Pending, run_forward, run_policy_forward, summarize
from amlsched.estimates.lognormal import Moments, Spread, of_expectation, of_group
from amlsched.estimates.store import OVER_EXPECTED, Store, equal_arguments
from amlsched.executors.capabilities import capabilities_of, clock_of, running_at_once
from amlsched.policies import WaitingCall
from amlsched.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from amlsched._run.placement import PlacedCalls
    from amlsched.estimates.store import LearnedGroups, Needs
    from amlsched.future import Future
    from amlsched.resources.pool import Lease
    from amlsched.resources.request import Wanted
    from amlsched.scheduler import Scheduler

__all__ = ["Estimator", "group_of"]

_SAVE_S = 60.0
_SHARE_OF_A_CORE = 0.01
_SHORTEST_S = 1e-6
"""Times are measured no better than this; what took less counts as this much."""

_SHORT_S = 0.02
"""What takes less is too short to tell how many CPUs it uses; one at most is counted."""


class Estimator:
    """What `Scheduler(estimates=…)` has.

    Args:
        scheduler: The scheduler, which measures its calls.
        path: The file that keeps what is learned; `None` for none.

    Raises:
        ValueError: A newer version of amlsched wrote the file.
        OSError: The file cannot be read, or its folder cannot be written.
    """

    def __init__(self, scheduler: Scheduler, path: Path | None) -> None:
        self._scheduler = scheduler
        self._store = Store(path)
        self._ends: array[float] = array("d")  # of this run's calls, in the order in which they were reported
        self._overhead = Moments()  # seconds that calls of this run hold what they got besides their own time
        self._saved = time.monotonic()
        self._shown: Estimate | None = None
        self._show_again = -math.inf
        scheduler.on_start(self._begin)
        scheduler.on_future_result(self._learn)
        scheduler.on_future_done(self._note_end)
        scheduler.on_finished(self._store.save)

    def learned(self) -> LearnedGroups:
        """What is known of each group."""
        return self._store.learned()

    def estimate(self) -> Estimate | None:
        """How long the present run still takes; `None` if nothing is known of its calls yet."""
        executor = self._scheduler.executor
        now = _clock_of_receipts(executor)()
        run = self._scheduler._run  # pyright: ignore[reportPrivateUsage]
        held = dict.fromkeys(run.held_calls if run is not None else ())
        calls = [future for future in (run.calls if run is not None else ()) if future not in held]
        placed = run.placed if run is not None else None
        if placed is not None:
            workers = 0
            now = placed.now
            began = {
                future: now if lease.since is None else lease.since
                for future, lease in placed.leases.items()
                if future not in held
            }
        else:
            running = [future for future in calls if future.running()]
            workers = max(running_at_once(executor) or 0, len(running), 1)
            began = self._starts(running, workers, held)
        elapsed = {future: max(now - start, _SHORTEST_S) for future, start in began.items()}
        kinds = _Kinds(self._store, elapsed)
        pending: dict[Future[Any], Pending] = {}
        for future in calls:
            kind = kinds.of(future)
            if kind is None:
                return None
            pending[future] = Pending(kind, _expected(future), elapsed.get(future))
        rng = random.Random(len(self._ends))  # so that it changes when something has ended, not with each look
        if not pending:
            times = [0.0]
        elif placed is None:
            times = run_forward(pending.values(), kinds.spreads, workers, rng)
        else:
            times = _placed_forward(placed, pending, kinds.spreads, rng, self._overhead.mean)
        return summarize(times, len(pending))

    def expected(self, future: Future[Any]) -> float | None:
        """How long a call will probably take, in seconds; `None` if nothing is known of its group."""
        spread = _Kinds(self._store, {}).spread_of(future)
        return None if spread is None else math.exp(spread.at(_expected(future)) + _expected(future))

    def shown(self) -> Estimate | None:
        """The estimate for a display: a recent one, so that all of them together cost 1 % of a core at most."""
        began = time.perf_counter()
        if began >= self._show_again:
            self._shown = self.estimate()
            now = time.perf_counter()
            self._show_again = now + (now - began) / _SHARE_OF_A_CORE
        return self._shown

    # What calls need

    def needs(self, future: Future[Any]) -> Needs | None:
        """What a call probably needs; `None` if no call of its group has been seen."""
        return self._store.needs(group_of(future), equal_arguments(future.args, future.kwargs))

    def most_memory(self) -> int:
        """The most memory that a call of any group has used, in bytes; 0 if unknown."""
        return self._store.most_memory

    def used(self, future: Future[Any], request: Resources, succeeded: bool, held_s: float) -> None:
        """Count a call whose attempt has ended, what it had requested, and for how many seconds it held that."""
        if succeeded:
            receipt = future.receipt
            if receipt.started is not None and receipt.ended is not None:
                self._overhead.add(max(0.0, held_s - (receipt.ended - receipt.started)))
            self._store.asked(group_of(future), request.cpus, request.memory)
            if _learns(future):  # at once, as the next calls wait for it
                self._count(future)

    # What has finished

    def _begin(self) -> None:
        self._ends = array("d")
        self._overhead = Moments()
        self._show_again = -math.inf

    def _note_end(self, future: Future[Any]) -> None:
        ended = future.receipt.ended
        if ended is not None:
            self._ends.append(ended)

    def _learn(self, future: Future[Any], _: object) -> None:
        if not _learns(future):
            self._count(future)

    def _count(self, future: Future[Any]) -> None:
        receipt = future.receipt
        if receipt.started is None or receipt.ended is None:
            return
        seconds = max(receipt.ended - receipt.started, _SHORTEST_S)
        cpus = None if receipt.cpu_s is None else receipt.cpu_s / seconds
        if cpus is not None and seconds < _SHORT_S:
            cpus = min(cpus, 1.0)
        arguments, x = equal_arguments(future.args, future.kwargs), _expected(future)
        self._store.add(group_of(future), x, math.log(seconds) - x, arguments, cpus, receipt.peak_memory_bytes)
        if self._store.path is not None and time.monotonic() > self._saved + _SAVE_S:
            self._store.save()
            self._saved = time.monotonic()

    # What runs

    def _starts(
        self, running: Collection[Future[Any]], workers: int, held: Collection[Future[Any]]
    ) -> dict[Future[Any], float]:
        """When each running call started. A worker reports that only in the end, with the receipt.

        Calls start in the order of their submission, and each but the first ones when another one has ended: the last
        one that started began at the last end, the one before at the end before that, unless it was submitted later.
        """
        ends = sorted([*self._ends, *(end for future in held if (end := future.receipt.ended) is not None)])
        started = len(ends) + len(running)
        began: dict[Future[Any], float] = {}
        for future in running:
            place = min(future.number, started) - workers - 1
            end = ends[min(place, len(ends) - 1)] if place >= 0 and ends else -math.inf
            began[future] = max(future.receipt.submitted, end)
        return began


def _placed_forward(
    placed: PlacedCalls,
    pending: Mapping[Future[Any], Pending],
    kinds: Sequence[Spread],
    rng: random.Random,
    overhead_s: float,
) -> list[float]:
    running: list[tuple[Pending, Lease]] = []
    waiting: list[tuple[Pending, WaitingCall]] = []
    for future, each in pending.items():
        lease = placed.leases.get(future)
        if lease is not None:
            running.append((each, lease))
            continue
        call = placed.waiting.get(future)
        if call is None:  # it failed, and waits until it is tried again
            wanted: Wanted | None = getattr(future, "wanted", None)
            requests = (Resources(),) if wanted is None else wanted.requests
            call = WaitingCall(future.number, requests, submitted=placed.now)
        waiting.append((each, call))
    return run_policy_forward(running, waiting, kinds, placed.nodes, placed.policy, placed.now, rng, overhead_s)


class _Kinds:
    """What is known of the calls of a run, by group and by equal arguments.

    Args:
        store: What was seen.
        elapsed: For how many seconds each running call has run.

    Attributes:
        spreads: What is known of each kind.
    """

    def __init__(self, store: Store, elapsed: Mapping[Future[Any], float]) -> None:
        self._store = store
        self._running: dict[str, list[tuple[float, float]]] = {}
        self._running_equal: dict[tuple[str, str | None], list[float]] = {}
        for future, seconds in elapsed.items():
            group, x = group_of(future), _expected(future)
            z = math.log(seconds) - x
            self._running.setdefault(group, []).append((x, z))
            self._running_equal.setdefault((group, self._arguments(future, group)), []).append(z)
        self._numbers: dict[tuple[str, str | None], int | None] = {}
        self.spreads: list[Spread] = []

    def of(self, future: Future[Any]) -> int | None:
        """The index of a call's kind; `None` if nothing is known of it."""
        group = group_of(future)
        arguments = self._arguments(future, group)
        if (group, arguments) in self._numbers:
            return self._numbers[group, arguments]
        number = self._numbers.get((group, None))
        if (group, None) not in self._numbers:
            number = self._numbers[group, None] = self._added(self._of_group(group, future))
        if arguments is not None and number is not None:
            running = self._running_equal.get((group, arguments), ())
            of_equal = self._store.of_arguments(group, arguments, self.spreads[number], _expected(future), running)
            number = self._numbers[group, arguments] = number if of_equal is None else self._added(of_equal)
        return number

    def _arguments(self, future: Future[Any], group: str) -> str | None:
        return equal_arguments(future.args, future.kwargs) if self._store.knows_arguments(group) else None

    def spread_of(self, future: Future[Any]) -> Spread | None:
        """What is known of a call."""
        number = self.of(future)
        return None if number is None else self.spreads[number]

    def _of_group(self, group: str, future: Future[Any]) -> Spread | None:
        seen = self._store.times(group)
        if seen.n:
            return of_group(seen, self._running.get(group, ()))
        return of_expectation() if _expected_s(future) else self._store.of_others()

    def _added(self, spread: Spread | None) -> int | None:
        if spread is None:
            return None
        self.spreads.append(spread)
        return len(self.spreads) - 1


def _clock_of_receipts(executor: Any) -> Callable[[], float]:
    return clock_of(executor) if capabilities_of(executor).virtual else time.time


def group_of(future: Future[Any]) -> str:
    """The name of the group of a call."""
    wanted: Wanted | None = getattr(future, "wanted", None)
    group = None if wanted is None else wanted.group
    if group is None:
        function: Any = future.function if future.task is None else future.task.function
        while hasattr(function, "func"):  # of a partial
            function = function.func
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        group = f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
    return f"{group}{OVER_EXPECTED}" if _expected_s(future) else group


def _learns(future: Future[Any]) -> bool:
    wanted: Wanted | None = getattr(future, "wanted", None)
    return wanted is not None and wanted.learns


def _expected(future: Future[Any]) -> float:
    """The logarithm of the time that is expected of a call, in seconds; 0 if none is."""
    seconds = _expected_s(future)
    return math.log(seconds) if seconds else 0.0


def _expected_s(future: Future[Any]) -> float | None:
    wanted: Wanted | None = getattr(future, "wanted", None)
    return None if wanted is None else wanted.requests[0].time
