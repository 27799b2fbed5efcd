"""Retries calls whose function raised."""

from __future__ import annotations

import inspect
import operator
import random
from concurrent.futures import BrokenExecutor
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast
from weakref import WeakKeyDictionary

from amlsched._checks import is_number, parsed
from amlsched.errors import LimitError, MemoryLimitError
from amlsched.events import add_note
from amlsched.plugins.limits import Limits
from amlsched.task import Plugin
from amlsched.units import parse_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from amlsched.future import Future
    from amlsched.task import Task

    On = type[Exception] | Iterable[type[Exception]] | Callable[[Exception], object]
    Backoff = float | Literal["exponential"] | Callable[[int], float]

__all__ = ["Retry", "exponential"]


def exponential(initial_s: float = 1.0, factor: float = 2.0, max_s: float = 60.0) -> Callable[[int], float]:
    """Exponential back-off: wait `initial_s` after the first failure, then `factor` times as long after each one.

    Args:
        initial_s: Seconds after the first failure.
        factor: At least 1.
        max_s: The longest wait.

    Raises:
        TypeError: An argument is not a number.
        ValueError: A number is out of range.
    """
    for name, value in (("initial_s", initial_s), ("factor", factor), ("max_s", max_s)):
        if not is_number(value):
            raise TypeError(f"exponential({name}={value!r}): must be a number")
    if not 0 <= initial_s < inf or not 1 <= factor < inf or not 0 <= max_s < inf:
        raise ValueError(
            f"exponential(initial_s={initial_s!r}, factor={factor!r}, max_s={max_s!r}): seconds must be at least 0, "
            "and the factor at least 1, none of them infinite"
        )

    def wait_s(failures: int) -> float:
        try:
            return min(max_s, initial_s * factor ** (failures - 1))
        except OverflowError:
            return max_s

    return wait_s


class Retry(Plugin):
    """Retries calls of the task whose function raised, after a delay.

    Such a call is submitted once and finishes once; `on_retry` of the task reports each failure in between. While it
    waits, it can be cancelled, and the scheduler runs other calls. If the run ends, it is cancelled.

    Calls whose worker was lost are not affected: they are retried anyway, see `retries_on_loss` of the scheduler. Nor
    are calls that exceeded one of their `Limits`, unless `on` names such an error.

    Args:
        attempts: How often to try a call at most, including the first time.
        on: On which exceptions to retry: one or several types, or a function that takes the exception and returns a
            bool.
        backoff: Seconds between a failure and the next attempt; or a function of the number of failures so far, such as
            `exponential(initial_s=1, factor=2, max_s=60)`; or `"exponential"` for exactly that.
        jitter: Random part of each wait, from 0 for none to 1 for all of it, so that calls that failed together are not
            retried together. It only makes waits shorter.
        seed: Makes the random part the same in each run, for the same calls; `None` for a different one each time.
        memory_growth: If set, a call that exceeded the memory limit of the task's `Limits` is retried as well, whatever
            `on` is, with the limit multiplied by this number above 1. The errors contain the limit of each attempt. If
            the limit is what the call requested (`Limits(memory="request")`), the next attempt requests that much more
            of the pool, up to what the largest node has. So does one that follows an out-of-memory kill.
        memory_cap: The largest limit, such as `"64 GiB"`; a call that exceeds it is not retried. `None` for no cap.

    Raises:
        TypeError: `on` is none of these, or a function given as `on` or `backoff` does not take one argument.
        ValueError: A number is out of range, or `on` names a lost worker. Also raised by a run: the task has no memory
            limit that could grow, or it starts at `memory_cap`.
    """

    name: ClassVar[str] = "retry"

    task: Task[..., Any]

    def __init__(
        self,
        attempts: int,
        *,
        on: On = Exception,
        backoff: Backoff = 0.0,
        jitter: float = 0.0,
        seed: int | None = None,
        memory_growth: float | None = None,
        memory_cap: str | None = None,
    ) -> None:
        self.attempts = _attempts(attempts)
        self.jitter = _part(jitter)
        self.seed = _seed(seed)
        self._matches, self._on = _condition(on)
        self._backoff, self._backoff_text = _waits(backoff)
        self._growth = _growth(memory_growth)
        self._cap_bytes = _cap(memory_cap, memory_growth)
        self._cap = memory_cap
        self._failures: WeakKeyDictionary[Future[Any], int] = WeakKeyDictionary()

    def attach_task(self, task: Task[..., Any]) -> None:
        """Keep the task."""
        self.task = task

    @property
    def memory_growth(self) -> float | None:
        """By which factor the next attempt of a call that ran out of memory has more; `None` for no more."""
        return self._growth

    def retry_after(self, future: Future[Any], exception: Exception) -> float | None:
        """Seconds until the next attempt; `None` to give up.

        Raises:
            ValueError: The function given as `backoff` did not return a number of seconds.
        """
        grows = self.memory_growth is not None and isinstance(exception, MemoryLimitError)
        if not grows and not self._matches(exception):
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
            # One generator per failure, so that the order in which calls fail does not matter.
            chance = random.Random() if self.seed is None else random.Random(f"{self.seed} {future.number} {failures}")
            wait_s *= 1 - self.jitter * chance.random()
        if grows and not self._has_more_memory(future, exception):
            return None
        return wait_s

    def _has_more_memory(self, future: Future[Any], error: Exception) -> bool:
        """Raise the memory limit of a call, note that in the error, and return whether it was possible."""
        assert self.memory_growth is not None
        limits = self._limits()
        if limits is None or limits.follows_request:
            limit = self.task.scheduler.more_memory(future, error, self.memory_growth, self._cap_bytes)
            why = "it has requested the memory_cap, or all memory of the largest node"
        else:
            limit = limits.more_memory(future, self.memory_growth, self._cap_bytes)
            why = "its limit is the memory_cap"
        if limit is None:
            add_note(error, f"{future!r} is not retried: {why}")
            return False
        add_note(error, f"attempt {future.attempt + 1} may use {limit / 2**20:.1f} MiB of memory")
        return True

    def _limits(self) -> Limits | None:
        """The task's `Limits`, whose memory limit can grow; `None` if there are none, and calls request resources."""
        for plugin in self.task.plugins:
            if isinstance(plugin, Limits) and plugin.follows_request:
                return plugin
            if isinstance(plugin, Limits) and plugin.memory_bytes is not None:
                if plugin.memory_bytes < self._cap_bytes:
                    return plugin
                raise ValueError(
                    f"{self.task.name}: Retry(memory_cap={self._cap!r}) is not above its memory limit of "
                    f"{plugin.memory_bytes / 2**20:.1f} MiB, so the limit cannot grow"
                )
        if self.task.requests_resources:
            return None
        raise ValueError(
            f"{self.task.name}: Retry(memory_growth={self.memory_growth:g}) needs Limits(memory=…) among the task's "
            "plugins, or resources=… of the task: that is what grows"
        )

    def reset(self) -> None:
        """Forget the calls of the previous run, and check that there is a limit that can grow."""
        self._failures.clear()
        if self.memory_growth is not None:
            self._limits()

    def __str__(self) -> str:
        parts = [f"{self.attempts} attempts", f"on {self._on}", self._backoff_text]
        if self.memory_growth is not None:
            parts.append(f"{self.memory_growth:g} times the memory" + (f" up to {self._cap}" if self._cap else ""))
        return f"{self.name}: {', '.join(parts)}"


