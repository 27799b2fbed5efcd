"""Dask clusters: one provided by the user, or one of processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import time
import warnings
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_text, check_whole, whole_number
from amlsched._spelling import most_similar
from amlsched.errors import WorkerStartError
from amlsched.executors._orphans import require_reaper
from amlsched.executors._processes import main_module
from amlsched.resources import cpus
from amlsched.resources.binding import cpu_share, worker_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amlsched.errors import WorkerLostError
    from amlsched.executors.capabilities import NodeNow
    from amlsched.resources.binding import WorkerThreads

__all__ = [
    "ALLOWED_FAILURES",
    "GivenAddress",
    "GivenClient",
    "LocalProvider",
    "NANNY",
    "SETTINGS",
    "ClusterProvider",
    "check_memory",
    "cluster_security",
]

ALLOWED_FAILURES = 3
"""A call that has lost more workers than this is not retried; the same as dask's default."""
SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # A worker has only its running calls: if it dies, no waiting call is blamed.
    "distributed.scheduler.worker-saturation": 1.0,
}
"""Settings of our own clusters."""
NANNY = "amlsched.executors._dask.nanny"
"""The preload of our nannies."""
_PRELOAD = "amlsched.executors._dask.worker"
_WORKERS_VARIABLES = "distributed.nanny.pre-spawn-environ"
_NO_WAIT_S = 5.0
_PATIENCE_S = 60.0
"""How long calls wait for our own cluster after it has lost all of its workers: dask only logs that it cannot restart a
worker."""


class ClusterProvider(ABC):
    """Starts and closes a cluster for a `DaskExecutor`.

    Attributes:
        max_workers: Maximum number of workers; `None` if unknown.
        scales: Whether the cluster grows with its queue, so that it needs to have all calls.
        starts: On how many workers a call may be started; `None` for any number.
        options: Options of `Client.submit` for each call.
        cpus: How many CPUs a worker has; `None` for as many as threads.
        lasts_s: After how many seconds a worker exits by itself; `None` if that is unknown.
    """

    cpus: float | None = None
    lasts_s: float | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    max_workers: int | None = None
    scales: bool = False
    starts: int | None = None

    def __init__(self) -> None:
        self.busy: Callable[[], bool] = lambda: True
        """Returns whether there are unfinished calls."""

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that workers can reach; `None` if unknown."""
        return None

    def log_of(self, worker: str) -> str:
        """The end of a lost worker's log, for messages; empty if unknown.

        Args:
            worker: Its address.
        """
        return ""

    def nodes_to_come(self) -> Sequence[NodeNow] | None:
        """What workers will have that are still to come; `None` if that is unknown."""
        return None

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """The exception of a call whose worker was lost, if the reason is known. Runs in the client's loop.

        Args:
            call: Name of the call.
            worker: Address of the worker.
            host: Its host, if known.
        """
        return None

    @abstractmethod
    def open(self, fail: Callable[[BaseException], None]) -> Any:
        """Start the cluster and return a `distributed.Client`; later errors are reported by `fail`."""

    @abstractmethod
    def close(self, at_once: bool) -> None:
        """Disconnect from the cluster or close it, with a time limit; with `at_once`, whatever its workers do."""


class GivenClient(ClusterProvider):
    """A client provided by the user."""

    scales = True  # it may

    def __init__(self, client: Any, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._client = client
        self.options = options or {}
        self.max_workers = sum(client.nthreads().values()) or None

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        return self._client

    def close(self, at_once: bool) -> None:
        pass


class GivenAddress(ClusterProvider):
    """A cluster provided by the user, with our own client."""

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


def _local_cluster() -> Any:
    """dask's local cluster, without its cleanup of lost workers, which their nannies restart."""
    distributed: Any = importlib.import_module("distributed")

    class Cluster(distributed.LocalCluster):  # type: ignore[misc]
        def _update_worker_status(self, op: str, msg: Any) -> None:
            # 15 s after each loss, dask permanently closes workers that are missing at that moment: a worker that dies
            # again and again, each time by another call, is missing most of the time.
            super(distributed.SpecCluster, self)._update_worker_status(op, msg)

    return Cluster


def cluster_security(security: Any) -> Any:
    """The `distributed.Security` for an argument: with new keys for `True`; `None` for `False`, with a warning."""
    if security is False:
        warnings.warn(
            "security=False: anyone who can reach this machine by network can run programs as you", stacklevel=3
        )
        return None
    return importlib.import_module("distributed").Security.temporary() if security is True else security


def check_memory(name: str, value: Any) -> None:
    """Check that a value is `None` or an amount of memory with its unit that dask can parse.

    Raises:
        TypeError: It is not a string; dask would interpret a number as bytes.
        ValueError: It is not an amount of memory.
    """
    check_text(name, value, "4 GB")
    if value is None:
        return
    try:
        good = not value.strip().isdigit() and importlib.import_module("dask.utils").parse_bytes(value) > 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{name}={value!r}: must be an amount of memory with its unit, such as '4 GB'")


