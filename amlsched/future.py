"""The handle of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextvars import Context
    from typing import Self

    from amlsched.receipts import Outcome
    from amlsched.task import Task

__all__ = ["Future"]

R = TypeVar("R")


class _Run(Protocol):
    """What a future asks of the run that it belongs to."""

    loop: asyncio.AbstractEventLoop

    def cancel(self, future: Future[Any]) -> bool: ...

    def finished(self, future: Future[Any]) -> None: ...


class Future(asyncio.Future[R]):
    """The handle of one call: an `asyncio.Future` whose result the run loop sets.

    The same object is given to every callback of the call. It can be awaited in the scheduler's loop; an exception of
    a call that is awaited goes to the one who awaits it, and `on_exception=` of the run does not apply to it.

    Attributes:
        number: The calls of one run are numbered from 1 in the order of their submission.
        task: The task that was submitted; `None` for `scheduler.submit(function)`.
        function: What was submitted, after plugins.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        awaited: Whether somebody awaits or awaited the call; `None` where that is still expected (`task(…)`).
    """

    # Not set for most: `_context` is the user's, `_attempt` and `_losses` are for a call that runs again, and `receipt`
    # for one that is measured.
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
        "work",
    )
    receipt: Outcome

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
        self.work: Any = None  # the executor's own future; none while the call waits to be run in this thread

    @property
    def context(self) -> Any:
        """Anything that the caller keeps with the call, such as what it is for; `None` until it is set.

        Every callback of the call finds it here, also after retries. It stays in this process: no worker gets it.
        """
        return getattr(self, "_context", None)

    @context.setter
    def context(self, value: Any) -> None:
        self._context = value

    @property
    def attempt(self) -> int:
        """Which time the call runs or ran, counted from 1; more where it failed and runs again."""
        return getattr(self, "_attempt", 1)

    @attempt.setter
    def attempt(self, number: int) -> None:
        self._attempt = number

    @property
    def losses(self) -> int:
        """How often the call is charged with the loss of its worker; see `retries_on_loss`."""
        return getattr(self, "_losses", 0)

    @losses.setter
    def losses(self, number: int) -> None:
        self._losses = number

    def cancel(self, msg: Any | None = None) -> bool:
        """Whether the call ends as cancelled by this.

        A call that has not started never does. One that runs is ended where the executor can end it; elsewhere its
        result will be dropped, and a run that waits for its calls still waits for the function to return.
        """
        if self.done() or not self._run.cancel(self):
            return False
        return super().cancel(msg)

    def mark_cancelled(self) -> None:
        """For the run loop, which knows that the call is over: end as cancelled, and ask nobody."""
        super().cancel()

    def work_done(self, _work: object) -> None:
        """For the executor's own future, in any thread: tell the run that the call is over."""
        self._run.finished(self)

    def running(self) -> bool:
        """Whether the call has started, as far as the executor tells, and has not ended."""
        return not self.done() and self.work is not None and bool(self.work.running())

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """Call a function when the call has ended; see `asyncio.Future.add_done_callback`."""
        # asyncio's gather, wait, wait_for and shield await in this way, all of them on behalf of a task of the loop.
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
