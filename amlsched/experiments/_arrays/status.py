"""The state of submitted elements in their batch system's queue, and with it the status of repetitions not done yet."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amlsched.batch_systems import SYSTEMS, Element, Stage, commands
from amlsched.batch_systems.system import Places
from amlsched.errors import BatchSystemError, ConfigError, ExperimentError
from amlsched.experiments._arrays.submission import submissions
from amlsched.experiments._config.resolve import resolve
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import State
from amlsched.experiments.progress import last_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from amlsched.experiments._arrays.submission import Key, Submission
    from amlsched.experiments.results.survey import Found

__all__ = [
    "FORGOTTEN",
    "Overview",
    "SubmittedRepetition",
    "UNSUBMITTED",
    "cancel",
    "explained",
    "in_queue",
    "live_arrays",
    "states",
]

CANCELLED = Element(Stage.ENDED, "cancelled")
UNSUBMITTED = Element(Stage.PENDING, "not submitted yet")
FORGOTTEN = Element(Stage.ENDED)
"""An element that has left the queue, without any information on how it ended."""


def states(chosen: Sequence[Submission]) -> dict[str, dict[int, Element]]:
    """The elements of submissions, by the folder of the submission and their number, with one query per batch system.

    Raises:
        BatchSystemError: A batch system could not be queried.
    """
    found: dict[str, dict[int, Element]] = {}
    for name in dict.fromkeys(one.system for one in chosen):
        own = [(one, one.parts) for one in chosen if one.system == name]
        seen = commands.query(SYSTEMS[name], [part.job for _, parts in own for part in parts])
        for one, parts in own:
            elements = dict.fromkeys(range(len(one.work)), UNSUBMITTED)
            dropped = one.dropped
            elements.update(dict.fromkeys(dropped, CANCELLED))
            for part in parts:
                for number in part.elements:
                    unseen = CANCELLED if number in dropped else FORGOTTEN
                    elements[number] = seen.get(one.place(part, number), unseen)
            found[str(one.folder)] = elements
    return found


def explained(one: Submission, elements: Iterable[int]) -> dict[int, Element]:
    """How elements ended that the queue has forgotten, if the batch system keeps accounting records."""
    wanted = {one.place(part, number): number for part in one.parts for number in elements if number in part.elements}
    past: Places = commands.ended(one.batch, sorted({job for job, _ in wanted}))
    return {wanted[place]: element for place, element in past.items() if place in wanted}


def in_queue(chosen: Sequence[Submission]) -> frozenset[Key]:
    """The repetitions that an element is running, or will run.

    Raises:
        BatchSystemError: A batch system could not be queried.
    """
    seen = states(chosen)
    return frozenset(
        key
        for one in chosen
        for number, element in seen[str(one.folder)].items()
        if element.stage is not Stage.ENDED
        for key in one.work[number].keys
    )


def live_arrays(chosen: Sequence[Submission], system: str) -> tuple[str, ...]:
    """The ids of a batch system's arrays that have elements that have not ended."""
    own = [one for one in chosen if one.system == system]
    seen = states(own)
    return tuple(
        part.job
        for one in own
        for part in one.parts
        if any(seen[str(one.folder)][number].stage is not Stage.ENDED for number in part.elements)
    )


def cancel(one: Submission, elements: Iterable[int]) -> int:
    """Cancel elements; those that are not submitted yet never will be.

    Returns:
        How many of them had not ended.

    Raises:
        BatchSystemError: The batch system could not be queried, or rejected the command.
    """
    seen = states([one])[str(one.folder)]
    live = [number for number in elements if seen[number].stage is not Stage.ENDED]
    one.drop(live)
    dropped = one.dropped
    places: dict[str, list[int] | None] = {}
    for part in one.parts:
        if wanted := [number for number in live if number in part.elements]:
            whole = dropped.issuperset(part.elements)
            places[part.job] = None if whole else [one.place(part, number)[1] for number in wanted]
    commands.cancel(one.batch, places)
    return len(live)


_ENDS_KNOWN = (State.FAILED, State.COMPLETED, State.SURRENDERED)


