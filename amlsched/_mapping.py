"""Iterate over the results of many calls with a bounded number in flight, for inputs that do not fit into memory."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from amlsched._checks import check_whole
from amlsched._signals import event_loop, handled
from amlsched.errors import SchedulerNotRunningError
from amlsched.executors.capabilities import worker_count
from amlsched.future import Future

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Coroutine,
        Generator,
        Iterable,
        Iterator,
    )
    from concurrent.futures import Executor

    from amlsched.scheduler import Scheduler

__all__ = ["MapResults", "gather", "gather_in_own_run", "until_own_run_ended"]

R = TypeVar("R")

# Enough that a worker has its next call ready while the caller processes the results.
_PER_WORKER = 4


class MapResults(Generic[R]):
    """Iterates over the results of a task, in the order of the inputs; returned by `task.map`.

    If no asyncio loop is running, use `for`. Otherwise, as in an async callback or a notebook, use `async for`, or
    `await` for a list of all results. Calls are submitted as results are taken. All three start a run if the scheduler
    is not running, and end it afterwards.

    Args:
        scheduler: Where the calls run.
        call: Submits the call for one input.
        inputs: Positional arguments, one tuple per call; consumed only as calls are submitted.
        max_in_flight: How many calls to submit ahead of the results taken, at most; `None` for four per worker.

    Raises:
        ValueError: `max_in_flight` is below 1.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        call: Callable[..., Future[R]],
        inputs: Iterable[tuple[Any, ...]],
        max_in_flight: int | None,
    ) -> None:
        self._scheduler = scheduler
        self._call = call
        self._inputs = inputs
        self._bound = bound(scheduler.executor, max_in_flight)

    def __aiter__(self) -> AsyncIterator[R]:
        return self._results() if has_users_run(self._scheduler) else self._own_async_run()

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._all().__await__()

    async def _all(self) -> list[R]:
        return [result async for result in self]

    async def _results(self) -> AsyncGenerator[R]:
        calls: deque[Future[R]] = deque()
        try:
            for args in self._inputs:
                if len(calls) == self._bound:
                    yield await calls.popleft()
                calls.append(self._call(*args))
                calls[-1].awaited = True  # we handle its exception, not the run
            while calls:
                yield await calls.popleft()
        finally:
            for call in calls:  # the caller stopped iterating, or a call raised
                call.cancel()

    def __iter__(self) -> Iterator[R]:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "task.map(…) cannot be used with for while an asyncio loop runs, as in a notebook or a callback: "
                "write async for result in task.map(…), or results = await task.map(…)"
            )
        return self._own_run()

    def _own_run(self) -> Generator[R]:
        scheduler = self._scheduler
        scheduler.refuse_second_run()
        results = self._results()
        with event_loop(factory=scheduler.loop_factory) as loop:
            run = loop.create_task(_run(scheduler))
            try:
                while True:
                    with handled(scheduler.interrupt, scheduler.kill):
                        found = loop.run_until_complete(self._next(results, run))
                    if not found:
                        return
                    yield found[0]
            finally:
                with handled(scheduler.interrupt, scheduler.kill):
                    loop.run_until_complete(self._close(results, run))

    async def _own_async_run(self) -> AsyncGenerator[R]:
        results = self._results()
        async with _own_run(self._scheduler) as run:
            try:
                while found := await self._next(results, run):
                    yield found[0]
            finally:
                await results.aclose()

    async def _next(self, results: AsyncGenerator[R], run: asyncio.Task[Any]) -> list[R]:
        """A list of the next result, which is empty after the last one."""
        result = await _during(run, self._scheduler, anext(results, _END))
        return [] if result is _END else [result]

    async def _close(self, results: AsyncGenerator[R], run: asyncio.Task[Any]) -> None:
        await results.aclose()
        await _ended(self._scheduler, run)


_END: Any = object()
_TURNS_TO_CLOSE = 5


