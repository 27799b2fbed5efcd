"""The outcomes of repetitions, counted by run and by state; and the records that the driver writes after a death."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amlsched.display.table import table
from amlsched.errors import WorkerOutOfMemoryError
from amlsched.experiments._config.values import as_float
from amlsched.experiments._storage import layout, record_file
from amlsched.experiments._storage.record import Attempt, ErrorNote, Record, State, Used, now
from amlsched.units import counted

if TYPE_CHECKING:
    from pathlib import Path

    from amlsched.experiments._running.repetition import Repetition

__all__ = ["Ended", "Summary", "Tally", "record_failure", "record_lost_attempt"]


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
    states: Counter[State] = field(default_factory=Counter[State])
    last: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many repetitions are done."""
        return self.states[State.COMPLETED] + self.states[State.SURRENDERED]

    def count(self, state: State, last: dict[str, Any], seconds: float | None) -> None:
        """Count a repetition."""
        self.states[state] += 1
        if not state.done:
            return
        self.seconds += seconds or 0.0
        for name, value in last.items():
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
    states: Counter[State] = field(default_factory=Counter[State])
    failed: list[tuple[str, Path, str]] = field(default_factory=list[tuple[str, "Path", str]])
    notes: list[str] = field(default_factory=list[str])
    used: Used = field(default_factory=Used)

    @property
    def done(self) -> int:
        """How many repetitions are done."""
        return self.states[State.COMPLETED] + self.states[State.SURRENDERED]

    @property
    def complete(self) -> bool:
        """Whether every repetition is done."""
        return self.done == self.total

    def __str__(self) -> str:
        states = ", ".join(f"{number} {state.value}" for state, number in self.states.items() if number)
        return f"{counted(self.total, 'repetition')}: {states or 'none has run'}; {self.ran} run now"

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

    def count(
        self, run: str, state: State, last: dict[str, Any], seconds: float | None, used: Used | None = None
    ) -> None:
        """Count a repetition of a run."""
        self.states[state] += 1
        self.used += used or Used()
        self.tallies[run].count(state, last, seconds)


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
