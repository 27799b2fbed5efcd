"""A pool of processes that survives the loss of workers and can kill single calls."""

import multiprocessing
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import chain, islice
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from amlsched._checks import whole_number
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.user_function import call_name, check_initializer
from amlsched.resources import cpus
from amlsched.resources.binding import cpu_share, worker_environment, worker_threads

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Mapping

    from amlsched.executors._processes.call_future import CallFuture
    from amlsched.resources.binding import WorkerThreads

__all__ = ["ProcessPool"]

P = ParamSpec("P")
R = TypeVar("R")

_STANDARD = ("builtins", "multiprocessing.context")  # where a context's class is, or that of the module itself
_NO_GUARD = """\
The main module starts a pool of processes while a worker imports it. Workers import the main module when they start, so
the code that starts the pool must be below a guard:

    if __name__ == "__main__":
        main()  # the code that submits calls
"""


class ProcessPool(Executor):
    """Runs calls in processes of this machine; a worker that dies loses only the call that it was running.

    Used like `concurrent.futures.ProcessPoolExecutor`, with these differences:

    - If a worker dies, the future of its call gets a `WorkerLostError`; the worker is replaced, all other calls go on.
    - If an argument cannot be pickled, `submit` raises a `NotPicklableError` with its name. Functions and classes of
      the main module, and lambdas, can be sent with every start method.
    - Arguments are pickled in `submit`: later changes to them do not affect the call.
    - `kill_call` kills one running call, with all processes that it started.
    - Workers, and all processes that they started, are terminated when this process exits, in whatever way. At a normal
      exit without `shutdown` they are killed at once.

    Only on Linux.

    Args:
        max_workers: Number of workers; `None` for the number of CPUs that this process may use. They start when needed.
        mp_context: Start method, as from `multiprocessing.get_context`; `None` or that of `"forkserver"` to fork from a
            server without threads, never from this process, `None` also for `"spawn"`, if
            `multiprocessing.set_start_method` has set that.
        initializer: Called once in each worker, before its first call. If three workers in a row fail to start, because
            it raises or for another reason, the queued calls fail with `WorkerStartError`.
        initargs: Arguments of the initializer.
        max_tasks_per_child: After how many calls to replace a worker; `None` for never.
        threads_per_worker: How many threads BLAS and OpenMP start in each worker, set by environment variables such as
            `OMP_NUM_THREADS`; `"auto"` for its share of the CPUs, unless these variables are set; `None` to set none.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is less than 1.
        NotImplementedError: This is not Linux.
    """

    capabilities = Capabilities(kills_calls=True, survives_lost_workers=True, pickles=True, posts=True)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        threads_per_worker: "WorkerThreads" = "auto",
    ) -> None:
        if sys.platform != "linux":
            raise NotImplementedError(
                "ProcessPool needs Linux; give the scheduler a concurrent.futures.ProcessPoolExecutor instead"
            )
        if max_workers is None:
            max_workers = len(cpus())
        max_workers = whole_number("max_workers", max_workers)
        if max_tasks_per_child is not None:
            max_tasks_per_child = whole_number("max_tasks_per_child", max_tasks_per_child)
        check_initializer(initializer, initargs)
        if mp_context is not None and not hasattr(mp_context, "get_start_method"):
            remedy = "must be a context, such as multiprocessing.get_context('spawn')"
            raise TypeError(f"mp_context={mp_context!r}: {remedy}")
        # Here, as `import amlsched` must not import ctypes, cloudpickle and the internals of multiprocessing.
        from amlsched.executors import pickling
        from amlsched.executors._processes import call_future, main_module, manager

        self.max_workers = max_workers
        context = _context(mp_context)
        environment = partial(worker_environment, worker_threads(threads_per_worker), cpu_share(max_workers))
        self._manager = manager.Manager(max_workers, context, environment, initializer, initargs, max_tasks_per_child)
        self._new_call = call_future.CallFuture
        # In an interactive session, functions can be redefined after the workers have started, even forked ones.
        interactive = not hasattr(sys.modules["__main__"], "__file__")
        forks = context.get_start_method() == "fork"
        self.main_travels = travels = interactive or not (forks or main_module.imported_by_workers())
        self._call_name, self._dump_call = call_name, partial(pickling.dump_call, main_travels=travels)
        self._guarded = False
        weakref.finalize(self, self._manager.forget).atexit = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call, and return its future. The call can be cancelled until a worker has started it.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; the message names it.
            RuntimeError: The pool was shut down, or the main module lacks its guard.
        """
        return cast("Future[R]", self.post(fn, args, kwargs, None, None))

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: "Mapping[str, Any]",
        on_done: Callable[[Any], object] | None,
        handle: object,
    ) -> "CallFuture":
        """The same for the run loop: `on_done(handle)` is called when the call has finished, cheaper than a callback.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; the message names it.
            RuntimeError: The pool was shut down, or the main module lacks its guard.
        """
        manager = self._manager
        if manager.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not self._guarded:
            refuse_while_main_is_imported()
            self._guarded = True
        payload = self._dump_call(function, args, kwargs)
        if not isinstance(payload, bytes) and not manager.has_idle:
            payload = payload.copied()
        call = self._new_call(manager, self._call_name(function), payload, on_done, handle)
        manager.submit(call)
        return call

    def map(
        self, fn: Callable[..., R], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[R]:
        """Call the function for each item of the iterables, and iterate over the results in order.

        Args:
            fn: The function.
            *iterables: One per parameter; the shortest ends the iteration.
            timeout: Seconds from now until each result must be available; `None` for no limit.
            chunksize: How many calls to send at once, for large inputs.

        Raises:
            TimeoutError: While iterating: a result was not available in time.
            ValueError: `chunksize` is less than 1.
        """
        chunksize = whole_number("chunksize", chunksize, also="")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = super().map(
            partial(_run_chunk, fn), _chunks(zip(*iterables, strict=False), chunksize), timeout=timeout
        )
        return chain.from_iterable(chunks)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; the workers exit once all calls have finished.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Whether to cancel calls that no worker has started.
        """
        self._manager.close(cancel=cancel_futures)
        if wait:
            self._manager.poller.wait()

    def kill_call(self, future: Future[Any], exception: BaseException | None = None, *, grace_s: float = 0.5) -> bool:
        """Kill one call, and every process that it started.

        The worker and all of its descendants get SIGTERM, and SIGKILL after the grace period. The future finishes when
        they have exited.

        Args:
            future: From `submit` of this pool.
            exception: The exception of the future; `None` to cancel it.
            grace_s: Seconds between the two signals.

        Returns:
            Whether the call is being killed; if not, it had already finished.
        """
        call = cast("CallFuture", future)
        return getattr(call, "manager", None) is self._manager and self._manager.kill_call(call, exception, grace_s)

    def kill_workers(self) -> None:
        """Kill all workers at once, with every process that they started, and shut down the pool.

        All unfinished calls are cancelled. Processes that cannot be killed, because they hang in the kernel, are
        abandoned after a few seconds, with a warning in the log.
        """
        self._manager.kill_and_wait()

    def attach(self, loop: "AbstractEventLoop", around: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Let an event loop complete the futures, in its thread, from which this must be called.

        Args:
            loop: The loop.
            around: A wrapper: gets a function that completes futures, and must call it; `None` for no wrapper.
        """
        self._manager.poller.attach(loop, around)

    def detach(self) -> None:
        """Let a thread of the pool complete the futures again."""
        self._manager.detach()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return self._manager.pids()

    def running(self) -> dict[Future[Any], int]:
        """The running calls, each with the process id of its worker."""
        return self._manager.running()


def refuse_while_main_is_imported() -> None:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(_NO_GUARD)


def _context(given: BaseContext | None) -> BaseContext:
    """How to start workers: as given, or from a server without threads.

    By default never a fork of this process: it may have threads, of a pool or a library, for which a worker would wait
    forever. In place of multiprocessing's fork server we use our own. That one imports the main module before it forks
    (Python 3.13.8), so that workers lack its threads, has a socket in the folder for temporary files, whose path may be
    too long, and cannot be used in a fork of the process that started it.
    """
    if given is None:
        if multiprocessing.get_start_method(allow_none=True) == "spawn":
            return multiprocessing.get_context("spawn")
    elif given.get_start_method() != "forkserver" or type(given).__module__ not in _STANDARD:
        return given
    from amlsched.executors._processes.fork_server import ForkServerContext

    return ForkServerContext()


def _chunks(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _run_chunk(fn: Callable[..., R], rows: list[tuple[Any, ...]]) -> list[R]:
    return [fn(*row) for row in rows]
