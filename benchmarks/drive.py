"""Four ways to submit calls and handle their results: ours, amltk, a bare asyncio wrapper, the raw executor.

Each way runs a few calls to warm up, then `start(submit)`, then `on_result(submit)` after each result, until that
returns True. The callbacks do the same work in all ways.
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
    """A call that does nothing, so that its whole cost is overhead."""


def through_scheduler(scheduler: Any, task_options: Mapping[str, Any] | None = None, **run_options: Any) -> Way:
    """By our scheduler or amltk's: they have the same interface."""

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
    """By the simplest means of asyncio: `wrap_future` and a done callback."""

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
    """By the executor with a plain callback, which runs in a thread of the executor."""

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
    """An executor whose calls finish when `finish` is called, in a given order."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """A future that stays pending, except for warm-up calls."""
        future: Future[Any] = Future()
        if fn is noop:
            future.set_result(None)
        else:
            self.futures.append(future)
        return future

    def finish(self, order: list[int]) -> threading.Thread:
        """Finish the calls, in a thread as an executor would."""

        def finish_all() -> None:
            for index in order:
                self.futures[index].set_running_or_notify_cancel()
                self.futures[index].set_result(None)

        thread = threading.Thread(target=finish_all)
        thread.start()
        return thread
