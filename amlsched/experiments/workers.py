"""The options of an executor whose workers are batch jobs, from the SLURM section of a config."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from amlsched.arrays.job import clock
from amlsched.arrays.slurm import options_of_sbatch
from amlsched.errors import ExperimentError
from amlsched.executors._queues import QUEUES
from amlsched.experiments.names import WORKERS_FOLDER
from amlsched.experiments.submit import asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.experiments.plan import Plan

__all__ = ["BATCH_SYSTEMS", "worker_options"]

BATCH_SYSTEMS = ("htcondor", "lsf", "moab", "oar", "pbs", "sge", "slurm")
"""Executors whose workers are batch jobs."""
_MEMORY_BYTES = 2 * 2**30
"""Memory for each CPU if the section does not set it: dask needs a value."""
_ACCOUNT = {"lsf": "project", "oar": "project", "sge": "project"}


def worker_options(plan: Plan, executor: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the executor: the given ones, and those of the config's section.

    Args:
        plan: The plan, with the section for this host.
        executor: Name of the batch system.
        given: Options from the command line.

    Raises:
        ConfigError: A key of the section does not apply to the batch system.
        ExperimentError: The number of workers is not given.
    """
    section = plan.resolved.checked_cluster() or {}
    found = asked(section, QUEUES[executor], plan.resolved)
    tasks, cpus = found["tasks"], found["cpus"]
    memory_bytes = (found["memory_bytes"] or _MEMORY_BYTES) * tasks * cpus
    options: dict[str, Any] = {
        "job_name": found["name"],
        "cores": tasks * cpus,
        "processes": tasks,
        "memory": f"{memory_bytes}B",
        "queue": found["partition"],
        _ACCOUNT.get(executor, "account"): found["account"],
        "walltime": _walltime(found["time_s"], executor),
        "job_extra_directives": [*options_of_sbatch(found["options"]), *found["directives"]] or None,
        "job_script_prologue": found["lines"] or None,
        "python": "python" if section.get("venv") else None,
        "log_directory": str(section.get("slurm_log") or plan.paths[0].resolve() / WORKERS_FOLDER),
        "n_workers": section["num_parallel_jobs"] * tasks if "num_parallel_jobs" in section else None,
    }
    if executor == "htcondor":
        for name in ("queue", "account", "walltime"):  # HTCondor has none of them
            options.pop(name)
        options["job_extra_directives"] = None
        options["disk"] = "1 GB"
    options = {**{name: value for name, value in options.items() if value is not None}, **given}
    if "n_workers" not in options:
        remedy = "--max-workers N, or num_parallel_jobs in the SLURM section"
        raise ExperimentError(f"--executor {executor}", "the number of workers is missing", remedy)
    return options


def _walltime(seconds: float | None, executor: str) -> str | None:
    if seconds is None or math.isinf(seconds):
        return None
    hours_and_minutes = f"{math.ceil(seconds / 60) // 60}:{math.ceil(seconds / 60) % 60:02d}"
    return hours_and_minutes if executor == "lsf" else clock(seconds)
