"""The state of submitted elements in their batch system's queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amlsched.arrays import SYSTEMS, Element, Stage, commands
from amlsched.arrays.job import Places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from amlsched.experiments.submission import Key, Submission

__all__ = ["FORGOTTEN", "UNSUBMITTED", "cancel", "explained", "in_queue", "live_arrays", "states"]

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
                for number in range(part.first, part.first + part.count):
                    unseen = CANCELLED if number in dropped else FORGOTTEN
                    elements[number] = seen.get(one.place(part, number), unseen)
            found[str(one.folder)] = elements
    return found


def explained(one: Submission, elements: Iterable[int]) -> dict[int, Element]:
    """How elements ended that the queue has forgotten, if the batch system keeps accounting records."""
    wanted = {one.place(part, number): number for part in one.parts for number in _of(part.first, part.count, elements)}
    past: Places = commands.ended(one.batch, sorted({job for job, _ in wanted}))
    return {wanted[place]: element for place, element in past.items() if place in wanted}


def _of(first: int, count: int, elements: Iterable[int]) -> list[int]:
    return [number for number in elements if first <= number < first + count]


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
        if any(seen[str(one.folder)][n].stage is not Stage.ENDED for n in range(part.first, part.first + part.count))
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
        if wanted := _of(part.first, part.count, live):
            whole = dropped.issuperset(range(part.first, part.first + part.count))
            places[part.job] = None if whole else [one.place(part, number)[1] for number in wanted]
    commands.cancel(one.batch, places)
    return len(live)
