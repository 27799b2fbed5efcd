"""Bugs that the random schedules of `test_array_schedules.py` have to notice, put into the code of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from amlsched.batch_systems import commands
from amlsched.errors import MaybeSubmittedError
from amlsched.experiments._arrays import attach, queue, run_element, status, submission, submit

__all__ = ["BUGS"]


def _number_reused() -> None:
    """The folder of a submission gets the number of one that was removed."""
    real = submission.next_folder

    def next_folder(results: Path) -> Path:
        (results / "_arrays" / "last").unlink(missing_ok=True)
        return real(results)

    submission.next_folder = next_folder


def _adoption_skipped() -> None:
    """What is in the queue is not found by its mark."""
    commands.find = lambda system, mark: []
    queue.commands.find = commands.find


def _one_answer_believed() -> None:
    """What one answer lacks has ended."""
    queue.Queue._unlisted = lambda self, place, recorded: queue.FORGOTTEN  # type: ignore[method-assign]


def _submitted_twice() -> None:
    """An answer that was lost is taken for a rejection."""
    real = submit._submitted

    def submitted(*args: Any) -> Any:
        try:
            return real(*args)
        except MaybeSubmittedError as error:
            raise commands.BatchSystemError(error.system, error.command, error.words) from error

    submit._submitted = submitted


def _too_many_at_once() -> None:
    """An array does not wait for those before it."""
    submit.live_arrays = lambda *args: ()


def _cancelled_not_noted() -> None:
    """A cancelled element is not dropped."""
    submission.Submission.drop = lambda self, elements: None  # type: ignore[method-assign]


def _again_and_again() -> None:
    """An element that wanted to be submitted again is submitted with each command."""

    def waiting(self: submission.Submission) -> list[int]:
        parts, again, dropped = self.current(), self.words("again"), self.dropped
        taken = {number for part in self.open for number in part.elements}
        numbers = range(len(self.work))
        return [n for n in numbers if n not in dropped and n not in taken and (n not in parts or n in again)]

    submission.Submission.waiting = waiting  # type: ignore[method-assign]


def _given_up_runs() -> None:
    """Elements of an array that was given up run."""

    def own_part(one: submission.Submission, mark: str) -> submission.Part | None:
        return next((part for part in one.asked if part.mark == mark), None)

    run_element._own_part = own_part


def _open_submitted_again() -> None:
    """Elements of an array that may have been accepted are submitted again."""
    submission.Submission.open = property(lambda self: [])  # type: ignore[assignment]


def _lock_ignored() -> None:
    """Two processes submit the same elements at the same time."""
    submission._locked = lambda lock: True


def _last_decides() -> None:
    """Who settles a part last decides."""

    def settle(self: submission.Submission, part: submission.Part, job: str) -> submission.Part:
        self._file(part.number).unlink(missing_ok=True)
        return real(self, part, job)

    real = submission.Submission.settle
    submission.Submission.settle = settle  # type: ignore[method-assign]


def _late_forgotten() -> None:
    """What enters the queue after it was given up is not looked for."""
    submission.Submission.given_up = property(lambda self: [])  # type: ignore[assignment]


def _newest_counts() -> None:
    """`status` says of each repetition what the newest array with it says."""
    status._RANKS = {}


def _rest_forgotten() -> None:
    """Elements that did not fit are not submitted by their siblings, by other commands or while one waits."""

    def feed(one: submission.Submission, **more: Any) -> submit.Fed:
        return submit.Fed([]) if one.parts else real(one, **more)

    real = submit.feed
    submit.feed = feed
    attach.feed = feed
    run_element.feed_from_element = lambda one, element: None


def _cancel_ignores_open() -> None:
    """`cancel` cancels only what is known to be in the queue."""
    real = queue.states

    def states(chosen: Any) -> Any:
        found = real(chosen)
        for elements in found.values():
            for number, element in elements.items():
                if element in (queue.UNSUBMITTED, queue.UNCONFIRMED):
                    elements[number] = queue.FORGOTTEN
        return found

    queue.states = states


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__.strip("_").replace("_", " "): bug
    for bug in (
        _number_reused,
        _adoption_skipped,
        _one_answer_believed,
        _submitted_twice,
        _too_many_at_once,
        _cancelled_not_noted,
        _again_and_again,
        _given_up_runs,
        _open_submitted_again,
        _lock_ignored,
        _last_decides,
        _late_forgotten,
        _newest_counts,
        _rest_forgotten,
        _cancel_ignores_open,
    )
}
"""What each does to this process, by its name."""
