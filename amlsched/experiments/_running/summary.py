"""The outcomes of repetitions: counted by run and by state, emitted as events, and recorded after a death."""

from __future__ import annotations

import html
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec

from amlsched.display.table import table
from amlsched.errors import WorkerOutOfMemoryError
from amlsched.experiments._config.values import as_float
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.record import Attempt, ErrorNote, Record, State, Used, now
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from amlsched.events import Subscriber
    from amlsched.experiments._running.repetition import Repetition
    from amlsched.experiments.plan import Planned

P = ParamSpec("P")
logger = logging.getLogger(__name__)

__all__ = [
    "Ended",
    "Outcomes",
    "StateCounts",
    "Summary",
    "Tally",
    "lower_is_better",
    "record_failure",
    "record_lost_attempt",
]

_LOWER_IS_BETTER = frozenset(
    {"loss", "losses", "error", "errors", "err", "mse", "rmse", "mae", "mape", "nll", "bpc", "perplexity", "ppl"}
    | {"regret", "cost", "time", "seconds", "latency"}
)


def lower_is_better(metric: str) -> bool:
    """Whether lower values of a metric are better, by its name: `val_loss`, `rmse`, but not `accuracy`."""
    words = re.split("[^a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", metric).lower())
    return not _LOWER_IS_BETTER.isdisjoint(words)


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of a repetition.

    Attributes:
        state: Its state.
        last: The last value of each logged column.
        seconds: How long it took; `None` if it never ran.
        error: Why it failed.
        left: Whether it was skipped, because another run works on it or has just finished it.
        used: The CPU time and memory that it used.
    """

    state: State
    last: dict[str, Any]
    seconds: float | None = None
    error: ErrorNote | None = None
    left: bool = False
    used: Used = field(default_factory=Used)

    @classmethod
    def of(cls, record: Record, *, left: bool = False) -> Ended:
        """The outcome in a record."""
        return cls(record.state, record.last, record.seconds, record.error, left, record.used)


class StateCounts(Counter[State]):
    """How many repetitions are in each state; as text, `2 completed, 1 failed`.

    Attributes:
        lost: How many of those that run by their record are known to run no more; in the text, they are `lost`.
    """

    lost: int = 0

    def __str__(self) -> str:
        states = dict(self)  # displays read it in a thread of their own
        if self.lost:
            states[State.RUNNING] -= self.lost
        words = [f"{count} {state.value}" for state, count in sorted(states.items()) if count]
        return ", ".join([*words, f"{self.lost} lost"] if self.lost else words)

    @property
    def done(self) -> int:
        """How many are done."""
        return self[State.COMPLETED] + self[State.SURRENDERED]

    def without(self, *states: State) -> StateCounts:
        """The counts of the other states."""
        others = StateCounts({state: count for state, count in self.items() if state not in states})
        others.lost = 0 if State.RUNNING in states else self.lost
        return others


@dataclass(slots=True)
class Tally:
    """The repetitions of one run.

    Attributes:
        name: Name of the run.
        total: How many repetitions it has.
        states: How many of them are in each state.
        last: The last values of each metric, one for each repetition that is done.
        seconds: How long these took in total.
    """

    name: str
    total: int = 0
    states: StateCounts = field(default_factory=StateCounts)
    last: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many repetitions are done."""
        return self.states.done

    def count(self, one: Ended | Record) -> None:
        """Count a repetition."""
        self.states[one.state] += 1
        if not one.state.done:
            return
        self.seconds += one.seconds or 0.0
        for name, value in one.last.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "iter":
                self.last.setdefault(name, []).append(as_float(value))


