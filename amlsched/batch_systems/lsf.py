"""LSF, for workers in its jobs.

Sources:
    The manuals of bsub, bjobs, bkill and bqueues, release 10.1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from amlsched.batch_systems.commands import first_column
from amlsched.batch_systems.system import Element, JobStates, Stage, Syntax, System

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["LSF"]

_STAGES = {"PEND": Stage.PENDING, "PSUSP": Stage.STUCK, "RUN": Stage.RUNNING, "USUSP": Stage.RUNNING}


def _job_states(text: str) -> JobStates:
    found: JobStates = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 3)
        if len(parts) == 4:
            job, state, host, reason = parts
            words = f"{state} ({reason.strip()})" if reason.strip(" -") else state
            first = host.strip("-").partition(":")[0].rpartition("*")[2]  # of 4*n1:2*n2
            found[job] = Element(_STAGES.get(state, Stage.ENDED), words, first)
    return found


def _found(text: str, mark: str) -> Iterator[str]:
    """Parse `bjobs -o "jobid job_name"`."""
    for line in text.splitlines():
        job, _, name = line.strip().partition("|")
        if job.isdecimal() and mark in name.rpartition(".")[2]:
            yield job


def _leave_out(hosts: Sequence[str], directives: Sequence[str]) -> list[str]:
    """A resource requirement; LSF joins it with those of the user by `&&`."""
    return ["-R", "select[" + " && ".join(f"hname!='{host}'" for host in hosts) + "]"]


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/.+)?", text)  # of a host, or of a kind of hosts, with this speed
    return (int(found[1] or 0) * 60 + int(found[2])) * 60.0 or None if found else None


def _quote(text: str) -> str:
    """Quote with the kind of quotes that the text does not contain; LSF has no escapes."""
    if re.fullmatch(r"[\w@%+=:,./~-]+", text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


_SYNTAX = Syntax(
    title="LSF",
    quote=_quote,
    rejected='"',  # dask-jobqueue puts the project in double quotes
    names=re.compile(r'[^\[\]"]{1,4094}'),
    names_rule="a text without double quotes, and without [ and ], which would create an array,",
)

LSF = System(
    name="lsf",
    title="LSF",
    syntax=_SYNTAX,
    submit=("bsub",),
    submitted=re.compile(r"^Job <(\d+)> is submitted", re.MULTILINE),
    cancel_all=lambda job: ["bkill", job],
    forgotten=re.compile(r"no unfinished job found|is not found|already finished", re.IGNORECASE),
    find=lambda mark: ["bjobs", "-noheader", "-o", "jobid job_name delimiter='|'"],
    found=_found,
    dask_class="LSFCluster",
    seconds=_seconds,
    walltimes="minutes or hours:minutes, and no seconds: '1:00'",
    job_query=lambda jobs: ["bjobs", "-noheader", "-o", "jobid stat exec_host pend_reason delimiter='|'", *jobs],
    job_states=_job_states,
    marking=lambda name, mark: ("-J", _SYNTAX.marked_name("job_name", name, mark)),
    leave_out=_leave_out,
    needed=("bjobs", "bqueues"),
    version=("bsub", "-V"),
    queues=lambda: first_column("bqueues", "-w", header=1),
)
"""LSF."""