class _OwnRun:
    """A run started by an iteration over results; it ends when all iterations that share it have finished."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.task: asyncio.Task[Any] = asyncio.ensure_future(_run(scheduler))
        self.users = 0

    @property
    def joinable(self) -> bool:
        return not self.task.done() and self.users > 0 and self.task.get_loop() is asyncio.get_running_loop()


_own_runs: weakref.WeakKeyDictionary[Scheduler, _OwnRun] = weakref.WeakKeyDictionary()


def has_users_run(scheduler: Scheduler) -> bool:
    """Whether the user started the present run, rather than an iteration over results."""
    own = _own_runs.get(scheduler)
    return scheduler.has_run and (own is None or own.task.done())


async def until_own_run_ended(scheduler: Scheduler) -> None:
    """Wait for the end of a run that an iteration started, if the iteration was abandoned, as after a `break`.

    asyncio closes such an iterator in the next turns of the loop, so this first lets some turns pass.
    """
    own = _own_runs.get(scheduler)
    if own is None or own.task.get_loop() is not asyncio.get_running_loop():
        return
    for _ in range(_TURNS_TO_CLOSE):
        if own.users:
            await asyncio.sleep(0)
    if not own.users and not own.task.done():
        await asyncio.wait((own.task,))


def _run(scheduler: Scheduler) -> Coroutine[Any, Any, Any]:
    return scheduler.async_run(end_on_empty=False)


@asynccontextmanager
async def _own_run(scheduler: Scheduler) -> AsyncGenerator[asyncio.Task[Any]]:
    """A run in this loop, which others may share; it waits for its running calls when it ends."""
    own = _own_runs.get(scheduler)
    if own is None or not own.joinable:
        if own is not None and own.task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait((own.task,))  # it is ending
        own = _own_runs[scheduler] = _OwnRun(scheduler)
    own.users += 1
    try:
        yield own.task
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if own.users == 1 and task is not None and task.cancelling():  # it was cancelled: do not wait for calls
            own.task.cancel()
        raise
    finally:
        own.users -= 1
        if not own.users:
            try:
                await _ended(scheduler, own.task)
            finally:
                if _own_runs.get(scheduler) is own:
                    del _own_runs[scheduler]


async def _during(run: asyncio.Task[Any], scheduler: Scheduler, awaitable: Awaitable[R]) -> R:
    """The result of an awaitable; or the exception that ended the run, if that happens first.

    Raises:
        SchedulerNotRunningError: The run was stopped.
    """
    while not scheduler.running() and not run.done():
        await asyncio.sleep(0)  # the run starts in the loop's next turns
    following = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait((following, run), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        following.cancel()
        await asyncio.wait((following,))
        raise
    if following.cancelled() and not scheduler.running():
        await asyncio.wait((run,))  # the run is ending, and has cancelled the awaited call
    if run.done():
        following.cancel()
        await asyncio.wait((following,))
        if (error := run.exception()) is not None:
            raise error
        raise SchedulerNotRunningError(f"the run ended before the last result: {run.result()}")
    return following.result()


async def _ended(scheduler: Scheduler, run: asyncio.Task[Any]) -> None:
    """End a run that an iteration started."""
    if not run.done():
        scheduler.stop(stop_msg="all results were taken")
        await run


async def gather_in_own_run(
    scheduler: Scheduler, futures: Iterable[Awaitable[R]], max_in_flight: int | None, return_exceptions: bool
) -> list[R]:
    """The same as `gather`, in a run of its own."""
    async with _own_run(scheduler) as run:
        gathered = gather(scheduler.executor, futures, max_in_flight, return_exceptions)
        return await _during(run, scheduler, gathered)


async def gather(
    executor: Executor, futures: Iterable[Awaitable[R]], max_in_flight: int | None, return_exceptions: bool
) -> list[R]:
    """Results in the order of the futures, which are taken from the iterable as earlier ones finish."""
    limit = bound(executor, max_in_flight) if max_in_flight is not None else None
    outcomes: list[asyncio.Future[R]] = []
    pending: set[asyncio.Future[R]] = set()
    for awaitable in futures:
        if not isinstance(awaitable, Awaitable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"futures: {awaitable!r} is not a future: gather needs futures, such as those of task(x)")
        future = asyncio.ensure_future(awaitable)
        if isinstance(future, Future):
            future.awaited = True
        outcomes.append(future)
        pending.add(future)
        if limit is not None and len(pending) >= limit:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    found = await asyncio.gather(*outcomes, return_exceptions=return_exceptions)
    return cast("list[R]", found)


def bound(executor: Executor, max_in_flight: int | None) -> int:
    """How many calls may be in flight.

    Raises:
        TypeError: `max_in_flight` is not a whole number.
        ValueError: `max_in_flight` is below 1.
    """
    if max_in_flight is None:
        from amlsched.resources import cpus  # here, to keep `import amlsched` light

        return _PER_WORKER * (worker_count(executor) or len(cpus()))
    check_whole("max_in_flight", max_in_flight, 1, ", or None")
    return max_in_flight
