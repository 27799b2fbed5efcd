"""The names of pytabkit's scheduler: a program for it runs once it imports from `amlsched.pytabkit`.

Jobs run on processes by default, on a Ray or dask cluster with `RayJobManager(executor="ray")` or `"dask"`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from amlsched.errors import NotPicklableError, ResourcesError, WorkerOutOfMemoryError
from amlsched.policies import LongestFirst
from amlsched.receipts import Outcome
from amlsched.resources import Pool, Resources, current_allocation
from amlsched.scheduler import Scheduler, check_executor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from amlsched.future import Future

__all__ = [
    "AbstractJob",
    "InterfaceResources",
    "JobInfo",
    "JobResult",
    "NodeResources",
    "RayJobManager",
    "RequiredResources",
    "SimpleJobScheduler",
]

_GIB = 2**30
_HEAD, _PASSWORD = "ip_head", "redis_password"
"""Variables that pytabkit's script for Slurm sets."""
_CLUSTERS = ("dask", "ray")
"""Executors that know their nodes."""
_REPORT_S = 1.0
"""Between two reports, if jobs start and finish that fast."""
_SHARE_OF_A_CORE = 0.05
"""What the estimates in reports may cost."""
_RUNNING_S = 30.0
"""After so long without a report, there is one that lists what runs."""
_MOST_LISTED = 20


class RequiredResources:
    """What a job needs.

    Args:
        time_s: How long it is expected to take, in seconds. No job is ended because it takes longer.
        n_threads: Number of CPUs.
        cpu_ram_gb: Memory in GiB.
        n_gpus: Number of GPUs.
        gpu_usage: The share of each GPU that it uses. With several GPUs, each is its own.
        gpu_ram_gb: Memory on each GPU in GiB.
        n_explicit_physical_cores: Number of CPU cores; as many CPUs at least are its own.
    """

    def __init__(
        self,
        time_s: float,
        n_threads: float,
        cpu_ram_gb: float,
        n_gpus: int = 0,
        gpu_usage: float = 1.0,
        gpu_ram_gb: float = 0.0,
        n_explicit_physical_cores: int = 0,
    ) -> None:
        self.time_s, self.n_threads, self.cpu_ram_gb = time_s, n_threads, cpu_ram_gb
        self.n_gpus, self.gpu_usage, self.gpu_ram_gb = n_gpus, gpu_usage, gpu_ram_gb
        self.n_explicit_physical_cores = n_explicit_physical_cores

    @staticmethod
    def combine_sequential(resources_list: Iterable[RequiredResources]) -> RequiredResources:
        """What jobs need that run one after the other: the sum of their times, and the most of everything else."""
        several = list(resources_list)
        return RequiredResources(
            sum(each.time_s for each in several),
            max(each.n_threads for each in several),
            max(each.cpu_ram_gb for each in several),
            max(each.n_gpus for each in several),
            max(each.gpu_usage for each in several),
            max(each.gpu_ram_gb for each in several),
            max(each.n_explicit_physical_cores for each in several),
        )


class _Required(Protocol):
    """What has the attributes of a `RequiredResources`, as pytabkit's own has."""

    time_s: float
    n_threads: float
    cpu_ram_gb: float
    n_gpus: int
    gpu_usage: float
    gpu_ram_gb: float
    n_explicit_physical_cores: int


class InterfaceResources(NamedTuple):
    """What a method of pytabkit may use.

    Attributes:
        n_threads: Number of threads.
        gpu_devices: Names of GPUs for torch, such as `cuda:0`.
        time_in_seconds: Always `None`: there is no limit.
    """

    n_threads: int
    gpu_devices: list[str]
    time_in_seconds: int | None = None


