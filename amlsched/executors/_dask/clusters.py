"""Where a dask cluster is: somebody else's, or processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import time
from abc import ABC, abstractmethod
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_text, check_whole, whole_number
from amlsched.errors import WorkerStartError
from amlsched.executors._orphans import watched
from amlsched.executors._processes import main_module
from amlsched.resources import cpus
from amlsched.resources.binding import cpu_share, worker_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from amlsched.errors import WorkerLostError
    from amlsched.resources.binding import WorkerThreads

__all__ = ["ALLOWED_FAILURES", "Elsewhere", "Given", "Local", "NANNY", "SETTINGS", "Site", "check_memory"]

ALLOWED_FAILURES = 3
"""A call that was on this many workers and one more when they died is not tried again; dask's own default."""
SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    # A worker has only what it runs: when it dies, no call that waits behind another is taken for the culprit.
    "distributed.scheduler.worker-saturation": 1.0,
}
"""For clusters of our own."""
NANNY = "amlsched.executors._dask.nanny"
"""What a nanny of ours has to preload."""
_PRELOAD = "amlsched.executors._dask.worker"
_WORKERS_VARIABLES = "distributed.nanny.pre-spawn-environ"
_NO_WAIT_S = 5.0
_PATIENCE_S = 60.0
"""How long calls wait for a cluster of ours that has lost all of its workers: dask gives up a worker that it cannot
restart, and says so in its log only."""


class Site(ABC):
    """Where a cluster is made, and ended: what a `DaskExecutor` does not know of it.

    Attributes:
        max_workers: How many workers there are at most; `None` if that is not known.
        scales: Whether the cluster grows with its queue, so that it has to see all of it.
        starts: On how many workers a call may be begun; `None` for any number.
        options: Of `Client.submit`, for each call.
    """

    options: Mapping[str, Any] = MappingProxyType({})
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

    def log_of(self, worker: str) -> str:
        """The end of what a worker that was lost has written, for messages; empty where that is not known.

        Args:
            worker: Its address.
        """
        return ""

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """What a call ends with whose worker was lost, where more is known than that; in the client's loop.

        Args:
            call: Name of the call.
            worker: Address of the worker.
            host: Host of it, if known.
        """
        return None

    @abstractmethod
    def open(self, fail: Callable[[BaseException], None]) -> Any:
        """A `distributed.Client` of the cluster, which is started; errors that come later are told by `fail`."""

    @abstractmethod
    def close(self, at_once: bool) -> None:
        """Leave or end the cluster, in bounded time; `at_once` whatever its workers do."""


class Given(Site):
    """The client of somebody else."""

    scales = True  # it may, as far as is known here

    def __init__(self, client: Any, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._client = client
        self.options = options or {}
        self.max_workers = sum(client.nthreads().values()) or None

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        return self._client

    def close(self, at_once: bool) -> None:
        pass


class Elsewhere(Site):
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


def _local_cluster() -> Any:
    """dask's local cluster, which leaves lost workers to those who restart them."""
    distributed: Any = importlib.import_module("distributed")

    class Cluster(distributed.LocalCluster):  # type: ignore[misc]
        def _update_worker_status(self, op: str, msg: Any) -> None:
            # dask looks 15 s after each loss, and closes for good what is not there just then: a worker that dies again
            # and again, each time by another call, is mostly not there.
            super(distributed.SpecCluster, self)._update_worker_status(op, msg)

    return Cluster


def check_memory(name: str, value: Any) -> None:
    """Raise for what dask would not read as an amount of memory with its unit, unless it is `None`.

    Raises:
        TypeError: It is no text; dask takes a number for bytes.
        ValueError: It is no amount of memory.
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
    """Raise for options of `distributed.LocalCluster` that its workers would not start with."""
    distributed: Any = importlib.import_module("distributed")
    kinds = (*distributed.LocalCluster.__mro__, *distributed.Nanny.__mro__, *distributed.Worker.__mro__)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    for name in options:
        if name not in known and "worker_class" not in options:  # which may have options of its own
            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(f"{name}={options[name]!r}: distributed.LocalCluster has no such option{hint}")
    if options.get("threads_per_worker") is not None:
        check_whole("threads_per_worker", options["threads_per_worker"], 1, ", or None")
    if options.get("memory_limit") != "auto" and isinstance(options.get("memory_limit"), str):
        check_memory("memory_limit", options["memory_limit"])


class Local(Site):
    """Processes on this machine."""

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
        self._unwatch: Callable[[], object] = bool
        self._around = contextlib.ExitStack()

    @property
    def driver_host(self) -> str | None:
        """As of any site."""
        return "127.0.0.1"

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        from amlsched.executors.processes import refuse_while_main_is_imported

        refuse_while_main_is_imported()
        settings = importlib.import_module("dask").config
        distributed = importlib.import_module("distributed")
        self._around.enter_context(main_module.left_out())  # also while nannies replace their workers
        self._unwatch = watched(self)  # workers end with the driver by themselves, what calls have started does not
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
        """Variables for the threads of libraries; dask takes them, instead of its own, if they are set here."""
        assert self.max_workers is not None
        at_a_time = self._options["threads_per_worker"]
        n_calls = self.max_workers * (at_a_time if isinstance(at_a_time, int) else 1)
        environment = worker_environment(self._native_threads, cpu_share(n_calls))
        configured: dict[str, Any] = importlib.import_module("dask").config.get(_WORKERS_VARIABLES, {})
        if self._native_threads == "auto":
            return {name: value for name, value in environment.items() if str(configured.get(name, 1)) == "1"}
        return environment

    def _restore_environment(self) -> None:
        """dask sets the variables of a worker that it starts in this process, too, and leaves them there."""
        for name, (before, value) in self._changed.items():
            if os.environ.get(name) != value:
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

    async def _watch(self, fail: Callable[[BaseException], None]) -> None:
        """See to it that calls do not wait for workers that never come back."""
        gone_since: float | None = None
        while self._client.status == "running":
            await asyncio.sleep(_PATIENCE_S / 60)
            if self._cluster.scheduler.workers or not self.busy():
                gone_since = None
            elif gone_since is None:
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > _PATIENCE_S:
                words = f"and the others of its cluster are gone, and none came back within {_PATIENCE_S:g} s"
                fail(WorkerStartError("a call", f"{words}: see the log of distributed.nanny"))
                return

    def close(self, at_once: bool) -> None:
        if at_once:
            self._kill()
        self._client.close(timeout=_NO_WAIT_S)
        try:
            self._cluster.close(timeout=2 * _NO_WAIT_S)
        except TimeoutError:  # this machine is busy: it goes on closing, and the run is not to fail for that
            self._kill()
        self._restore_environment()
        self._around.close()
        self._unwatch()

    def _kill(self) -> None:
        """SIGKILL to the workers and all below them; those that dask starts in their place end when it is closed."""
        psutil = importlib.import_module("psutil")  # dask brings it
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
