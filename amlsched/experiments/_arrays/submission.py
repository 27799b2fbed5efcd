"""Submissions of arrays on disk, for elements and for later commands.

    OUTPUT/_arrays/submitting       locks the folder while a command submits
    OUTPUT/_arrays/last             the number of the newest submission: none is used twice
    OUTPUT/_arrays/0001/            one submission
        submission.json             its elements: jobs of the plan, and their repetitions
        config.yml                  the config at that time, as it may be changed while elements wait
        part_0.asked                an array that is about to be submitted: its elements and its mark
        part_0.json                 what became of that: the id of the array, or none if it was given up
        part_0.1f2e3d4c.sh          its script, with the mark (and the same with .sub, where there is a description)
        carried.pkl                 the user's own loggers and scheduler
        dropped.json                cancelled elements
        ended/N                     the element N has ended in the array whose id is in the file
        again/N                     the same, and it wants to be submitted again
        surplus/JOB                 a second array of a part, which does nothing, and could not be cancelled so far
        logs/                       output of elements outside of repetitions

A submission is one array, or several parts if the batch system does not accept all elements at once, or if elements are
submitted again.

A part whose submission got no answer is open: only its `.asked` file exists. It becomes an array when it is found in
the queue by its mark, or when one of its elements starts; or it is given up, and another one is submitted in its place.
Whoever creates `part_0.json` first decides. Elements of an array that was given up do nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import create_file, file_bytes, link_file, replace_file
from amlsched._surroundings import user_name
from amlsched.batch_systems import SYSTEMS, System
from amlsched.errors import ExperimentError
from amlsched.experiments._config.axes import ARRAYS_FOLDER, DEBUG_FOLDER
from amlsched.experiments._running.graceful_stop import GRACE_S
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import Process, attributes_by_key, checked, now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "STOPPED",
    "Part",
    "Submission",
    "Word",
    "Work",
    "create",
    "is_there",
    "next_folder",
    "submissions",
    "submitting",
]

_FORMAT = 1
_FILE, _DROPPED, _LOCK, _LAST, _SURPLUS = "submission.json", "dropped.json", "feeding", "last", "surplus"
_SUBMITTING = "submitting"
_OTHERS_S = 600.0
"""How long a command waits for another one that submits to the same folder for results."""
_STALE_S = 900.0  # feeding takes minutes at most, while a queue is full
STOPPED = "stopped by a signal"
"""Why an element has ended that was cancelled or preempted; the batch system may have requeued it."""
_LATE_S = 86400.0
"""How long an array that was given up is looked for in the queue."""

Key = tuple[str, str, int]
"""A repetition: experiment, run, index."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of an element: a job of the plan.

    Attributes:
        job: Number of the job.
        experiment: Name of the experiment.
        repetitions: The repetitions to run: their indices, by run.
        again: Those of them that had ended before and run again: how many attempts each had.
        anew: The runs whose repetitions then start from scratch, even if they have saved a checkpoint.
    """

    job: int
    experiment: str
    repetitions: Mapping[str, list[int]]
    again: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, dict[str, int]])
    anew: Sequence[str] = ()

    @property
    def keys(self) -> Iterator[Key]:
        """Its repetitions."""
        return ((self.experiment, run, index) for run, indices in self.repetitions.items() for index in indices)

    def is_run_again(self, run: str, index: int, attempts: int) -> bool:
        """Whether a repetition with this many attempts still has to run again."""
        return attempts <= self.again.get(run, {}).get(str(index), -1)


@dataclass(frozen=True, slots=True)
class Part:
    """An array of a submission.

    Attributes:
        number: The number of the part in its submission.
        first: The number of its first element in the submission.
        count: How many elements it has.
        job: Its id in the batch system; empty if that is unknown, or if it was given up.
        submitted: When it was submitted: UTC, ISO 8601.
        mark: See `ArrayJob`; empty if it was submitted by version 0.1 or earlier.
        chosen: The numbers of its elements, if they do not follow each other.
    """

    number: int
    first: int
    count: int
    job: str
    submitted: str = field(default_factory=now)
    mark: str = ""
    chosen: list[int] | None = None

    @property
    def elements(self) -> Sequence[int]:
        """The numbers of its elements in the submission."""
        return range(self.first, self.first + self.count) if self.chosen is None else self.chosen

    @property
    def may_be_late(self) -> bool:
        """Whether an array that was given up may still enter the queue."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.submitted)).total_seconds() < _LATE_S


