"""Runs calls again whose function raised."""

from __future__ import annotations

import random
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast
from weakref import WeakKeyDictionary

from amlsched.errors import LimitError
from amlsched.events import add_note
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from amlsched.future import Future

    On = type[Exception] | Iterable[type[Exception]] | Callable[[Exception], object]
    Backoff = float | Literal["exponential"] | Callable[[int], float]

__all__ = ["Retry", "exponential"]


def exponential(initial_s: float = 1.0, factor: float = 2.0, max_s: float = 60.0) -> Callable[[int], float]:
    """A back-off that grows: `initial_s` after the first failure, each further one `factor` times as long.

    Args:
        initial_s: Seconds after the first failure.
        factor: At least 1.
        max_s: No wait is longer.

    Raises:
        ValueError: A number is out of its range.
    """
    if not initial_s >= 0 or not factor >= 1 or not max_s >= 0:
        raise ValueError(
            f"exponential(initial_s={initial_s!r}, factor={factor!r}, max_s={max_s!r}): seconds must be at least 0, "
            "and the factor at least 1"
        )

    def wait_s(failures: int) -> float:
        try:
            return min(max_s, initial_s * factor ** (failures - 1))
        except OverflowError:
            return max_s

    return wait_s


class Retry(Plugin):
    """Runs a call of the task again when its function raised, after a while.

    Such a call is submitted once and ends once; `on_retry` of the task tells of each failure in between. While it waits
    it can be cancelled, and the scheduler goes on with other calls. A run that ends cancels it.

    Lost workers do not count: those calls run again anyway, see `retries_on_loss` of the scheduler. Nor do calls that
    passed one of their `Limits`, unless `on` names such an error.

    Args:
        attempts: How often a call is run at most, the first time included.
        on: Of which exceptions: a type, several types, or a function that gets the exception and says whether.
        backoff: Seconds between a failure and the next attempt; a function of the number of failures so far, such as
            `exponential(initial_s=1, factor=2, max_s=60)`; or `"exponential"` for just that.
        jitter: Which part of a wait is left to chance, from 0 for none to 1 for all: calls that failed together then
            do not come back together. A wait never gets longer by it.
        seed: Makes the chance the same in each run, for the same calls; `None` for another one each time.

    Raises:
        TypeError: `on` is none of these.
        ValueError: A number is out of its range, or `on` names a lost worker.
    """

    name: ClassVar[str] = "retry"

    def __init__(
        self,
        attempts: int,
        *,
        on: On = Exception,
        backoff: Backoff = 0.0,
        jitter: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter={jitter!r}: must be between 0 and 1, the part of a wait that is left to chance")
        self.attempts = _attempts(attempts)
        self.jitter = jitter
        self.seed = seed
        self._matches, self._on = _condition(on)
        self._backoff, self._backoff_text = _waits(backoff)
        self._failures: WeakKeyDictionary[Future[Any], int] = WeakKeyDictionary()

    def retry_after(self, future: Future[Any], exception: Exception) -> float | None:
        """Seconds until the next attempt; `None` for no further one.

        Raises:
            ValueError: The function given as `backoff` returned no number of seconds.
        """
        if not self._matches(exception):
            return None
        failures = self._failures.get(future, 0) + 1
        self._failures[future] = failures
        if failures >= self.attempts:
            if failures > 1:
                add_note(exception, f"{future!r} failed in each of {failures} attempts")
            return None
        wait_s = self._backoff(failures)
        if not _is_wait(wait_s):
            raise ValueError(f"backoff({failures}) returned {wait_s!r}: must be a number of seconds of at least 0")
        if self.jitter and wait_s:
            # One generator for each: the order in which calls fail does not matter.
            chance = random.Random() if self.seed is None else random.Random(f"{self.seed} {future.number} {failures}")
            wait_s *= 1 - self.jitter * chance.random()
        return wait_s

    def reset(self) -> None:
        """Forget the calls of the run before."""
        self._failures.clear()

    def __str__(self) -> str:
        return f"{self.name}: {self.attempts} attempts, on {self._on}, {self._backoff_text}"


def _condition(on: Any) -> tuple[Callable[[Exception], object], str]:
    """Whether an exception counts, and what of it is shown."""
    if callable(on) and not isinstance(on, type):
        return on, getattr(on, "__name__", repr(on))
    try:
        types = (on,) if isinstance(on, type) else tuple(on)
    except TypeError:
        types = (on,)
    for kind in types:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise TypeError(f"on={on!r}: must be types of exceptions, or a function that gets one and says whether")
        if issubclass(kind, BrokenExecutor):
            raise ValueError(
                f"on={kind.__name__}: a call that lost its worker runs again anyway; "
                "retries_on_loss= of the scheduler or of the task says how often"
            )
    if not types:
        raise ValueError("on=(): names no exception")
    limits = tuple(kind for kind in types if issubclass(kind, LimitError))

    def matches(exception: Exception) -> bool:
        return isinstance(exception, limits if isinstance(exception, LimitError) else types)

    return matches, " or ".join(kind.__name__ for kind in types)


def _waits(backoff: Any) -> tuple[Callable[[int], float], str]:
    """Seconds by the number of failures, and what of it is shown."""
    if backoff == "exponential":
        return exponential(), "exponential back-off"
    if callable(backoff):
        return cast("Callable[[int], float]", backoff), "back-off by a function"
    if not _is_wait(backoff):
        raise ValueError(
            f"backoff={backoff!r}: must be a number of seconds of at least 0, a function of the number of failures, "
            "or 'exponential'"
        )
    return lambda _: backoff, f"{backoff:g} s between them"


def _is_wait(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _attempts(number: Any) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise ValueError(f"attempts={number!r}: must be a whole number of at least 1")
