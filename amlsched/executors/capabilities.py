"""What an executor can do beyond `submit`: declared once per executor, so that no other code checks its type."""

from __future__ import annotations

import importlib
import inspect
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from amlsched.units import counted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from concurrent.futures import Future as Work

    from amlsched.executors.allocated_call import Binding
    from amlsched.resources.pool import Pool
    from amlsched.resources.request import Resources

__all__ = [
    "Capabilities",
    "InlineExecutor",
    "NodeNow",
    "PlacingExecutor",
    "PostingExecutor",
    "ReportingExecutor",
    "VirtualExecutor",
    "WorkersNow",
    "capabilities_of",
    "clock_of",
    "failures_of",
    "hides_starts",
    "kill_call",
    "kill_workers",
    "kinds_of",
    "loop_factory_of",
    "main_travels",
    "most_at_once",
    "running_at_once",
    "see_running",
    "served_by",
    "thread_queue_depth",
    "worker_count",
    "workers_now",
]


class Capabilities(NamedTuple):
    """Differences between executors.

    An executor declares them in its attribute `capabilities`; amlsched knows those of the executors of the standard
    library, loky and dask.

    Attributes:
        inline: Calls run in the thread that submits them. Such an executor has `execute(function, args, kwargs)`, which
            returns the function's result or raises its exception; the run loop calls it between two turns.
        kills_calls: A single running call can be killed, by `kill_call(work) -> bool`.
        survives_lost_workers: A worker that dies loses only its own call.
        reruns_lost_calls: The executor itself retries calls whose worker was lost, up to its own limit;
            `retries_on_loss` of the scheduler does not apply.
        remote: Workers may be on other hosts.
        pickles: Functions, arguments and results are pickled.
        queue_depth: How many calls to submit to it at a time, while the others wait in the scheduler, where they cost
            less; `None` for all of them, for example if the executor scales with its queue.
        prepickle: Calls are pickled before they are submitted to it, so that `submit` raises if an argument cannot be
            pickled: functions and classes of the main module by reference, if workers import it, or by value.
        posts: It has `post`, a cheaper form of `submit`; see `PostingExecutor`.
        virtual: Its calls run on a virtual clock, and it measures them itself; see `clock_of`.
        places: It has nodes, and sends a call to the one that it is given; see `PlacingExecutor`.
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
    virtual: bool = False
    places: bool = False


class NodeNow(NamedTuple):
    """A node of an executor whose nodes come and go.

    Attributes:
        pool: What it has.
        max_calls: How many calls run on it at a time; `None` for any number.
        binding: What is bound to what a call got, where the call runs.
        ends: When it will exit by itself, on the clock `time.monotonic`; `None` if that is unknown.
        lasts_s: How many seconds it lasts from its start to then; `None` if that is unknown.
    """

    pool: Pool
    max_calls: int | None = None
    binding: Binding = "worker"
    ends: float | None = None
    lasts_s: float | None = None


class PlacingExecutor(Protocol):
    """An executor that declares `places`."""

    def watch_nodes(self, changed: Callable[[], object]) -> None:
        """Start or connect to the nodes; from now on, `changed` is called, in any thread, when some came or went.

        It is also called at times when nothing has changed, at least every 30 seconds.
        """
        ...

    def nodes_now(self) -> Mapping[str, NodeNow]:
        """The nodes by a key that no other node ever has."""
        ...

    def nodes_to_come(self) -> Sequence[NodeNow] | None:
        """What nodes will have that are still to come; `None` if that is unknown."""
        ...

    def submit_to(
        self,
        node: str,
        request: Resources,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        /,
    ) -> Work[Any]:
        """Submit a call to a node, where it starts at once. If the node is lost, it fails with `WorkerLostError`."""
        ...


class PostingExecutor(Protocol):
    """An executor that declares `posts`."""

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        on_done: Callable[[Any], object],
        handle: object,
        /,
    ) -> Any:
        """Submit a call, and return an object with the methods `exception, result, cancel, done, running` of a future.

        When the call has finished, in whatever way, `on_done(handle)` is called once, in any thread.
        """
        ...


class VirtualExecutor(Protocol):
    """An executor that declares `virtual`."""

    def clock(self) -> float:
        """Seconds on its clock."""
        ...

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop with this clock."""
        ...


