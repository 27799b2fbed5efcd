"""The executor whose workers run in jobs of a batch system, and these jobs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_seconds, whole_number
from amlsched._surroundings import import_extra
from amlsched.batch_systems.commands import call, check_command, find, how_to_find, in_thread
from amlsched.errors import BatchSystemError, MissingExtraError, ResourcesError
from amlsched.executors._dask.clusters import SETTINGS, ClusterProvider, cluster_security
from amlsched.executors._dask.executor import DaskExecutor
from amlsched.executors._jobqueue.checks import check_adaptive, check_command_line, check_host, check_security

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from amlsched.batch_systems import System
    from amlsched.errors import WorkerLostError
    from amlsched.executors._jobqueue.job_monitor import JobMonitor
    from amlsched.executors.capabilities import NodeNow, WorkersNow
    from amlsched.resources.binding import WorkerThreads

__all__ = ["JobQueueExecutor", "JobProvider"]

logger = logging.getLogger("amlsched.jobs")

MOST_STARTS = 10
"""A call is not retried that was started on this many workers which all ended or reached their lifetime."""
_END_S = 10.0
_SUBMITTED_S = 3.0  # how long the end waits for jobs that are being submitted
_CANCEL_S = 8.0


class JobProvider(ClusterProvider):
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
        from amlsched.executors._jobqueue.dask_classes import Submissions, dask_jobqueue, job_class

        try:
            dask_jobqueue()
        except ModuleNotFoundError as error:
            if error.name != "dask_jobqueue":
                raise
            raise MissingExtraError(f"with_{name}", "dask-jobqueue", "jobqueue") from error
        from amlsched.batch_systems import WORKER_SYSTEMS
        from amlsched.executors._jobqueue.settings import settings, shortest_lifetime
        from amlsched.resources.binding import worker_threads

        if name not in WORKER_SYSTEMS:
            raise ValueError(f"batch system {name!r}: must be one of {', '.join(sorted(WORKER_SYSTEMS))}")
        super().__init__()
        n_workers = whole_number("n_workers", n_workers, also="")
        check_command_line("submit_command", submit_command, "sbatch --nice")
        check_command_line("cancel_command", cancel_command, "scancel --quiet")
        check_security(security)
        if start_timeout is not None:
            check_seconds("start_timeout", start_timeout, ", or None")
        self.system: System = WORKER_SYSTEMS[name]
        self.max_workers = n_workers
        self.scales = adaptive is not False
        self.starts = MOST_STARTS
        self.cluster: Any = None
        self._adaptive = adaptive
        self._submit = submit_command or self.system.submit[0]
        self._cancel = cancel_command or self.system.cancel_command
        self._start_timeout = start_timeout
        self._security = security
        self._settings = settings(self.system, options, worker_threads(native_threads, "native_threads"))
        cores = self._settings.get("cores")
        self.cpus = None if cores is None else cores / self._settings["processes"]
        self.lasts_s = shortest_lifetime(self._settings["worker_extra_args"])
        check_adaptive(adaptive, n_workers, self._settings["processes"])
        self._logs = Path(self._settings["log_directory"])
        self._submissions = Submissions()
        self._job = job_class(self.system, self._submit, self._cancel, self._submissions)
        self._monitor: JobMonitor | None = None
        self._task: Any = None
        self._client: Any = None
        self._canceller: Any = None
        self._cancelled = False
        self._keys: Path | None = None
        self.job_script()  # raises for wrong options

    @property
    def status(self) -> WorkersNow | None:
        """The number of workers, and why others are missing; `None` before the start."""
        return None if self._monitor is None else self._monitor.status

    def log_of(self, worker: str) -> str:
        """As `ClusterProvider.log_of`."""
        return "" if self._monitor is None else self._monitor.log_of(worker)

    def nodes_to_come(self) -> Sequence[NodeNow]:
        """As `ClusterProvider.nodes_to_come`: a worker of a job."""
        from amlsched.executors.capabilities import NodeNow
        from amlsched.resources.pool import Pool

        memory = self._settings.get("memory")
        amount = None
        if memory is not None:
            amount = importlib.import_module("dask.utils").parse_bytes(memory) // self._settings["processes"]
        name = f"a worker of {self.system.title}"
        pool = Pool(self.cpus or 1, None if amount is None else f"{amount} B", name=name)
        return (NodeNow(pool, lasts_s=self.lasts_s),)

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """As `ClusterProvider.loss`: the error by the batch system's report of the job."""
        return None if self._monitor is None else await self._monitor.loss(call, worker, host)

    @property
    def driver_host(self) -> str | None:
        """The address of this machine that the workers use."""
        host = self._settings["scheduler_options"].get("host")
        return str(host) if host is not None else None

    def check_machine(self) -> None:
        """Raise if jobs cannot be submitted from this machine, or their workers cannot connect to it.

        Raises:
            BatchSystemError: A command does not exist.
            ValueError: There is no such interface or address here.
        """
        for command in (self._submit, self._cancel):
            check_command(self.system.title, shlex.split(command)[0])
        check_host(self._settings)

    def job_script(self) -> str:
        """The script of a job."""
        from amlsched.executors._jobqueue.settings import of_job

        options = of_job(self._settings)
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
            raise ValueError(f"{self.system.name}: {error}") from error
        return script

    def open(self, fail: Callable[[BaseException], None]) -> Any:
        from amlsched.executors._jobqueue.dask_classes import cluster_class
        from amlsched.executors._jobqueue.job_canceller import JobCanceller
        from amlsched.executors._jobqueue.job_monitor import JobMonitor

        distributed = importlib.import_module("distributed")
        security = cluster_security(self._security)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._keys = Path(tempfile.mkdtemp(prefix=".keys-", dir=self._logs))
        self._canceller = JobCanceller(shlex.split(self._cancel), self.system.environment(), self._keys)
        options: dict[str, Any] = {
            "silence_logs": "error",
            **self._settings,
            "shared_temp_directory": str(self._keys),
            "security": security,
        }
        try:
            with importlib.import_module("dask").config.set(SETTINGS):
                self.cluster = cluster_class(self.system, self._job)(**options)
            self._client = distributed.Client(self.cluster, set_as_default=False)
        except BaseException:
            self.close(at_once=True)
            raise
        script = self._logs / f"{self.system.name}-job-{self._keys.name.removeprefix('.keys-')}.sh"
        script.write_text(self.cluster.job_script(), encoding="utf-8")
        self._monitor = JobMonitor(
            self.system,
            self.cluster,
            logs=self._logs,
            script=script,
            start_timeout=self._start_timeout,
            canceller=self._canceller,
            busy=self._is_busy,
            fail=fail,
            leave_out=self._leave_out,
        )
        self.cluster.loop.add_callback(self._begin)
        return self._client

    def _leave_out(self, hosts: Sequence[str]) -> Sequence[str]:
        """Submit no more jobs to these hosts, if the batch system has options for that, which are returned."""
        given: Mapping[str, Any] | Sequence[str] = self._settings["job_extra_directives"]
        lines = [f"{name} = {value}" for name, value in given.items()] if isinstance(given, Mapping) else given
        self._job.more_options = self.system.leave_out(hosts, lines)
        return self._job.more_options  # type: ignore[no-any-return]

    def _is_busy(self) -> bool:
        return self.busy()  # set when there is a client

    def _begin(self) -> None:
        """Start the workers. Runs in the thread of the loop."""
        assert self._monitor is not None
        if self._adaptive is False:
            self.cluster.scale(self.max_workers)
        else:
            options = dict(self._adaptive) if isinstance(self._adaptive, Mapping) else {}
            self.cluster.adapt(**{"minimum": 0, "maximum": self.max_workers, **options})
        self._task = asyncio.ensure_future(self._monitor.run())

    def close(self, at_once: bool) -> None:
        if self.cluster is not None:
            with contextlib.suppress(TimeoutError):
                self.cluster.sync(self._end_jobs, callback_timeout=3 * _END_S)
        if self._client is not None:
            self._client.close(timeout=_END_S)
        if self.cluster is not None:
            with contextlib.suppress(TimeoutError):
                self.cluster.close(timeout=_END_S)
        if self._canceller is not None:
            self._canceller.close(cancelled=self._cancelled)
        for name in ("ca_file", "cert", "key"):  # dask-jobqueue's files, which it would try to remove
            file = getattr(self.cluster, f"_job_{name}", None)
            if file is not None:
                file.close()
        if self._keys is not None:
            shutil.rmtree(self._keys, ignore_errors=True)

    async def _end_jobs(self) -> None:
        """Cancel all jobs by one command; dask-jobqueue would close each worker first."""
        if self._task is not None:
            self._task.cancel()
        adaptive = getattr(self.cluster, "_adaptive", None)
        if adaptive is not None:
            adaptive.stop()
        self.cluster.worker_spec.clear()
        submissions = self._submissions
        stopping = asyncio.get_running_loop().call_later(_SUBMITTED_S, submissions.stop.set)
        async with self.cluster._lock:  # after jobs that are being submitted have their ids
            jobs = {job.job_id for job in self.cluster.workers.values() if job.job_id} | submissions.left
            self.cluster.workers.clear()
        stopping.cancel()
        closed = importlib.import_module("distributed").Status.closed
        for job in self.cluster._created:  # else closing the cluster fails, and then never returns
            job.status = closed
        self._cancelled = await self._cancel_jobs(jobs)
        await self._cancel_unknown(jobs)

    async def _cancel_jobs(self, jobs: Collection[str]) -> bool:
        """Cancel jobs, and return whether the batch system has done so."""
        if not jobs:
            return True
        try:
            await call(self.system, [*shlex.split(self._cancel), *sorted(jobs)], _CANCEL_S)
        except BatchSystemError as error:  # some may have ended
            if error.words.startswith("did not answer") or self.system.unclear.search(error.words):
                logger.warning("the jobs %s could not be cancelled: %s", ", ".join(sorted(jobs)), error)
                return False
        return True

    async def _cancel_unknown(self, known: Collection[str]) -> None:
        """Cancel jobs of this cluster whose ids are unknown, as the answer to their submission was lost."""
        submissions = self._submissions
        if not self.system.find(submissions.run):
            return
        try:
            found = await in_thread(lambda: find(self.system, submissions.run), "find")
        except BatchSystemError as error:
            if any(submissions.unclear.values()):
                remedy = how_to_find(self.system, submissions.run)
                logger.warning("jobs of this run may have remained in the queue: %s (%s)", error, remedy)
            return
        await self._cancel_jobs({self.system.job_id(job) for job in found} - set(known))


class JobQueueExecutor(DaskExecutor):
    """Runs calls on workers in jobs of a batch system. The first call submits the jobs."""

    provider: JobProvider

    def watch_nodes(self, changed: Callable[[], object]) -> None:
        """See `DaskExecutor`.

        Raises:
            ResourcesError: The number of workers is to follow dask's queue, in which calls with requests never wait.
        """
        if self.provider.scales:
            problem = "adaptive= scales with the queue of dask, but calls that request resources wait in the scheduler"
            raise ResourcesError("the workers", problem, "use a constant n_workers")
        super().watch_nodes(changed)

    def job_script(self) -> str:
        """The script of a job; submits nothing."""
        return self.provider.job_script()

    @property
    def cluster(self) -> Any:
        """dask-jobqueue's cluster; `None` before the first call."""
        return self.provider.cluster

    @property
    def status(self) -> WorkersNow | None:
        """The number of workers, and what the batch system reports of jobs without one.

        `None` before the first call.
        """
        return self.provider.status