def _check_options(options: Mapping[str, Any]) -> None:
    """Check that workers would start with these options of `distributed.LocalCluster`."""
    distributed: Any = importlib.import_module("distributed")
    kinds = (*distributed.LocalCluster.__mro__, *distributed.Nanny.__mro__, *distributed.Worker.__mro__)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    for name in options:
        if name not in known and "worker_class" not in options:  # a custom class may have its own options
            near = most_similar(name, known, 0.6)
            hint = f" (did you mean {near}?)" if near else ""
            raise TypeError(f"{name}={options[name]!r}: distributed.LocalCluster has no such option{hint}")
    if options.get("threads_per_worker") is not None:
        check_whole("threads_per_worker", options["threads_per_worker"], 1, ", or None")
    if options.get("memory_limit") != "auto" and isinstance(options.get("memory_limit"), str):
        check_memory("memory_limit", options["memory_limit"])


class LocalProvider(ClusterProvider):
    """A cluster of processes on this machine."""

    def __init__(self, n_workers: int | None, native_threads: WorkerThreads, options: dict[str, Any]) -> None:
        super().__init__()
        _check_options(options)
        self.max_workers = len(cpus()) if n_workers is None else whole_number("n_workers", n_workers)
        self._options: dict[str, Any] = {
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "preload": [_PRELOAD],
            **options,
        }
        if options.get("processes", True) and "worker_class" not in options:
            self._options.setdefault("preload_nanny", [NANNY])
        self._native_threads: WorkerThreads = native_threads
        self._changed: dict[str, tuple[str | None, str]] = {}
        self._cluster: Any = None
        self._client: Any = None
        self._release_reaper: Callable[[], object] = bool
        self._around = contextlib.ExitStack()

    @property
    def driver_host(self) -> str | None:
        """As of any provider."""
        return "127.0.0.1"

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        from amlsched.executors.processes import refuse_while_main_is_imported

        refuse_while_main_is_imported()
        settings = importlib.import_module("dask").config
        distributed = importlib.import_module("distributed")
        self._around.enter_context(main_module.left_out())  # until the end, as nannies restart workers
        # Workers exit with the driver by themselves, but what calls start does not.
        self._release_reaper = require_reaper(self)
        before = dict(os.environ)
        os.environ.update(self._environment())
        try:
            with settings.set(SETTINGS):
                self._cluster = _local_cluster()(n_workers=self.max_workers, **self._options)
        except BaseException:
            self._around.close()
            raise
        finally:
            self._changed = {
                name: (before.get(name), value) for name, value in os.environ.items() if before.get(name) != value
            }
            self._restore_environment()
        self._client = distributed.Client(self._cluster, set_as_default=False)
        self._client.loop.add_callback(self._watch, fail)
        return self._client

    def _environment(self) -> dict[str, str]:
        """Variables that limit the threads of libraries; if set in this process, dask passes them to workers."""
        assert self.max_workers is not None
        at_a_time = self._options["threads_per_worker"]
        n_calls = self.max_workers * (at_a_time if isinstance(at_a_time, int) else 1)
        environment = worker_environment(self._native_threads, cpu_share(n_calls))
        configured: dict[str, Any] = importlib.import_module("dask").config.get(_WORKERS_VARIABLES, {})
        if self._native_threads == "auto":
            return {name: value for name, value in environment.items() if str(configured.get(name, 1)) == "1"}
        return environment

    def _restore_environment(self) -> None:
        """Restore variables of this process, in which dask sets those of the workers that it starts."""
        for name, (before, value) in self._changed.items():
            if os.environ.get(name) != value:
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

    async def _watch(self, fail: Callable[[BaseException], None]) -> None:
        """Fail the calls if all workers are gone and do not come back."""
        gone_since: float | None = None
        while self._client.status == "running":
            await asyncio.sleep(_PATIENCE_S / 60)
            if self._cluster.scheduler.workers or not self.busy():
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > _PATIENCE_S:
                words = f"and all others of its cluster are gone, and none came back within {_PATIENCE_S:g} s"
                fail(WorkerStartError("a call", f"{words}: see the log of distributed.nanny"))
                return

    def close(self, at_once: bool) -> None:
        if at_once:
            self._kill()
        self._client.close(timeout=_NO_WAIT_S)
        try:
            self._cluster.close(timeout=2 * _NO_WAIT_S)
        except TimeoutError:  # this machine is busy: closing continues, and the run must not fail because of that
            self._kill()
        self._restore_environment()
        self._around.close()
        self._release_reaper()

    def _kill(self) -> None:
        """Send SIGKILL to the workers and their descendants; dask's replacements exit when the cluster is closed."""
        psutil = importlib.import_module("psutil")  # a dependency of dask
        found: list[Any] = []
        for nanny in list(self._cluster.workers.values()):
            pid = getattr(nanny, "pid", None)
            if pid is None:
                continue
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
