"""Scripts from a user's own template, with the placeholders of cw2's templates."""

from __future__ import annotations

import math
import re
import shlex
from typing import TYPE_CHECKING

from amlsched.arrays.job import clock

if TYPE_CHECKING:
    from amlsched.arrays.job import ArrayJob, System

__all__ = ["filled"]

_COMMAND = "%%python_script%%"
_TEXTS = ("partition", "account", "job-name", "experiment_execution_dir", "slurm_log")
"""Placeholders for what may have to be quoted where it stands."""
_ADDED = ("--open-mode", "--requeue", "--no-requeue", "--signal", "--dependency")
"""Options that templates of cw2 lack and elements rely on."""


def filled(template: str, system: System, job: ArrayJob) -> str:
    """The script of an array, made from a template.

    Args:
        template: The template: `%%partition%%`, `%%time%%` and so on are replaced by the values of the config, and
            the line with `%%python_script%%` by the command of an element.
        system: The batch system.
        job: The array.

    Raises:
        ValueError: There is no line for the command, or a placeholder that nobody knows; or the batch system cannot
            hold a value.
    """
    directives, body = system.parts(job)
    values: dict[str, object] = {
        "last_job_idx": job.count - 1,
        "num_parallel_jobs": job.at_once or job.count,
        "partition": job.partition or "",
        "account": job.account or "",
        "job-name": job.name,
        "experiment_execution_dir": job.folder,
        "slurm_log": job.logs,
        "ntasks": job.tasks,
        "cpus-per-task": job.cpus,
        "time": clock(job.time_s) if job.time_s and not math.isinf(job.time_s) else "UNLIMITED",
        "sbatch_args": "\n".join(line for line in directives if _option(line) in {*job.options, "mem-per-cpu"}),
        "venv": "",  # its activation is in `sh_lines`
        "pythonpath": "",
        "sh_lines": "\n".join(body[:-1]),
    }
    text = template
    for name, value in values.items():
        text, *rest = text.split(f"%%{name}%%")
        for part in rest:
            line = text.rpartition("\n")[2]
            text += (_written(line, system, name, str(value)) if name in _TEXTS and value else str(value)) + part
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if _COMMAND in line and not line.lstrip().startswith("#")]
    if not places:
        raise ValueError(f"the template has no line with {_COMMAND}")
    lines[places[-1]] = body[-1]
    if unknown := re.search(r"%%[\w-]+%%", "\n".join(line for line in lines if not line.startswith("# "))):
        raise ValueError(f"the template has an unknown placeholder: {unknown[0]}")
    added = [line for line in directives if line.startswith(tuple(f"{system.marker} {name}" for name in _ADDED))]
    return "\n".join([*lines[:1], *added, *lines[1:], ""])


def _written(line: str, system: System, name: str, text: str) -> str:
    """The value of a placeholder, quoted as the line up to it wants."""
    inside = next((quote for quote in "\"'" if line.count(quote) % 2), "")
    if line.startswith(system.marker):
        path = system.syntax.escape_path(text) if name == "slurm_log" else text
        word = system.syntax.value(name, path)  # raises for what cannot be held
        return re.sub(r"""(["'\\])""", r"\\\1", path) if inside else word
    if inside == '"':
        return re.sub(r'(["\\$`])', r"\\\1", text)
    return text.replace("'", "'\"'\"'") if inside else shlex.quote(text)


def _option(line: str) -> str:
    """The name of the option in a directive: `gres` in `#SBATCH --gres=gpu:1`."""
    found = re.search(r" --([\w-]+)", line)
    return found[1] if found else ""
