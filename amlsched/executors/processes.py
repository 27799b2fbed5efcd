"""A pool of processes that outlives its workers and can end one call."""

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
from amlsched.executors._user_function import check_initializer
from amlsched.executors.capabilities import Capabilities
from amlsched.resources import cpus
from amlsched.resources.threads import cpu_share, worker_environment, worker_threads

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Mapping

    from amlsched.executors._calls import CallFuture
    from amlsched.resources.threads import WorkerThreads

__all__ = ["ProcessPool"]

P = ParamSpec("P")
R = TypeVar("R")

_NO_GUARD = """\
The main module starts a pool of processes while a worker imports it. Workers import the main module when they start, so
what starts the pool must stand below a guard:

    if __name__ == "__main__":
        main()  # whatever submits calls
"""


class ProcessPool(Executor):
    """Calls run in processes of this machine, and a worker that dies takes only the call with it that it ran.

    Used like `concurrent.futures.ProcessPoolExecutor`. Beyond that:

    - The future of a call whose worker died gets a `WorkerLostError`; the worker is replaced, all other calls go on.
    - What cannot be pickled raises `NotPicklableError` from `submit`, with the name of the argument. Functions and
      classes of the main module, and lambdas, travel under every start method.
    - Arguments are pickled in `submit`: what becomes of them later does not change the call.
    - `kill_call` ends one running call with all that it started.
    - Workers, and all that they started, end with this process, however it ends. At a normal exit without `shutdown`
      they are ended at once.

    Only on Linux.

    Args:
        max_workers: Number of workers; `None` for the number of CPUs that this process may use. They start when needed.
        mp_context: Start method, as from `multiprocessing.get_context`; `None` for forks of a server that has no
            threads, never of this process; or for `"spawn"`, if `multiprocessing.set_start_method` has set that.
        initializer: Called once in each worker, before its first call. When three workers in a row do not come up,
            because it raises or for another reason, the calls that wait end with `WorkerStartError`.
        initargs: Arguments of the initializer.
        max_tasks_per_child: After how many calls a worker is replaced by a new one; `None` for never.
        threads_per_worker: How many threads BLAS and OpenMP start in each worker, by variables such as
            `OMP_NUM_THREADS` with which it starts; `"auto"` for its share of the CPUs, unless these variables are set;
            `None` to set none.

    Raises:
        TypeError: An argument has a type that it cannot have.
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
        # Here, since `import amlsched` shall not import ctypes, cloudpickle and the inner parts of multiprocessing.
        from amlsched.executors import _calls, _crew, _main_module, _pickling

        self.max_workers = max_workers
        context = mp_context or _default_context()
        environment = partial(worker_environment, worker_threads(threads_per_worker), cpu_share(max_workers))
        self._crew = _crew.Crew(max_workers, context, environment, initializer, initargs, max_tasks_per_child)
        self._new_call = _calls.CallFuture
        # In an interactive session functions can be defined anew after the workers were started, also forked ones.
        interactive = not hasattr(sys.modules["__main__"], "__file__")
        forks = context.get_start_method() == "fork"
        self.main_travels = travels = interactive or not (forks or _main_module.imported_by_workers())
        self._call_name, self._dump_call = _pickling.call_name, partial(_pickling.dump_call, main_travels=travels)
        self._guarded = False
        weakref.finalize(self, self._crew.forget).atexit = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a function called in a worker.

        Returns:
            The future of the call. While no worker has begun the call, it can be cancelled.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; it names which.
            RuntimeError: The pool was shut down, or the main module lacks its guard.
        """
        return cast("Future[R]", self.post(fn, args, kwargs, None, None))

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: "Mapping[str, Any]",
        told: Callable[[Any], object] | None,
        handle: object,
    ) -> "CallFuture":
        """The same, and `told(handle)` is called once the call has ended: for the run loop, a callback costs more.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; it names which.
            RuntimeError: The pool was shut down, or the main module lacks its guard.
        """
        crew = self._crew
        if crew.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not self._guarded:
            refuse_while_main_is_imported()
            self._guarded = True
        payload = self._dump_call(function, args, kwargs)
        if not isinstance(payload, bytes) and not crew.has_idle:
            payload = payload.copied()
        call = self._new_call(crew, self._call_name(function), payload, told, handle)
        crew.submit(call)
        return call

    def map(
        self, fn: Callable[..., R], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[R]:
        """Results of the function for the arguments from each of the iterables, in their order.

        Args:
            fn: The function.
            *iterables: One for each of its parameters; the shortest ends it.
            timeout: Seconds from now until a result must be there; `None` for no limit.
            chunksize: How many calls are sent as one, for large inputs.

        Raises:
            TimeoutError: While iterating: a result was late.
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
        """Take no more calls; the workers leave once those there are have ended.

        Args:
            wait: Whether to return only then.
            cancel_futures: Whether calls that no worker has begun are cancelled.
        """
        self._crew.close(cancel=cancel_futures)
        if wait:
            self._crew.listener.wait()

    def kill_call(self, future: Future[Any], exception: BaseException | None = None, *, grace_s: float = 0.5) -> bool:
        """End one call, and every process that it started.

        The worker and all below it get SIGTERM, and SIGKILL after the grace. The future ends when they are gone.

        Args:
            future: From `submit` of this pool.
            exception: What the future ends with; `None` for cancelled.
            grace_s: Seconds between the two signals.

        Returns:
            Whether the call is being ended; if not, it had ended before.
        """
        call = cast("CallFuture", future)
        return getattr(call, "crew", None) is self._crew and self._crew.kill_call(call, exception, grace_s)

    def kill_workers(self) -> None:
        """End all workers at once, with everything that they started.

        Every call that has not ended ends as cancelled; the pool is shut down. What nothing can end, because it
        hangs in the kernel, is left after some seconds, with a warning in the log.
        """
        self._crew.kill_and_wait()

    def attach(self, loop: "AbstractEventLoop", around: Callable[[Callable[[], object]], object] | None = None) -> None:
        """Be served by an event loop: futures are completed in its thread, in which this must be called.

        Args:
            loop: The loop.
            around: Called with a function that completes futures, and must call it; `None` for nothing around it.
        """
        self._crew.listener.attach(loop, around)

    def detach(self) -> None:
        """Be served by a thread of the pool's own again."""
        self._crew.detach()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return self._crew.pids()

    def running(self) -> dict[Future[Any], int]:
        """The calls that run now, each with the process id of its worker."""
        return self._crew.running()


def refuse_while_main_is_imported() -> None:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(_NO_GUARD)


def _default_context() -> BaseContext:
    """How workers start where nobody has said it for this pool.

    Not by a fork of this process: it has threads, of a pool or a library, and a worker would wait for them for ever.
    """
    if multiprocessing.get_start_method(allow_none=True) == "spawn":
        return multiprocessing.get_context("spawn")
    from amlsched.executors._fork_server import ForkServerContext

    return ForkServerContext()


def _chunks(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _run_chunk(fn: Callable[..., R], rows: list[tuple[Any, ...]]) -> list[R]:
    return [fn(*row) for row in rows]
