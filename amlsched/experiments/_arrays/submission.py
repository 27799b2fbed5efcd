"""Submissions of arrays on disk, for elements and for later commands.

    OUTPUT/_arrays/0001/        one submission
        submission.json         its elements: jobs of the plan, and their repetitions
        config.yml              the config at that time, as it may be changed while elements wait
        part_0.json             a submitted array: its id, and its elements
        part_0.sh               its script (and part_0.sub, for systems with a separate submit description)
        carried.pkl             the user's own loggers and scheduler
        dropped.json            cancelled elements
        logs/                   output of elements outside of repetitions

A submission is one array, or several parts if the batch system does not accept all elements at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import replace_file
from amlsched._surroundings import user_name
from amlsched.batch_systems import SYSTEMS, System
from amlsched.errors import ExperimentError
from amlsched.experiments._config.axes import ARRAYS_FOLDER, DEBUG_FOLDER
from amlsched.experiments._running.graceful_stop import GRACE_S
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import now

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

__all__ = ["Part", "Submission", "Work", "create", "next_folder", "submissions"]

_FORMAT = 1
_FILE, _DROPPED, _LOCK = "submission.json", "dropped.json", "feeding"
_STALE_S = 300.0  # feeding takes seconds

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
    """A submitted array.

    Attributes:
        number: The number of the part in its submission.
        first: The number of its first element in the submission.
        count: How many elements it has.
        job: Its id in the batch system.
        submitted: When it was submitted: UTC, ISO 8601.
    """

    number: int
    first: int
    count: int
    job: str
    submitted: str = field(default_factory=now)

    @property
    def elements(self) -> range:
        """The numbers of its elements in the submission."""
        return range(self.first, self.first + self.count)


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
    def config(self) -> Path:
        """The config at the time of the submission."""
        return self.folder / layout.RESOLVED_CONFIG

    @property
    def carried(self) -> Path:
        """The pickled loggers and scheduler for elements; missing if there are none."""
        return self.folder / "carried.pkl"

    @property
    def parts(self) -> list[Part]:
        """The arrays submitted so far, in order."""
        found: list[Part] = []
        while True:
            try:
                text = (self.folder / f"part_{len(found)}.json").read_text("utf-8")
            except FileNotFoundError:
                return found
            found.append(Part(**json.loads(text)))

    def add(self, part: Part) -> None:
        """Record that a part was submitted."""
        replace_file(self.folder / f"part_{part.number}.json", json.dumps(asdict(part)))

    def place(self, part: Part, element: int) -> tuple[str, int]:
        """An element in the batch system: the id of its array, and its index there."""
        return part.job, element - part.first + self.batch.first

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
        lock = self.folder / _LOCK
        deadline = time.monotonic() + patience_s
        while not (ours := _made(lock)) and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            yield ours
        finally:
            if ours:
                lock.unlink(missing_ok=True)


def _made(lock: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    with contextlib.suppress(FileNotFoundError):  # its owner may have been killed
        if time.time() - lock.stat().st_mtime > _STALE_S:
            lock.unlink(missing_ok=True)
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
    return _folder(base, max((int(path.name) for path in there if path.name.isdecimal()), default=0) + 1)


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
            return folder


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
    parts = one.parts
    numbers.update(part.first + part.count for part in parts)
    "".join(part.job for part in parts)


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
