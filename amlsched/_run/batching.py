"""Calls on their way to an executor: several as one batch, or one that records when it starts."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from amlsched.executors.pickled_calls import load_outcome, run_pickled
from amlsched.executors.user_function import call_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future as Work

__all__ = ["BatchItemFuture", "BatchedCall", "TrackedCall", "run_batch"]

BatchedCall = bytes | tuple["Callable[..., Any]", tuple[Any, ...], "Mapping[str, Any]"]
"""A call; pickled if it goes to another process, so that one that cannot be loaded fails alone."""

_CallResult = bytes | tuple[Any, BaseException | None]


class BatchItemFuture:
    """Represents the executor's future of one call in a batch.

    Args:
        work: The executor's future of the batch.
        index: Position of the call in the batch.
        alone: Whether it is the only call.
    """

    __slots__ = ("_index", "_loaded", "_work", "alone")

    def __init__(self, work: Work[Any], index: int, alone: bool) -> None:
        self._work = work
        self._index = index
        self.alone = alone
        self._loaded: tuple[Any, BaseException | None] | None = None

    def exception(self) -> BaseException | None:
        """The exception of the call or of the entire batch; `None` if the call returned.

        Raises:
            concurrent.futures.CancelledError: The executor cancelled the batch.
        """
        of_batch = self._work.exception()
        return self._outcome()[1] if of_batch is None else of_batch  # an exception may count as false

    def result(self) -> Any:
        """The result of the call."""
        return self._outcome()[0]

    def cancel(self) -> bool:
        """Cancel the call, and return whether that succeeded: never if there are others in its batch."""
        return self.alone and self._work.cancel()

    def done(self) -> bool:
        """Whether the batch has finished."""
        return self._work.done()

    def running(self) -> bool:
        """Whether the batch has started and not finished."""
        return self._work.running()

    def _outcome(self) -> tuple[Any, BaseException | None]:
        if self._loaded is None:
            outcome: _CallResult = self._work.result()[self._index]
            self._loaded = load_outcome(outcome) if isinstance(outcome, bytes) else outcome
        return self._loaded


class TrackedCall:
    """A call for a third-party executor: the function that it runs, and a representation of its future.

    Such an executor may accept the cancellation of a call that is already running, so the call itself records that it
    has started here or was sent to another process. And its `submit` may interpret keywords itself (dask `key` and
    `workers`, many others `fn`), so it gets none.

    Args:
        function: The function.
        kwargs: Its keyword arguments.

    Attributes:
        work: The executor's future.
    """

    __slots__ = ("_begun", "_cancelled", "_function", "_kwargs", "_lock", "work")

    work: Work[Any]

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        self._function, self._kwargs = function, kwargs
        self._begun = self._cancelled = False
        self._lock = Lock()

    @property
    def __name__(self) -> str:
        return getattr(self._function, "__name__", None) or type(self._function).__name__

    def send(self, submit: Callable[..., Work[Any]], *args: Any) -> Work[Any]:
        """Submit the call and return the executor's future.

        Args:
            submit: The executor's method.
            *args: The positional arguments of the function.

        Raises:
            TypeError: `submit` did not return a future.
        """
        self.work = submit(self, *args)
        if not hasattr(self.work, "add_done_callback"):
            name = getattr(submit, "__qualname__", repr(submit))
            raise TypeError(f"{name} returned {self.work!r}: must be a concurrent.futures.Future")
        return self.work

    def __call__(self, /, *args: Any) -> Any:
        """Run the function and return its result."""
        with self._lock:
            if self._cancelled:
                raise CancelledError
            self._begun = True
        return call_function(self._function, args, self._kwargs)

    def cancel(self) -> bool:
        """Cancel the call, and return whether that succeeded before it started."""
        with self._lock:
            self._cancelled = not self._begun and self.work.cancel()
            return self._cancelled

    def running(self) -> bool:
        """Whether the call is known to have started, and has not finished."""
        return self.work.running() or (self._begun and not self.work.done())

    def done(self) -> bool:
        """Whether the call has finished."""
        return self.work.done()

    def exception(self) -> BaseException | None:
        """The exception of the call; `None` if it returned."""
        return self.work.exception()

    def result(self) -> Any:
        """The result of the call."""
        return self.work.result()

    def __reduce__(self) -> str | tuple[Any, ...]:
        self._begun = True  # sent to another process: from now on only the executor knows
        return partial(self._function, **self._kwargs).__reduce__()  # its worker may lack amlsched


def run_batch(calls: Sequence[BatchedCall]) -> list[_CallResult]:
    """Run calls in the worker and return their outcomes, in order; an outcome is pickled if its call was."""
    return [run_pickled(call) if isinstance(call, bytes) else _run(*call) for call in calls]


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, BaseException | None]:
    try:
        return call_function(function, args, kwargs), None
    except BaseException as error:  # each call of a batch fails on its own
        return None, error
