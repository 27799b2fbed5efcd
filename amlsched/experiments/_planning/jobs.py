"""Jobs: bundles of repetitions, by `reps_per_job` and `reps_in_parallel`.

As in cw2, bundles are formed over all runs of an experiment: a bundle may contain the end of one run and the start of
the next. The jobs of a plan are numbered from 0; the number is the index of an array element, and the argument of `-j`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from amlsched.errors import ExperimentError
from amlsched.experiments._config import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from amlsched.experiments._config.expand import Debug, Run
    from amlsched.experiments._config.resolve import ResolvedExperiment

__all__ = ["Bundle", "Bundled", "JobNumbers", "JobThrottle", "bundle", "bundles", "count"]

_LOOK_AHEAD = 10_000
"""The most repetitions that are held back because their job is full."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A job: the repetitions that it runs.

    Attributes:
        index: Number of the job in its plan, from 0.
        experiment: Name of the experiment.
        members: Its repetitions, as pairs of run and index, in order.
        reps_in_parallel: How many of them run at a time.
    """

    index: int
    experiment: str
    members: tuple[tuple[Run, int], ...]
    reps_in_parallel: int = 1

    @property
    def runs(self) -> list[Run]:
        """The runs of its repetitions, without duplicates, in order."""
        return list({run.name: run for run, _ in self.members}.values())

    def indices(self, run: Run) -> list[int]:
        """The indices of its repetitions of a run."""
        return [index for member, index in self.members if member.name == run.name]


class HasJobs(Protocol):
    """The part of a plan that jobs are made from."""

    @property
    def experiments(self) -> Sequence[ResolvedExperiment]:
        """The experiments."""
        ...

    @property
    def debug(self) -> Debug:
        """The debug mode."""
        ...


def bundles(plan: HasJobs) -> Iterator[Bundle]:
    """Yield the jobs of a plan."""
    first = 0
    for experiment in plan.experiments:
        for made in _of_experiment(experiment, plan.debug, first, 0):
            yield made
            first = made.index + 1


def bundle(plan: HasJobs, index: int) -> Bundle:
    """One job of a plan, without making those before it.

    Raises:
        ExperimentError: There is no such job.
    """
    first = 0
    for experiment in plan.experiments:
        n_jobs = _count(experiment, plan.debug)
        if 0 <= index - first < n_jobs:
            return next(_of_experiment(experiment, plan.debug, first, index - first))
        first += n_jobs
    raise ExperimentError(f"job {index}", "there is no such job", f"there are jobs 0 to {first - 1}")


def count(plan: HasJobs) -> int:
    """How many jobs a plan has."""
    return sum(_count(experiment, plan.debug) for experiment in plan.experiments)


def _count(experiment: ResolvedExperiment, debug: Debug) -> int:
    run = next(expand.expand(experiment, debug))
    repetitions = expand.count(experiment, debug) * run.repetitions
    return -(-repetitions // run.reps_per_job)


def _of_experiment(experiment: ResolvedExperiment, debug: Debug, first: int, skipped: int) -> Iterator[Bundle]:
    """The jobs of an experiment, numbered from `first`, without the first `skipped` ones."""
    run = next(expand.expand(experiment, debug))
    size, parallel, repetitions = run.reps_per_job, run.reps_in_parallel, run.repetitions
    n_runs, begun = divmod(skipped * size, repetitions)
    runs = islice(expand.expand(experiment, debug), n_runs, None)
    members = islice(((run, index) for run in runs for index in range(repetitions)), begun, None)
    index = first + skipped
    while some := tuple(islice(members, size)):
        yield Bundle(index, experiment.name, some, parallel)
        index += 1


class JobNumbers:
    """Finds the job of each repetition while the runs of a plan are iterated in order.

    Args:
        only: The only job that is iterated; `None` for all.
    """

    def __init__(self, only: Bundle | None = None) -> None:
        self._only = only
        self._run: Run | None = None
        self._first = self._before = 0

    def enter(self, run: Run) -> None:
        """Move on to this run."""
        last, self._run = self._run, run
        if last is None:
            return
        self._before += last.repetitions
        if last.experiment is not run.experiment:
            self._first += -(-self._before // last.reps_per_job)
            self._before = 0

    def job(self, index: int) -> int:
        """The number of the job of a repetition of the current run."""
        if self._only is not None or self._run is None:
            return self._only.index if self._only else 0
        return self._first + (self._before + index) // self._run.reps_per_job


class Bundled(Protocol):
    """A repetition with the number of its job."""

    @property
    def job(self) -> int:
        """Number of the job."""
        ...

    @property
    def reps_in_parallel(self) -> int:
        """How many repetitions of that job run at a time."""
        ...


T = TypeVar("T", bound=Bundled)


class JobThrottle(Generic[T]):
    """Hands out repetitions, with at most `reps_in_parallel` of a job at a time.

    Args:
        work: The repetitions, ordered by job.
    """

    def __init__(self, work: Iterator[T]) -> None:
        self._work = work
        self._out: dict[int, int] = {}
        self._waiting: dict[int, deque[T]] = {}
        self._n_waiting = 0

    def take(self) -> T | None:
        """The next repetition whose job has a free slot; `None` if there is none now."""
        for job, queue in self._waiting.items():
            if self._out.get(job, 0) < queue[0].reps_in_parallel:
                one = queue.popleft()
                self._n_waiting -= 1
                if not queue:
                    del self._waiting[job]
                return self._taken(one)
        while self._n_waiting < _LOOK_AHEAD and (new := next(self._work, None)) is not None:
            if self._out.get(new.job, 0) < new.reps_in_parallel:
                return self._taken(new)
            self._waiting.setdefault(new.job, deque()).append(new)
            self._n_waiting += 1
        return None

    def add(self, one: T) -> None:
        """Add a repetition, to be handed out before the remaining ones."""
        self._waiting.setdefault(one.job, deque()).append(one)
        self._n_waiting += 1

    def give_back(self, one: T) -> None:
        """Free the slot of a repetition that has finished."""
        left = self._out.pop(one.job) - 1
        if left:
            self._out[one.job] = left

    def _taken(self, one: T) -> T:
        self._out[one.job] = self._out.get(one.job, 0) + 1
        return one
