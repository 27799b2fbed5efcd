"""Several small calls sent to a worker as one, each of which still ends on its own."""

from __future__ import annotations

import pickle
import traceback
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from amlsched.errors import NotPicklableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future as Work

__all__ = ["BatchedCall", "Part", "run_batch"]

BatchedCall = bytes | tuple["Callable[..., Any]", tuple[Any, ...], "Mapping[str, Any]"]
"""A call, pickled where it travels: one that cannot be loaded fails alone."""


class Part:
    """Stands for the executor's future of one call in a batch.

    Args:
        work: The executor's future of the batch.
        index: Which of its calls this is.
    """

    __slots__ = ("_index", "_work")

    def __init__(self, work: Work[Any], index: int) -> None:
        self._work = work
        self._index = index

    def exception(self) -> BaseException | None:
        """What the call raised, or what the entire batch died of; `None` where it returned.

        Raises:
            concurrent.futures.CancelledError: The executor cancelled the batch.
        """
        if self._work.cancelled():
            raise CancelledError
        return self._work.exception() or self._outcome()[1]

    def result(self) -> Any:
        """What the call returned."""
        return self._outcome()[0]

    def cancel(self) -> bool:
        """False: the other calls of the batch go on."""
        return False

    def done(self) -> bool:
        """Whether the batch has ended."""
        return self._work.done()

    def running(self) -> bool:
        """Whether the batch has started and not ended."""
        return self._work.running()

    def _outcome(self) -> tuple[Any, BaseException | None]:
        outcome: bytes | tuple[Any, BaseException | None] = self._work.result()[self._index]
        if not isinstance(outcome, bytes):
            return outcome
        try:
            result, error = pickle.loads(outcome)
        except Exception as reason:  # whatever the user's classes raise while they are loaded
            return None, NotPicklableError("a call of a batch", "its outcome", repr(reason))
        return result, error


def run_batch(calls: Sequence[BatchedCall]) -> list[bytes | tuple[Any, BaseException | None]]:
    """The outcome of each call, in their order; pickled where the call was. Runs in the worker."""
    return [_run_pickled(call) if isinstance(call, bytes) else _run(*call) for call in calls]


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, BaseException | None]:
    try:
        return function(*args, **kwargs), None
    except BaseException as error:  # each call of a batch ends on its own
        return None, error


def _run_pickled(call: bytes) -> bytes:
    name = "a call"
    try:
        function, args, kwargs = pickle.loads(call)
    except Exception as reason:
        return pickle.dumps((None, NotPicklableError(name, "an argument", f"its worker cannot load it: {reason!r}")))
    name = getattr(function, "__name__", repr(function))
    result, error = _run(function, args, kwargs)
    if error is not None:  # a traceback does not travel
        error.add_note("in the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        return pickle.dumps((result, error))
    except Exception as reason:
        what = "the result" if error is None else f"the exception {error!r}"
        return pickle.dumps((None, NotPicklableError(name, what, repr(reason))))
