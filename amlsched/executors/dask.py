"""Calls on a dask cluster: one that is given, or one of processes on this machine."""

from __future__ import annotations

import concurrent.futures
import importlib
import os
import threading
from abc import ABC, abstractmethod
from concurrent.futures import CancelledError, Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from amlsched.errors import MissingExtraError
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.pickled import pickled_call

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from amlsched.executors._dask_calls import Calls

__all__ = ["DaskExecutor", "Site", "dask"]

P = ParamSpec("P")
R = TypeVar("R")

ALLOWED_FAILURES = 3
"""A call that was on this many workers and one more when they died is not tried again; dask's own default."""
SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # A worker has only what it runs: when it dies, no call that waits behind another is taken for the culprit.
    "distributed.scheduler.worker-saturation": 1.0,
}
"""For clusters of our own."""
_PRELOAD = "amlsched.executors._dask_worker"
_PER_WORKER = 2  # calls sent at a time: a worker has its next one while the outcome of the last is on its way
_NO_WAIT_S = 5.0


class Site(ABC):
    """Where a cluster is made, and ended: what a `DaskExecutor` does not know of it.

    Attributes:
        max_workers: How many workers there are at most; `None` if that is not known.
        scales: Whether the cluster grows with its queue, so that it has to see all of it.
        starts: On how many workers a call may be begun; `None` for any number.
    """

    max_workers: int | None = None
    scales: bool = False
    starts: int | None = None

    def __init__(self) -> None:
        self.busy: Callable[[], bool] = lambda: True
        """Whether there are calls that have not ended."""

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that workers can reach; `None` where that is not known."""
        return None

    @abstractmethod
    def open(self, fail: Callable[[BaseException], None]) -> Any:
        """A `distributed.Client` of the cluster, which is started; errors that come later are told by `fail`."""

    @abstractmethod
    def close(self, at_once: bool) -> None:
        """Leave or end the cluster, in bounded time; `at_once` whatever its workers do."""


class DaskExecutor(Executor):
    """Calls run on the workers of a dask cluster, each in the thread of a worker.

    Used like any `concurrent.futures.Executor`; the cluster is started, or connected to, with the first call.

    - Equal calls are separate calls: dask's `pure` does not apply.
    - Nothing is kept on the cluster for a call once its outcome is here.
    - What cannot be pickled raises `NotPicklableError` from `submit`, with the name of the argument.
    - A call whose worker dies runs again on another. One that was on four workers when they died (dask's setting
      `distributed.scheduler.allowed-failures`, and one more) ends with `WorkerLostError`.
    - A running call cannot be ended alone. Cancelled while it waits, it never runs.

    Args:
        site: Where the cluster is.
    """

    capabilities = Capabilities(remote=True, pickles=True, survives_lost_workers=True)

    def __init__(self, site: Site) -> None:
        from amlsched.executors._pickling import call_name  # here: not for `import amlsched`

        self.site = site
        self.on_failure: Callable[[BaseException], None] | None = None
        """Told once when the cluster cannot run calls any more, before they end with that error."""
        self._call_name = call_name
        self._calls: Calls | None = None
        self._closed = False
        self._ended = False
        self._lock = threading.RLock()

    @property
    def max_workers(self) -> int | None:
        """How many workers there are at most, where that is known."""
        return self.site.max_workers

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that workers can reach; `None` where that is not known."""
        return self.site.driver_host

    @property
    def client(self) -> Any:
        """The `distributed.Client`; the cluster is started for it where that was not done."""
        return self._start()._client  # pyright: ignore[reportPrivateUsage]

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a function called on a worker.

        Raises:
            NotPicklableError: The function or an argument cannot be sent; it names which.
            RuntimeError: The executor was shut down.
        """
        blob = pickled_call(fn, args, kwargs, by_value=True)
        calls = self._calls if self._calls is not None and not self._closed else self._start()
        return cast("Future[R]", calls.submit(self._call_name(fn), blob))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; a cluster of this executor's own is ended once those there are have ended.

        Args:
            wait: Whether to return only then.
            cancel_futures: Whether calls that no worker has begun are cancelled.
        """
        with self._lock:
            self._closed = True
        if self._calls is None:
            return
        left = self._calls.open()
        if cancel_futures:
            for call in left:
                call.cancel()
        if wait or not left:
            self._wait_and_end()
        else:
            threading.Thread(target=self._wait_and_end, name="amlsched-dask-shutdown", daemon=False).start()

    def kill_workers(self) -> None:
        """End the workers at once where the cluster is this executor's own, and every call as cancelled."""
        with self._lock:
            self._closed = True
        if self._calls is not None:
            self._calls.fail(CancelledError())
            self._end(at_once=True)

    def _start(self) -> Calls:
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._calls is None:
                from amlsched.executors._dask_calls import Calls

                client = self.site.open(self._fail)
                workers = self.site.max_workers
                depth = None if self.site.scales or workers is None else _PER_WORKER * workers
                self._calls = Calls(client, depth, self.site.starts)
                self.site.busy = self._calls.busy
            return self._calls

    def _fail(self, error: BaseException) -> None:
        told, self.on_failure = self.on_failure, None
        if told is not None:
            told(error)
        if self._calls is not None:
            self._calls.fail(error)

    def _wait_and_end(self) -> None:
        assert self._calls is not None
        concurrent.futures.wait(self._calls.open())
        self._end(at_once=False)

    def _end(self, *, at_once: bool) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if self._calls is not None:
            self._calls.close()
        self.site.close(at_once)


