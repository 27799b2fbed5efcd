"""The record of a repetition, as an object and as JSON."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from amlsched import __version__, _proc
from amlsched.experiments._code.files import Code
from amlsched.experiments._config.values import jsonable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

__all__ = [
    "Attempt",
    "ErrorNote",
    "Process",
    "Record",
    "State",
    "Used",
    "attributes_by_key",
    "checked",
    "decoded",
    "encoded",
    "now",
]

FORMAT = 1
_KEYS = {"start_ticks": "born"}
"""The keys of attributes in files, where these differ."""
_ATTRIBUTES = {key: name for name, key in _KEYS.items()}
T = TypeVar("T")


class State(StrEnum):
    """The state of a repetition."""

    PENDING = "pending"
    """Not started yet: there is no record."""
    RUNNING = "running"
    COMPLETED = "completed"
    SURRENDERED = "surrendered"
    """The experiment finished early, by `ExperimentSurrender`."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    """Stopped when it was asked to; the next attempt resumes from its checkpoint."""
    UNKNOWN = "unknown"
    """There is a record, but it cannot be read."""

    @property
    def done(self) -> bool:
        """Whether nothing remains to do."""
        return self in (State.COMPLETED, State.SURRENDERED)


@dataclass(frozen=True, slots=True)
class Process:
    """The identity of a process on a host; its start time distinguishes it from a later one with the same id.

    Attributes:
        host: Name of the host.
        pid: Process id.
        start_ticks: When it started, in clock ticks since the host booted; 0 if unknown.
        space: Where its id is valid: the boot id of the host, and the pid namespace. Empty if unknown.
    """

    host: str
    pid: int
    start_ticks: int = 0
    space: str = ""

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        return _this(os.getpid())

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Process:
        """The process from its JSON in a record or a claim.

        Raises:
            TypeError: A key is missing or unknown.
        """
        return cls(**{_ATTRIBUTES.get(key, key): value for key, value in raw.items()})

    def alive(self) -> bool | None:
        """Whether it is alive; `None` if that cannot be determined, on another host or in another container."""
        if self.host != socket.gethostname() or self.space not in ("", _proc.kernel_and_namespace()):
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return not self.start_ticks or _proc.start_ticks(self.pid) == self.start_ticks


@functools.lru_cache(1)
def _this(pid: int) -> Process:
    return Process(socket.gethostname(), pid, _proc.start_ticks(pid), _proc.kernel_and_namespace())


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """An exception as text.

    Attributes:
        type: Name of its class.
        message: Its message, truncated to a reasonable length.
    """

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> ErrorNote:
        """The note of an exception, even if its `str` fails."""
        try:
            message = str(error)
        except BaseException as problem:  # user code may also exit
            message = f"<str() of the exception raised {type(problem).__name__}>"
        return cls(type(error).__name__, message if len(message) <= 2000 else message[:2000] + " …")

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def line(self) -> str:
        """Its first line."""
        return next(iter(str(self).splitlines()), "")


@dataclass(frozen=True, slots=True)
class Used:
    """The known resource usage of one or more attempts.

    Attributes:
        cpu_s: CPU time; for several attempts, the sum.
        peak_memory_bytes: Peak resident memory of the process; for several attempts, the maximum.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(self.cpu_s + other.cpu_s, max(self.peak_memory_bytes, other.peak_memory_bytes))


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to run a repetition.

    Attributes:
        run_id: The run of the driver that it belongs to.
        driver: The process that submitted it.
        worker: The process that ran it; `None` if it never started.
        executor: Name of the executor.
        started: When it started: UTC, ISO 8601.
        ended: When it ended: UTC, ISO 8601; `None` while it runs, or if its process died.
        outcome: The state in which it ended; `None` until then.
        error: Why it failed.
        rows: Number of logged rows.
        code: The version of the experiment's code; `None` if it is not in a git repository.
        resumed: Whether it resumed from the checkpoint of an earlier attempt.
        used: The CPU time and memory that it used; `None` if unknown.
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
    """The record of a repetition.

    Attributes:
        name: Name of the experiment.
        run: Name of the run.
        rep: Index of the repetition.
        state: Its state.
        seed: Its seed.
        params: The parameters of its run.
        config: Other keys of the config that its results may depend on.
        config_hash: Hash of `params` and `config`; if it differs, the repetition was run with other settings.
        attempts: Its attempts, oldest first.
        last: The last value of each logged column, in the order of the columns.
        version: Version of amlsched.
        problem: Why the state is `unknown`, with the place of the record.
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
        """How long the last attempt took; `None` if unknown."""
        if not self.attempts or self.attempts[-1].ended is None:
            return None
        attempt = self.attempts[-1]
        return (datetime.fromisoformat(attempt.ended or "") - datetime.fromisoformat(attempt.started)).total_seconds()

    @property
    def used(self) -> Used:
        """The resource usage of all attempts."""
        return sum((attempt.used for attempt in self.attempts if attempt.used is not None), Used())

    @property
    def reason(self) -> str:
        """Why it is not done, on one line; empty if unknown."""
        return self.problem or (self.error.line if self.error else "")

    @property
    def error(self) -> ErrorNote | None:
        """Why the last attempt failed."""
        return self.attempts[-1].error if self.attempts else None


def now() -> str:
    """The current time: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def attributes_by_key(value: DataclassInstance) -> dict[str, Any]:
    """The attributes of an object, and of the objects in it, by their keys in files."""
    return asdict(value, dict_factory=lambda pairs: {_KEYS.get(name, name): one for name, one in pairs})


def encoded(record: Record) -> dict[str, Any]:
    """The record as JSON."""
    raw = attributes_by_key(record)
    del raw["problem"]
    for key in ("last", "params", "config"):
        raw[key] = jsonable(raw[key])
    return {"format": FORMAT, **raw}


def decoded(raw: dict[str, Any]) -> Record:
    """The record from JSON.

    Raises:
        ValueError: It has another format, or an invalid value.
        KeyError: A key is missing.
        TypeError: It is not a record, or a value has the wrong type.
    """
    if raw["format"] != FORMAT:
        raise ValueError(f"it has format {raw['format']!r}, and this version of amlsched reads format {FORMAT}")
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
            raise ValueError(f"the time {time!r} has no time zone")
    attempt = Attempt(
        run_id=raw["run_id"],
        driver=checked(Process.from_json(raw["driver"])),
        worker=None if raw["worker"] is None else checked(Process.from_json(raw["worker"])),
        executor=raw["executor"],
        started=raw["started"],
        ended=raw["ended"],
        outcome=None if raw["outcome"] is None else State(raw["outcome"]),
        error=None if raw["error"] is None else checked(_with_known(ErrorNote, raw["error"])),
        rows=int(raw["rows"]),
        code=_with_known(Code, code) if (code := raw.get("code")) else None,
        resumed=bool(raw.get("resumed")),
        used=checked(_with_known(Used, used)) if (used := raw.get("used")) else None,
    )
    return checked(attempt)


def _with_known(kind: type[T], raw: Mapping[str, Any]) -> T:
    """An object of a record, without the keys that a newer version has added."""
    known = [one.name for one in fields(cast("Any", kind))]
    return kind(**{key: value for key, value in raw.items() if key in known})


def checked(read: T) -> T:
    """Check that the attributes of an object made from JSON have the types that its class declares.

    Raises:
        TypeError: An attribute has another type.
    """
    for name, kinds in _kinds(cast("Any", type(read))):  # mypy considers a class unhashable
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