@dataclass(frozen=True, slots=True)
class Word:
    """What an element, or who has asked the queue for it, leaves for others.

    Attributes:
        job: The id of the array that it is about; a word about an earlier array of the same element counts no more.
        why: Why, in words for the user.
    """

    job: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """Elements that were submitted to a batch system.

    Attributes:
        folder: Its folder.
        system: Name of the batch system.
        target: The experiment, as for `Target.parse`.
        command: The command line that submitted it.
        created: When it was created: UTC, ISO 8601.
        user: The user who submitted it.
        host: The host on which it was submitted.
        debug: Whether its runs are debug runs.
        capture: Whether the output of repetitions is captured.
        logs: The folder with the output of elements.
        at_once: How many elements may run at a time; `None` for no limit.
        work: The work of each element.
        array: The other attributes of its `ArrayJob`.
        copies: Folders of copies of the code: none, one for all elements, or one for each.
        grace_s: As for `ExperimentRun`.
    """

    folder: Path
    system: str
    target: str
    command: list[str]
    created: str
    user: str
    host: str
    debug: bool
    capture: bool
    logs: Path
    at_once: int | None
    work: list[Work]
    array: dict[str, Any]
    copies: list[str] = field(default_factory=list[str])
    grace_s: float = GRACE_S

    @property
    def batch(self) -> System:
        """The batch system."""
        return SYSTEMS[self.system]

    @property
    def results(self) -> Path:
        """The folder for the results."""
        return self.folder.parent.parent

    @property
    def place_of_results(self) -> Path:
        """The folder by which `submissions` finds this submission and its siblings."""
        return self.results / DEBUG_FOLDER if self.debug else self.results

    @property
    def config(self) -> Path:
        """The config at the time of the submission."""
        return self.folder / layout.RESOLVED_CONFIG

    @property
    def carried(self) -> Path:
        """The pickled loggers and scheduler for elements; missing if there are none."""
        return self.folder / "carried.pkl"

    @property
    def asked(self) -> list[Part]:
        """All arrays that were submitted or about to be, in order; those that were given up have no id."""
        found: list[Part] = []
        while True:
            part = self._part(len(found))
            if part is None:
                return found
            found.append(part)

    @property
    def parts(self) -> list[Part]:
        """The arrays submitted so far, in order."""
        return [part for part in self.asked if part.job]

    @property
    def open(self) -> list[Part]:
        """The parts of which it is not known whether they are in the queue."""
        return [part for part in self.asked if not part.job and not self._file(part.number).exists()]

    @property
    def given_up(self) -> list[Part]:
        """The parts that were given up not long ago, so that they may still enter the queue."""
        return [part for part in self.asked if not part.job and part.may_be_late and self._file(part.number).exists()]

    def _file(self, number: int) -> Path:
        return self.folder / f"part_{number}.json"

    def _part(self, number: int) -> Part | None:
        for path in (self._file(number), self._file(number).with_suffix(".asked")):
            with contextlib.suppress(FileNotFoundError):
                return checked(Part(**json.loads(path.read_text("utf-8"))))
        return None

    def ask(self, elements: Sequence[int]) -> Part:
        """Note that a part with these elements is about to be submitted."""
        number, first, count = len(self.asked), elements[0], len(elements)
        in_a_row = list(elements) == list(range(first, first + count))
        part = Part(number, first, count, "", mark=uuid.uuid4().hex[:8], chosen=None if in_a_row else list(elements))
        replace_file(self._file(number).with_suffix(".asked"), json.dumps(asdict(part)))
        return part

    def withdraw(self, part: Part) -> None:
        """Forget a part that the batch system has rejected."""
        for path in self.folder.glob(f"part_{part.number}.*"):
            path.unlink(missing_ok=True)

    def settle(self, part: Part, job: str) -> Part:
        """Record what became of a part: the id of its array, or that it is given up, if that is empty.

        Returns:
            The part as recorded; if another process was faster, then by that one.
        """
        settled = replace(part, job=job, submitted=now())
        create_file(self._file(part.number), json.dumps(asdict(settled)))
        return self._part(part.number) or settled

    @property
    def surplus(self) -> list[str]:
        """The ids of arrays that were submitted beside that of their part, and could not be cancelled so far."""
        folder = self.folder / _SURPLUS
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def note_surplus(self, job: str) -> None:
        """Note that an array is to be cancelled by a later command."""
        (self.folder / _SURPLUS).mkdir(exist_ok=True)
        (self.folder / _SURPLUS / job).touch()

    def withdraw_surplus(self, job: str) -> None:
        """Note that such an array has been cancelled."""
        (self.folder / _SURPLUS / job).unlink(missing_ok=True)

    def place(self, part: Part, element: int) -> tuple[str, int]:
        """An element in the batch system: the id of its array, and its index there."""
        return part.job, part.elements.index(element) + self.batch.first

    def current(self) -> dict[int, Part]:
        """For each element the array that it was submitted in last, if any."""
        return {number: part for part in self.parts for number in part.elements}

    def waiting(self) -> list[int]:
        """The elements that are to be submitted, for the first time or again."""
        parts, again, dropped = self.current(), self.words("again"), self.dropped
        taken = {number for part in self.open for number in part.elements}
        return [
            number
            for number in range(len(self.work))
            if number not in dropped
            and number not in taken
            and (number not in parts or (number in again and again[number].job == parts[number].job))
        ]

    def leave_word(self, kind: str, element: int, word: Word) -> None:
        """Leave a word about an element: that it has `ended`, or wants to run `again`."""
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        replace_file(folder / str(element), json.dumps(asdict(word)))

    def withdraw_word(self, kind: str, element: int) -> None:
        """Withdraw a word about an element, as it has started."""
        (self.folder / kind / str(element)).unlink(missing_ok=True)

    def words(self, kind: str) -> dict[int, Word]:
        """The words of one kind that were left, by the number of the element."""
        found: dict[int, Word] = {}
        folder = self.folder / kind
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.isdecimal():
                with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # empty in version 0.1
                    found[int(path.name)] = Word(**json.loads(path.read_text("utf-8")))
        return found

    @property
    def dropped(self) -> frozenset[int]:
        """The elements that were cancelled."""
        try:
            return frozenset(json.loads((self.folder / _DROPPED).read_text("utf-8")))
        except FileNotFoundError:
            return frozenset()

    def drop(self, elements: Iterable[int]) -> None:
        """Record that elements were cancelled: if they start nevertheless, they do nothing."""
        replace_file(self.folder / _DROPPED, json.dumps(sorted(self.dropped | set(elements))))

    @contextlib.contextmanager
    def feeding(self, patience_s: float = 0.0) -> Generator[bool]:
        """Lock the submission, so that only one process at a time submits parts.

        Args:
            patience_s: How long to wait for the lock.

        Yields:
            Whether this process has the lock.
        """
        with _holding(self.folder / _LOCK, patience_s, 0.1) as ours:
            yield ours