def _condition(on: Any) -> tuple[Callable[[Exception], object], str]:
    """A function that decides whether to retry on an exception, and its description."""
    if callable(on) and not isinstance(on, type):
        _check_takes_one("on", on, "the exception")
        return on, getattr(on, "__name__", repr(on))
    try:
        types = (on,) if isinstance(on, type) else tuple(on)
    except TypeError:
        types = (on,)
    for kind in types:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise TypeError(f"on={on!r}: must be exception types, or a function that takes an exception")
        if issubclass(kind, BrokenExecutor):
            raise ValueError(
                f"on={kind.__name__}: a call whose worker was lost is retried anyway; "
                "set how often by retries_on_loss= of the scheduler or the task"
            )
    if not types:
        raise ValueError("on=(): must name at least one exception type")
    limits = tuple(kind for kind in types if issubclass(kind, LimitError))

    def matches(exception: Exception) -> bool:
        return isinstance(exception, limits if isinstance(exception, LimitError) else types)

    return matches, " or ".join(kind.__name__ for kind in types)


def _waits(backoff: Any) -> tuple[Callable[[int], float], str]:
    """A function of the number of failures that returns the seconds to wait, and its description."""
    if isinstance(backoff, str) and backoff == "exponential":
        return exponential(), "exponential back-off"
    if backoff is exponential:
        raise TypeError("backoff=exponential: call it, as in backoff=exponential(max_s=30)")
    if callable(backoff):
        _check_takes_one("backoff", backoff, "the number of failures")
        return cast("Callable[[int], float]", backoff), "back-off by a function"
    given: Any = backoff
    if not _is_wait(given):
        raise ValueError(
            f"backoff={backoff!r}: must be a number of seconds of at least 0, a function of the number of failures, "
            "or 'exponential'"
        )
    return lambda _: given, f"{given:g} s between them"


def _is_wait(value: Any) -> bool:
    return is_number(value) and 0 <= value < inf


def _check_takes_one(name: str, function: Callable[..., object], what: str) -> None:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise TypeError(f"{name}={function!r}: must be a function that can be called with {what} alone") from None
    except ValueError:  # some builtins have no signature
        return


def _seed(seed: Any) -> int | None:
    if seed is not None:
        try:
            return operator.index(seed)
        except TypeError:
            raise TypeError(f"seed={seed!r}: must be a whole number, or None") from None
    return None


def _growth(factor: Any) -> float | None:
    if factor is None:
        return None
    if is_number(factor) and 1 < factor < inf:
        return float(factor)
    raise ValueError(f"memory_growth={factor!r}: must be a number of more than 1, such as 2.0, or None for no growth")


def _cap(text: str | None, growth: float | None) -> float:
    """Bytes."""
    if text is None:
        return inf
    if growth is None:
        raise ValueError(f"memory_cap={text!r} needs memory_growth=: without it, no limit grows")
    return parsed("memory_cap", text, parse_memory)


def _part(number: Any) -> float:
    if is_number(number) and 0 <= number <= 1:
        return float(number)
    raise ValueError(f"jitter={number!r}: must be between 0 and 1, the random part of a wait")


def _attempts(number: Any) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise ValueError(f"attempts={number!r}: must be a whole number of at least 1")
