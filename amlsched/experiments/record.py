"""What is known of a repetition, as values and as JSON."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from amlsched import __version__
from amlsched.experiments.code_version import Code
from amlsched.experiments.plain import jsonable

__all__ = [
    "Attempt",
    "ErrorNote",
    "Process",
    "Record",
    "State",
    "Used",
    "checked",
    "decoded",
    "encoded",
    "now",
]

FORMAT = 1
T = TypeVar("T")


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
    PREEMPTED = "preempted"
    """It was told to stop, and did; the next attempt goes on from its checkpoint."""
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
        space: Where its id counts: the boot of the host and the container. Empty where that is unknown.
    """

    host: str
    pid: int
    born: int = 0
    space: str = ""

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        return _this(os.getpid())

    def alive(self) -> bool | None:
        """Whether it lives; `None` where that cannot be told from here: on another host, or in another container."""
        if self.host != socket.gethostname() or self.space not in ("", _space()):
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return not self.born or _born(self.pid) == self.born


@functools.lru_cache(1)
def _this(pid: int) -> Process:
    return Process(socket.gethostname(), pid, _born(pid), _space())


@functools.cache
def _space() -> str:
    """Which numbers of processes these are.

    Sources:
        proc(5): `/proc/sys/kernel/random/boot_id`; namespaces(7).
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


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
        except BaseException as problem:  # it may exit, too
            message = f"<its message could not be made: {type(problem).__name__}>"
        return cls(type(error).__name__, message if len(message) <= 2000 else message[:2000] + " …")

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def line(self) -> str:
        """The first line of it."""
        return next(iter(str(self).splitlines()), "")


@dataclass(frozen=True, slots=True)
class Used:
    """What attempts used, as far as is known.

    Attributes:
        cpu_s: CPU time, of all together.
        peak_memory_bytes: The most resident memory that the process of one had.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(self.cpu_s + other.cpu_s, max(self.peak_memory_bytes, other.peak_memory_bytes))


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
        code: The version of the experiment's code, `None` where git knows none.
        resumed: Whether it went on with what an earlier attempt had left.
        used: CPU time and memory, `None` where nobody could say.
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
    code: Code | None = None
    resumed: bool = False
    used: Used | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a repetition.

    Attributes:
        name: Name of the experiment.
        run: Name of the run.
        rep: Index of the repetition.
        state: Its state.
        seed: Its seed.
        params: The parameters of its run.
        config: What else of the config its numbers may depend on.
        config_hash: Of the two; a repetition whose hash differs was run with other settings.
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
    config: dict[str, Any] = field(default_factory=dict[str, Any])
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
    def used(self) -> Used:
        """What its attempts used."""
        return sum((attempt.used for attempt in self.attempts if attempt.used is not None), Used())

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


def encoded(record: Record) -> dict[str, Any]:
    """The record as JSON has it."""
    raw = asdict(record)
    del raw["problem"]
    for key in ("last", "params", "config"):
        raw[key] = jsonable(raw[key])
    return {"format": FORMAT, **raw}


def decoded(raw: dict[str, Any]) -> Record:
    """The record that this JSON says.

    Raises:
        ValueError: It is of another format, or a value is none that a record has.
        KeyError: It lacks something.
        TypeError: It is no record at all.
    """
    if raw["format"] != FORMAT:
        raise ValueError(f"format {raw['format']!r}, this version of amlsched reads {FORMAT}")
    record = Record(
        name=raw["name"],
        run=raw["run"],
        rep=int(raw["rep"]),
        state=State(raw["state"]),
        seed=int(raw["seed"]),
        params=raw["params"],
        config=raw.get("config", {}),
        config_hash=raw["config_hash"],
        attempts=tuple(_decoded_attempt(attempt) for attempt in raw["attempts"]),
        last=raw["last"],
        version=raw["version"],
    )
    return checked(record)


def _decoded_attempt(raw: dict[str, Any]) -> Attempt:
    for time in (raw["started"], raw["ended"]):
        if time is not None and datetime.fromisoformat(time).tzinfo is None:
            raise ValueError(f"the time {time!r} has no zone")
    attempt = Attempt(
        run_id=raw["run_id"],
        driver=checked(Process(**raw["driver"])),
        worker=None if raw["worker"] is None else checked(Process(**raw["worker"])),
        executor=raw["executor"],
        started=raw["started"],
        ended=raw["ended"],
        outcome=None if raw["outcome"] is None else State(raw["outcome"]),
        error=None if raw["error"] is None else checked(ErrorNote(**raw["error"])),
        rows=int(raw["rows"]),
        code=Code(**code) if (code := raw.get("code")) else None,
        resumed=bool(raw.get("resumed")),
        used=checked(Used(**used)) if (used := raw.get("used")) else None,
    )
    return checked(attempt)


def checked(read: T) -> T:
    """An object that was made of JSON, if its attributes are what its class says.

    Raises:
        TypeError: One is not.
    """
    for name, kinds in _kinds(cast("Any", type(read))):  # mypy takes a class for unhashable
        if not isinstance(value := getattr(read, name), kinds):
            raise TypeError(f"{name} is {value!r:.60}")
    return read


@functools.cache
def _kinds(kind: type[Any]) -> tuple[tuple[str, tuple[type, ...]], ...]:
    found: list[tuple[str, tuple[type, ...]]] = []
    for name, hint in get_type_hints(kind).items():
        kinds = [get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
        found.append((name, (*kinds, int) if float in kinds else tuple(kinds)))
    return tuple(found)