@dataclass(slots=True)
class Summary:
    """The state of all repetitions, and what a run of experiments did.

    Attributes:
        total: How many repetitions there are.
        ran: How many of them ended in this run.
        tallies: The tally of each run, by its name, in the order of the config.
        states: How many repetitions are in each state.
        failed: The repetitions that failed, or whose record cannot be read: name, folder and reason.
        notes: Notes on other repetitions.
        used: CPU time of all attempts, and the peak memory of one.
    """

    total: int = 0
    ran: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict[str, Tally])
    states: StateCounts = field(default_factory=StateCounts)
    failed: list[tuple[str, Path, str]] = field(default_factory=list[tuple[str, "Path", str]])
    notes: list[str] = field(default_factory=list[str])
    used: Used = field(default_factory=Used)

    @property
    def done(self) -> int:
        """How many repetitions are done."""
        return self.states.done

    @property
    def complete(self) -> bool:
        """Whether every repetition is done."""
        return self.done == self.total

    def best(self, metric: str) -> tuple[str, float] | None:
        """The run of the best last value of a metric so far, and that value; `None` if there is no finite one."""
        best_of = min if lower_is_better(metric) else max
        tallies = list(self.tallies.values())  # displays read it in a thread of their own
        known = [(tally.name, list(tally.last.get(metric, ()))) for tally in tallies]
        found = [(name, value) for name, values in known for value in values if math.isfinite(value)]
        return best_of(found, key=lambda one: one[1], default=None)

    def __str__(self) -> str:
        return f"{counted(self.total, 'repetition')}: {str(self.states) or 'none has run'}; {self.ran} run now"

    def table(self) -> str:
        """The summary as text, with a line for each run."""
        states = [state for state in State if self.states[state]]
        columns = ("run", "repetitions", *(state.value for state in states))
        rows = [
            (one.name, str(one.total), *(str(one.states[state]) for state in states)) for one in self.tallies.values()
        ]
        return f"{self}\n\n{table(columns, rows)}" if rows else str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"

    def expect(self, run: str, repetitions: int) -> None:
        """Add repetitions of a run to the totals."""
        self.total += repetitions
        self.tallies.setdefault(run, Tally(run)).total += repetitions

    def count(self, run: str, one: Ended | Record) -> None:
        """Count a repetition of a run."""
        self.states[one.state] += 1
        self.used += one.used
        self.tallies[run].count(one)

    def lose(self, run: str) -> None:
        """Count a repetition of a run, which was counted as running, as lost."""
        self.states.lost += 1
        self.tallies[run].states.lost += 1

    def add(self, run: str, rep: int, folder: Path, record: Record, note: str = "") -> None:
        """Count a repetition of a run by its record; note why it failed, or what else there is to say of it."""
        self.count(run, record)
        if record.state in (State.FAILED, State.UNKNOWN):
            self.failed.append((f"{run} rep {rep}", folder, record.reason))
        elif note := note or record_file.rows_lost(folder, record):
            self.notes.append(f"{run} rep {rep}: {note}")

    def note_once(self, note: str) -> None:
        """Add a note, unless it is there already."""
        if note not in self.notes:
            self.notes.append(note)


