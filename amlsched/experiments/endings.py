"""The outcome of repetitions in the driver, and the records that it writes for repetitions whose process died."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amlsched.errors import WorkerOutOfMemoryError
from amlsched.experiments import layout, records
from amlsched.experiments.record import Attempt, ErrorNote, Record, State, Used, now

if TYPE_CHECKING:
    from amlsched.experiments.repetition import Repetition

__all__ = ["Ended", "close", "lose"]


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


def close(repetition: Repetition, error: BaseException) -> Ended:
    """Record the failure of a repetition whose worker died, or that never got a worker.

    Raises:
        OSError: Its record could not be written.
    """
    folder, run_id, note = repetition.folder, repetition.run_id, ErrorNote.of(error)
    record = records.read(folder)
    claim = None
    if not record.attempts or record.attempts[-1].run_id != run_id:
        attempt = Attempt(run_id, repetition.driver, None, repetition.executor, now(), code=repetition.code)
        record, claim, _ = records.begin(folder, repetition.record, attempt, repetition.seen, repetition.anew)
        if claim is None:
            return Ended.of(record, left=True)
    if record.state is State.RUNNING:
        with (folder / layout.ERR_LOG).open("a", encoding="utf-8", errors="backslashreplace") as err:
            err.write(f"{now()} {repetition} failed\n{note}\n")
        record = records.end(folder, run_id, State.FAILED, error=note, claim=claim, used=_used_until(error))
    if claim is not None:
        claim.release()
    return Ended.of(record)


def lose(repetition: Repetition, error: BaseException) -> None:
    """Record why an attempt died, before the next one starts.

    Raises:
        OSError: Its record could not be written.
    """
    records.lose(repetition.folder, repetition.run_id, ErrorNote.of(error), _used_until(error))


def _used_until(error: BaseException) -> Used | None:
    """The known resource usage of an attempt whose process died."""
    known = isinstance(error, WorkerOutOfMemoryError) and error.peak_bytes
    return Used(peak_memory_bytes=known) if known else None
