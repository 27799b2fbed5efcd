"""The record of a repetition: one small file in its folder that says what happened to it.

A record is replaced as a whole (written beside, synced, renamed), so that a reader finds the old one or the new one
and never half of one. What cannot be read, or was not written by this version's format, is `unknown`: never taken for
a good one.

Whoever runs a repetition writes `running` when it begins and how it ended when it ends; where it could not end itself
(its worker was killed, the run was interrupted), the driver writes that from the task's events, with `end`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from amlsched import __version__

__all__ = ["Attempt", "ErrorNote", "Process", "Record", "State", "begin", "end", "now", "read"]

FORMAT = 1
FILE = "record.json"
EARLIER = "earlier"


class State(StrEnum):
    """What is known of a repetition."""

    PENDING = "pending"
    """Never begun: there is no record."""
    RUNNING = "running"
    COMPLETED = "completed"
    SURRENDERED = "surrendered"
    """The experiment ended itself early and well."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """There is a record, and it cannot be read."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self in (State.COMPLETED, State.SURRENDERED)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of some host, told apart from a later one with the same id by when it was born.

    Attributes:
        host: Name of the host.
        pid: Process id.
        born: When it was started, in the host's clock ticks since boot; 0 where that is unknown.
    """

    host: str
    pid: int
    born: int = 0

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _born(pid))

    def seems_alive(self) -> bool:
        """Whether it lives, as far as can be told from here: a process of another host counts as alive."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.born or _born(self.pid) == self.born


def _born(pid: int) -> int:
    """When a process was started; 0 where that is not to be had, or for a zombie.

    Sources:
        proc(5): field 22 of `/proc/PID/stat`.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """An exception, in words.

    Attributes:
        type: Name of its class.
        message: What it said, cut to a reasonable length.
    """

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> ErrorNote:
        """The note of an exception, also of one whose `str` fails."""
        try:
            message = str(error)
        except Exception as problem:
            message = f"<its message could not be made: {type(problem).__name__}>"
        return cls(type(error).__name__, message if len(message) <= 2000 else message[:2000] + " …")

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def line(self) -> str:
        """The first line of it."""
        return next(iter(str(self).splitlines()))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that the repetition was begun.

    Attributes:
        run_id: The run of the driver that it belongs to.
        driver: The process that submitted it.
        worker: The process that ran it, `None` if it never came to run.
        executor: Name of the executor.
        started: UTC, ISO 8601.
        ended: UTC, ISO 8601; `None` while it runs, or when nobody was left to say.
        outcome: The state in which it ended; `None` until then.
        error: Why it failed.
        rows: Number of rows that were logged.
    """

    run_id: str
    driver: Process
    worker: Process | None
    executor: str
    started: str
    ended: str | None = None
    outcome: State | None = None
    error: ErrorNote | None = None
    rows: int = 0

    def seems_alive(self) -> bool:
        """Whether someone still runs it, as far as can be told from here."""
        if self.outcome is not None:
            return False
        return self.driver.seems_alive() if self.worker is None else self.worker.seems_alive()


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a repetition.

    Attributes:
        name: Name of the experiment.
        run: Name of the run.
        rep: Index of the repetition.
        state: Its state.
        seed: Its seed.
        params: The settings of its run.
        config_hash: Of what its run is made of; a repetition whose hash differs was made by another config.
        attempts: The times it was begun, oldest first.
        last: The last value of each column that was logged, in the order of the columns.
        version: Of amlsched.
        problem: Why the record is `unknown`, with its place.
    """

    name: str = ""
    run: str = ""
    rep: int = 0
    state: State = State.PENDING
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    config_hash: str = ""
    attempts: tuple[Attempt, ...] = ()
    last: dict[str, Any] = field(default_factory=dict[str, Any])
    version: str = __version__
    problem: str = ""

    @property
    def seconds(self) -> float | None:
        """How long the last attempt took, `None` if that is not known."""
        if not self.attempts or self.attempts[-1].ended is None:
            return None
        attempt = self.attempts[-1]
        return (datetime.fromisoformat(attempt.ended or "") - datetime.fromisoformat(attempt.started)).total_seconds()

    @property
    def reason(self) -> str:
        """Why it is not done, in a line; empty if that is not known."""
        return self.problem or (self.error.line if self.error else "")

    @property
    def error(self) -> ErrorNote | None:
        """Why the last attempt failed."""
        return self.attempts[-1].error if self.attempts else None


def now() -> str:
    """The time: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ------------------------------------------------------------------------------------------------ reading and writing


def read(folder: Path) -> Record:
    """The record in the folder of a repetition; a pending one if there is none, an unknown one if it cannot be read."""
    path = folder / FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Record()
    except OSError as error:
        return Record(state=State.UNKNOWN, problem=f"{path}: cannot be read ({error.strerror})")
    try:
        return _decoded(json.loads(text, object_hook=_restored))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Record(
            state=State.UNKNOWN, problem=f"{path}: not a record of amlsched ({type(error).__name__}: {error})"
        )


