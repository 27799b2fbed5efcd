"""Calls on workers in the jobs of a batch system.

Where the jobs of one executor are made, and ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_seconds, check_text, whole_number
from amlsched._surroundings import import_extra
from amlsched.errors import BatchSystemError, MissingExtraError
from amlsched.executors._dask.clusters import SETTINGS, Site
from amlsched.executors._dask.executor import DaskExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched.batch_systems.queues import Queue
    from amlsched.errors import WorkerLostError
    from amlsched.executors._jobqueue.job_monitor import Watch
    from amlsched.executors.capabilities import WorkersNow
    from amlsched.resources.binding import WorkerThreads

__all__ = ["JobQueueExecutor", "Jobs"]

MOST_STARTS = 10
"""A call that was begun on this many workers, all of which ended or reached their lifetime, is not tried again."""
_OF_CLUSTER = ("asynchronous", "loop", "name", "scheduler_cls", "shared_temp_directory", "silence_logs")
_END_S = 10.0


class Jobs(Site):
    """The jobs of one executor."""

    def __init__(
        self,
        name: str,
        n_workers: int,
        adaptive: bool | Mapping[str, Any],
        submit_command: str | None,
        cancel_command: str | None,
        start_timeout: float | None,
        security: Any,
        native_threads: WorkerThreads,
        options: dict[str, Any],
    ) -> None:
        import_extra("dask", f"with_{name}", "dask-jobqueue", "jobqueue")
        from amlsched.executors._jobqueue.dask_classes import dask_jobqueue, job_class

        try:
            dask_jobqueue()
        except ModuleNotFoundError as error:
            if error.name != "dask_jobqueue":
                raise
            raise MissingExtraError(f"with_{name}", "dask-jobqueue", "jobqueue") from error
        from amlsched.batch_systems.queues import QUEUES
        from amlsched.executors._jobqueue.settings import settings
        from amlsched.resources.binding import worker_threads

        if name not in QUEUES:
            raise ValueError(f"batch system {name!r}: must be one of {', '.join(sorted(QUEUES))}")
        super().__init__()
        n_workers = whole_number("n_workers", n_workers, also="")
        if not isinstance(adaptive, bool | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"adaptive={adaptive!r}: must be True, False or options of dask's Adaptive")
        for key, command in (("submit_command", submit_command), ("cancel_command", cancel_command)):
            check_text(key, command, "command --option")
        if start_timeout is not None:
            check_seconds("start_timeout", start_timeout, ", or None")
        self.queue: Queue = QUEUES[name]
        self.max_workers = n_workers
        self.scales = adaptive is not False
        self.starts = MOST_STARTS
        self.cluster: Any = None
        self._adaptive = adaptive
        self._submit = submit_command or self.queue.submit
        self._cancel = cancel_command or self.queue.cancel
        self._start_timeout = start_timeout
        self._security = security
        self._settings = settings(self.queue, options, worker_threads(native_threads, "native_threads"))
        self._logs = Path(self._settings["log_directory"])
        self._job = job_class(self.queue, self._submit, self._cancel)
        self._watch: Watch | None = None
        self._task: Any = None
        self._client: Any = None
        self._guard: Any = None
        self._keys: Path | None = None
        self.job_script()  # finds out what is wrong with the options

    @property
    def status(self) -> WorkersNow | None:
        """How many workers there are, and what there is instead of others; `None` before the start."""
        return None if self._watch is None else self._watch.status

    def log_of(self, worker: str) -> str:
        """As of any site."""
        return "" if self._watch is None else self._watch.log_of(worker)

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """As of any site: what the batch system says of the job."""
        return None if self._watch is None else await self._watch.loss(call, worker, host)

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that the workers use."""
        host = self._settings["scheduler_options"].get("host")
        return str(host) if host is not None else None

    def check_commands(self) -> None:
        """Raise where there are none."""
        for command in (self._submit, self._cancel):
            words = shlex.split(command)
            if not words or shutil.which(words[0]) is None:
                remedy = f"run this on a login node of the cluster; is {self.queue.title} its batch system?"
                raise BatchSystemError(
                    self.queue.title, words[0] if words else "", "there is no such command here", remedy
                )

    def job_script(self) -> str:
        """The script of a job."""
        options = {
            key: value
            for key, value in self._settings.items()
            if key not in _OF_CLUSTER and key != "scheduler_options" and value is not None
        }
        protocol = "tcp" if self._security is False else "tls"
        address = f"{protocol}://{self.driver_host or 'DRIVER'}:PORT"
        if self._security is not False:
            keys = self._logs / "KEYS"
            ours = (
                self._security
                if self._security is not True
                else importlib.import_module("distributed").Security(
                    tls_ca_file=str(keys / "ca_file"),
                    tls_worker_key=str(keys / "key"),
                    tls_worker_cert=str(keys / "cert"),
                )
            )
            options = {"security": ours, "protocol": f"{protocol}://", **options}
        try:
            script: str = self._job(address, name="WORKER", **options).job_script()
        except TypeError as error:
            raise ValueError(f"{self.queue.name}: {error}") from error
        return script

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        from amlsched.executors._jobqueue.dask_classes import cluster_class
        from amlsched.executors._jobqueue.job_canceller import Guard
        from amlsched.executors._jobqueue.job_monitor import Watch

        distributed = importlib.import_module("distributed")
        self._logs.mkdir(parents=True, exist_ok=True)
        self._keys = Path(tempfile.mkdtemp(prefix=".keys-", dir=self._logs))
        environment = self.queue.environment()
        self._guard = Guard(shlex.split(self._cancel), environment, self._keys)
        options: dict[str, Any] = {"silence_logs": "error", **self._settings, "shared_temp_directory": str(self._keys)}
        if self._security is False:
            warnings.warn(
                "security=False: whoever reaches this machine by network can run programs as you", stacklevel=2
            )
        else:
            options["security"] = distributed.Security.temporary() if self._security is True else self._security
        try:
            with importlib.import_module("dask").config.set(SETTINGS):
                self.cluster = cluster_class(self.queue, self._job)(**options)
            self._client = distributed.Client(self.cluster, set_as_default=False)
        except BaseException:
            self.close(at_once=True)
            raise
        script = self._logs / f"{self.queue.name}-job-{self._keys.name.removeprefix('.keys-')}.sh"
        script.write_text(self.cluster.job_script(), encoding="utf-8")
        self._watch = Watch(
            self.queue,
            self.cluster,
            environment=environment,
            logs=self._logs,
            script=script,
            start_timeout=self._start_timeout,
            guard=self._guard,
            busy=self._is_busy,
            fail=fail,
        )
        self.cluster.loop.add_callback(self._begin)
        return self._client

    def _is_busy(self) -> bool:
        return self.busy()  # which is set when the client is there

    def _begin(self) -> None:
        """In the thread of the loop."""
        assert self._watch is not None
        if self._adaptive is False:
            self.cluster.scale(self.max_workers)
        else:
            options = dict(self._adaptive) if isinstance(self._adaptive, Mapping) else {}
            self.cluster.adapt(**{"minimum": 0, "maximum": self.max_workers, **options})
        self._task = asyncio.ensure_future(self._watch.run())

    def close(self, at_once: bool) -> None:
        if self.cluster is not None:
            with contextlib.suppress(TimeoutError):
                self.cluster.sync(self._end_jobs, callback_timeout=2 * _END_S)
        if self._client is not None:
            self._client.close(timeout=_END_S)
        if self.cluster is not None:
            with contextlib.suppress(TimeoutError):
                self.cluster.close(timeout=_END_S)
        if self._guard is not None:
            self._guard.leave()
        for name in ("ca_file", "cert", "key"):  # dask-jobqueue's files, which it would look for
            file = getattr(self.cluster, f"_job_{name}", None)
            if file is not None:
                file.close()
        if self._keys is not None:
            shutil.rmtree(self._keys, ignore_errors=True)

    async def _end_jobs(self) -> None:
        """All at once; dask-jobqueue would ask each worker first."""
        from amlsched.executors._jobqueue.dask_classes import call

        if self._task is not None:
            self._task.cancel()
        adaptive = getattr(self.cluster, "_adaptive", None)
        if adaptive is not None:
            adaptive.stop()
        self.cluster.worker_spec.clear()
        async with self.cluster._lock:  # what is being submitted has to be known
            jobs = [job.job_id for job in self.cluster.workers.values() if job.job_id]
            self.cluster.workers.clear()
        closed = importlib.import_module("distributed").Status.closed
        for job in self.cluster._created:  # else the cluster's own end fails, and then waits for itself for ever
            job.status = closed
        if jobs:
            with contextlib.suppress(BatchSystemError):  # some had ended
                await call(self.queue.title, [*shlex.split(self._cancel), *jobs], self.queue.environment())


class JobQueueExecutor(DaskExecutor):
    """Calls run on workers in jobs of a batch system. The first call submits the jobs."""

    site: Jobs

    def job_script(self) -> str:
        """The script of a job; nothing is submitted for it."""
        return self.site.job_script()

    @property
    def cluster(self) -> Any:
        """dask-jobqueue's cluster; `None` before the first call."""
        return self.site.cluster

    @property
    def status(self) -> WorkersNow | None:
        """How many workers there are, and what the batch system says of the jobs without one.

        `None` before the first call.
        """
        return self.site.status
