"""Calls on their way to an executor: in one parcel, or with what is to be known of one."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from amlsched.executors._user_function import call_function
from amlsched.executors.pickled import load_outcome, run_pickled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future as Work

__all__ = ["BatchedCall", "Part", "TrackedCall", "run_batch"]

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


class TrackedCall:
    """What an executor of somebody else gets for a function; here it stands for the executor's future.

    Such an executor may accept that a call is cancelled which runs already: the call itself tells that it has begun
    here, or has left for another process. And its `submit` may take keywords for its own (`key` and `workers` by dask,
    `fn` by many): it gets none.

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
        """The executor's future of the call with these arguments.

        Args:
            submit: Of the executor.
            *args: The positional arguments of the function.

        Raises:
            TypeError: What `submit` returned is no future.
        """
        self.work = submit(self, *args)
        if not hasattr(self.work, "add_done_callback"):
            name = getattr(submit, "__qualname__", repr(submit))
            raise TypeError(f"{name} returned {self.work!r}: must be a concurrent.futures.Future")
        return self.work

    def __call__(self, /, *args: Any) -> Any:
        """What the function returns."""
        with self._lock:
            if self._cancelled:
                raise CancelledError
            self._begun = True
        return call_function(self._function, args, self._kwargs)

    def cancel(self) -> bool:
        """Whether the call never starts."""
        with self._lock:
            self._cancelled = not self._begun and self.work.cancel()
            return self._cancelled

    def running(self) -> bool:
        """Whether the call has started, as far as is known, and has not ended."""
        return self.work.running() or (self._begun and not self.work.done())

    def done(self) -> bool:
        """Whether the call has ended."""
        return self.work.done()

    def exception(self) -> BaseException | None:
        """What the call raised; `None` where it returned."""
        return self.work.exception()

    def result(self) -> Any:
        """What the call returned."""
        return self.work.result()

    def __reduce__(self) -> str | tuple[Any, ...]:
        self._begun = True  # it leaves for another process: from here on only the executor knows
        return partial(self._function, **self._kwargs).__reduce__()  # its worker may lack amlsched


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
