"""The elements of arrays in the queue of their batch system, by answers that may be missing, empty or late."""

from __future__ import annotations

import contextlib
import math
import time
from datetime import datetime
from typing import TYPE_CHECKING

from amlsched.batch_systems import SYSTEMS, Element, Stage, System, commands
from amlsched.errors import BatchSystemError, MaybeSubmittedError
from amlsched.experiments._arrays.submission import Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from amlsched.batch_systems.system import Places
    from amlsched.experiments._arrays.submission import Key, Part, Submission

__all__ = ["Queue", "adopt", "cancel", "in_queue", "live_arrays", "settle_open", "states"]

CANCELLED = Element(Stage.ENDED, "cancelled")
UNSUBMITTED = Element(Stage.PENDING, "not submitted yet")
UNCONFIRMED = Element(Stage.PENDING, "perhaps submitted")
FORGOTTEN = Element(Stage.ENDED)
"""An element that has left the queue, without any information on how it ended."""
_UNLISTED = Element(Stage.RUNNING, "not in the last answer")
_SECOND_S = 2.0
"""Seconds after which the queue is queried again for elements that its first answer did not list."""


class Queue:
    """The elements of submissions as the queue lists them, over one or more answers.

    An element that an answer lacks counts as ended only if it has said so itself, or if a later answer lacks it as
    well, and the accounting, if the system keeps one, does not say otherwise: one answer may be empty or truncated.
    """

    def __init__(self) -> None:
        self._missing: dict[tuple[str, int], float] = {}
        self._before: dict[tuple[str, int], Element] = {}
        self.unsure = False
        """Whether another answer is needed for some elements."""

    def ask(self, chosen: Sequence[Submission]) -> dict[str, dict[int, Element]]:
        """The elements of submissions, by the folder of the submission and their number.

        Raises:
            BatchSystemError: A batch system could not be queried.
        """
        found: dict[str, dict[int, Element]] = {}
        self.unsure = False
        for name in dict.fromkeys(one.system for one in chosen):
            own = [(one, one.parts) for one in chosen if one.system == name]
            jobs = [part.job for _, parts in own for part in parts]
            seen = commands.query(SYSTEMS[name], jobs)
            recorded = self._recorded(SYSTEMS[name], own, seen)
            for one, parts in own:
                found[str(one.folder)] = self._elements(one, parts, seen, recorded)
        return found

    def _recorded(self, system: System, own: Sequence[tuple[Submission, list[Part]]], seen: Places) -> Places:
        """The accounting records of the arrays that have elements which a former answer lacked already."""
        places = {one.place(part, number) for one, parts in own for part in parts for number in part.elements}
        due = {job for job, index in places - seen.keys() if self._is_confirmed((job, index))}
        return commands.recorded(system, sorted(due)) or {}

    def _is_confirmed(self, place: tuple[str, int]) -> bool:
        return time.monotonic() - self._missing.get(place, math.inf) >= _SECOND_S

    def _elements(self, one: Submission, parts: list[Part], seen: Places, recorded: Places) -> dict[int, Element]:
        elements = dict.fromkeys(range(len(one.work)), UNSUBMITTED)
        dropped, ended, again = one.dropped, one.words("ended"), one.words("again")
        elements.update(dict.fromkeys((number for part in one.open for number in part.elements), UNCONFIRMED))
        elements.update(dict.fromkeys(dropped, CANCELLED))
        for number, part in one.current().items():
            place = one.place(part, number)
            element = seen.get(place)
            if element is not None:
                self._missing.pop(place, None)
                self._before[place] = element
            elif ended.get(number) == Word(part.job):
                element = FORGOTTEN
            else:
                element = self._unlisted(place, recorded)
            if element.stage is Stage.ENDED:
                if ended.get(number) != Word(part.job) and (place not in seen or number in ended):
                    _leave(one, "ended", number, Word(part.job))
                element = self._ended(one, number, part, element, dropped, again)
            elements[number] = element
        return elements

    def _unlisted(self, place: tuple[str, int], recorded: Places) -> Element:
        before = self._before.get(place, _UNLISTED)
        if before.stage is Stage.ENDED:
            return before
        if self._is_confirmed(place):
            return recorded.get(place, FORGOTTEN)
        self._missing.setdefault(place, time.monotonic())
        self.unsure = True
        return before

    @staticmethod
    def _ended(
        one: Submission,
        number: int,
        part: Part,
        element: Element,
        dropped: frozenset[int],
        again: Mapping[int, Word],
    ) -> Element:
        """What an element is that has ended: cancelled, about to be submitted again, or just ended."""
        if number in dropped:
            return CANCELLED if element is FORGOTTEN else element
        word = again.get(number)
        if word is None or word.job != part.job:
            if not one.array["requeue"] or not one.batch.preempted.match(element.reason):
                return element
            word = Word(part.job, f"{one.batch} preempted it, and cancels what it preempts here (PreemptMode=CANCEL)")
            _leave(one, "again", number, word)
        return Element(Stage.PENDING, f"to be submitted again: {word.why}")


def _leave(one: Submission, kind: str, number: int, word: Word) -> None:
    with contextlib.suppress(OSError):  # such as a results folder of somebody else: then it is asked for again
        one.leave_word(kind, number, word)


def states(chosen: Sequence[Submission]) -> dict[str, dict[int, Element]]:
    """The elements of submissions, by the folder of the submission and their number.

    The queue is queried once for each batch system, and a second time if elements are missing in its answer.

    Raises:
        BatchSystemError: A batch system could not be queried.
    """
    queue = Queue()
    found = queue.ask(chosen)
    if queue.unsure:
        time.sleep(_SECOND_S)
        found = queue.ask(chosen)
    return found


