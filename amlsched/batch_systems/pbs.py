"""PBS in its two dialects: PBS Professional and OpenPBS, and Torque.

Sources:
    PBS Professional, reference guide, release 2022; the manuals of Torque's qsub, qstat and qdel, release 6.1.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from amlsched.batch_systems.system import ArrayJob, Element, Places, Stage, Syntax, System, clock, ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["PBS", "TORQUE"]

_ID = re.compile(r"(\d+)\[(\d+)\]")


def _quote(text: str) -> str:
    """Slurm reads these directives as well, and to it a backslash escapes in quotes, too: so it stands outside."""
    return shlex.quote(text).replace("\\", "'\\\\'")


_SYNTAX = Syntax(
    title="PBS",
    quote=_quote,
    rejected_in_paths=":",  # host:path
    names=re.compile(r"[A-Za-z0-9_+-](?:(?!/)[!-~]){0,229}"),
    names_rule="up to 230 ASCII characters other than blanks and /, the first a letter or a digit,",
)
_TORQUE_SYNTAX = replace(
    _SYNTAX,
    title="Torque",
    names=re.compile(r"[A-Za-z](?:(?!/)[!-~]){0,14}"),
    names_rule="up to 15 ASCII characters other than blanks and /, the first a letter,",
)


def _common(job: ArrayJob, syntax: Syntax) -> Iterator[str]:
    yield f"-N {syntax.value('job-name', syntax.name('job-name', job.name))}"
    yield "-V"
    yield "-j oe"
    yield f"-o {syntax.log('slurm_log', job.logs, '')}"  # the script itself writes one file for each element
    yield f"-r {'y' if job.requeue else 'n'}"
    if job.partition is not None:
        yield f"-q {syntax.value('partition', job.partition)}"
    if job.account is not None:
        yield f"-A {syntax.value('account', job.account)}"
    if job.time_s is not None and not math.isinf(job.time_s):
        yield f"-l walltime={clock(job.time_s)}"


def _range(job: ArrayJob, least: int) -> str:
    """The indices of an array. PBS rejects an array of one element, so that gets another, which exits immediately."""
    return f"0-{max(job.count, least) - 1}" + (f"%{job.at_once}" if job.at_once else "")


def _megabytes(job: ArrayJob) -> int | None:
    """The total memory of an element."""
    if job.memory_bytes is None:
        return None
    return max(1, -(-job.memory_bytes * job.tasks * job.cpus // 2**20))


def _directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job, _SYNTAX)
    yield f"-J {_range(job, 2)}"
    memory = _megabytes(job)
    yield f"-l select=1:ncpus={job.tasks * job.cpus}" + (f":mem={memory}mb" if memory else "")
    if job.after:
        yield f"-W depend={':'.join(('afterany', *(f'{one}[]' for one in job.after)))}"


def _torque_directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job, _TORQUE_SYNTAX)
    yield f"-t {_range(job, 1)}"
    memory = _megabytes(job)
    yield f"-l nodes=1:ppn={job.tasks * job.cpus}"
    if memory:
        yield f"-l mem={memory}mb"
    if job.after:
        yield f"-W depend={':'.join(('afteranyarray', *(f'{one}[]' for one in job.after)))}"


def _states(text: str) -> Places:
    jobs: dict[str, dict[str, Any]] = json.loads(text).get("Jobs", {}) if text.strip() else {}
    return _places(jobs.items())


def _torque_states(text: str) -> Places:
    if not text.strip():
        return {}
    jobs = ({field.tag: field.text or "" for field in job} for job in ElementTree.fromstring(text).iter("Job"))
    return _places((job.get("Job_Id", ""), job) for job in jobs)


def _places(jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> Places:
    named = ((_ID.match(name), job) for name, job in jobs)
    return {(name[1], int(name[2])): _element(job) for name, job in named if name}


def _element(job: Mapping[str, Any]) -> Element:
    state, reason = job.get("job_state", ""), job.get("comment", "")
    host = re.split(r"[/+]", job.get("exec_host", ""))[0]
    if state in ("Q", "W", "T", "M"):
        return Element(Stage.PENDING, reason)
    if state == "H":
        return _held(job.get("Hold_Types", ""), job.get("depend", ""), reason)
    if state in ("R", "E", "S", "U", "B"):
        return Element(Stage.RUNNING, "" if state in "RB" else state, host)
    code = job.get("Exit_status", job.get("exit_status"))
    return Element(Stage.ENDED, "" if code in (None, "0", 0) else f"exit code {code}", host)


def _held(by: str, depend: str, reason: str) -> Element:
    """The system itself holds elements that wait for other arrays (`s`) or, in Torque, for a slot of `%N` (`l`)."""
    lets_go = not set(by) & set("uo") and (bool(depend) or by == "l")
    return Element(Stage.PENDING if lets_go else Stage.STUCK, reason or depend or ("slot limit" if lets_go else "held"))


def _cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["qdel", *(f"{job}[{part}]" for part in ranges(indices))]


def _torque_query(jobs: Sequence[str]) -> list[str]:
    return ["qstat", "-x", "-t", *(f"{job}[]" for job in jobs)]


def _torque_cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["qdel", "-t", ",".join(ranges(indices)), f"{job}[]"]


PBS = System(
    name="pbs",
    title="PBS",
    index="$PBS_ARRAY_INDEX",
    directives=_directives,
    marker="#PBS",
    syntax=_SYNTAX,
    submit=("qsub",),
    submitted=re.compile(r"^(\d+)(?:\[\])?(?:\.\S*)?$", re.MULTILINE),
    query=lambda jobs: ["qstat", "-x", "-t", "-f", "-F", "json", *(f"{job}[]" for job in jobs)],
    states=_states,
    cancel=_cancel,
    cancel_all=lambda job: ["qdel", f"{job}[]"],
    too_many=re.compile(r"max_array_size|array size|exceeds? .*limit|max_queued|maximum number of jobs", re.IGNORECASE),
    forgotten=re.compile(r"unknown job|has finished|job id has finished", re.IGNORECASE),
    again=("qrerun", "$PBS_JOBID"),
    inside="PBS_JOBID",
    inherited=("PBS_", "NCPUS"),
    kept=("PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT"),
    own_logs="${PBS_JOBID%%[*}",
)
"""PBS Professional and OpenPBS."""

TORQUE = replace(
    PBS,
    name="torque",
    title="Torque",
    index="${PBS_ARRAYID:-$SLURM_ARRAY_TASK_ID}",  # Slurm has commands that look like Torque's
    directives=_torque_directives,
    syntax=_TORQUE_SYNTAX,
    query=_torque_query,
    states=_torque_states,
    cancel=_torque_cancel,
)
"""Torque."""