def write(folder: Path, record: Record) -> None:
    """Replace the record in the folder by this one.

    Raises:
        OSError: The folder cannot be written; the earlier record is untouched.
    """
    replace_file(folder / FILE, json.dumps(_encoded(record), allow_nan=False, indent=1))


def replace_file(path: Path, text: str) -> None:
    """Put this text in place of the file, so that whoever reads it, whenever, finds the old text or the new one.

    Raises:
        OSError: The folder cannot be written; the earlier file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder last; some network file systems do not know this, and need it less."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encoded(record: Record) -> dict[str, Any]:
    raw = asdict(record)
    del raw["problem"]
    raw["last"], raw["params"] = jsonable(record.last), jsonable(record.params)
    return {"format": FORMAT, **raw}


_FLOAT = "$float"  # JSON has no infinity and no NaN


def jsonable(value: Any) -> Any:
    """The value as JSON has it; what JSON lacks becomes text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, dict):
        mapping: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {str(key): jsonable(item) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        items: list[Any] | tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        return [jsonable(item) for item in items]
    return str(value)


def _restored(raw: dict[str, Any]) -> Any:
    return float(raw[_FLOAT]) if raw.keys() == {_FLOAT} else raw


def _decoded(raw: dict[str, Any]) -> Record:
    if raw["format"] != FORMAT:
        raise ValueError(f"format {raw['format']!r}, this version of amlsched reads {FORMAT}")
    return Record(
        name=raw["name"],
        run=raw["run"],
        rep=int(raw["rep"]),
        state=State(raw["state"]),
        seed=int(raw["seed"]),
        params=raw["params"],
        config_hash=raw["config_hash"],
        attempts=tuple(_decoded_attempt(attempt) for attempt in raw["attempts"]),
        last=raw["last"],
        version=raw["version"],
    )


def _decoded_attempt(raw: dict[str, Any]) -> Attempt:
    return Attempt(
        run_id=raw["run_id"],
        driver=Process(**raw["driver"]),
        worker=None if raw["worker"] is None else Process(**raw["worker"]),
        executor=raw["executor"],
        started=raw["started"],
        ended=raw["ended"],
        outcome=None if raw["outcome"] is None else State(raw["outcome"]),
        error=None if raw["error"] is None else ErrorNote(**raw["error"]),
        rows=int(raw["rows"]),
    )


# ----------------------------------------------------------------------------------------------- beginning and ending

# A thread that could not be stopped may end its repetition while the driver writes that it was cancelled.
_ending = threading.Lock()


def _new_lock() -> None:
    global _ending
    _ending = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may hold it at the fork


def begin(folder: Path, fresh: Record, attempt: Attempt) -> Record | None:
    """Write that the repetition runs.

    Output of an earlier attempt is put aside, in `earlier/<its number>/`.

    Args:
        folder: The folder of the repetition; made if it is missing.
        fresh: Name, run, index, seed and config hash.
        attempt: The attempt that begins.

    Returns:
        The record as it stands now; `None` if another run works on this repetition, which is then to be left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = read(folder)
    last = known.attempts[-1] if known.attempts else None
    attempts = known.attempts
    if last is not None and last.outcome is None:
        if last.run_id != attempt.run_id and last.seems_alive():
            return None
        lost = ErrorNote("WorkerLostError", "nobody was left to say how it ended")
        attempts = (*attempts[:-1], replace(last, outcome=State.FAILED, error=lost))
    _put_aside(folder, len(attempts))
    record = replace(fresh, state=State.RUNNING, attempts=(*attempts, attempt))
    write(folder, record)
    return record


def _put_aside(folder: Path, number: int) -> None:
    for leftover in folder.glob(f".{FILE}.*"):  # of a worker that was killed while it wrote
        leftover.unlink(missing_ok=True)
    names = [name for name in ("out.log", "err.log") if (folder / name).exists()]
    names += [path.name for path in folder.glob("rep_*.csv")]
    if (folder / FILE).exists() and read(folder).state is State.UNKNOWN:
        names.append(FILE)
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
) -> Record:
    """Write how the attempt of this run ended; the first to say so is right, a later one changes nothing.

    Args:
        folder: The folder of the repetition.
        run_id: The run that the attempt belongs to.
        outcome: The state in which it ended.
        error: Why it failed.
        last: The last value of each column that was logged; `None` keeps what is there.
        rows: Number of rows that were logged.

    Returns:
        The record as it stands now. One without an attempt of this run is returned as it is: it was never begun.
    """
    with _ending:
        record = read(folder)
        if not record.attempts or record.attempts[-1].run_id != run_id or record.attempts[-1].outcome is not None:
            return record
        attempt = replace(record.attempts[-1], ended=now(), outcome=outcome, error=error, rows=rows)
        last = record.last if last is None else last
        record = replace(record, state=outcome, attempts=(*record.attempts[:-1], attempt), last=last)
        write(folder, record)
        return record
