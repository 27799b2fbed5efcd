"""OAR, for workers in its jobs.

Sources:
    The manuals of oarsub, oarstat and oardel, release 2.5.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from amlsched._surroundings import user_name
from amlsched.batch_systems.system import Element, JobStates, Stage, Syntax, System

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OAR"]

_STAGES = {
    **dict.fromkeys(("Waiting", "toLaunch", "toAckReservation", "Launching"), Stage.PENDING),
    "Hold": Stage.STUCK,
    **dict.fromkeys(("Running", "Finishing", "Suspended", "Resuming"), Stage.RUNNING),
}


def _job_states(text: str) -> JobStates:
    found = re.findall(r"^(\d+)\s*:\s*(\w+)", text, re.MULTILINE)
    return {job: Element(_STAGES.get(state, Stage.ENDED), state) for job, state in found}


def _found(text: str, mark: str) -> Iterator[str]:
    """Parse `oarstat -f`."""
    named = re.findall(r"^Job_Id:\s*(\d+)\s*\n((?:[ \t]+.*\n?)*)", text, re.MULTILINE)
    for job, lines in named:
        name = re.search(r"^[ \t]+(?:job_)?name\s*[=:]\s*(.*?)\s*$", lines, re.MULTILINE)
        if name is not None and mark in name[1].rpartition(".")[2]:
            yield job


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(\d+)(?::(\d+)(?::(\d+))?)?", text)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (hours * 60.0 + minutes) * 60 + seconds or None


_SYNTAX = Syntax(title="OAR", quote=shlex.quote)  # dask-jobqueue splits directives like a shell

OAR = System(
    name="oar",
    title="OAR",
    syntax=_SYNTAX,
    submit=("oarsub",),
    submitted=re.compile(r"^OAR_JOB_ID=(\d+)$", re.MULTILINE),
    cancel_all=lambda job: ["oardel", job],
    find=lambda mark: ["oarstat", "-f", "-u", user_name()],
    found=_found,
    dask_class="OARCluster",
    seconds=_seconds,
    walltimes="hours, hours:minutes or hours:minutes:seconds: '1:00:00'",
    job_query=lambda jobs: ["oarstat", "-s", *(word for job in jobs for word in ("-j", job))],
    job_states=_job_states,
    starts_at_home=True,
    marking=lambda name, mark: ("-n", _SYNTAX.marked_name("job_name", name, mark)),
    needed=("oarstat",),
    version=("oarstat", "--version"),
    quiet=(),
)
"""OAR."""
