"""What the SLURM section of a config requests: for an array, and of an executor whose workers are batch jobs."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._files import file_bytes
from amlsched._surroundings import expanded
from amlsched.batch_systems import WORKER_SYSTEMS, System
from amlsched.batch_systems.slurm import options_of_sbatch
from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments._config.axes import WORKERS_FOLDER
from amlsched.units import clock, slurm_bytes, slurm_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.experiments._config.resolve import Resolved
    from amlsched.experiments.plan import Plan

__all__ = ["array_options", "worker_options"]

_MEMORY_BYTES = 2 * 2**30
"""Memory for each CPU if the section does not set it: dask needs a value."""
_ACCOUNT = {"lsf": "project", "oar": "project", "sge": "project"}


def array_options(section: Mapping[str, Any], batch: System, resolved: Resolved) -> dict[str, Any]:
    """What the config's section requests, as attributes of `ArrayJob`.

    Raises:
        ConfigError: A key does not apply to the batch system, a value is invalid, or it accepts no such name of a job.
    """
    where = str(resolved.file)
    if section.get("sbatch_args") and batch.name != "slurm":
        remedy = f"write options of {batch} as in a script, below directives"
        raise ConfigError(where, f"sbatch_args are options of Slurm, but this is for {batch}", remedy)
    time = section.get("time")
    if time is not None:
        time = slurm_seconds(time) or math.inf
    options = dict(section.get("sbatch_args") or {})
    memory = section.get("mem-per-cpu")
    memory_bytes = None if memory is None else slurm_bytes(memory)
    if memory is not None and memory_bytes is None:
        raise ConfigError(where, f"mem-per-cpu is {memory!r}, which is not an amount of memory", "such as 2G")
    document = resolved.section
    activation = _activation(section.get("venv"), document.place("venv") if document is not None else where)
    lines: list[str] = list(section.get("sh_lines") or [])
    return {
        "name": _job_name(section.get("job-name"), batch, resolved),
        "folder": str(Path.cwd()),
        "partition": _text(section.get("partition")),
        "account": _text(section.get("account")),
        "time_s": time,
        "memory_bytes": memory_bytes,
        "tasks": section.get("ntasks", 1),
        "cpus": section.get("cpus-per-task", 1),
        "requeue": section.get("requeue", True),
        "warn_s": section.get("warn_s", 60),
        "options": options,
        "directives": section.get("directives") or [],
        "lines": [activation] * (activation not in ("", *lines)) + lines,
        "template": _template(section.get("path_to_template"), batch, where),
        "command": ["python" if section.get("venv") else sys.executable, "-m", "amlsched"],
    }


def _job_name(given: object, batch: System, resolved: Resolved) -> str:
    if not given:
        return batch.syntax.fitting_name(resolved.file.stem.strip("<>"))
    try:
        return batch.syntax.name("job-name", given)
    except ValueError as error:
        where = resolved.section.place("job-name") if resolved.section is not None else str(resolved.file)
        raise ConfigError(where, str(error)) from error


def _template(place: str | None, batch: System, where: str) -> str:
    if place is None:
        return ""
    if batch.name != "slurm":
        raise ConfigError(where, f"path_to_template is for Slurm, but this is for {batch}", "leave it out")
    try:
        return file_bytes(expanded(place, "path_to_template")).decode()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(where, f"path_to_template {place} cannot be read: {problem}") from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _activation(venv: str | None, where: str) -> str:
    """The line that activates an environment, given by its folder, its `bin/activate`, or its name in conda."""
    if venv is None:
        return ""
    folder = expanded(venv.removesuffix("/bin/activate"), "venv").resolve()
    script = folder / "bin" / "activate"
    if script.is_file():
        return f"source {shlex.quote(str(script))}"
    if (folder / "conda-meta").is_dir():
        return f"source activate {shlex.quote(str(folder))}"
    if "/" in venv or venv.startswith("~"):
        remedy = "create the environment first, or give its folder (with ${env:HOME}, not $HOME)"
        raise ConfigError(where, f"venv is {venv!r}, but there is no file {script}", remedy)
    return f"source activate {shlex.quote(venv)}"


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
    found = array_options(section, WORKER_SYSTEMS[executor], plan.resolved)
    tasks, cpus = found["tasks"], found["cpus"]
    memory_bytes = (found["memory_bytes"] or _MEMORY_BYTES) * tasks * cpus
    default_logs = plan.paths[0].resolve() / WORKERS_FOLDER
    options: dict[str, Any] = {
        "job_name": found["name"],
        "cores": tasks * cpus,
        "processes": tasks,
        "memory": f"{memory_bytes}B",
        "queue": found["partition"] or None,  # in cw2, an empty text is none
        _ACCOUNT.get(executor, "account"): found["account"] or None,
        "walltime": _walltime(found["time_s"], executor),
        "job_extra_directives": [*options_of_sbatch(found["options"]), *found["directives"]] or None,
        "job_script_prologue": found["lines"] or None,
        "python": "python" if section.get("venv") else None,
        "log_directory": str(expanded(section.get("slurm_log") or default_logs, "slurm_log")),
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
    if executor != "lsf":
        return clock(seconds)
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours}:{minutes:02d}"
