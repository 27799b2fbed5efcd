"""A pool of threads that never keeps the program from exiting.

The standard library's ThreadPoolExecutor joins its threads when the interpreter exits, so a call that never returns
keeps the program alive forever; and its bookkeeping of idle threads costs as much as a call itself. Here, threads are
daemons, and one is started for each of the first `max_workers` calls.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import CancelledError, Executor, Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amlsched._checks import whole_number
from amlsched.errors import WorkerStartError
from amlsched.executors._orphans import require_reaper
from amlsched.executors.capabilities import Capabilities, thread_queue_depth
from amlsched.executors.user_function import AlarmsEnd, call_function, call_name, check_initializer
from amlsched.executors.worker_exit import start_error
from amlsched.resources import cpus

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPool"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class _FutureCall:
    """A call with a future of the standard library."""

    __slots__ = ("_args", "_kwargs", "function", "future")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future: Future[Any] = Future()
        self.function = function
        self._args = args
        self._kwargs = kwargs

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                with AlarmsEnd():
                    result = call_function(self.function, self._args, self._kwargs)
            except BaseException as error:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)

    def cancel(self) -> bool:
        return self.future.cancel() and not self.future.set_running_or_notify_cancel()

    def refuse(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class PostedCall:
    """A call for the run loop, with the methods of a future that the run loop needs, but without its locks.

    Args:
        function: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        on_done: Called with `handle` when the call has finished: in its thread, or in the one that cancels it.
        handle: The argument of `on_done`.
    """

    __slots__ = ("_args", "_error", "_handle", "_kwargs", "_on_done", "_result", "_state", "_unclaimed", "function")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_done: Callable[[Any], object],
        handle: object,
    ) -> None:
        self.function = function
        self._args = args
        self._kwargs = kwargs
        self._on_done = on_done
        self._handle = handle
        self._result: Any = None
        self._error: BaseException | None = None
        self._state = "pending"
        self._unclaimed = [True]  # the thread that pops this may run or cancel the call: `pop` is atomic

    def run(self) -> None:
        if not self._claim():
            return
        self._state = "running"
        try:
            with AlarmsEnd():
                self._result = call_function(self.function, self._args, self._kwargs)
        except BaseException as error:
            self._error = error
        self._state = "finished"
        self._on_done(self._handle)

    def cancel(self) -> bool:
        """Cancel the call, and return whether that succeeded: only before it has started."""
        if not self._claim():
            return False
        self._state = "cancelled"
        self._on_done(self._handle)
        return True

    def refuse(self, error: BaseException) -> None:
        if self._claim():
            self._error = error
            self._state = "finished"
            self._on_done(self._handle)

    def exception(self) -> BaseException | None:
        """The exception of the call; `None` if it returned.

        Raises:
            concurrent.futures.CancelledError: It was cancelled.
        """
        if self._state == "cancelled":
            raise CancelledError
        return self._error

    def result(self) -> Any:
        """The result of the call."""
        return self._result

    def done(self) -> bool:
        """Whether the call has finished."""
        return self._state in ("finished", "cancelled")

    def running(self) -> bool:
        """Whether the call has started and not finished."""
        return self._state == "running"

    def _claim(self) -> bool:
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


class ThreadPool(Executor):
    """Runs calls in threads of this process.

    Args:
        max_workers: Number of threads; `None` for four more than the CPUs that this process may use, at most 32.
        initializer: Called once in each thread, before its first call. If it raises, all calls fail.
        initargs: Arguments of the initializer.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `max_workers` is below 1.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = min(32, len(cpus()) + 4)
        self.max_workers = max_workers = whole_number("max_workers", max_workers)
        check_initializer(initializer, initargs)
        self.capabilities = Capabilities(queue_depth=thread_queue_depth(max_workers), posts=True)
        self._initializer = initializer
        self._initargs = initargs
        self._queue: SimpleQueue[_FutureCall | PostedCall | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._closed = False
        self._broken: BaseException | None = None
        self._release_reaper: Callable[[], object] | None = None
        self._n_up = 0
        self._most = max_workers  # how many threads there can be
        self._no_thread: RuntimeError | None = None

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call, and return its future.

        Raises:
            RuntimeError: The pool was shut down.
            WorkerStartError: The initializer raised in a thread.
        """
        call = _FutureCall(fn, args, kwargs)
        self._put(call, fn)
        return call.future

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_done: Callable[[Any], object],
        handle: object,
    ) -> PostedCall:
        """The same for the run loop; see `PostedCall`.

        Raises:
            RuntimeError: The pool was shut down.
            WorkerStartError: The initializer raised in a thread.
        """
        call = PostedCall(function, args, kwargs, on_done, handle)
        self._put(call, function)
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; those submitted before still run, unless they are cancelled.

        Args:
            wait: Whether to wait until all threads have finished.
            cancel_futures: Whether to cancel calls that have not started.
        """
        with self._lock:
            self._closed = True
            if cancel_futures:
                for call in self._drain():
                    call.cancel()
            for _ in self._threads:
                self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def running_threads(self) -> list[str]:
        """Names of the threads that are alive."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def start_error(self, function: Callable[..., Any]) -> WorkerStartError:
        """The exception of a call that cannot start because the initializer raised."""
        name = getattr(function, "__name__", repr(function))
        error = WorkerStartError(name, f"did not start, its initializer raised {self._broken!r}")
        error.__cause__ = self._broken
        return error

    def running_calls(self) -> dict[str, str]:
        """Names of the running functions, by the names of their threads."""
        # Inspecting the frames saves calls from having to record when they start and end.
        frames: dict[int, Any] = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        calls: dict[str, str] = {}
        for thread in self._threads:
            frame = frames.get(thread.ident or 0)
            while frame is not None and frame.f_code is not ThreadPool._run_calls.__code__:
                frame = frame.f_back
            call: _FutureCall | PostedCall | None = None if frame is None else frame.f_locals.get("call")
            if call is not None:
                function = call.function
                calls[thread.name] = getattr(function, "__qualname__", None) or type(function).__qualname__
        return calls

    def kill_workers(self) -> None:
        """Accept no more calls, and wait for none. Running ones continue until they return or the program exits.

        A warning in the log names them.
        """
        self.shutdown(wait=False, cancel_futures=True)
        if calls := self.running_calls():
            named = ", ".join(f"{function} (thread {thread})" for thread, function in calls.items())
            logger.warning("threads cannot be killed; these calls continue until they return: %s", named)

    def _put(self, call: _FutureCall | PostedCall, function: Callable[..., Any]) -> None:
        with self._lock:
            if self._broken is not None:
                raise self.start_error(function)
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._release_reaper is None:
                self._release_reaper = require_reaper(self)
            if len(self._threads) < self._most:
                self._start_thread()
            if self._threads:
                self._queue.put(call)
                return
        call.refuse(start_error(call_name(function), self._no_thread or RuntimeError("no thread")))

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, name=f"amlsched-{len(self._threads)}", daemon=True)
        self._n_up += 1
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads for this user or container
            self._n_up -= 1
            self._no_thread = error
            if self._threads:
                self._most = len(self._threads)
                logger.warning(
                    "only %d of %d threads could be started, in which all calls run: %s",
                    self._most,
                    self.max_workers,
                    error,
                )
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        try:
            self._run_calls()
        finally:
            with self._lock:
                self._n_up -= 1
                if self._closed and not self._n_up and self._release_reaper is not None:
                    self._release_reaper()

    def _run_calls(self) -> None:
        try:
            if self._initializer is not None:
                call_function(self._initializer, self._initargs, {})
        except BaseException as error:
            self._break(error)
            return
        get = self._queue.get
        while (call := get()) is not None:
            call.run()
            del call  # an idle thread must not keep it alive

    def _drain(self) -> list[_FutureCall | PostedCall]:
        calls: list[_FutureCall | PostedCall] = []
        while True:
            try:
                call = self._queue.get_nowait()
            except Empty:
                return calls
            if call is not None:
                calls.append(call)

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._broken = error
            for call in self._drain():
                call.refuse(self.start_error(call.function))
            for _ in self._threads:
                self._queue.put(None)
