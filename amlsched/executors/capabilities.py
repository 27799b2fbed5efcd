"""What an executor can do beyond `submit`: declared once per backend, never asked by its type elsewhere."""

from __future__ import annotations

import importlib
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator, Mapping
    from concurrent.futures import Executor
    from concurrent.futures import Future as Work

__all__ = [
    "Capabilities",
    "InlineExecutor",
    "PostingExecutor",
    "ReportingExecutor",
    "WorkersNow",
    "capabilities_of",
    "failures_of",
    "hides_starts",
    "kill_call",
    "kill_workers",
    "kinds_of",
    "main_travels",
    "see_running",
    "served_by",
    "thread_queue_depth",
    "worker_count",
    "workers_now",
]


class Capabilities(NamedTuple):
    """What differs between backends.

    An executor declares its own as the attribute `capabilities`; amlsched knows those of the standard library's
    executors, of loky's and of dask's.

    Attributes:
        inline: A call runs in the thread that submits it. Such an executor has `execute(function, args, kwargs)`,
            which returns or raises what the function does; the run loop calls it between two turns.
        kills_calls: One running call can be ended on its own, by `kill_call(work) -> bool`.
        survives_lost_workers: A worker that dies takes only its own call with it.
        reruns_lost_calls: It runs a call again by itself whose worker was lost, and says when it has done so often
            enough: `retries_on_loss` of the scheduler adds nothing.
        remote: Workers may be on other hosts.
        pickles: Functions, arguments and results travel by pickle.
        queue_depth: How many calls it is best given at a time, the others waiting in the scheduler, where they cost
            less; `None` for all of them, as where an executor scales with its queue.
        prepickle: Calls are pickled before they are given to it, so that an argument that cannot be is an error of
            `submit`: functions and classes of the main module by reference where workers import it, or by value.
        posts: It has `post`, which does what `submit` does for less; see `PostingExecutor`.
    """

    inline: bool = False
    kills_calls: bool = False
    survives_lost_workers: bool = False
    reruns_lost_calls: bool = False
    remote: bool = False
    pickles: bool = False
    queue_depth: int | None = None
    prepickle: Literal["by reference", "by value"] | None = None
    posts: bool = False


class PostingExecutor(Protocol):
    """An executor that declares `posts`."""

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        told: Callable[[Any], object],
        handle: object,
        /,
    ) -> Any:
        """What stands for the future of the call: it has its `exception, result, cancel, done, running`.

        When the call has ended, in whatever way, `told(handle)` is called once, in any thread.
        """
        ...


