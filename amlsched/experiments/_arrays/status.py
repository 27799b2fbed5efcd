"""The status of submitted repetitions that are not done, by their records and by the queue of their batch system."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amlsched.batch_systems import Element, Stage, commands
from amlsched.errors import BatchSystemError, ConfigError, ExperimentError
from amlsched.experiments._arrays.queue import settle_open, states
from amlsched.experiments._arrays.submission import submissions
from amlsched.experiments._config.resolve import resolve
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import State
from amlsched.experiments.progress import last_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from amlsched.experiments._arrays.submission import Key, Part, Submission
    from amlsched.experiments.results.survey import Found

__all__ = ["Overview", "SubmittedRepetition"]

_RANKS = {Stage.RUNNING: 3, Stage.PENDING: 2, Stage.STUCK: 2}
_ENDS_KNOWN = (State.FAILED, State.COMPLETED, State.SURRENDERED)


@dataclass(frozen=True, slots=True)
class SubmittedRepetition:
    """A repetition that is not done, and the array element that runs it.

    Attributes:
        found: The repetition, with its record.
        submission: Its latest submission.
        number: The number of the element in the submission.
        part: The array that the element is in; `None` if it is not submitted yet.
        element: The element as the batch system reports it.
        dropped: Whether it was cancelled.
    """

    found: Found
    submission: Submission
    number: int
    part: Part | None
    element: Element
    dropped: bool = False

    @property
    def place(self) -> str:
        """The batch system's id of the element; empty if it is not submitted yet."""
        place = self._place()
        return "{}_{}".format(*place) if place is not None else ""

    def _place(self) -> tuple[str, int] | None:
        """As `Submission.place`; `None` if it is not submitted yet."""
        return None if self.part is None else self.submission.place(self.part, self.number)

    @property
    def runs(self) -> bool:
        """Whether it is running, by both its record and the queue."""
        return self.element.stage is Stage.RUNNING and self.found.record.state is State.RUNNING

    @property
    def lost(self) -> bool:
        """Whether its element has ended without recording how the repetition ended, and was not cancelled."""
        return not self.dropped and self._ended_early

    @property
    def cancelled(self) -> bool:
        """Whether its element was cancelled before the repetition was done."""
        return self.dropped and self._ended_early

    @property
    def _ended_early(self) -> bool:
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
        notes: What was found out about arrays whose submission got no answer.
        problem: Why the queue could not be queried; empty if it could.
    """

    repetitions: list[SubmittedRepetition] = field(default_factory=list[SubmittedRepetition])
    arrays: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    notes: list[str] = field(default_factory=list[str])
    problem: str = ""

    @classmethod
    def of(cls, results: str | Path, found: Iterable[Found]) -> Overview:
        """Merge records with the queue, which is queried once for each batch system.

        Args:
            results: The folder for the results.
            found: Repetitions that are not done.
        """
        made = cls()
        open_ones = {(one.name, one.run, one.rep): one for one in found}
        places: dict[Key, list[tuple[Submission, int]]] = {key: [] for key in open_ones}
        asked: dict[str, Submission] = {}
        try:
            for one in submissions(results):
                for number, work in enumerate(one.work):
                    for key in work.keys:
                        if key in open_ones:
                            places[key].append((one, number))
                            asked[str(one.folder)] = one
            for one in asked.values():
                made.notes += settle_open(one, give_up=False)
            seen = states(list(asked.values()))
        except (BatchSystemError, ExperimentError) as error:
            made.problem = str(error)
            return made

        def rank(place: tuple[Submission, int]) -> int:
            return _RANKS.get(seen[str(place[0].folder)][place[1]].stage, 1)

        # An older array may still run what a newer one has given way to.
        chosen = {key: max(reversed(of_key), key=rank) for key, of_key in places.items() if of_key}
        # Read once: each is in files of the submission.
        current = {folder: one.current() for folder, one in asked.items()}
        dropped = {folder: one.dropped for folder, one in asked.items()}
        for folder, one in asked.items():
            elements = seen[folder]
            wanted = {number for other, number in chosen.values() if other is one}
            unknown = [n for n in wanted if elements[n].stage is Stage.ENDED and not elements[n].reason]
            elements.update(_explained(one, current[folder], unknown) if unknown else {})
            made._count(one, current[folder], elements)
        for key, (one, n) in chosen.items():
            folder = str(one.folder)
            part, element = current[folder].get(n), seen[folder][n]
            made.repetitions.append(SubmittedRepetition(open_ones[key], one, n, part, element, n in dropped[folder]))
        return made

    def _count(self, one: Submission, current: Mapping[int, Part], elements: Mapping[int, Element]) -> None:
        for part in one.parts:
            own = (elements[number] for number in part.elements if current[number] == part)
            self._add(f"array {part.job} of {one.batch}", own)
        self._add(f"not submitted yet to {one.batch}", (e for number, e in elements.items() if number not in current))

    def _add(self, name: str, elements: Iterable[Element]) -> None:
        counted: Counter[str] = Counter(_words(element) for element in elements if element.stage is not Stage.ENDED)
        if counted:
            self.arrays[name] = counted

    def running(self) -> Iterator[SubmittedRepetition]:
        """The repetitions that are running."""
        return (one for one in self.repetitions if one.runs)

    def cancelled(self) -> Iterator[SubmittedRepetition]:
        """The repetitions whose element was cancelled before they were done."""
        return (one for one in self.repetitions if one.cancelled)

    def lost(self) -> Iterator[SubmittedRepetition]:
        """The repetitions whose element has ended without recording how they ended."""
        return (one for one in self.repetitions if one.lost)


def _words(element: Element) -> str:
    return f"{element.stage.value} ({element.reason})" if element.reason else element.stage.value


def _explained(one: Submission, current: Mapping[int, Part], elements: Iterable[int]) -> dict[int, Element]:
    """How elements ended that the queue has forgotten, if the batch system keeps accounting records."""
    wanted = {one.place(current[number], number): number for number in elements if number in current}
    past = commands.recorded(one.batch, sorted({job for job, _ in wanted})) or {}
    return {
        wanted[place]: element for place, element in past.items() if place in wanted and element.stage is Stage.ENDED
    }
