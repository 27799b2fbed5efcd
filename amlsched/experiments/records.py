"""The record of a repetition on disk: one small file in its folder that says what happened to it.

A record is replaced as a whole (written beside, synced, renamed), so that a reader finds the old one or the new one
and never half of one. What cannot be read, or was not written by this version's format, is `unknown`: never taken for
a good one.

Whoever runs a repetition writes `running` when it begins and how it ended when it ends; where it could not end itself
(its worker was killed, the run was interrupted), the driver writes that from the task's events, with `end`.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched.experiments import checkpoint, claims, layout
from amlsched.experiments.atomic import file_bytes, replace_file
from amlsched.experiments.claims import Claim
from amlsched.experiments.plain import restored
from amlsched.experiments.record import Attempt, ErrorNote, Record, State, Used, decoded, encoded, now

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Begun", "begin", "end", "lose", "read", "rows_lost", "write"]

EARLIER = "earlier"


def read(folder: Path) -> Record:
    """The record in the folder of a repetition; a pending one if there is none, an unknown one if it cannot be read."""
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
    """What to say of a repetition that is done and whose rows are not there any more; empty if they are."""
    if not record.state.done or not record.attempts or not record.attempts[-1].rows:
        return ""
    path = folder / layout.csv_name(record.rep)
    try:
        if path.stat().st_size:
            return ""
        problem = "is empty"
    except OSError:
        problem = "is not there any more"
    return f"{path} {problem}: its rows are in no plot (--rerun {record.run} runs it again)"


def write(folder: Path, record: Record) -> None:
    """Replace the record in the folder by this one.

    Raises:
        OSError: The folder cannot be written; the earlier record is untouched.
    """
    replace_file(folder / layout.RECORD, json.dumps(encoded(record), allow_nan=False, indent=1))


# A thread that could not be stopped may end its repetition while the driver writes that it was cancelled.
_ending = threading.Lock()


def _new_lock() -> None:
    global _ending
    _ending = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may hold it at the fork


class Begun(NamedTuple):
    """What `begin` gave.

    Attributes:
        record: The record as it stands now.
        claim: To be released once the end is written; `None` if the repetition is to be left alone.
        resumed: Whether an earlier attempt left a checkpoint to go on from.
    """

    record: Record
    claim: Claim | None
    resumed: bool = False


def begin(folder: Path, fresh: Record, attempt: Attempt, seen: int | None = None, anew: bool = False) -> Begun:
    """Claim the repetition, and write that it runs.

    Output of an earlier attempt is put aside, in `earlier/<its number>/`, unless this one goes on from its checkpoint:
    it does so where there is one, of the same settings, and the earlier attempt did not complete.

    Args:
        folder: The folder of the repetition; made if it is missing.
        fresh: Name, run, index, seed and config hash.
        attempt: The attempt that begins.
        seen: How many attempts the record had when it was decided to run it: if another run made one since that has
            ended, the repetition is left alone. `None`: whatever was there.
        anew: Whether it begins anew though there is a checkpoint of another run.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = claims.take(folder, attempt.run_id)
    if not isinstance(claim, Claim):
        known = read(folder)  # it may be about to write that it runs
        return Begun(known if known.state is State.RUNNING else replace(fresh, state=State.RUNNING), None)
    try:
        known = read(folder)
        if seen is not None and _ended_since(known, seen, attempt.run_id):
            claim.release()
            return Begun(known, None)
        ours = bool(known.attempts) and known.attempts[-1].run_id == attempt.run_id
        resumes = (
            not (known.state.done or (anew and not ours))
            and known.config_hash == fresh.config_hash
            and checkpoint.is_there(folder)
        )
        if not resumes:
            put_aside(folder, len(known.attempts))
        return Begun(_begun(folder, known, fresh, replace(attempt, resumed=resumes)), claim, resumes)
    except BaseException:
        claim.release()
        raise


def _ended_since(known: Record, seen: int, run_id: str) -> bool:
    new = known.attempts[seen:]
    return bool(new) and new[-1].run_id != run_id and (known.state.done or known.state is State.FAILED)


def _begun(folder: Path, known: Record, fresh: Record, attempt: Attempt) -> Record:
    for leftover in folder.glob(f".{layout.RECORD}.*"):  # of a worker that was killed while it wrote
        leftover.unlink(missing_ok=True)
    last = known.attempts[-1] if known.attempts else None
    attempts = known.attempts
    if last is not None and last.outcome is None:
        lost = ErrorNote("WorkerLostError", "nobody was left to say how it ended")
        attempts = (*attempts[:-1], replace(last, outcome=State.FAILED, error=lost))
    record = replace(fresh, state=State.RUNNING, attempts=(*attempts, attempt))
    write(folder, record)
    return record


def put_aside(folder: Path, number: int, *, only_rows: bool = False) -> None:
    """Move what an attempt left behind to `earlier/<its number>/`.

    Args:
        folder: The folder of the repetition.
        number: The attempt's, from 1.
        only_rows: Whether only its CSV file is moved.

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
    """Write how the attempt of this run ended; the first to say so is right, a later one changes nothing.

    Args:
        folder: The folder of the repetition.
        run_id: The run that the attempt belongs to.
        outcome: The state in which it ended.
        error: Why it failed.
        last: The last value of each column that was logged; `None` keeps what is there.
        rows: Number of rows that were logged.
        claim: That of the attempt; `None` for one that cannot speak for itself, whose claim is then taken.
        used: CPU time and memory; `None` where nobody can say.

    Returns:
        The record as it stands now. It is as it was if it has no attempt of this run that is under way: the repetition
        was never begun, it ended before, or another run took it over.
    """
    if not _under_way(read(folder), run_id):
        return read(folder)
    with _ending, claims.claimed(folder, run_id) if claim is None else nullcontext(not claim.lost) as ours:
        record = read(folder)
        if not ours or not _under_way(record, run_id):
            return record
        attempt = record.attempts[-1]
        if attempt.outcome is None:  # else it was lost, and never begun again
            attempt = replace(attempt, ended=now(), outcome=outcome, error=error, rows=rows, used=used)
        last = record.last if last is None else last
        record = replace(record, state=outcome, attempts=(*record.attempts[:-1], attempt), last=last)
        write(folder, record)
        return record


def lose(folder: Path, run_id: str, error: ErrorNote, used: Used | None = None) -> None:
    """Write of what the attempt of this run died, while the repetition is about to be begun again by the same run.

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
