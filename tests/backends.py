"""The table of backends: what the conformance tests run over, and what differs between the rows.

A new backend is one more row. A test asks the row for what it needs and never for its name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from amlsched import Capabilities, Scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from amlsched.testing import ExecutorCheck

__all__ = [
    "BACKENDS",
    "GIVEN",
    "THOROUGH",
    "Backend",
    "ByHand",
    "Lent",
    "MakesScheduler",
    "Minimal",
    "needs",
    "start_ray",
]

THOROUGH = bool(os.environ.get("AMLSCHED_THOROUGH"))
"""Whether tests also run that repeat, at the cost of many seconds, what others have shown on another executor."""


@dataclass(frozen=True)
class Backend:
    """One way to run calls.

    Attributes:
        name: What follows `with_` in the name of the constructor.
        capabilities: What the executor must be able to do.
        workers: How many calls run at the same time.
        processes: Whether each worker is a process of its own.
        slow: Whether its workers take long to start: tests that do not care share an executor.
        options: Arguments of the constructor.
        needs: A module without which the backend is skipped.
        marks: Names of those that every test of this backend has.
        prepare: Called before a scheduler is made, each time.
        names_signals: Whether the error of a call whose worker was killed names the signal.
        fixed: Whether it has one set of workers, which all calls run on; Ray starts and ends them as it likes.
        jobs: Whether its workers are in jobs of a batch system, whose logs need a folder, and which take seconds to
            start: only the suite for schedulers runs over it.
        shared: Whether only those tests of that suite run that do not care whether they share an executor.
        given: Makes an executor that is not ours, and is given to the scheduler.
    """

    name: str
    capabilities: Capabilities
    workers: int = 2
    processes: bool = True
    slow: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: {"max_workers": 2})
    needs: str | None = None
    marks: tuple[str, ...] = ()
    prepare: Callable[[], object] = bool
    names_signals: bool = True
    fixed: bool = True

    @property
    def shared_service(self) -> bool:
        """Whether the tests of this process share one service that is started for them."""
        return self.prepare is not bool

    jobs: bool = False
    shared: bool = False
    given: Callable[[], Executor] | None = None

    @property
    def concurrent(self) -> bool:
        """Whether a call runs while the scheduler does something else."""
        return not self.capabilities.inline

    def scheduler(self, **options: Any) -> Scheduler:
        """A new scheduler with an executor of its own; the options are those of the scheduler."""
        if self.given is not None:
            return Scheduler(self.given(), **options)
        self.prepare()
        logs = {"log_directory": tempfile.mkdtemp(prefix="jobs-")} if self.jobs else {}
        return Scheduler.from_name(self.name, **self.options, **logs, **options)

    def with_one_worker(self) -> Backend:
        """The same with one worker, which starts in half the time."""
        return replace(
            self, options={**self.options, **({next(iter(self.options)): 1} if self.options else {})}, workers=1
        )

    def parameter(self) -> Any:
        """The row for `pytest.mark.parametrize`."""
        import pytest  # here, as programs that tests start import this module too

        return pytest.param(self, id=self.name, marks=[getattr(pytest.mark, name) for name in self.marks])

    def skip_if_absent(self) -> None:
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            import pytest

            pytest.skip(f"{self.needs} is not installed")


MakesScheduler = Callable[..., Scheduler]
"""What the fixture `shared_scheduler` is: it takes a `Backend`, and options of the scheduler."""


def needs(module: str) -> pytest.MarkDecorator:
    """Skips tests where a module is not installed. It is not imported: dask-jobqueue would take over Ctrl-C."""
    import pytest

    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@functools.cache
def start_ray() -> None:
    """One Ray for all tests of this process: it takes seconds to start, and ends with the process."""
    import ray

    from amlsched.executors._ray_executor import unchanged_process

    with unchanged_process():
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


class Minimal(Executor):
    """What somebody might write: two threads, and futures that do not say that their call runs.

    Its `submit` keeps keywords for itself, and its `shutdown` takes nothing.
    """

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.closed = False
        for _ in range(2):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, fn: Any, *args: Any, key: Any = None, workers: Any = None, **kwargs: Any) -> Future[Any]:
        if self.closed:
            raise RuntimeError("closed")
        work: Future[Any] = Future()
        self.calls.put((work, functools.partial(fn, *args, **kwargs)))
        return work

    def _work(self) -> None:
        while True:
            work, call = self.calls.get()
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                if error is None:
                    work.set_result(result)
                else:
                    work.set_exception(error)

    def shutdown(self) -> None:  # type: ignore[override]
        self.closed = True


def _of_a_client() -> Executor:
    """The executor of a dask client, with a cluster that ends with it."""
    distributed = importlib.import_module("distributed")
    cluster = distributed.LocalCluster(2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="ERROR")
    client = distributed.Client(cluster, set_as_default=False)
    executor: Any = client.get_executor()
    shut_down = executor.shutdown

    def shutdown(wait: bool = True) -> None:
        shut_down(wait)
        client.close()
        cluster.close()

    executor.shutdown = shutdown
    return cast("Executor", executor)


def _given(name: str, make: Callable[[], Executor], *, needs: str | None = None, **capabilities: bool) -> Backend:
    """An executor of somebody else."""
    return Backend(f"given-{name}", Capabilities(**capabilities), slow=True, needs=needs, shared=True, given=make)


def _in_jobs(name: str, *, shared: bool = True, **options: Any) -> Backend:
    """Workers in the jobs of a batch system."""
    return Backend(
        name,
        Capabilities(remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True, places=True),
        slow=True,
        options={"n_workers": 2, "cores": 1, "memory": "1 GB", "interface": "lo", "start_timeout": 90, **options},
        needs="dask_jobqueue",
        marks=(name,),
        jobs=True,
        shared=shared,
    )


BACKENDS = (
    Backend("sequential", Capabilities(inline=True), workers=1, processes=False, options={}),
    Backend("threads", Capabilities(), processes=False),
    Backend("processes", Capabilities(kills_calls=True, survives_lost_workers=True, pickles=True)),
    Backend("loky", Capabilities(pickles=True), slow=True, needs="loky"),
    Backend(
        "dask",
        Capabilities(remote=True, pickles=True, survives_lost_workers=True, reruns_lost_calls=True, places=True),
        slow=True,
        options={"n_workers": 2},
        needs="distributed",
    ),
    Backend(
        "ray",
        Capabilities(kills_calls=True, survives_lost_workers=True, remote=True, pickles=True, places=True),
        slow=True,
        needs="ray",
        prepare=start_ray,
        names_signals=False,
        fixed=False,
    ),
    _in_jobs("slurm", shared=False),
    _in_jobs("sge"),
    _in_jobs("htcondor", disk="100 MB"),
    # In front of Slurm it takes no note of where a script wants its output.
    _in_jobs("pbs", submit_command="qsub -o /dev/null -e /dev/null"),
)

GIVEN = (
    _given("threads", lambda: ThreadPoolExecutor(2)),
    _given("processes", lambda: ProcessPoolExecutor(2, multiprocessing.get_context("fork")), pickles=True),
    _given("loky", lambda: importlib.import_module("loky").get_reusable_executor(2), needs="loky", pickles=True),
    _given("dask", _of_a_client, needs="distributed", pickles=True, remote=True),
    _given("minimal", Minimal),
)


class Lent:
    """An executor that tests share, for checks that shut down what they are given.

    Its shutdown waits for the calls that were submitted here, and leaves the executor open.
    """

    @staticmethod
    def serves(check: ExecutorCheck) -> bool:
        """Whether the check is not about a shutdown, and leaves no call behind that still runs."""
        return not any(word in check.name for word in ("shut", "cancel"))

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._futures: list[Future[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._futures.append(self._executor.submit(fn, *args, **kwargs))
        return self._futures[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        futures.wait(self._futures)


class ByHand(Executor):
    """An executor for unit tests: nothing runs until the test says how a call ends.

    Attributes:
        calls: What was submitted, in this order: the executor's future, the function and its arguments.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        work: Future[Any] = Future()
        self.calls.append((work, fn, args, kwargs))
        return work

    def start(self, index: int) -> None:
        assert self.calls[index][0].set_running_or_notify_cancel()

    def finish(self, index: int, result: Any = None) -> None:
        self.calls[index][0].set_result(result)

    def fail(self, index: int, error: BaseException) -> None:
        self.calls[index][0].set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut_down = True
        if cancel_futures:
            for work, *_ in self.calls:
                work.cancel()