class InlineExecutor(Protocol):
    """An executor that declares `inline`."""

    def execute(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the function in this thread and return its result."""
        ...


class WorkersNow(NamedTuple):
    """The number of workers, for executors whose workers come and go.

    Attributes:
        here: Present workers.
        wanted: Requested workers.
        instead: Why the other workers are missing, such as `2 jobs PENDING (Resources)`.
    """

    here: int
    wanted: int
    instead: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = f": {', '.join(self.instead)}" if self.instead else ""
        return f"{self.here} of {counted(self.wanted, 'worker')}{reasons}"


class ReportingExecutor(Protocol):
    """An executor that reports the number of its workers, for displays."""

    @property
    def status(self) -> WorkersNow | None:
        """The present numbers, available at any time in any thread at no cost; `None` if there are none yet."""
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
# By module and name, so that no unused executor is imported.
_KNOWN = {
    ("concurrent.futures.process", "ProcessPoolExecutor"): Capabilities(pickles=True, prepickle="by reference"),
    ("loky.process_executor", "ProcessPoolExecutor"): _LOKY,
    ("loky.reusable_executor", "_ReusablePoolExecutor"): _LOKY,
    ("distributed.cfexecutor", "ClientExecutor"): Capabilities(
        remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True
    ),
}


def kinds_of(executor: Executor) -> Iterator[tuple[str, str]]:
    """Module and name of its class and base classes, which identify them without importing anything."""
    return ((kind.__module__, kind.__qualname__) for kind in type(executor).__mro__)


def capabilities_of(executor: Executor) -> Capabilities:
    """The capabilities that an executor declares, or that are known for its class; otherwise the most limited ones."""
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
    """Whether it is a third-party executor: its futures may stay pending while their calls are running, and its
    `submit` may interpret keywords itself.
    """
    return not str(getattr(executor.submit, "__module__", None)).startswith("amlsched.")


async def see_running(executor: Executor) -> None:
    """Wait, for a few seconds at most, until the executor knows which calls are running, if it has to find out."""
    if not hasattr(executor, "see_running"):
        return
    seen = cast("_SeesRunning", executor).see_running()
    if seen is not None:
        import asyncio  # here, to keep `import amlsched` light; it is already imported

        await asyncio.wait([asyncio.wrap_future(seen)], timeout=_LOOK_S)


def kill_call(executor: Executor, work: Work[Any]) -> bool:
    """Kill a single running call, which is then cancelled, and return whether that is possible."""
    return capabilities_of(executor).kills_calls and cast("_KillsCalls", executor).kill_call(work)


def kill_workers(executor: Executor) -> None:
    """Kill the workers at once, whatever they run, and shut down the executor.

    Threads cannot be killed: they continue until their function returns.
    """
    if hasattr(executor, "kill_workers"):  # our own pool; the standard library's from Python 3.14 on
        cast("_KillsWorkers", executor).kill_workers()
        return
    if any(module.startswith("loky.") for module, _ in kinds_of(executor)):
        pool: Any = executor
        # Its own `kill_workers` acts later, in a thread: until then a worker may start a cancelled call.
        kill_tree = importlib.import_module("loky.backend.utils").kill_process_tree
        workers: dict[int, Any] = pool._processes or {}
        for process in tuple(workers.values()):
            kill_tree(process)
        pool.shutdown(wait=False, kill_workers=True)
        return
    # Before Python 3.14 the standard library has no public way to kill the processes of a ProcessPoolExecutor.
    processes = dict(getattr(executor, "_processes", None) or {})
    _shut_down_at_once(executor)
    for process in processes.values():
        process.kill()


def _shut_down_at_once(executor: Executor) -> None:
    """Shut down without waiting, with the options that this executor supports; one that can only wait is left open."""
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
    """How many calls to submit to a pool of threads at a time.

    Enough that no thread is idle while the loop is busy with callbacks; a call that waits in the pool costs ten times
    as much as one in the scheduler.
    """
    return max_workers + 64


def main_travels(executor: Executor) -> bool:
    """Whether functions and classes of the main module are pickled by value, since workers do not import it."""
    known = capabilities_of(executor)
    return known.prepickle == "by value" or known.remote or bool(getattr(executor, "main_travels", False))


def clock_of(executor: Executor) -> Callable[[], float]:
    """The clock by which calls of an executor take time, in seconds since any moment: `time.monotonic`, or its own."""
    return cast("VirtualExecutor", executor).clock if capabilities_of(executor).virtual else time.monotonic


def loop_factory_of(executor: Executor) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What creates the event loop that an executor needs; `None` for any loop."""
    return cast("VirtualExecutor", executor).new_event_loop if capabilities_of(executor).virtual else None


def worker_count(executor: Executor) -> int | None:
    """The maximum number of workers, if the executor reports it."""
    for name in ("max_workers", "_max_workers"):  # the second is where the standard library and loky keep it
        count = getattr(executor, name, None)
        if isinstance(count, int):
            return count
    return None


def running_at_once(executor: Executor) -> int | None:
    """How many calls can run now, if the executor reports it."""
    if (now := workers_now(executor)) is not None:
        return now.here
    return most_at_once(executor)


def most_at_once(executor: Executor) -> int | None:
    """How many calls run at the same time at most, if the executor reports it."""
    return 1 if capabilities_of(executor).inline else worker_count(executor)


def workers_now(executor: Executor) -> WorkersNow | None:
    """The numbers of workers of a `ReportingExecutor`; `None` if there are none yet, or for any other executor."""
    status = getattr(executor, "status", None)
    return status if isinstance(status, WorkersNow) else None


@contextmanager
def served_by(
    executor: Executor,
    loop: asyncio.AbstractEventLoop,
    around: Callable[[Callable[[], object]], object] | None = None,
) -> Generator[None]:
    """In this context, an executor that supports it completes its calls in this event loop, without its own threads.

    Args:
        executor: The executor.
        loop: The loop.
        around: A wrapper: gets a function that completes calls, must call it, and may do more before and after.
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
def failures_of(executor: Executor, on_failure: Callable[[BaseException], None]) -> Generator[None]:
    """In this context, `on_failure` is called, in any thread, with the reason why an executor can run no more calls.

    Executors that support it have an attribute `on_failure`.
    """
    if not hasattr(executor, "on_failure"):
        yield
        return
    failing: Any = executor
    failing.on_failure = on_failure
    try:
        yield
    finally:
        failing.on_failure = None