@contextlib.contextmanager
def submitting(results: Path, notify: Callable[[str], None]) -> Generator[None]:
    """Lock a folder for results: of several commands at a time, one decides what to submit, and submits it.

    Raises:
        ExperimentError: Another command did not finish in time, or the folder cannot be written.
    """
    base, where = results / ARRAYS_FOLDER, f"results folder {results}"
    lock = base / _SUBMITTING
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExperimentError(where, f"cannot be written: {error.strerror}") from error
    if lock.exists():
        notify(f"Another amlsched run … -s submits to {results}; waiting for it")
    try:
        with _holding(lock, _OTHERS_S, 1.0) as ours:
            if not ours:
                problem = f"another amlsched run … -s submits to it{_owner(lock)}"
                raise ExperimentError(where, problem, f"wait for it; if it has ended, remove {lock}")
            yield
    finally:
        with contextlib.suppress(OSError):
            base.rmdir()  # if nothing was submitted


def _owner(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError):
        other = checked(Process.from_json(json.loads(file_bytes(lock))))
        return f" (process {other.pid} on {other.host})"
    return ""


@contextlib.contextmanager
def _holding(lock: Path, patience_s: float, pause_s: float) -> Generator[bool]:
    """Hold a lock, if this process gets it in time; yields whether it did."""
    deadline = time.monotonic() + patience_s
    while not (ours := _locked(lock)) and time.monotonic() < deadline:
        time.sleep(pause_s)
    try:
        yield ours
    finally:
        if ours:
            lock.unlink(missing_ok=True)