class NodeResources:
    """What a job got of its node.

    The job sees only the GPUs that it got, so that these are numbered from 0.

    Args:
        node_id: Name of the node.
        n_threads: Number of CPUs.
        cpu_ram_gb: Memory in GiB.
        gpu_usages: What it may use of each of its GPUs, from 0 to 1.
        gpu_rams_gb: Memory on each of these in GiB.

    Attributes:
        node_id: Name of the node.
        n_gpus: Number of GPUs.
    """

    def __init__(
        self,
        node_id: str,
        n_threads: float,
        cpu_ram_gb: float,
        gpu_usages: Iterable[float] = (),
        gpu_rams_gb: Iterable[float] = (),
    ) -> None:
        self.node_id = node_id
        self._n_threads, self._cpu_ram_gb = n_threads, cpu_ram_gb
        self._gpu_usages, self._gpu_rams_gb = list(gpu_usages), list(gpu_rams_gb)
        self.n_gpus = len(self._gpu_usages)

    def get_n_threads(self) -> int:
        """How many threads the job may use; at least 1."""
        return max(1, round(self._n_threads))

    def get_cpu_ram_gb(self) -> float:
        """How much memory in GiB it requested."""
        return self._cpu_ram_gb

    def get_gpu_usages(self) -> list[float]:
        """What it may use of each of its GPUs, from 0 to 1."""
        return list(self._gpu_usages)

    def get_gpu_rams_gb(self) -> list[float]:
        """How much memory in GiB it requested on each of its GPUs."""
        return list(self._gpu_rams_gb)

    def get_total_gpu_usage(self) -> float:
        """The sum of `get_gpu_usages`."""
        return sum(self._gpu_usages)

    def get_total_gpu_ram_gb(self) -> float:
        """The sum of `get_gpu_rams_gb`."""
        return sum(self._gpu_rams_gb)

    def get_used_gpu_ids(self) -> list[int]:
        """Numbers of its GPUs, as its process counts them."""
        return list(range(self.n_gpus))

    def get_interface_resources(self) -> InterfaceResources:
        """The same as pytabkit's methods take it."""
        return InterfaceResources(self.get_n_threads(), [f"cuda:{number}" for number in self.get_used_gpu_ids()])


class AbstractJob:
    """A job; derive from it and override all methods. pytabkit's own jobs are accepted as well."""

    def get_group(self) -> str:
        """Name of the jobs that have in common by which factor their expected times are wrong."""
        raise NotImplementedError

    def get_desc(self) -> str:
        """Name of the job in reports."""
        raise NotImplementedError

    def get_required_resources(self) -> RequiredResources:
        """What it needs; called once, when it is added."""
        raise NotImplementedError

    def __call__(self, assigned_resources: NodeResources) -> bool:
        """Do the work, in a worker.

        Args:
            assigned_resources: What it got.

        Returns:
            Whether its time says something about other jobs: `False` if it had less to do, as a part of its results was
            there before.
        """
        raise NotImplementedError