@dataclass(frozen=True, slots=True)
class SubmittedRepetition:
    """A repetition that is not done, and the array element that runs it.

    Attributes:
        found: The repetition, with its record.
        submission: Its latest submission.
        number: The number of the element in the submission.
        element: The element as the batch system reports it.
    """

    found: Found
    submission: Submission
    number: int
    element: Element

    @property
    def place(self) -> str:
        """The batch system's id of the element; empty if it is not submitted yet."""
        place = self._place()
        return "{}_{}".format(*place) if place is not None else ""

    def _place(self) -> tuple[str, int] | None:
        """As `Submission.place`; `None` if it is not submitted yet."""
        part = next((part for part in self.submission.parts if self.number in part.elements), None)
        return None if part is None else self.submission.place(part, self.number)

    @property
    def runs(self) -> bool:
        """Whether it is running, by both its record and the queue."""
        return self.element.stage is Stage.RUNNING and self.found.record.state is State.RUNNING

    @property
    def lost(self) -> bool:
        """Whether its element has ended without recording how the repetition ended."""
        return self.element.stage is Stage.ENDED and self.found.record.state not in _ENDS_KNOWN

    @property
    def cause(self) -> str:
        """Why its element ended: the batch system's reason, and the last line of its standard error."""
        reason = self.element.reason or "its element has left the queue"
        line = self.last_line
        return f"{reason}: {line}" if line else reason

    @property
    def logs(self) -> tuple[Path, Path] | None:
        """The files with standard output and standard error of the element; `None` if it is not submitted yet."""
        place = self._place()
        return None if place is None else self.submission.batch.log(self.submission.logs, *place)

    @property
    def last_line(self) -> str:
        """The last line of the element's standard error; empty if there is none."""
        with contextlib.suppress(OSError):
            if (logs := self.logs) is not None:
                with logs[1].open("rb") as file:
                    file.seek(max(0, file.seek(0, 2) - 4096))
                    lines = file.read().decode(errors="replace").split("\n")
                return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def progress(self, metrics: list[str]) -> str:
        """Its progress, and what it logged last."""
        file = self.found.folder / layout.csv_name(self.found.rep)
        with contextlib.suppress(OSError):
            return last_row(file, file.stat().st_size, metrics, self._iterations())
        return ""

    def _iterations(self) -> int | None:
        with contextlib.suppress(ConfigError, IndexError):
            if self.submission.debug:
                return 1
            return resolve(self.submission.config, self.found.name).experiments[0].config.get("iterations")
        return None


@dataclass(slots=True)
class Overview:
    """The status of a folder's submitted repetitions that are not done.

    Attributes:
        repetitions: The repetitions.
        arrays: For each array, how many elements are in which stage, for which reason; without those that have ended.
        problem: Why the queue could not be queried; empty if it could.
    """

    repetitions: list[SubmittedRepetition] = field(default_factory=list[SubmittedRepetition])
    arrays: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    problem: str = ""

    @classmethod
    def of(cls, results: str | Path, found: Iterable[Found]) -> Overview:
        """Merge records with the queue, which is queried once for each batch system.

        Args:
            results: The folder for the results.
            found: Repetitions that are not done.
        """
        made = cls()
        latest: dict[Key, tuple[Submission, int]] = {}
        try:
            chosen = submissions(results)
        except ExperimentError as error:
            made.problem = str(error)
            return made
        for one in chosen:
            latest.update((key, (one, number)) for number, work in enumerate(one.work) for key in work.keys)
        open_ones = [(one, latest[key]) for one in found if (key := (one.name, one.run, one.rep)) in latest]
        asked = {str(one.folder): one for _, (one, _) in open_ones}
        try:
            seen = states(list(asked.values()))
        except BatchSystemError as error:
            made.problem = str(error)
            return made
        for folder, one in asked.items():
            elements = seen[folder]
            wanted = {n for _, (other, n) in open_ones if other is one}
            unknown = [n for n in wanted if elements[n].stage is Stage.ENDED and not elements[n].reason]
            elements.update(explained(one, unknown) if unknown else {})
            made._count(one, elements)
        made.repetitions += (SubmittedRepetition(f, one, n, seen[str(one.folder)][n]) for f, (one, n) in open_ones)
        return made

    def _count(self, one: Submission, elements: dict[int, Element]) -> None:
        submitted: set[int] = set()
        for part in one.parts:
            submitted.update(part.elements)
            self._add(f"array {part.job} of {one.batch}", (elements[number] for number in part.elements))
        rest = (element for number, element in elements.items() if number not in submitted)
        self._add(f"not submitted yet to {one.batch}", rest)

    def _add(self, name: str, elements: Iterable[Element]) -> None:
        counted: Counter[str] = Counter(_words(element) for element in elements if element.stage is not Stage.ENDED)
        if counted:
            self.arrays[name] = counted

    def running(self) -> Iterator[SubmittedRepetition]:
        """The repetitions that are running."""
        return (one for one in self.repetitions if one.runs)

    def lost(self) -> Iterator[SubmittedRepetition]:
        """The repetitions whose element has ended without recording how they ended."""
        return (one for one in self.repetitions if one.lost)


def _words(element: Element) -> str:
    return f"{element.stage.value} ({element.reason})" if element.reason else element.stage.value
