"""Limits the number of calls of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched.events import Event
from amlsched.task import Plugin, Task

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Limiter"]


class Limiter(Plugin):
    """Rejects calls of a task beyond a limit: `task.submit` then returns `None`, and an event is emitted.

    Calls rejected by another plugin are not counted. Counts are reset for each run.

    Args:
        max_calls: How many calls of the task a run accepts; `None` for no limit.
        max_concurrent: How many unfinished calls of the task there may be at a time, including waiting ones; `None` for
            no limit.
        not_while_running: One or several tasks: while one of them has an unfinished call, calls of this task are
            rejected.

    Raises:
        ValueError: A limit is not a whole number of at least 1.
        TypeError: `not_while_running` contains something other than tasks.
    """

    name: ClassVar[str] = "limiter"

    CALL_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("call-limit-reached", ("task", "*args"))
    """A call was rejected because of `max_calls`; with the task and the arguments of the call."""
    CONCURRENT_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("concurrent-limit-reached", ("task", "*args"))
    """A call was rejected because of `max_concurrent`; with the task and the arguments of the call."""
    DISABLED_DUE_TO_RUNNING_TASK: ClassVar[Event[..., Any]] = Event(
        "disabled-due-to-running-task", ("other_task", "task", "*args")
    )
    """A call was rejected because of `not_while_running`; with the running task, the task and the call's arguments."""

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
            ValueError: `not_while_running` contains this task itself.
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
        """The unchanged call, or `None` if a limit is reached."""
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
        return f"{self.name}: {', '.join(parts) or 'no limit'}"


def _bound(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{name}={value!r}: must be a whole number of at least 1, or None for no limit")


def _tasks(given: Task[..., Any] | Iterable[Task[..., Any]] | None) -> tuple[Task[..., Any], ...]:
    if given is None:
        return ()
    tasks = tuple(given) if isinstance(given, Iterable) else (given,)
    for task in tasks:
        if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"not_while_running: {task!r} is not a task; pass what scheduler.task() returned")
    return tasks