class InlineExecutor(Protocol):
    """An executor that declares `inline`."""

    def execute(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the function returns, now and in this thread."""
        ...


class WorkersNow(NamedTuple):
    """How many workers there are, where that is not how many there are to be.

    Attributes:
        here: Workers that are there.
        wanted: Workers that are to be there, by now.
        instead: What there is in place of the others, such as `2 jobs PENDING (Resources)`.
    """

    here: int
    wanted: int
    instead: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f": {', '.join(self.instead)}" if self.instead else ""
        return f"{self.here} of {self.wanted} worker{'s' * (self.wanted != 1)}{told}"


class ReportingExecutor(Protocol):
    """An executor whose workers come and go, and which can tell of them; displays show it."""

    @property
    def status(self) -> WorkersNow | None:
        """At any time and in any thread, at no cost; `None` where there is nothing to tell yet."""
        ...


class _SeesRunning(Protocol):
    def see_running(self) -> Work[Any] | None: ...


class _KillsCalls(Protocol):
    def kill_call(self, future: Work[Any], /) -> bool: ...


class _KillsWorkers(Protocol):
    def kill_workers(self) -> None: ...


class _Attachable(Protocol):
    def attach(
        self, loop: asyncio.AbstractEventLoop, around: Callable[[Callable[[], object]], object] | None = None
    ) -> None: ...
    def detach(self) -> None: ...


_LOOK_S = 5.0
_LOKY = Capabilities(pickles=True, prepickle="by value")
# By module and name, so that nothing is imported for an executor that is not in use.
_KNOWN = {
    ("concurrent.futures.process", "ProcessPoolExecutor"): Capabilities(pickles=True, prepickle="by reference"),
    ("loky.process_executor", "ProcessPoolExecutor"): _LOKY,
    ("loky.reusable_executor", "_ReusablePoolExecutor"): _LOKY,
    ("distributed.cfexecutor", "ClientExecutor"): Capabilities(
        remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True
    ),
}


def kinds_of(executor: Executor) -> Iterator[tuple[str, str]]:
    """Module and name of its class and of those that this inherits from, for which nothing has to be imported."""
    return ((kind.__module__, kind.__qualname__) for kind in type(executor).__mro__)


def capabilities_of(executor: Executor) -> Capabilities:
    """What this executor declares, or what is known of its class; the weakest assumptions otherwise."""
    declared = getattr(executor, "capabilities", None)
    if isinstance(declared, Capabilities):
        return declared
    for key in kinds_of(executor):
        if key in _KNOWN:
            return _KNOWN[key]
        if key == ("concurrent.futures.thread", "ThreadPoolExecutor"):
            return Capabilities(queue_depth=thread_queue_depth(worker_count(executor) or 1))
    return Capabilities()


def hides_starts(executor: Executor) -> bool:
    """Whether the executor is not one of ours: its futures may stay pending while their calls run, and its `submit` may
    keep keywords for itself.
    """
    return not str(getattr(executor.submit, "__module__", None)).startswith("amlsched.")


async def see_running(executor: Executor) -> None:
    """Wait, for a few seconds at most, until the executor knows which calls have begun, where it has to look."""
    if not hasattr(executor, "see_running"):
        return
    seen = cast("_SeesRunning", executor).see_running()
    if seen is not None:
        import asyncio  # by now it is there: it is not for `import amlsched`

        await asyncio.wait([asyncio.wrap_future(seen)], timeout=_LOOK_S)


def kill_call(executor: Executor, work: Work[Any]) -> bool:
    """Whether the running call could be ended on its own; it then ends as cancelled."""
    return capabilities_of(executor).kills_calls and cast("_KillsCalls", executor).kill_call(work)


def kill_workers(executor: Executor) -> None:
    """End the workers at once, whatever they run, where the executor has workers that can be ended.

    Threads cannot be: they go on until their function returns. The executor takes no calls afterwards.
    """
    if hasattr(executor, "kill_workers"):  # our own pool; the standard library's from Python 3.14 on
        cast("_KillsWorkers", executor).kill_workers()
        return
    if any(module.startswith("loky.") for module, _ in kinds_of(executor)):
        pool: Any = executor
        # Its own `kill_workers` acts later, in a thread: until then a worker may begin a call that was cancelled.
        kill_tree = importlib.import_module("loky.backend.utils").kill_process_tree
        workers: dict[int, Any] = pool._processes or {}
        for process in tuple(workers.values()):
            kill_tree(process)
        pool.shutdown(wait=False, kill_workers=True)
        return
    # Before Python 3.14 the standard library has no public way to end a ProcessPoolExecutor's processes.
    processes = dict(getattr(executor, "_processes", None) or {})
    _shut_down_at_once(executor)
    for process in processes.values():
        process.kill()


def _shut_down_at_once(executor: Executor) -> None:
    """Shut down without waiting, with what this executor's `shutdown` takes; one that can only wait is left open."""
    options = {"wait": False, "cancel_futures": True}
    try:
        parameters = dict(inspect.signature(executor.shutdown).parameters)
    except ValueError:  # written in C, without a signature
        parameters = {}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        options = {name: value for name, value in options.items() if name in parameters}
    if "wait" in options:
        executor.shutdown(**options)


def thread_queue_depth(max_workers: int) -> int:
    """How many calls a pool of threads is best given at a time.

    Enough that no thread waits while the loop is busy with callbacks; a call that waits in the pool costs ten times
    what it costs in the scheduler.
    """
    return max_workers + 64


def main_travels(executor: Executor) -> bool:
    """Whether functions and classes of the main module travel as they are, since workers do not import it."""
    known = capabilities_of(executor)
    return known.prepickle == "by value" or known.remote or bool(getattr(executor, "main_travels", False))


def worker_count(executor: Executor) -> int | None:
    """How many workers the executor has at most, where it tells."""
    for name in ("max_workers", "_max_workers"):  # the second is where the standard library and loky keep it
        count = getattr(executor, name, None)
        if isinstance(count, int):
            return count
    return None


def workers_now(executor: Executor) -> WorkersNow | None:
    """What a `ReportingExecutor` tells of its workers; `None` where it tells nothing, or is none."""
    status = getattr(executor, "status", None)
    return status if isinstance(status, WorkersNow) else None


@contextmanager
def served_by(
    executor: Executor,
    loop: asyncio.AbstractEventLoop,
    around: Callable[[Callable[[], object]], object] | None = None,
) -> Generator[None]:
    """While in here, an executor that an event loop can serve is served by this one, without threads of its own.

    Args:
        executor: The executor.
        loop: The loop.
        around: Calls the function that it is given, which completes calls, and may do more before and after.
    """
    if not hasattr(executor, "attach"):
        yield
        return
    attachable = cast("_Attachable", executor)
    attachable.attach(loop, around)
    try:
        yield
    finally:
        attachable.detach()


@contextmanager
def failures_of(executor: Executor, told: Callable[[BaseException], None]) -> Generator[None]:
    """While in here, be told, in any thread, why an executor can run no call any more, where it tells.

    Such an executor has an attribute `on_failure`.
    """
    if not hasattr(executor, "on_failure"):
        yield
        return
    failing: Any = executor
    failing.on_failure = told
    try:
        yield
    finally:
        failing.on_failure = None