@dataclass(slots=True, eq=False)
class Outcomes:
    """Counts the repetitions of a run as they end, and emits the events of the run.

    Attributes:
        summary: The counts.
        on_done: Emitted for each repetition that ended in this run.
        on_result: Emitted for each one that is done.
        on_results: Emitted with all that are done since the last time.
        on_exception: Emitted for each one that has failed.
        error: What the run raises at its end: the first error of a callback, or the one that stopped the run.
        stop: Stops the scheduler that runs now.
        gathered: The repetitions that are done, but were not passed to `on_results` yet.
    """

    summary: Summary
    on_done: Subscriber[[Repetition, Ended], Any]
    on_result: Subscriber[[Repetition, Ended], Any]
    on_results: Subscriber[[list[tuple[Repetition, Ended]]], Any]
    on_exception: Subscriber[[Repetition, BaseException], Any]
    error: Exception | None = None
    stop: Callable[..., object] | None = None
    gathered: list[tuple[Repetition, Ended]] = field(default_factory=list[tuple["Repetition", Ended]])

    def ended(self, repetition: Repetition, ended: Ended) -> None:
        """Count a repetition that has ended in this run."""
        self.summary.count(repetition.record.run, ended)
        self.summary.ran += not ended.left
        if ended.state is State.FAILED:
            line = ended.error.line if ended.error else ""
            self.summary.failed.append((str(repetition), repetition.folder, line))
            logger.error("%s failed: %s (see %s)", repetition, line, repetition.folder)
        elif ended.state is State.RUNNING:
            self.summary.notes.append(f"{repetition}: is running in another run")
        self.emit(self.on_done, repetition, ended)
        if ended.state.done:
            self._done(repetition, ended)

    def skipped(self, planned: Planned, repetition: Callable[[Planned, int], Repetition]) -> None:
        """Count a repetition that is not run now, by its record.

        Args:
            planned: The repetition.
            repetition: Makes what the callbacks get.
        """
        known = planned.known
        self.summary.add(planned.run.name, planned.index, planned.folder, known, planned.note)
        if known.state.done and (self.on_result.handlers or self.on_results.handlers):
            self._done(repetition(planned, 0), Ended.of(known, left=True))

    def not_written(self, repetition: Repetition, problem: OSError) -> None:
        """Note that the record of a repetition could not be written."""
        self.summary.notes.append(f"{repetition}: its record could not be written: {problem}")

    def emit_gathered(self) -> None:
        """Pass the repetitions that are done to `on_results`, also those that its callbacks add."""
        while self.gathered and self.error is None:
            results, self.gathered = self.gathered, []
            self.emit(self.on_results, results)

    def emit(self, subscriber: Subscriber[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Emit an event to the user's callbacks; if one raises, the run stops and raises the error."""
        try:
            subscriber.emit(*args, **kwargs)
        except Exception as error:
            self.fail(error, "a callback failed")

    def fail(self, error: Exception, message: str | None = None) -> None:
        """Stop the run, which then raises this error, unless it already has one to raise.

        Args:
            error: The error.
            message: Passed to the callbacks of the scheduler's `on_stop`.
        """
        self.error = self.error or error
        if self.stop is not None:
            self.stop(stop_msg=message)

    def check(self) -> None:
        """Raise the error that stopped the run, if there is one."""
        if self.error is not None:
            raise self.error

    def _done(self, repetition: Repetition, ended: Ended) -> None:
        self.emit(self.on_result, repetition, ended)
        if self.on_results.handlers:
            self.gathered.append((repetition, ended))


def record_failure(repetition: Repetition, error: BaseException) -> Ended:
    """Record the failure of a repetition whose worker died, or that never got a worker.

    Raises:
        OSError: Its record could not be written.
    """
    folder, run_id, note = repetition.folder, repetition.run_id, ErrorNote.of(error)
    record = record_file.read(folder)
    claim = None
    if not record.attempts or record.attempts[-1].run_id != run_id:
        attempt = Attempt(run_id, repetition.driver, None, repetition.executor, now(), code=repetition.code)
        record, claim, _ = record_file.begin(
            folder, repetition.record, attempt, repetition.seen, repetition.from_scratch
        )
        if claim is None:
            return Ended.of(record, left=True)
    if record.state is State.RUNNING:
        with (folder / layout.ERR_LOG).open("a", encoding="utf-8", errors="backslashreplace") as err:
            err.write(f"{now()} {repetition} failed\n{note}\n")
        record = record_file.end(folder, run_id, State.FAILED, error=note, claim=claim, used=_used_until(error))
    if claim is not None:
        claim.release()
    return Ended.of(record)


def record_lost_attempt(repetition: Repetition, error: BaseException) -> None:
    """Record why an attempt died, before the next one starts.

    Raises:
        OSError: Its record could not be written.
    """
    record_file.lose(repetition.folder, repetition.run_id, ErrorNote.of(error), _used_until(error))


def _used_until(error: BaseException) -> Used | None:
    """The known resource usage of an attempt whose process died."""
    known = isinstance(error, WorkerOutOfMemoryError) and error.peak_bytes
    return Used(peak_memory_bytes=known) if known else None
