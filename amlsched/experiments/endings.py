"""How repetitions ended, as the driver knows it; and what it writes of those that could not say so themselves."""

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
    """How a repetition ended.

    Attributes:
        state: The state in which it ended.
        last: The last value of each column that it logged.
        seconds: How long it took, `None` if it never ran.
        error: Why it failed.
        left: Whether it was left alone, since another run works on it, or has ended it meanwhile.
        used: CPU time and memory.
    """

    state: State
    last: dict[str, Any]
    seconds: float | None = None
    error: ErrorNote | None = None
    left: bool = False
    used: Used = field(default_factory=Used)

    @classmethod
    def of(cls, record: Record, *, left: bool = False) -> Ended:
        """As its record says."""
        return cls(record.state, record.last, record.seconds, record.error, left, record.used)


def close(repetition: Repetition, error: BaseException) -> Ended:
    """Write how a repetition ended that could not say so itself: its worker was lost, or it never got one.

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
    """Write of what an attempt died, before the next one begins.

    Raises:
        OSError: Its record could not be written.
    """
    records.lose(repetition.folder, repetition.run_id, ErrorNote.of(error), _used_until(error))


def _used_until(error: BaseException) -> Used | None:
    """What is known of an attempt that could not say what it used."""
    known = isinstance(error, WorkerOutOfMemoryError) and error.peak_bytes
    return Used(peak_memory_bytes=known) if known else None
