"""Experiments written as `async def`: each repetition has its own event loop, created when it is first needed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any, cast

from amlsched._context import contextmanager
from amlsched._signals import event_loop
from amlsched.errors import ExperimentError
from amlsched.events import lazy_kind
from amlsched.executors.user_function import call_function, forked_children_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

__all__ = ["call", "called", "generator_complaint", "own_loop", "accepted_arguments"]

_GRACE_S = 5.0
"""Seconds that a cancelled coroutine has to clean up."""


class _OwnLoop:
    """Runs the coroutines of one repetition; in a separate thread if a loop is already running in this one."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: ThreadPoolExecutor | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run it to its end, and return its result."""
        if self._loop is None:
            if _loop_runs_here():
                self._thread = ThreadPoolExecutor(1, "amlsched-repetition")
                self._loop = self._thread.submit(self._stack.enter_context, event_loop()).result()
            else:
                self._loop = self._stack.enter_context(event_loop())
        loop = self._loop
        if self._thread is None:
            return loop.run_until_complete(awaitable)
        task: asyncio.Task[Any] | None = None

        async def one() -> Any:
            nonlocal task
            task = asyncio.current_task()
            return await awaitable

        future = self._thread.submit(contextvars.copy_context().run, loop.run_until_complete, one())
        try:
            return future.result()
        except BaseException:
            if not future.done():  # a signal interrupted the wait
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
                wait_for([future], timeout=_GRACE_S)
            raise

    def close(self) -> None:
        """Cancel the remaining tasks, and close the loop."""
        if self._thread is None:
            self._stack.close()
        else:
            self._thread.submit(self._stack.close)
            self._thread.shutdown(wait=False)


_own: contextvars.ContextVar[_OwnLoop | None] = contextvars.ContextVar("amlsched-repetition-loop", default=None)


@contextmanager
def own_loop() -> Generator[None]:
    """Within this context, `call` runs coroutines on one event loop. On exit, remaining tasks are cancelled."""
    own = _OwnLoop()
    token = _own.set(own)
    try:
        yield
    finally:
        _own.reset(token)
        own.close()


def call(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call a function or method of an experiment; an `async def` runs to its end on the loop of `own_loop`.

    Raises:
        ExperimentError: A function that is not `async def` returned a coroutine, which would never be awaited.
    """
    result = call_function(function, args, {})
    if not inspect.isawaitable(result):
        return result
    if not _is_async(function):
        if inspect.iscoroutine(result):
            result.close()  # otherwise Python warns that it was never awaited
            remedy = "make the function async def, or run it with asyncio.run"
            raise ExperimentError(called(function), "returned a coroutine, which did not run", remedy)
        return result
    own, alone = _own.get(), _one_process(result, called(function))
    if own is not None:
        return own.run(alone)
    with own_loop():
        return cast("_OwnLoop", _own.get()).run(alone)


def accepted_arguments(method: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """As many of the arguments as a method takes: methods written for earlier versions of cw2 take fewer."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return arguments
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return arguments
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return arguments[: sum(parameter.kind in kinds for parameter in parameters)]


async def _one_process(awaitable: Awaitable[Any], name: str) -> Any:
    with forked_children_end(name):
        return await awaitable


def called(function: Callable[..., Any]) -> str:
    """The name of a function in messages."""
    function = getattr(function, "func", function)  # of a partial
    owner = getattr(function, "__self__", None)
    name = str(getattr(function, "__name__", type(function).__name__))
    return name if owner is None or inspect.ismodule(owner) else f"{name} of {type(owner).__name__}"


def generator_complaint(function: Any) -> str | None:
    """Why a function or method that yields cannot be an experiment; `None` if it does not yield."""
    kind = lazy_kind(function)
    return f"is {kind}: it would not run" if kind == "a generator function" else None


def _is_async(function: Any) -> bool:
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004
        if one is not None and inspect.iscoroutinefunction(inspect.unwrap(one)):
            return True
    return False


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
