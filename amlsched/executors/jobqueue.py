"""Workers in the jobs of a batch system, by dask-jobqueue: Slurm, PBS, Grid Engine, LSF, Moab, OAR, HTCondor."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from amlsched.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amlsched.executors._dask.executor import DaskExecutor
    from amlsched.executors._jobqueue.executor import JobQueueExecutor
    from amlsched.resources.binding import WorkerThreads

__all__ = [
    "htcondor",
    "job_script",
    "jobqueue",
    "lsf",
    "moab",
    "oar",
    "pbs",
    "sge",
    "slurm",
    "slurm_allocation",
]

P = ParamSpec("P")
R = TypeVar("R")

START_TIMEOUT_S = 600.0


def jobqueue(
    name: str,
    /,
    *,
    n_workers: int,
    adaptive: bool | Mapping[str, Any] = False,
    submit_command: str | None = None,
    cancel_command: str | None = None,
    start_timeout: float | None = START_TIMEOUT_S,
    security: Any = True,
    native_threads: WorkerThreads = "auto",
    **options: Any,
) -> JobQueueExecutor:
    """Calls run on workers in jobs of a batch system, by dask-jobqueue.

    A job has `cores` and `memory`, and holds one worker, or as many as `processes=` says; a worker runs one call at a
    time. The jobs are submitted with the first call and end with the run.

    Args:
        name: The batch system: slurm, pbs, sge, lsf, moab, oar or htcondor.
        n_workers: Number of workers.
        adaptive: `False` for this number all the time; `True` for as many as there is work for, from none to this
            number; or options of dask's `Adaptive`, such as `{"minimum": 2, "interval": "5s"}`.
        submit_command: Instead of the system's own, with options: `"sbatch --extra"`. For these workers alone.
        cancel_command: Likewise.
        start_timeout: Seconds until the first worker must be there; `None` for any time.
        security: `True` for TLS with keys made for these workers alone; `False` for none: then everybody who reaches
            this machine can run anything as you; or a `distributed.Security`.
        native_threads: How many threads BLAS and OpenMP start in each worker; `"auto"` for its share of `cores`, unless
            variables such as `OMP_NUM_THREADS` are set in the job; `None` for what dask's configuration says, which is
            1.
        **options: All other arguments of dask-jobqueue's cluster class, such as `queue`, `account`, `cores`,
            `processes`, `memory`, `walltime`, `job_extra_directives`, `job_script_prologue`, `worker_extra_args`,
            `scheduler_options`, `interface`, `local_directory`, `log_directory`.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
        BatchSystemError: There is no such command here.
        TypeError: An argument has a type that it cannot have.
        ValueError: An option is missing, unknown or wrong.
    """
    from amlsched.executors._jobqueue.executor import (
        JobQueueExecutor,  # here and below: not for `import amlsched`
        Jobs,
    )

    site = Jobs(
        name, n_workers, adaptive, submit_command, cancel_command, start_timeout, security, native_threads, options
    )
    site.check_commands()
    return JobQueueExecutor(site)


def job_script(name: str, /, **options: Any) -> str:
    """The script of a job, as `jobqueue` with these arguments would submit it; it needs no batch system here."""
    from amlsched.executors._jobqueue.executor import Jobs

    bound = inspect.signature(jobqueue).bind(name, **options)
    bound.apply_defaults()
    given = dict(bound.arguments)
    return Jobs(**given).job_script()


def _named(name: str, function: Callable[Concatenate[str, P], R]) -> Callable[P, R]:
    """The function for this batch system, with the signature and the text of the one for all."""

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(name, *args, **kwargs)

    signature = inspect.signature(function)
    made: Any = make
    made.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    made.__name__ = made.__qualname__ = name
    made.__doc__ = "\n".join(
        line for line in (function.__doc__ or "").splitlines() if not line.strip().startswith("name:")
    )
    return make


slurm = _named("slurm", jobqueue)
pbs = _named("pbs", jobqueue)
sge = _named("sge", jobqueue)
lsf = _named("lsf", jobqueue)
moab = _named("moab", jobqueue)
oar = _named("oar", jobqueue)
htcondor = _named("htcondor", jobqueue)


def slurm_allocation(
    *,
    n_workers: int | None = None,
    cpus: int | None = None,
    memory: str | None = None,
    start_timeout: float | None = START_TIMEOUT_S,
    security: Any = True,
    log_directory: str | None = None,
    srun: Sequence[str] = (),
    native_threads: WorkerThreads = "auto",
) -> DaskExecutor:
    """Calls run on workers on the nodes of the Slurm job in which this program runs, started by srun: no new jobs.

    Args:
        n_workers: Number of workers; `None` for the job's number of tasks (`--ntasks`).
        cpus: CPUs of each; `None` for the job's `--cpus-per-task`.
        memory: What each may use before dask restarts it, such as `"4 GB"`; `None` for no limit of dask's.
        start_timeout: Seconds until the first worker must be there; `None` for any time.
        security: `True` for TLS with keys made for these workers alone; `False` for none: then everybody who reaches
            this machine can run anything as you; or a `distributed.Security`.
        log_directory: For the log of the workers; `None` for `amlsched-jobs` below the current folder.
        srun: More words for srun, such as `["--gpus-per-task=1"]`.
        native_threads: How many threads BLAS and OpenMP start in each worker; `"auto"` for its CPUs, unless variables
            such as `OMP_NUM_THREADS` are set; `None` for what dask's configuration says, which is 1.

    Raises:
        MissingExtraError: dask is not installed.
        BatchSystemError: This program does not run in a Slurm job.
        ValueError: `n_workers` is less than 1.
    """
    import importlib.util

    if importlib.util.find_spec("distributed") is None:
        raise MissingExtraError("with_slurm_allocation", "distributed", "dask")
    from amlsched.executors._dask.executor import DaskExecutor
    from amlsched.executors._jobqueue.slurm_allocation import Allocation

    return DaskExecutor(
        Allocation(n_workers, cpus, memory, start_timeout, security, log_directory, srun, native_threads)
    )
