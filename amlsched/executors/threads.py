"""Threads that never keep the program from ending.

The standard library's ThreadPoolExecutor joins its threads when the interpreter exits, so that one call that never
returns keeps a program alive for ever; and its bookkeeping for idle threads costs as much as the call itself. Here
threads are daemons, and are started one for each of the first `max_workers` calls.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amlsched.errors import WorkerStartError
from amlsched.executors.capabilities import Capabilities, thread_queue_depth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPool"]

P = ParamSpec("P")
R = TypeVar("R")

_Item = tuple[Future[Any], "Callable[..., Any]", tuple[Any, ...], dict[str, Any]]


class ThreadPool(Executor):
    """Runs calls in threads of this process.

    Args:
        max_workers: Number of threads; `None` as in `concurrent.futures.ThreadPoolExecutor`.
        initializer: Called once in each thread, before its first call. Where it raises, all calls fail.
        initargs: Arguments of the initializer.

    Raises:
        ValueError: `max_workers` is below 1.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = min(32, (os.cpu_count() or 1) + 4)
        if max_workers < 1:
            raise ValueError(f"max_workers={max_workers!r}: must be at least 1")
        self.max_workers = max_workers
        self.capabilities = Capabilities(queue_depth=thread_queue_depth(max_workers))
        self._initializer = initializer
        self._initargs = initargs
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._closed = False
        self._broken: BaseException | None = None

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """A future that a thread will end.

        Raises:
            RuntimeError: The pool was shut down.
            WorkerStartError: The initializer raised in a thread.
        """
        future: Future[R] = Future()
        with self._lock:
            if self._broken is not None:
                raise self._start_error(getattr(fn, "__name__", repr(fn)))
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.put((future, fn, args, kwargs))
            if len(self._threads) < self.max_workers:
                thread = Thread(target=self._work, name=f"amlsched-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those that were taken still run, unless they are cancelled.

        Args:
            wait: Whether to wait until all threads have ended.
            cancel_futures: Whether calls that have not started are cancelled.
        """
        with self._lock:
            self._closed = True
            if cancel_futures:
                for future, *_ in self._drain():
                    if future.cancel():
                        future.set_running_or_notify_cancel()
            for _ in self._threads:
                self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def running_threads(self) -> list[str]:
        """Names of the threads that have not ended."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _work(self) -> None:
        try:
            if self._initializer is not None:
                self._initializer(*self._initargs)
        except BaseException as error:
            self._break(error)
            return
        get = self._queue.get
        while (item := get()) is not None:
            future, function, args, kwargs = item
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del item, future, function, args, kwargs  # an idle thread keeps nothing alive

    def _drain(self) -> list[_Item]:
        items: list[_Item] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return items
            if item is not None:
                items.append(item)

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._broken = error
            for future, function, *_ in self._drain():
                if future.set_running_or_notify_cancel():
                    future.set_exception(self._start_error(getattr(function, "__name__", repr(function))))
            for _ in self._threads:
                self._queue.put(None)

    def _start_error(self, call: str) -> WorkerStartError:
        error = WorkerStartError(call, f"did not start, its initializer raised {self._broken!r}")
        error.__cause__ = self._broken
        return error