def dask(client: Any = None, n_workers: int | None = None, **options: Any) -> DaskExecutor:
    """Calls run on a dask cluster.

    Args:
        client: A `distributed.Client`, a cluster object, or the address of a dask scheduler; `None` for a cluster of
            processes on this machine, which ends with the run. A client or cluster that is given is left open.
        n_workers: Number of processes of that cluster, each with one thread; `None` for the number of CPUs that this
            process may use.
        **options: Other arguments of `distributed.LocalCluster`, such as `memory_limit`; or of `distributed.Client`,
            such as `security`, where an address or a cluster is given.

    Raises:
        MissingExtraError: dask is not installed.
        ValueError: `n_workers` is less than 1, or is given together with a cluster; or the client is asynchronous.
    """
    try:
        distributed = importlib.import_module("distributed")  # it has no types
    except ModuleNotFoundError as error:
        raise MissingExtraError("with_dask", "distributed", "dask") from error
    if client is None:
        return DaskExecutor(_Local(n_workers, options))
    if n_workers is not None:
        raise ValueError(f"n_workers={n_workers}: a cluster that is given has its own number of workers")
    if isinstance(client, distributed.Client):
        if options:
            raise ValueError(f"{', '.join(options)}: a client that is given has its own options")
        if client.asynchronous:
            raise ValueError("with_dask needs a client with a loop of its own: Client(..., asynchronous=False)")
        return DaskExecutor(_Given(client))
    return DaskExecutor(_Elsewhere(client, options))


class _Given(Site):
    """The client of somebody else."""

    scales = True  # it may, as far as is known here

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._client = client
        self.max_workers = sum(client.nthreads().values()) or None

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        return self._client

    def close(self, at_once: bool) -> None:
        pass


class _Elsewhere(Site):
    """A cluster of somebody else, with a client of our own."""

    scales = True

    def __init__(self, address: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self._address, self._options = address, options
        self._client: Any = None

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        distributed = importlib.import_module("distributed")
        self._client = distributed.Client(self._address, **{"set_as_default": False, **self._options})
        self.max_workers = sum(self._client.nthreads().values()) or None
        return self._client

    def close(self, at_once: bool) -> None:
        self._client.close(timeout=_NO_WAIT_S)


class _Local(Site):
    """Processes on this machine."""

    def __init__(self, n_workers: int | None, options: dict[str, Any]) -> None:
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, not {n_workers}")
        super().__init__()
        self.max_workers = n_workers if n_workers is not None else len(os.sched_getaffinity(0))
        self._options: dict[str, Any] = {
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "preload": [_PRELOAD],
            **options,
        }
        self._cluster: Any = None
        self._client: Any = None

    @property
    def driver_host(self) -> str | None:
        """As of any site."""
        return "127.0.0.1"

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        from amlsched.executors.processes import refuse_while_main_is_imported

        refuse_while_main_is_imported()
        settings = importlib.import_module("dask").config
        distributed = importlib.import_module("distributed")
        with settings.set(SETTINGS):
            self._cluster = distributed.LocalCluster(n_workers=self.max_workers, **self._options)
        self._client = distributed.Client(self._cluster, set_as_default=False)
        return self._client

    def close(self, at_once: bool) -> None:
        if at_once:
            self._kill()
        self._client.close(timeout=_NO_WAIT_S)
        self._cluster.close(timeout=2 * _NO_WAIT_S)

    def _kill(self) -> None:
        """SIGKILL to the workers and all below them, and no new ones in their place."""
        psutil = importlib.import_module("psutil")  # dask brings it
        found: list[Any] = []
        for nanny in list(self._cluster.workers.values()):
            pid = getattr(nanny, "pid", None)
            if pid is None:
                continue
            nanny.auto_restart = False
            try:
                worker = psutil.Process(pid)
                found += [*worker.children(recursive=True), worker]
            except psutil.NoSuchProcess:
                continue
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
