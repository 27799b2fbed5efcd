"""A bound on the calls of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched.events import Event
from amlsched.task import Plugin, Task

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Limiter"]


class Limiter(Plugin):
    """Refuses calls of a task beyond a bound: `task.submit` then returns `None`, and an event tells of it.

    A call that another plugin refuses is not counted. Counts begin anew with each run.

    Args:
        max_calls: How many calls of the task a run takes; `None` for no bound.
        max_concurrent: How many calls of the task there may be at once that have not ended, waiting ones included;
            `None` for no bound.
        not_while_running: A task, or several: as long as one of them has a call that has not ended, calls of this
            task are refused.

    Raises:
        ValueError: A bound is no whole number of at least 1.
        TypeError: `not_while_running` holds something that is no task.
    """

    name: ClassVar[str] = "limiter"

    CALL_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("call-limit-reached", ("task", "*args"))
    """A call was refused by `max_calls`; with the task and the arguments of the call."""
    CONCURRENT_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("concurrent-limit-reached", ("task", "*args"))
    """A call was refused by `max_concurrent`; with the task and the arguments of the call."""
    DISABLED_DUE_TO_RUNNING_TASK: ClassVar[Event[..., Any]] = Event(
        "disabled-due-to-running-task", ("other_task", "task", "*args")
    )
    """A call was refused by `not_while_running`; with the task that runs, the task and the arguments of the call."""

    task: Task[..., Any]

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_concurrent: int | None = None,
        not_while_running: Task[..., Any] | Iterable[Task[..., Any]] | None = None,
    ) -> None:
        self.max_calls = _bound("max_calls", max_calls)
        self.max_concurrent = _bound("max_concurrent", max_concurrent)
        self.not_while_running = _tasks(not_while_running)

    def attach_task(self, task: Task[..., Any]) -> None:
        """Keep the task.

        Raises:
            ValueError: `not_while_running` holds this very task.
        """
        if task in self.not_while_running:
            raise ValueError(
                f"not_while_running: {task.name} cannot wait for itself; "
                "max_concurrent=1 allows one of its calls at a time"
            )
        self.task = task

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
        """The call as it is, or `None` where a bound is reached."""
        task = self.task
        if self.max_calls is not None and task.n_submitted >= self.max_calls:
            task.emit(self.CALL_LIMIT_REACHED, task, *args, **kwargs)
            return None
        if self.max_concurrent is not None and task.n_running >= self.max_concurrent:
            task.emit(self.CONCURRENT_LIMIT_REACHED, task, *args, **kwargs)
            return None
        for other in self.not_while_running:
            if other.running():
                task.emit(self.DISABLED_DUE_TO_RUNNING_TASK, other, task, *args, **kwargs)
                return None
        return fn, args, kwargs

    def __str__(self) -> str:
        parts: list[str] = []
        if self.max_calls is not None:
            parts.append(f"calls {self.task.n_submitted}/{self.max_calls}")
        if self.max_concurrent is not None:
            parts.append(f"at once {self.task.n_running}/{self.max_concurrent}")
        parts += [f"not while {other.name} runs" for other in self.not_while_running]
        return f"{self.name}: {', '.join(parts) or 'no bound'}"


def _bound(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{name}={value!r}: must be a whole number of at least 1, or None for no bound")


def _tasks(given: Task[..., Any] | Iterable[Task[..., Any]] | None) -> tuple[Task[..., Any], ...]:
    if given is None:
        return ()
    tasks = tuple(given) if isinstance(given, Iterable) else (given,)
    for task in tasks:
        if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"not_while_running: {task!r} is no task; pass what scheduler.task() returned")
    return tasks
