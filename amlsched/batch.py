"""Calls on their way to a worker in one parcel, each of which still ends on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.executors._user_function import call_function
from amlsched.executors.pickled import load_outcome, run_pickled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future as Work

__all__ = ["BatchedCall", "Part", "run_batch"]

BatchedCall = bytes | tuple["Callable[..., Any]", tuple[Any, ...], "Mapping[str, Any]"]
"""A call; pickled where it travels, so that one that cannot be loaded fails alone."""

_Outcome = bytes | tuple[Any, BaseException | None]


class Part:
    """Stands for the executor's future of one call in a batch.

    Args:
        work: The executor's future of the batch.
        index: Which of its calls this is.
        alone: Whether it is the only one.
    """

    __slots__ = ("_index", "_loaded", "_work", "alone")

    def __init__(self, work: Work[Any], index: int, alone: bool) -> None:
        self._work = work
        self._index = index
        self.alone = alone
        self._loaded: tuple[Any, BaseException | None] | None = None

    def exception(self) -> BaseException | None:
        """What the call raised, or what the entire batch died of; `None` where it returned.

        Raises:
            concurrent.futures.CancelledError: The executor cancelled the batch.
        """
        of_batch = self._work.exception()
        return self._outcome()[1] if of_batch is None else of_batch  # an exception may count as false

    def result(self) -> Any:
        """What the call returned."""
        return self._outcome()[0]

    def cancel(self) -> bool:
        """Whether the call never starts: not where others in its batch may have."""
        return self.alone and self._work.cancel()

    def done(self) -> bool:
        """Whether the batch has ended."""
        return self._work.done()

    def running(self) -> bool:
        """Whether the batch has started and not ended."""
        return self._work.running()

    def _outcome(self) -> tuple[Any, BaseException | None]:
        if self._loaded is None:
            outcome: _Outcome = self._work.result()[self._index]
            self._loaded = load_outcome(outcome) if isinstance(outcome, bytes) else outcome
        return self._loaded


def run_batch(calls: Sequence[BatchedCall]) -> list[_Outcome]:
    """The outcome of each call, in their order; pickled where the call was. Runs in the worker."""
    return [run_pickled(call) if isinstance(call, bytes) else _run(*call) for call in calls]


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, BaseException | None]:
    try:
        return call_function(function, args, kwargs), None
    except BaseException as error:  # each call of a batch ends on its own
        return None, error