@dataclass
class JobResult:
    """How a job ended.

    Attributes:
        job_id: Its number.
        time_s: How long it took, in seconds.
        oom_cpu: Whether it ran out of memory.
        oom_gpu: Whether it ran out of memory on a GPU.
        finished_normally: Whether it returned `True`.
        exception_msg: The traceback of its exception, or why it did not run; `None` if it returned.
        max_cpu_ram_gb: The most memory that its worker had, in GiB; 0 if unknown.
    """

    job_id: int
    time_s: float = 0.0
    oom_cpu: bool = False
    oom_gpu: bool = False
    finished_normally: bool = True
    exception_msg: str | None = None
    max_cpu_ram_gb: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it raised, lost its worker, or did not run."""
        return self.exception_msg is not None


class JobInfo:
    """A job of a scheduler, and what became of it.

    Attributes:
        job: The job.
        job_id: Its number, from 0, in the order in which jobs were added.
        required_resources: What it needs.
        job_result: How it ended; `None` until then.
    """

    def __init__(self, job: AbstractJob, job_id: int) -> None:
        self.job, self.job_id = job, job_id
        self.required_resources: _Required = job.get_required_resources()
        self.job_result: JobResult | None = None
        self.requested = _requested(self.required_resources, job.get_desc())
        self._future: Future[Any] | None = None

    def started(self, future: Future[Any] | None) -> None:
        """Note the call that runs the job."""
        self._future = future

    def is_remaining(self) -> bool:
        """Whether it has not started."""
        return self.job_result is None and not self.is_running()

    def is_running(self) -> bool:
        """Whether it runs."""
        return self.job_result is None and self._future is not None and self._future.running()

    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.job_result is not None

    def is_failed(self) -> bool:
        """Whether it raised, lost its worker, or fits nowhere."""
        return self.job_result is not None and self.job_result.failed

    def is_succeed(self) -> bool:
        """Whether it returned."""
        return self.job_result is not None and not self.job_result.failed


def _requested(required: _Required, desc: str) -> Resources:
    """What a job requests.

    Raises:
        ValueError: An amount is negative or not finite.
    """
    n_gpus, n_cores = required.n_gpus, required.n_explicit_physical_cores
    try:
        return Resources(
            max(required.n_threads, n_cores) if n_cores else required.n_threads,
            f"{round(required.cpu_ram_gb * _GIB)} B",
            required.gpu_usage if n_gpus == 1 else n_gpus,
            f"{round(required.gpu_ram_gb * _GIB)} B" if n_gpus and required.gpu_ram_gb else None,
            f"{required.time_s:.6f} s" if required.time_s else None,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"the job {desc!r} requires what cannot be requested: {error}") from error


class RayJobManager:
    """Where jobs run.

    Args:
        max_n_threads: The most CPUs to use; `None` for all. Only on this machine.
        available_cpu_ram_multiplier: Which part of the free memory to use.
        available_gpu_ram_multiplier: Which part of the free memory of GPUs to use.
        executor: `"processes"` for processes of this machine, `"ray"` for a Ray cluster, `"dask"` for a dask cluster,
            or another name that `Scheduler.from_name` accepts.
        **options: Options of this executor's constructor. With `"ray"`, the variables `ip_head` and `redis_password`
            are the address and the password of the cluster, unless these are given.

    Raises:
        ValueError: There is no such executor, it has no such option, a multiplier is not above 0, or `max_n_threads` is
            given with a cluster.
    """

    def __init__(
        self,
        max_n_threads: int | None = None,
        available_cpu_ram_multiplier: float = 1.0,
        available_gpu_ram_multiplier: float = 1.0,
        *,
        executor: str = "processes",
        **options: Any,
    ) -> None:
        self.max_n_threads = max_n_threads
        self.available_cpu_ram_multiplier = _part("available_cpu_ram_multiplier", available_cpu_ram_multiplier)
        self.available_gpu_ram_multiplier = _part("available_gpu_ram_multiplier", available_gpu_ram_multiplier)
        self.executor = executor
        head = os.environ.get(_HEAD)
        if head and executor == "ray":
            options.setdefault("address", head)
            if password := os.environ.get(_PASSWORD):
                options.setdefault("_redis_password", password)
        elif head:
            _warn(f"ip_head={head} is ignored: RayJobManager(executor='ray') runs jobs on that cluster")
        check_executor(executor, options)
        if executor in _CLUSTERS and max_n_threads is not None:
            raise ValueError(
                f"max_n_threads={max_n_threads!r}: the nodes of {executor!r} have their own number of CPUs: "
                "start the cluster with fewer"
            )
        self.options = options

    def new_scheduler(self) -> Scheduler:
        """A scheduler for one run of jobs."""
        pool: dict[str, Any] = {}
        if self.executor not in _CLUSTERS:
            here = Pool.here()
            cpus = here.cpus if self.max_n_threads is None else min(here.cpus, self.max_n_threads)
            gpu_memory = None if here.gpu_memory is None else [f"{amount} B" for amount in here.gpu_memory]
            pool["pool"] = Pool(cpus, f"{here.memory} B", here.gpus, gpu_memory)
        return Scheduler.from_name(self.executor, estimates=True, policy=LongestFirst, **pool, **self.options)

    def scaled(self, requested: Resources) -> Resources:
        """What to request so that only a part of the memory of each node is used."""
        memory = f"{int(requested.memory / self.available_cpu_ram_multiplier)} B" if requested.memory else None
        of_gpus = int(requested.gpu_memory / self.available_gpu_ram_multiplier)
        time_s = None if requested.time is None else f"{requested.time:.6f} s"
        return Resources(requested.cpus, memory, requested.gpus, f"{of_gpus} B" if of_gpus else None, time_s)


def _part(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}={value!r}: must be above 0, such as 0.7")
    return value


class _UnusualTimeError(Exception):
    """A job returned, but its time says nothing about others: nothing is learned from calls that raise."""


def _run_job(job: AbstractJob, requested: Resources) -> None:
    """Run a job in a worker."""
    got = current_allocation()
    assert got is not None
    gpus = len(got.gpus)
    usages, memory = [got.gpu_share] * gpus, [requested.gpu_memory / _GIB] * gpus
    if not job(NodeResources(got.node, got.cpus, requested.memory / _GIB, usages, memory)):
        raise _UnusualTimeError


class SimpleJobScheduler:
    """Runs jobs, as many at a time as fit, those first that are expected to take longest.

    Jobs may be overtaken by others only if these do not delay them. Reports go to standard output.

    Args:
        job_manager: Where they run.

    Attributes:
        job_manager: Where they run.
        job_infos: The jobs that were added, with their results.
    """

    def __init__(self, job_manager: RayJobManager) -> None:
        self.job_manager = job_manager
        self.job_infos: list[JobInfo] = []

    def add_jobs(self, jobs: Iterable[AbstractJob]) -> None:
        """Add jobs for the next run.

        Raises:
            ValueError: A job requires a negative amount, or one that is not finite.
        """
        self.job_infos += [JobInfo(job, number) for number, job in enumerate(jobs, len(self.job_infos))]

    def run(self) -> None:
        """Run the jobs that have not run, until each has ended.

        A job that raises, that loses its worker again and again, or that fits on no node has failed. Its error is
        printed on standard error, and the others run.
        """
        infos = [info for info in self.job_infos if not info.is_finished()]
        if not infos:
            _say("no jobs to run")
            return
        _Run(self.job_manager, infos).run()


class _Run:
    """One run of jobs, with its reports."""

    def __init__(self, manager: RayJobManager, infos: list[JobInfo]) -> None:
        self._manager, self._infos = manager, infos
        self._scheduler = scheduler = manager.new_scheduler()
        self._task = scheduler.task(_run_job, resources=self._requested, group=self._group)
        self._began = time.time()
        self._named: set[int] = set()  # of the jobs whose start was printed
        self._reported = self._began
        self._pause_s = 0.02
        self._next: asyncio.TimerHandle | None = None
        scheduler.on_start(self._start)
        self._task.on_done(self._done)

    def _requested(self, _: AbstractJob, requested: Resources) -> Resources:
        return self._manager.scaled(requested)

    def _group(self, job: AbstractJob, _: Resources) -> str:
        return str(job.get_group())

    def run(self) -> None:
        _say(f"{_clock(self._began)}, {len(self._infos):,} jobs to run")
        self._scheduler.run(on_exception="continue", on_cancelled="continue")
        self._report_end()

    def _start(self) -> None:
        for info in self._infos:
            try:
                future = self._task.submit(info.job, info.requested)
            except (ResourcesError, NotPicklableError) as error:
                self._end(info, JobResult(info.job_id, finished_normally=False, exception_msg=str(error)))
                continue
            assert future is not None
            future.context = info
            info.started(future)
        self._scheduler.call_later(_RUNNING_S, self._report_running)
        self._report_soon()

    def _done(self, future: Future[Any]) -> None:
        error, usage = future.exception(), self._scheduler.outcome(future)
        result = JobResult(future.context.job_id, time_s=_seconds(usage), finished_normally=error is None)
        result.max_cpu_ram_gb = (usage.peak_memory_bytes or 0) / _GIB
        if error is not None and not isinstance(error, _UnusualTimeError):
            result.exception_msg = "".join(traceback.format_exception(error))
            result.oom_cpu = isinstance(error, MemoryError | WorkerOutOfMemoryError)
            result.oom_gpu = "cuda out of memory" in result.exception_msg.lower()
        self._end(future.context, result)
        self._report_soon()

    def _end(self, info: JobInfo, result: JobResult) -> None:
        info.job_result = result
        info.started(None)
        if result.exception_msg is not None:
            _warn(f"the job {info.job.get_desc()!r} failed: {result.exception_msg.rstrip()}")

    # Reports

    def _report_soon(self) -> None:
        """Report once, after the calls that now start have started."""
        if self._next is None:
            wait = max(0.02, self._reported + self._pause_s - time.time())
            self._next = self._scheduler.call_later(wait, self._report)

    def _report(self) -> None:
        self._next, infos = None, self._infos
        running = [info for info in infos if info.is_running()]
        ended = sum(info.is_finished() for info in infos)
        if not (running or ended):
            self._report_soon()  # once the first worker has started
            return
        self._reported = time.time()
        remaining = [info for info in infos if info.is_remaining()]
        for info in running:
            if info.job_id not in self._named:
                self._named.add(info.job_id)
                _say(f"started {info.job.get_desc()} with {info.requested}")
        line = f"{ended:,} of {len(infos):,} jobs finished ({self._n_failed:,} failed), "
        line += f"{len(running):,} running, {len(remaining):,} remaining"
        began = time.thread_time()
        estimate = self._scheduler.estimate()
        self._pause_s = max(_REPORT_S, (time.thread_time() - began) / _SHARE_OF_A_CORE)
        if estimate is not None:
            line += f"; {estimate}, until {_clock(self._reported + estimate.seconds)}"
        longest = max(remaining, key=lambda info: info.required_resources.time_s, default=None)
        if longest is not None:
            line += f"; longest remaining: {longest.job.get_desc()}, {longest.required_resources.time_s:g} s expected"
        _say(line)

    def _report_running(self) -> None:
        now = time.time()
        if now >= self._reported + _RUNNING_S:
            self._report()
            running = [info for info in self._infos if info.is_running()]
            for info in running[:_MOST_LISTED]:
                _say(f"  running: {info.job.get_desc()}")
        self._scheduler.call_later(_RUNNING_S, self._report_running)

    def _report_end(self) -> None:
        now = time.time()
        _say(f"{_clock(now)}, {len(self._infos):,} jobs ended in {now - self._began:.1f} s, {self._n_failed:,} failed")
        for line in str(self._scheduler.learned()).splitlines():
            _say(f"  {line}")

    @property
    def _n_failed(self) -> int:
        return sum(info.is_failed() for info in self._infos)


def _seconds(usage: Outcome) -> float:
    return usage.ended - usage.started if usage.ended is not None and usage.started is not None else 0.0


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _say(text: str) -> None:
    print(text, flush=True)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
