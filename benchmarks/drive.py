"""Four ways to submit calls and hear of their results: ours, amltk, a bare asyncio wrapper, the raw executor.

A way runs a few calls to warm up, then `start(submit)`, then `on_result(submit)` after each result, until that returns
True. The work in the callbacks is the same for all, so that only the way differs.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from typing import Any

Submit = Callable[..., object]
Start = Callable[[Submit], None]
OnResult = Callable[[Submit], bool]
Way = Callable[[Callable[..., Any], Start, OnResult], None]

WARM_UP = 16


def noop(*_: object) -> None:
    """The call whose cost is all overhead."""


def through_scheduler(scheduler: Any, task_options: Mapping[str, Any] | None = None, **run_options: Any) -> Way:
    """Ours or amltk's: they have the same names."""

    def way(function: Callable[..., Any], start: Start, on_result: OnResult) -> None:
        warm = scheduler.task(noop)
        task = scheduler.task(function, **(task_options or {}))
        to_warm = iter(range(WARM_UP - 1))

        @scheduler.on_start
        def _() -> None:
            for _ in range(WARM_UP):
                warm.submit()

        @warm.on_result
        def _(*_: object) -> None:
            if next(to_warm, None) is None:
                start(task.submit)

        @task.on_result
        def _(*_: object) -> None:
            if on_result(task.submit):
                scheduler.stop()

        scheduler.run(**run_options)

    return way


def through_wrapper(executor: Executor) -> Way:
    """The least that asyncio offers: `wrap_future` and a done-callback."""

    async def main(function: Callable[..., Any], start: Start, on_result: OnResult) -> None:
        ended = asyncio.Event()

        def done(future: "asyncio.Future[Any]") -> None:
            future.result()
            if on_result(submit):
                ended.set()

        def submit(*args: object) -> None:
            asyncio.wrap_future(executor.submit(function, *args)).add_done_callback(done)

        await asyncio.gather(*(asyncio.wrap_future(executor.submit(noop)) for _ in range(WARM_UP)))
        start(submit)
        await ended.wait()

    def way(function: Callable[..., Any], start: Start, on_result: OnResult) -> None:
        with executor:
            asyncio.run(main(function, start, on_result))

    return way


def through_executor(executor: Executor) -> Way:
    """The executor with a plain callback; it runs in a thread of the executor."""

    def way(function: Callable[..., Any], start: Start, on_result: OnResult) -> None:
        ended = threading.Event()

        def done(future: "Future[Any]") -> None:
            future.result()
            if on_result(submit):
                ended.set()

        def submit(*args: object) -> None:
            executor.submit(function, *args).add_done_callback(done)

        with executor:
            wait([executor.submit(noop) for _ in range(WARM_UP)])
            start(submit)
            ended.wait()

    return way


class DoneByHand(Executor):
    """Its calls end when, and in which order, `finish` says so."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """A future that stays pending, but for the calls to warm up."""
        future: Future[Any] = Future()
        if fn is noop:
            future.set_result(None)
        else:
            self.futures.append(future)
        return future

    def finish(self, order: list[int]) -> threading.Thread:
        """End the calls, in a thread as an executor would."""

        def finish_all() -> None:
            for index in order:
                self.futures[index].set_running_or_notify_cancel()
                self.futures[index].set_result(None)

        thread = threading.Thread(target=finish_all)
        thread.start()
        return thread
