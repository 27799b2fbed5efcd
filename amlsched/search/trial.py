"""What a searcher proposes, what became known of it, and the protocol of a searcher."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from amlsched.errors import LimitError, MemoryLimitError, WorkerLostError, WorkerOutOfMemoryError

__all__ = ["Failure", "Mode", "Reason", "Reported", "Searcher", "Told", "Trial", "TrialResult", "Value", "failure_of"]

Mode = Literal["min", "max"]
Value: TypeAlias = float | tuple[float, ...]
"""What a function returned for a trial: a number, or one number for each objective."""
Reason = Literal["crashed", "timeout", "memory", "lost", "cancelled", "pruned"]


Reported: TypeAlias = Callable[[int, float], bool]
"""Sends an intermediate value to the searcher, and returns whether the trial should stop."""


@dataclass(eq=False)
class Trial:
    """One proposal of a searcher; the function of a search gets it as its only argument.

    It has the parameters as items: `trial["lr"]` is `trial.params["lr"]`.

    Attributes:
        params: The parameters, by name.
        seed: The seed that the searcher asks for; `None` if it leaves that open.
        budget: How much the trial may spend, such as a number of epochs, in multi-fidelity searches; otherwise `None`.
        resumes: Number of the trial that this one continues with a larger budget; otherwise `None`.
        number: Number of the trial in its search, from 0, in the order in which the searcher proposed it. Set by the
            search.
        n_told: With `order="submission"`, how many results the searcher had been told when it proposed this trial: it
            bases its decision on reports of this trial on those only, so that it can be repeated. Otherwise `None`.
        handle: Whatever the searcher keeps with the trial. It is never sent to a worker.
    """

    params: Mapping[str, Any]
    seed: int | None = None
    budget: float | None = None
    resumes: int | None = None
    number: int = -1
    n_told: int | None = None
    handle: Any = field(default=None, repr=False)
    _reported: Reported | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    def report(self, step: int, value: float) -> bool:
        """Send an intermediate value to the searcher, and wait for its decision.

        Args:
            step: Such as the number of epochs so far.
            value: The value of what is optimised at this step.

        Returns:
            Whether to stop. What the function then returns is told to the searcher as the value of a pruned trial.
            Always `False` if the searcher decides nothing during a trial.
        """
        return self._reported is not None and self._reported(step, value)

    def reporting(self, reported: Reported) -> Trial:
        """The same trial, with a way to report to the searcher."""
        self._reported = reported
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.params, self.seed, self.budget, self.resumes, self.number)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial has no value.

    Attributes:
        reason: `crashed` if the function raised, `timeout` and `memory` if it was over a limit, `lost` if its worker
            was, `cancelled`, or `pruned` if it stopped because the searcher wanted that.
        error: The exception; `None` for a pruned trial.
        value: What a pruned trial returned; otherwise `None`.
    """

    reason: Reason
    error: BaseException | None = None
    value: Value | None = None

    def __str__(self) -> str:
        if self.error is None:
            return self.reason
        return f"{self.reason}: {type(self.error).__name__}: {self.error}"


Told: TypeAlias = Value | Failure


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial that has ended.

    Attributes:
        trial: The trial.
        value: Its value; `None` if it failed.
        failure: Why it has no value; `None` if it has one.
        seconds: Time from its submission to its end.
    """

    trial: Trial
    value: Value | None
    failure: Failure | None
    seconds: float


class Searcher(Protocol):
    """Proposes trials, and learns from their values.

    Its methods are called one after the other, usually in a thread of their own. There are three optional members:

    - `report(trial, step, value) -> bool`, if it decides during a trial whether that should stop;
    - `mode`, `"min"` or `"max"`: what the best value is, unless the search is given a mode;
    - `quick`: whether it thinks so little that it needs no thread of its own.
    """

    def ask(self, n: int, /) -> Sequence[Trial]:
        """Propose up to `n` trials; none if the searcher must be told more results first, or is at its end."""
        ...

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Take the values of trials, or their failures."""
        ...


def failure_of(error: BaseException) -> Failure:
    """The failure of a trial whose call ended with this exception."""
    reason: Reason = "crashed"
    if isinstance(error, MemoryLimitError | WorkerOutOfMemoryError | MemoryError):
        reason = "memory"
    elif isinstance(error, LimitError):
        reason = "timeout"
    elif isinstance(error, WorkerLostError):
        reason = "lost"
    elif isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
        reason = "cancelled"
    return Failure(reason, error)