def in_queue(chosen: Sequence[Submission]) -> dict[Key, Submission]:
    """The repetitions that an element is running, or will run, each with its submission.

    A pending element that was cancelled, but could not be removed from the queue, will run nothing.

    Raises:
        BatchSystemError: A batch system could not be queried.
    """
    seen = states(chosen)
    found: dict[Key, Submission] = {}
    for one in chosen:
        dropped = one.dropped
        for number, element in seen[str(one.folder)].items():
            if element.stage is Stage.RUNNING or (element.stage is not Stage.ENDED and number not in dropped):
                found.update(dict.fromkeys(one.work[number].keys, one))
    return found


def live_arrays(chosen: Sequence[Submission], system: str) -> tuple[str, ...]:
    """The ids of a batch system's arrays that have elements in the queue.

    Raises:
        BatchSystemError: It could not be queried.
    """
    own = [one for one in chosen if one.system == system]
    seen = states(own)
    live: dict[str, None] = {}
    for one in own:
        elements, waiting = seen[str(one.folder)], one.waiting()
        for number, part in one.current().items():
            if elements[number].stage is not Stage.ENDED and number not in waiting:
                live[part.job] = None
    return tuple(live)


def adopt(one: Submission, part: Part, jobs: Sequence[str]) -> Part:
    """Record the array that was found, or submitted, for a part; cancel others with the same mark.

    Returns:
        The part as recorded: an element of another one of these arrays may have been faster.
    """
    settled = one.settle(part, jobs[0])
    for job in jobs:
        if job != settled.job:
            try:
                commands.cancel(one.batch, {job: None})
            except BatchSystemError:  # a later command tries it again
                one.note_surplus(job)
    return settled


def settle_open(one: Submission, *, give_up: bool) -> list[str]:
    """Look in the queue for the arrays whose submission got no answer, and adopt them.

    Args:
        one: The submission.
        give_up: Whether parts that are not in the queue are given up, so that others can be submitted in their place;
            and whether arrays that were given up, and entered the queue later, are cancelled.

    Returns:
        What was found, for the user.

    Raises:
        BatchSystemError: A queue could not be queried.
    """
    notes: list[str] = []
    for part in one.open:
        if jobs := commands.find(one.batch, part.mark):
            job = adopt(one, part, jobs).job
            notes.append(f"Array {job} of {one.batch} was accepted, although {one.batch.submit[0]} did not say so")
        elif give_up:
            one.settle(part, "")
        else:
            text = f"{one.batch.submit[0]} gave no answer at {clock_time(part.submitted)}, and no array of that is in"
            remedy = f"amlsched run … -s submits it again, amlsched cancel gives it up, or {how_to_find(one, part)}"
            notes.append(f"{text} the queue of {one.batch} so far: {remedy}")
    for part in one.given_up:
        for job in commands.find(one.batch, part.mark):
            text = f"Array {job} of {one.batch} entered the queue late, after it was given up, and does nothing"
            if give_up:
                commands.cancel(one.batch, {job: None})
            notes.append(f"{text}; {'it is cancelled' if give_up else 'amlsched cancel cancels it'}")
    for job in one.surplus:
        text = f"Array {job} of {one.batch} was submitted beside another one with the same elements, and does nothing"
        if give_up:
            commands.cancel(one.batch, {job: None})
            one.withdraw_surplus(job)
        notes.append(f"{text}; {'it is cancelled' if give_up else 'amlsched cancel cancels it'}")
    return notes


def how_to_find(one: Submission, part: Part) -> str:
    """How the user finds an array whose submission got no answer."""
    return commands.how_to_find(one.batch, part.mark)


def clock_time(moment: str) -> str:
    """The local time of a moment in UTC, ISO 8601."""
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")


def cancel(one: Submission, elements: Iterable[int]) -> tuple[int, list[str]]:
    """Cancel elements; those that are not submitted yet never will be.

    If the queue cannot be queried, all elements are cancelled that are not known to have ended.

    Returns:
        How many of them had not ended; and notes for the user.

    Raises:
        BatchSystemError: The batch system rejected the command; or a part may still enter the queue, as it could not be
            queried. Its elements will do nothing.
    """
    problem: BatchSystemError | None = None
    notes: list[str] = []
    try:
        notes += settle_open(one, give_up=True)
        seen = states([one])[str(one.folder)]
    except BatchSystemError as error:
        problem = error
        seen = _known(one)
    live = [number for number in elements if seen[number].stage is not Stage.ENDED]
    one.drop(live)
    dropped, current = one.dropped, one.current()
    places: dict[str, list[int] | None] = {}
    for part in one.parts:
        if wanted := [number for number in live if current.get(number) == part]:
            whole = dropped.issuperset(part.elements)
            places[part.job] = None if whole else [one.place(part, number)[1] for number in wanted]
    commands.cancel(one.batch, places)
    if problem is not None:
        if one.open:
            words = f"{problem.words}\nAn array may have been accepted, and its elements will do nothing"
            remedy = f"cancel again later; {how_to_find(one, one.open[0])}"
            raise MaybeSubmittedError(problem.system, problem.command, words, remedy)
        notes.append(f"{problem}\nSo all elements were cancelled that are not known to have ended.")
    return len(live), notes


def _known(one: Submission) -> dict[int, Element]:
    """The elements without the queue: all run but those that have said that they ended, or that were not submitted."""
    found = dict.fromkeys(range(len(one.work)), UNSUBMITTED)
    ended = one.words("ended")
    for number, part in one.current().items():
        found[number] = FORGOTTEN if ended.get(number) == Word(part.job) else _UNLISTED
    return found
