"""What was submitted as arrays, on disk: who comes back days later, and every element, finds it there.

    OUTPUT/_arrays/0001/        one submission
        submission.json         what its elements are: jobs of the plan, and their repetitions
        config.yml              the config as it was then: it may be changed while elements wait
        part_0.json             an array that was submitted: its id, and which elements it has
        part_0.sh               its script (and part_0.sub, for systems that want a file beside it)
        carried.pkl             loggers and a scheduler of the user's own
        dropped.json            elements that were cancelled
        logs/                   what elements print, outside of repetitions

A submission is one array, or several parts where the batch system does not take all elements at once.
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

from amlsched._surroundings import user_name
from amlsched.arrays import SYSTEMS, System
from amlsched.errors import ExperimentError
from amlsched.experiments import layout
from amlsched.experiments.atomic import replace_file
from amlsched.experiments.names import ARRAYS_FOLDER, DEBUG_FOLDER
from amlsched.experiments.record import now
from amlsched.experiments.stopping import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

__all__ = ["Part", "Submission", "Work", "create", "next_folder", "submissions"]

_FORMAT = 1
_FILE, _DROPPED, _LOCK = "submission.json", "dropped.json", "feeding"
_STALE_S = 300.0  # who feeds takes seconds

Key = tuple[str, str, int]
"""A repetition: experiment, run, index."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an element does: a job of the plan.

    Attributes:
        job: Number of the job.
        experiment: Name of the experiment.
        repetitions: What is to be run: indices of repetitions, by run.
        again: Those of them that had ended before, and are run again: how many attempts each had.
        anew: The runs whose repetitions begin anew then, whatever they have saved.
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
        """Whether a repetition that has had so many attempts is still to be run again."""
        return attempts <= self.again.get(run, {}).get(str(index), -1)


@dataclass(frozen=True, slots=True)
class Part:
    """An array that was submitted.

    Attributes:
        number: Which part of its submission it is.
        first: Its first element, of those of the submission.
        count: How many it has.
        job: The batch system's id of it.
        submitted: UTC, ISO 8601.
    """

    number: int
    first: int
    count: int
    job: str
    submitted: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Submission:
    """Elements that were handed to a batch system.

    Attributes:
        folder: Where it is kept.
        system: Name of the batch system.
        target: The experiment, as `Target.parse` reads it.
        command: The command line that submitted it.
        created: UTC, ISO 8601.
        user: Who submitted it.
        host: Where.
        debug: Whether its runs are debug runs.
        capture: Whether what repetitions print is caught.
        logs: The folder with what elements print.
        at_once: How many elements may run at a time; `None` for any number.
        work: What each element does.
        array: All else that the batch system is told, as `ArrayJob` has it.
        copies: Folders of copies of the code: none, one for all elements, or one for each.
        grace_s: As of `ExperimentRun`.
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
        """The config as it was."""
        return self.folder / layout.RESOLVED_CONFIG

    @property
    def carried(self) -> Path:
        """Loggers and a scheduler that elements need, pickled; missing if there are none."""
        return self.folder / "carried.pkl"

    @property
    def parts(self) -> list[Part]:
        """The arrays that were submitted so far, in order."""
        found: list[Part] = []
        while True:
            try:
                text = (self.folder / f"part_{len(found)}.json").read_text("utf-8")
            except FileNotFoundError:
                return found
            found.append(Part(**json.loads(text)))

    def add(self, part: Part) -> None:
        """Note that a part was submitted."""
        replace_file(self.folder / f"part_{part.number}.json", json.dumps(asdict(part)))

    def place(self, part: Part, element: int) -> tuple[str, int]:
        """How the batch system calls an element: the id of its array, and its index there."""
        return part.job, element - part.first + self.batch.first

    @property
    def dropped(self) -> frozenset[int]:
        """The elements that were cancelled."""
        try:
            return frozenset(json.loads((self.folder / _DROPPED).read_text("utf-8")))
        except FileNotFoundError:
            return frozenset()

    def drop(self, elements: Iterable[int]) -> None:
        """Note that elements were cancelled: they do nothing if they start all the same."""
        replace_file(self.folder / _DROPPED, json.dumps(sorted(self.dropped | set(elements))))

    @contextlib.contextmanager
    def feeding(self, patience_s: float = 0.0) -> Generator[bool]:
        """Keep others from submitting parts at the same time.

        Args:
            patience_s: How long to wait for somebody who does.

        Yields:
            Whether nobody else does.
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
    with contextlib.suppress(FileNotFoundError):  # who made it may have been killed
        if time.time() - lock.stat().st_mtime > _STALE_S:
            lock.unlink(missing_ok=True)
    return False


def create(results: Path, config: str, **said: Any) -> Submission:
    """Make the folder of a new submission, with all that is known before anything is submitted.

    Args:
        results: The folder for the results.
        config: The config as it is now.
        **said: The other attributes of the submission.

    Raises:
        ExperimentError: The folder cannot be written.
    """
    try:
        folder = _numbered(results)
        said["logs"] = said["logs"] or folder / "logs"
        said["logs"].mkdir(parents=True, exist_ok=True)
        one = Submission(folder=folder, created=now(), user=user_name(), host=socket.gethostname(), **said)
        replace_file(one.config, config)
        raw = asdict(one)
        del raw["folder"]
        raw["logs"] = str(one.logs)
        replace_file(folder / _FILE, json.dumps({"format": _FORMAT, **raw}))
    except OSError as error:
        raise ExperimentError(f"results folder {results}", f"cannot be written: {error.strerror}") from error
    return one


def next_folder(results: Path) -> Path:
    """The folder that the next submission gets; it is not made."""
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
        ExperimentError: There is none, or it cannot be read.
    """
    try:
        raw = json.loads((folder / _FILE).read_text("utf-8"))
        if raw.pop("format") != _FORMAT:
            raise ValueError("it is of another version of amlsched")
        work = [Work(**one) for one in raw.pop("work")]
        logs = Path(raw.pop("logs"))
        one = Submission(folder=folder, work=work, logs=logs, **raw)
        _check(one)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is no submission of arrays: {type(error).__name__}: {error}"
        raise ExperimentError(
            str(folder / _FILE), problem, "remove the folder if nothing of it is in the queue"
        ) from error
    return one


def _check(one: Submission) -> None:
    """Raise one of many errors if the files do not hold what is read from them later."""
    if one.system not in SYSTEMS:
        raise ValueError(f"there is no batch system {one.system!r}")
    numbers = {index + 0 for work in one.work for *_, index in work.keys}
    numbers.update(number + 0 for number in one.dropped)
    parts = one.parts
    numbers.update(part.first + part.count for part in parts)
    "".join(part.job for part in parts)


def submissions(results: str | Path) -> list[Submission]:
    """What was submitted for a folder of results, oldest first.

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
