"""The record of a repetition on disk: a small file in its folder with its state and its attempts; and its checkpoint.

A record is replaced atomically (written to another file, synced, renamed), so that a reader finds either the old record
or the new one. A record that cannot be read, or has another format, has the state `unknown`, and never counts as done.

The process that runs a repetition writes `running` when it starts, and the outcome when it ends. If it died before that
(its worker was killed, the run was interrupted), the driver writes the outcome by the task's events, with `end`.

The next attempt resumes from the state that an experiment saved as its checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched._files import file_bytes, replace_file
from amlsched.errors import ExperimentError
from amlsched.experiments._config.values import restored
from amlsched.experiments._storage import claims, layout
from amlsched.experiments._storage.claims import Claim
from amlsched.experiments._storage.record import Attempt, ErrorNote, Record, State, Used, decoded, encoded, now

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BeginResult",
    "Checkpoint",
    "begin",
    "end",
    "has_checkpoint",
    "load_checkpoint",
    "lose",
    "read",
    "rows_lost",
    "save_checkpoint",
    "write",
]

EARLIER = "earlier"
_STATE = "state.pkl"
# A thread that could not be stopped may finish its repetition while the driver writes that it was cancelled.
_ending = threading.Lock()


def _new_lock() -> None:
    global _ending
    _ending = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may hold it during the fork


def read(folder: Path) -> Record:
    """The record in a repetition's folder. Its state is `pending` if there is none, `unknown` if it cannot be read."""
    path = folder / layout.RECORD
    try:
        text = file_bytes(path, wait_s=0)
    except (FileNotFoundError, NotADirectoryError):
        return Record()
    except OSError as error:
        return Record(state=State.UNKNOWN, problem=f"{path}: cannot be read ({error.strerror})")
    try:
        return decoded(json.loads(text, object_hook=restored))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return Record(
            state=State.UNKNOWN, problem=f"{path}: not a record of amlsched ({type(error).__name__}: {error})"
        )


def rows_lost(folder: Path, record: Record) -> str:
    """A note if a repetition is done but its rows are missing; empty if they are there."""
    if not record.state.done or not record.attempts or not record.attempts[-1].rows:
        return ""
    path = folder / layout.csv_name(record.rep)
    try:
        if path.stat().st_size:
            return ""
        problem = "is empty"
    except OSError:
        problem = "is missing"
    return f"{path} {problem}: no plot shows its rows (--rerun {record.run} runs it again)"


def write(folder: Path, record: Record) -> None:
    """Replace the record in the folder.

    Raises:
        OSError: The folder cannot be written; the earlier record is unchanged.
    """
    replace_file(folder / layout.RECORD, json.dumps(encoded(record), allow_nan=False, indent=1))


class BeginResult(NamedTuple):
    """The result of `begin`.

    Attributes:
        record: The current record.
        claim: The claim, to be released after the outcome is written; `None` if the repetition must not be run.
        resumed: Whether an earlier attempt left a checkpoint to resume from.
    """

    record: Record
    claim: Claim | None
    resumed: bool = False


