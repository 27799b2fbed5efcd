"""Many calls, of which a bounded number is in flight: for inputs that need not fit into memory."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from amlsched.errors import SchedulerNotRunningError
from amlsched.executors.capabilities import worker_count
from amlsched.future import Future
from amlsched.signals import event_loop, handled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
    from concurrent.futures import Executor

    from amlsched.scheduler import Scheduler

__all__ = ["Results", "gather"]

R = TypeVar("R")

# Enough that a worker has its next call at hand while the results of its last one are looked at.
_PER_WORKER = 4


class Results(Generic[R]):
    """The results of a task over inputs, in the order of the inputs; made by `task.map`.

    In a loop (an async callback, or beside `async_run`), `async for` submits as it goes. Outside of a run, a plain
    `for` makes a run of its own around itself.

    Args:
        scheduler: Where the calls run.
        call: Submits the call for one input.
        inputs: Positional arguments, one tuple a call; taken only as calls are submitted.
        max_in_flight: How many calls are submitted at most whose results were not yet given; `None` for four for
            each worker.

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
        return self._results()

    async def _results(self) -> AsyncGenerator[R]:
        calls: deque[Future[R]] = deque()
        try:
            for args in self._inputs:
                if len(calls) == self._bound:
                    yield await calls.popleft()
                calls.append(self._call(*args))
                calls[-1].awaited = True  # its exception is for us, not for the run
            while calls:
                yield await calls.popleft()
        finally:
            for call in calls:  # somebody stopped listening, or a call raised
                call.cancel()

    def __iter__(self) -> Iterator[R]:
        return self._own_run()

    def _own_run(self) -> Generator[R]:
        scheduler = self._scheduler
        scheduler.refuse_second_run()
        results = self._results()
        with event_loop() as loop:
            run = loop.create_task(scheduler.async_run(end_on_empty=False))
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

    async def _next(self, results: AsyncGenerator[R], run: asyncio.Task[Any]) -> list[R]:
        """The next result in a list, which is empty after the last."""
        while not self._scheduler.running() and not run.done():
            await asyncio.sleep(0)  # the run begins in the loop's next turns
        following = asyncio.ensure_future(anext(results, _END))
        await asyncio.wait((following, run), return_when=asyncio.FIRST_COMPLETED)
        if run.done():  # before its end: something stopped it
            following.cancel()
            await asyncio.wait((following,))
            raise run.exception() or SchedulerNotRunningError(f"the run ended before the last result: {run.result()}")
        result = following.result()
        return [] if result is _END else [result]

    async def _close(self, results: AsyncGenerator[R], run: asyncio.Task[Any]) -> None:
        await results.aclose()
        if not run.done():
            self._scheduler.stop(stop_msg="all results were taken")
            await run


_END: Any = object()


async def gather(
    executor: Executor, futures: Iterable[Awaitable[R]], max_in_flight: int | None, return_exceptions: bool
) -> list[R]:
    """Results in the order of the futures, which are taken from the iterable as earlier ones end."""
    limit = bound(executor, max_in_flight) if max_in_flight is not None else None
    outcomes: list[asyncio.Future[R]] = []
    pending: set[asyncio.Future[R]] = set()
    for awaitable in futures:
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
        ValueError: A number was given that is below 1.
    """
    if max_in_flight is None:
        return _PER_WORKER * (worker_count(executor) or os.cpu_count() or 1)
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight={max_in_flight!r}: must be at least 1, or None")
    return max_in_flight
