"""Executors on batch systems, by dask-jobqueue: Slurm, PBS, Grid Engine, LSF, Moab, OAR, HTCondor."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from amlsched.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amlsched.batch_systems import System
    from amlsched.executors._dask.executor import DaskExecutor
    from amlsched.executors._jobqueue.executor import JobQueueExecutor
    from amlsched.resources.binding import WorkerThreads

__all__ = [
    "htcondor",
    "job_class",
    "job_script",
    "job_settings",
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
    """Runs calls on workers in jobs of a batch system, by dask-jobqueue.

    A job has `cores` and `memory`, and contains one worker, or as many as `processes=`; a worker runs one call at a
    time. The jobs are submitted with the first call and cancelled at the end of the run.

    Args:
        name: The batch system: slurm, pbs, sge, lsf, moab, oar or htcondor.
        n_workers: Number of workers.
        adaptive: `False` for a constant number of workers; `True` to scale with the queue, from 0 to this number; or
            options of dask's `Adaptive`, such as `{"minimum": 2, "interval": "5s"}`.
        submit_command: Replaces the batch system's command, with options: `"sbatch --extra"`. Only for these workers.
        cancel_command: Likewise.
        start_timeout: Seconds until the first worker must have started; `None` for no limit.
        security: `True` for TLS with keys created for these workers only; `False` for none, so that anyone who can
            reach this machine can run anything as you; or a `distributed.Security`.
        native_threads: How many threads BLAS and OpenMP start in each worker; `"auto"` for its share of `cores`, unless
            variables such as `OMP_NUM_THREADS` are set in the job; `None` for dask's configuration, which is 1 by
            default.
        **options: All other arguments of dask-jobqueue's cluster class, such as `queue`, `account`, `cores`,
            `processes`, `memory`, `walltime`, `job_extra_directives`, `job_script_prologue`, `worker_extra_args`,
            `scheduler_options`, `interface`, `local_directory`, `log_directory`.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
        BatchSystemError: A command of the batch system was not found.
        TypeError: An argument has the wrong type.
        ValueError: An option is missing, unknown or wrong.
    """
    from amlsched.executors._jobqueue.executor import (
        JobProvider,
        JobQueueExecutor,  # here and below, to keep `import amlsched` light
    )

    provider = JobProvider(
        name, n_workers, adaptive, submit_command, cancel_command, start_timeout, security, native_threads, options
    )
    provider.check_machine()
    return JobQueueExecutor(provider)


def job_script(name: str, /, **options: Any) -> str:
    """The script of a job that `jobqueue` with these arguments would submit; needs no batch system."""
    from amlsched.executors._jobqueue.executor import JobProvider

    bound = inspect.signature(jobqueue).bind(name, **options)
    bound.apply_defaults()
    given = dict(bound.arguments)
    return JobProvider(**given).job_script()


def job_settings(system: System, options: Mapping[str, Any], native_threads: WorkerThreads) -> dict[str, Any]:
    """The arguments for a job that `jobqueue` makes of a user's options; the doctor submits a job with them."""
    from amlsched.executors._jobqueue.checks import check_host
    from amlsched.executors._jobqueue.settings import of_job, settings

    found = settings(system, options, native_threads)
    check_host(found)
    return of_job(found)


def job_class(system: System, submit: str, cancel: str) -> Any:
    """The class of jobs that `jobqueue` submits with these commands; the doctor's trial job is one."""
    from amlsched.executors._jobqueue import dask_classes

    return dask_classes.job_class(system, submit, cancel)


def _named(name: str, function: Callable[Concatenate[str, P], R]) -> Callable[P, R]:
    """The function for one batch system, with the signature and docstring of the general one."""

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
    """Runs calls on workers started by srun on the nodes of the Slurm job of this program, without new jobs.

    Args:
        n_workers: Number of workers; `None` for the job's number of tasks (`--ntasks`).
        cpus: CPUs per worker; `None` for the job's `--cpus-per-task`.
        memory: Memory that each worker may use before dask restarts it, such as `"4 GB"`; `None` for no limit by dask.
        start_timeout: Seconds until the first worker must have started; `None` for no limit.
        security: `True` for TLS with keys created for these workers only; `False` for none, so that anyone who can
            reach this machine can run anything as you; or a `distributed.Security`.
        log_directory: Folder for the log of the workers; `None` for `amlsched-jobs` in the current folder.
        srun: Further options of srun, such as `["--gpus-per-task=1"]`.
        native_threads: How many threads BLAS and OpenMP start in each worker; `"auto"` for its CPUs, unless variables
            such as `OMP_NUM_THREADS` are set; `None` for dask's configuration, which is 1 by default.

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
