"""The future of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextvars import Context
    from typing import Self

    from amlsched.receipts import Outcome
    from amlsched.resources.request import Wanted
    from amlsched.task import Task

__all__ = ["Future"]

R = TypeVar("R")


class _Run(Protocol):
    """What a future needs from its run."""

    loop: asyncio.AbstractEventLoop

    def cancel(self, future: Future[Any]) -> bool: ...

    def finished(self, future: Future[Any]) -> None: ...


class Future(asyncio.Future[R]):
    """The handle of one call: an `asyncio.Future` whose result is set by the run loop.

    Every callback of the call gets the same object. It can be awaited in the scheduler's loop; an exception of an
    awaited call is raised by the `await`, and `on_exception=` of the run does not apply to it.

    Attributes:
        number: Number of the call in its run, from 1, in the order of submission.
        task: The submitted task; `None` for `scheduler.submit(function)`.
        function: The submitted function, after plugins.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        awaited: Whether the call is or was awaited; `None` if that is still expected (`task(…)`).
    """

    # Unset for most calls: `_context` is set by the user, `_attempt` and `_losses` if the call is retried, `receipt` if
    # it is measured, and `wanted` if it requests resources.
    __slots__ = (
        "_attempt",
        "_context",
        "_losses",
        "_run",
        "args",
        "awaited",
        "function",
        "kwargs",
        "number",
        "receipt",
        "task",
        "wanted",
        "work",
    )
    receipt: Outcome
    wanted: Wanted

    def __init__(
        self,
        run: _Run,
        task: Task[..., R] | None,
        function: Callable[..., R],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__(loop=run.loop)
        self._run = run
        self.task = task
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.number = 0
        self.awaited: bool | None = False
        self.work: Any = None  # the executor's own future; `None` for a queued call

    @property
    def context(self) -> Any:
        """Any object that the user attaches to the call; `None` until set.

        Every callback of the call can read it, even after retries. It is never sent to a worker.
        """
        return getattr(self, "_context", None)

    @context.setter
    def context(self, value: Any) -> None:
        self._context = value

    @property
    def attempt(self) -> int:
        """Number of the current or last attempt, from 1; higher if the call was retried."""
        return getattr(self, "_attempt", 1)

    @attempt.setter
    def attempt(self, number: int) -> None:
        self._attempt = number

    @property
    def losses(self) -> int:
        """How often the call was charged with the loss of its worker; see `retries_on_loss`."""
        return getattr(self, "_losses", 0)

    @losses.setter
    def losses(self, number: int) -> None:
        self._losses = number

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call, and return whether that succeeded.

        A call that has not started never will. A running call is killed if the executor supports that; otherwise its
        result is dropped, and a run that waits for its calls still waits for the function to return.
        """
        if self.done() or not self._run.cancel(self):
            return False
        return super().cancel(msg)

    def mark_cancelled(self) -> None:
        """For the run loop, which knows that the call has finished: cancel the future only."""
        super().cancel()

    def work_done(self, _work: object) -> None:
        """Callback of the executor's own future, in any thread: notify the run that the call has finished."""
        self._run.finished(self)

    def running(self) -> bool:
        """Whether the call has started, if the executor reports that, and has not finished."""
        return not self.done() and self.work is not None and bool(self.work.running())

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """Call a function when the call has finished; see `asyncio.Future.add_done_callback`."""
        # asyncio's gather, wait, wait_for and shield use this to await, on behalf of a task of the loop.
        if asyncio.current_task(self.get_loop()) is not None:
            self.awaited = True
        super().add_done_callback(fn, context=context)

    def __await__(self) -> Generator[Any, None, R]:
        self.awaited = True
        return super().__await__()

    __iter__ = __await__

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", None) or type(self.function).__name__
        if not self.done():
            state = "running" if self.running() else "pending"
        else:
            state = "cancelled" if self.cancelled() else "finished"
        return f"<call {self.number} of {name}, {state}>"