def begin(
    folder: Path, fresh: Record, attempt: Attempt, seen: int | None = None, from_scratch: bool = False
) -> BeginResult:
    """Claim the repetition, and record that it is running.

    The output of an earlier attempt is moved to `earlier/<its number>/`, unless this attempt resumes from its
    checkpoint. It does if there is one with the same settings, and the repetition is not done.

    Args:
        folder: The folder of the repetition; created if it is missing.
        fresh: Name, run, index, seed and config hash.
        attempt: The new attempt.
        seen: How many attempts had ended when the repetition was planned: if another run's has ended since, the
            repetition is not run. `None` to skip this check.
        from_scratch: Whether to start from scratch even if there is a checkpoint of another run.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = claims.take(folder, attempt.run_id)
    if not isinstance(claim, Claim):
        known = read(folder)  # the owner may not have written yet that it is running
        return BeginResult(known if known.state is State.RUNNING else replace(fresh, state=State.RUNNING), None)
    try:
        known = read(folder)
        if seen is not None and _ended_since(known, seen, attempt.run_id):
            claim.release()
            return BeginResult(known, None)
        ours = bool(known.attempts) and known.attempts[-1].run_id == attempt.run_id
        resumes = (
            not (known.state.done or (from_scratch and not ours))
            and known.config_hash == fresh.config_hash
            and has_checkpoint(folder)
        )
        if not resumes:
            put_aside(folder, len(known.attempts))
        return BeginResult(_write_begin(folder, known, fresh, replace(attempt, resumed=resumes)), claim, resumes)
    except BaseException:
        claim.release()
        raise


def _ended_since(known: Record, seen: int, run_id: str) -> bool:
    new = known.attempts[seen:]
    return bool(new) and new[-1].run_id != run_id and (known.state.done or known.state is State.FAILED)


def _write_begin(folder: Path, known: Record, fresh: Record, attempt: Attempt) -> Record:
    for leftover in folder.glob(f".{layout.RECORD}.*"):  # from a worker that was killed while writing
        leftover.unlink(missing_ok=True)
    last = known.attempts[-1] if known.attempts else None
    attempts = known.attempts
    if last is not None and last.outcome is None:
        lost = ErrorNote("WorkerLostError", "its process died without recording how it ended")
        attempts = (*attempts[:-1], replace(last, outcome=State.FAILED, error=lost))
    record = replace(fresh, state=State.RUNNING, attempts=(*attempts, attempt))
    write(folder, record)
    return record


def put_aside(folder: Path, number: int, *, only_rows: bool = False) -> None:
    """Move the files of an attempt to `earlier/<its number>/`.

    Args:
        folder: The folder of the repetition.
        number: The number of the attempt, from 1.
        only_rows: Whether to move only its CSV file.

    Raises:
        OSError: The folder cannot be written.
    """
    others = () if only_rows else (layout.OUT_LOG, layout.ERR_LOG, layout.CHECKPOINT)
    names = [name for name in others if (folder / name).exists()]
    names += [path.name for path in folder.glob("rep_*.csv")]
    if (folder / layout.RECORD).exists() and read(folder).state is State.UNKNOWN:
        names.append(layout.RECORD)
    if not names:
        return
    place = folder / EARLIER / f"{number:02d}"
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).replace(place / name)


def end(
    folder: Path,
    run_id: str,
    outcome: State,
    *,
    error: ErrorNote | None = None,
    last: dict[str, Any] | None = None,
    rows: int = 0,
    claim: Claim | None = None,
    used: Used | None = None,
) -> Record:
    """Record how this run's attempt ended. The first writer wins; later calls do nothing.

    Args:
        folder: The folder of the repetition.
        run_id: The run that the attempt belongs to.
        outcome: The state in which it ended.
        error: Why it failed.
        last: The last value of each logged column; `None` keeps the recorded values.
        rows: Number of logged rows.
        claim: The claim of the attempt; `None` if its process died, to take over its claim.
        used: The CPU time and memory that it used; `None` if unknown.

    Returns:
        The current record. It is unchanged if it has no running attempt of this run: the repetition never started,
        already ended, or was taken over by another run.
    """
    record = read(folder)
    if not _under_way(record, run_id):
        return record
    with _ending, claims.claimed(folder, run_id) if claim is None else nullcontext(not claim.lost) as ours:
        record = read(folder)
        if not ours or not _under_way(record, run_id):
            return record
        attempt = record.attempts[-1]
        if attempt.outcome is None:  # otherwise it was lost, and never started again
            attempt = replace(attempt, ended=now(), outcome=outcome, error=error, rows=rows, used=used)
        last = record.last if last is None else last
        record = replace(record, state=outcome, attempts=(*record.attempts[:-1], attempt), last=last)
        write(folder, record)
        return record


def lose(folder: Path, run_id: str, error: ErrorNote, used: Used | None = None) -> None:
    """Record why this run's attempt died, before the same run starts the repetition again.

    Raises:
        OSError: The folder cannot be written.
    """
    with _ending, claims.claimed(folder, run_id) as ours:
        record = read(folder)
        if ours and _under_way(record, run_id) and record.attempts[-1].outcome is None:
            attempt = replace(record.attempts[-1], ended=now(), outcome=State.FAILED, error=error, used=used)
            write(folder, replace(record, attempts=(*record.attempts[:-1], attempt)))


def _under_way(record: Record, run_id: str) -> bool:
    last = record.attempts[-1] if record.attempts else None
    return last is not None and last.run_id == run_id and record.state is State.RUNNING


# ----------------------------------------------------------------------------------------------------------- checkpoint


class Checkpoint(NamedTuple):
    """The saved state of a repetition.

    Attributes:
        rows: How many rows had been logged.
        state: The state that the experiment passed.
        generators: States of the global random number generators.
    """

    rows: int
    state: Any
    generators: Mapping[str, Any] = MappingProxyType({})


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the saved checkpoint atomically.

    Args:
        folder: The folder of the repetition.
        checkpoint: The new checkpoint.

    Raises:
        OSError: It cannot be written; the earlier checkpoint is unchanged.
    """
    place = folder / layout.CHECKPOINT
    place.mkdir(exist_ok=True)
    replace_file(place / _STATE, pickle.dumps((checkpoint.rows, checkpoint.state, dict(checkpoint.generators))))


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint that was saved last; `None` if there is none.

    Raises:
        ExperimentError: It cannot be loaded, for example because the code of its classes has changed.
    """
    path = folder / layout.CHECKPOINT / _STATE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Checkpoint(*pickle.loads(data))
    except Exception as error:
        problem = f"cannot be loaded: {type(error).__name__}: {error}"
        raise ExperimentError(f"checkpoint {path}", problem, "--rerun NAME or -o starts from scratch") from error


def has_checkpoint(folder: Path) -> bool:
    """Whether a repetition has saved any state, with `save_checkpoint` or by itself."""
    with contextlib.suppress(OSError), os.scandir(folder / layout.CHECKPOINT) as entries:
        return any(not entry.name.startswith(".") for entry in entries)
    return False
