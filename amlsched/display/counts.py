"""What a display tells of a scheduler in numbers: its calls, its workers, and how fast they are."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from amlsched.executors.capabilities import WorkersNow, capabilities_of, worker_count, workers_now

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from amlsched.scheduler import Scheduler

__all__ = ["Clock", "Counts", "Workers", "are_missing"]

_RATE_OVER_S = 10.0


class Counts(NamedTuple):
    """What became of the calls of a run."""

    submitted: int
    running: int
    queued: int
    results: int
    exceptions: int
    cancelled: int

    @classmethod
    def of(cls, scheduler: Scheduler, workers: int | None) -> Counts:
        """Those of a scheduler with so many workers; `None` where that is not known."""
        results, exceptions = scheduler.on_future_result.count, scheduler.on_future_exception.count
        cancelled = scheduler.on_future_cancelled.count
        submitted = scheduler.on_future_submitted.count
        left = submitted - scheduler.on_future_done.count - cancelled
        running = left if workers is None else min(left, workers)
        return cls(submitted, running, left - running, results, exceptions, cancelled)

    @property
    def ended(self) -> int:
        """How many ended, in whatever way."""
        return self.results + self.exceptions + self.cancelled

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in self._asdict().items())


class Workers:
    """Where calls run.

    Args:
        executor: What has them; `None` where there are none.
    """

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor

    @property
    def now(self) -> WorkersNow | None:
        """How many there are, of an executor that tells."""
        return workers_now(self._executor) if self._executor is not None else None

    @property
    def number(self) -> int | None:
        """How many calls can run now, where that is known."""
        if self._executor is None:
            return None
        if (now := self.now) is not None:
            return now.here
        return 1 if capabilities_of(self._executor).inline else worker_count(self._executor)

    def __str__(self) -> str:
        if self._executor is None:
            return "no workers"
        name, now, number = type(self._executor).__name__, self.now, self.number
        if now is not None:
            return f"{name}, {now._replace(instead=())}"
        return name if number is None else f"{name}, {number} worker{'s' * (number != 1)}"


def are_missing(now: WorkersNow | None, counts: Counts) -> TypeGuard[WorkersNow]:
    """Whether calls wait for workers that are not there."""
    return now is not None and now.here < now.wanted and counts.submitted > counts.ended


class Clock:
    """How long the run goes on, and how many calls end in a second."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._begun = time.monotonic()
        self._seen = deque([(self._begun, 0)])

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begun

    def rate(self, ended: int) -> float:
        """Calls a second, over the last ten seconds."""
        now = time.monotonic()
        while len(self._seen) > 1 and now - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        then, had_ended = self._seen[0]
        self._seen.append((now, ended))
        return (ended - had_ended) / max(now - then, 1e-9)