def _locked(lock: Path) -> bool:
    """Whether this process got the lock; from an owner that was killed, it takes it."""
    owner = json.dumps(attributes_by_key(Process.this()))
    if create_file(lock, owner):
        return True
    with contextlib.suppress(FileNotFoundError):
        if (found := _abandoned(lock)) is not None:
            taken = lock.with_name(f".{lock.name}.{os.getpid()}.{threading.get_ident()}.old")
            lock.replace(taken)
            try:
                if file_bytes(taken) != found:  # another process was faster, and this is its lock
                    link_file(taken, lock)
                    return False
            finally:
                taken.unlink(missing_ok=True)
            return create_file(lock, owner)
    return False


def _abandoned(lock: Path) -> bytes | None:
    """The content of a lock whose owner is gone; `None` if it may still be there."""
    content = file_bytes(lock)
    is_old = time.time() - lock.stat().st_mtime > _STALE_S
    return content if is_old or _is_dead(content) else None


def _is_dead(owner: bytes) -> bool:
    """Whether the owner of a lock is known on this host to have been killed."""
    try:
        return checked(Process.from_json(json.loads(owner))).alive() is False
    except (ValueError, TypeError):  # of version 0.1, or torn
        return False


def create(results: Path, config: str, **more: Any) -> Submission:
    """Create the folder of a new submission, before anything is submitted.

    Args:
        results: The folder for the results.
        config: The current config.
        **more: The other attributes of the submission.

    Raises:
        ExperimentError: The folder cannot be written.
    """
    try:
        folder = _numbered(results)
        more["logs"] = more["logs"] or folder / "logs"
        more["logs"].mkdir(parents=True, exist_ok=True)
        one = Submission(folder=folder, created=now(), user=user_name(), host=socket.gethostname(), **more)
        replace_file(one.config, config)
        raw = asdict(one)
        del raw["folder"]
        raw["logs"] = str(one.logs)
        replace_file(folder / _FILE, json.dumps({"format": _FORMAT, **raw}))
    except OSError as error:
        raise ExperimentError(f"results folder {results}", f"cannot be written: {error.strerror}") from error
    return one


def next_folder(results: Path) -> Path:
    """The folder of the next submission, which is not created."""
    base = results / ARRAYS_FOLDER
    there = base.iterdir() if base.is_dir() else ()
    numbers = [int(path.name) for path in there if path.name.isdecimal()]
    with contextlib.suppress(OSError, ValueError):
        numbers.append(int((base / _LAST).read_text("utf-8")))
    return _folder(base, max(numbers, default=0) + 1)


def _folder(base: Path, number: int) -> Path:
    return base / f"{number:04d}"


def _numbered(results: Path) -> Path:
    folder = next_folder(results)
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            folder = _folder(folder.parent, int(folder.name) + 1)
        else:
            replace_file(folder.parent / _LAST, folder.name)
            return folder


def is_there(folder: Path) -> bool:
    """Whether there is a submission in this folder."""
    return (folder / _FILE).is_file()


def read(folder: Path) -> Submission:
    """The submission in a folder.

    Raises:
        ExperimentError: There is none, or it is invalid.
    """
    try:
        raw = json.loads((folder / _FILE).read_text("utf-8"))
        if raw.pop("format") != _FORMAT:
            raise ValueError("it was written by another version of amlsched")
        work = [Work(**one) for one in raw.pop("work")]
        logs = Path(raw.pop("logs"))
        one = Submission(folder=folder, work=work, logs=logs, **raw)
        _check(one)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is not a submission of arrays: {type(error).__name__}: {error}"
        raise ExperimentError(
            str(folder / _FILE), problem, "remove the folder if none of its elements are in the queue"
        ) from error
    return one


def _check(one: Submission) -> None:
    """Raise one of various errors if the files are damaged."""
    if one.system not in SYSTEMS:
        raise ValueError(f"there is no batch system {one.system!r}")
    numbers = {index + 0 for work in one.work for *_, index in work.keys}
    numbers.update(number + 0 for number in one.dropped)
    numbers.update(number + 0 for part in one.asked for number in part.elements)


def submissions(results: str | Path) -> list[Submission]:
    """The submissions for a folder of results, oldest first.

    Args:
        results: The folder, or the folder of debug runs or of an experiment in it.
    """
    folder = Path(results).resolve()
    debug = folder.name == DEBUG_FOLDER
    base = next((one for one in (folder, folder.parent) if (one / ARRAYS_FOLDER).is_dir()), folder) / ARRAYS_FOLDER
    if not base.is_dir():
        return []
    places = sorted((path for path in base.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    found = [read(place) for place in places if (place / _FILE).is_file()]
    return [one for one in found if one.debug == debug]
