"""PBS in its two dialects: PBS Professional and OpenPBS, and Torque.

Sources:
    PBS Professional, reference guide, release 2022; the manuals of Torque's qsub, qstat and qdel, release 6.1.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from amlsched.batch_systems.commands import first_column
from amlsched.batch_systems.system import (
    ArrayJob,
    Element,
    JobEnd,
    JobStates,
    Kind,
    Places,
    Stage,
    Syntax,
    System,
    ranges,
)
from amlsched.errors import (
    JobCancelledError,
    JobLostError,
    JobWalltimeError,
    NodeLostError,
    PreemptedError,
    WorkerOutOfMemoryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["MOAB", "PBS", "TORQUE"]

_ID = re.compile(r"(\d+)\[(\d+)\]")
_STAGES = {**dict.fromkeys("QWTM", Stage.PENDING), "H": Stage.STUCK, **dict.fromkeys("RESUB", Stage.RUNNING)}


def _quote(text: str) -> str:
    """Quote text, with backslashes outside of quotes: Slurm, which reads these directives too, would unescape them."""
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
    yield f"-N {syntax.value('job-name', syntax.marked_name('job-name', job.name, job.mark))}"
    yield "-V"
    yield "-j oe"
    yield f"-o {syntax.log('slurm_log', job.logs, '')}"  # the script itself writes one file for each element
    yield f"-r {'y' if job.requeue else 'n'}"
    if job.partition is not None:
        yield f"-q {syntax.value('partition', job.partition)}"
    if job.account is not None:
        yield f"-A {syntax.value('account', job.account)}"
    if job.clock:
        yield f"-l walltime={job.clock}"


def _range(job: ArrayJob, least: int) -> str:
    """The indices of an array. PBS rejects an array of one element, so that gets another, which exits immediately."""
    return f"0-{max(job.count, least) - 1}" + (f"%{job.at_once}" if job.at_once else "")


def _directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job, _SYNTAX)
    yield f"-J {_range(job, 2)}"
    memory = job.mebibytes(job.slots)
    yield f"-l select=1:ncpus={job.slots}" + (f":mem={memory}mb" if memory else "")
    if job.after:
        yield f"-W depend={':'.join(('afterany', *(f'{one}[]' for one in job.after)))}"


def _torque_directives(job: ArrayJob) -> Iterator[str]:
    yield from _common(job, _TORQUE_SYNTAX)
    yield f"-t {_range(job, 1)}"
    memory = job.mebibytes(job.slots)
    yield f"-l nodes=1:ppn={job.slots}"
    if memory:
        yield f"-l mem={memory}mb"
    if job.after:
        yield f"-W depend={':'.join(('afteranyarray', *(f'{one}[]' for one in job.after)))}"


def _jobs(text: str) -> dict[str, dict[str, Any]]:
    return json.loads(text).get("Jobs", {}) if text.strip() else {}


def _torque_jobs(text: str) -> dict[str, dict[str, Any]]:
    if not text.strip():
        return {}
    jobs = ({field.tag: field.text or "" for field in job} for job in ElementTree.fromstring(text).iter("Job"))
    return {job.get("Job_Id", ""): job for job in jobs}


def _states(text: str) -> Places:
    return _places(_jobs(text).items())


def _torque_states(text: str) -> Places:
    return _places(_torque_jobs(text).items())


def _found(text: str, mark: str) -> Iterator[str]:
    """Parse `qstat -f`, in which all dialects show names alike, and which lists jobs of all users."""
    named = re.findall(r"^Job Id:\s*(\d+).*\n\s+Job_Name = (.*)$", text, re.MULTILINE)
    return (job for job, name in named if mark in name.rpartition(".")[2])


def _own_array(variables: Mapping[str, str]) -> str:
    found = re.match(r"\d+", variables.get("PBS_JOBID", ""))
    return found[0] if found else variables.get("SLURM_ARRAY_JOB_ID", "")  # Slurm has commands that look like Torque's


def _places(jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> Places:
    named = ((_ID.match(name), job) for name, job in jobs)
    return {(name[1], int(name[2])): _element(job) for name, job in named if name}


def _element(job: Mapping[str, Any]) -> Element:
    state, reason = job.get("job_state", ""), job.get("comment", "")
    host = re.split(r"[/+]", job.get("exec_host", ""))[0]
    stage = _STAGES.get(state, Stage.ENDED)
    if stage is Stage.PENDING:
        return Element(stage, reason)
    if stage is Stage.STUCK:
        return _held(job.get("Hold_Types", ""), job.get("depend", ""), reason)
    if stage is Stage.RUNNING:
        return Element(stage, "" if state in "RB" else state, host)
    code = job.get("Exit_status", job.get("exit_status"))
    return Element(stage, "" if code in (None, "0", 0) else f"exit code {code}", host)


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


def _job_states(text: str) -> JobStates:
    found: JobStates = {}
    for part in re.split(r"^Job Id:", text, flags=re.MULTILINE)[1:]:
        job = re.match(r"\s*(\d+)", part)
        values = {key: value.strip() for key, value in re.findall(r"^\s+(\w+) = (.*)$", part, re.MULTILINE)}
        if job:
            state = values.get("job_state", "")
            host = values.get("exec_host", "").partition("/")[0]
            comment = values.get("comment", "")
            words = f"{state} ({comment})" if comment else state
            found[job[1]] = Element(_STAGES.get(state, Stage.ENDED), words, host)
    return found


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(?:(?:(?:(\d+):)?(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", text)
    if found is None:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(found[4]) or None


_END_KINDS: Mapping[int, Kind] = {
    -26: WorkerOutOfMemoryError,
    -27: WorkerOutOfMemoryError,
    -29: JobWalltimeError,
    265: JobCancelledError,  # by SIGKILL
    271: JobCancelledError,  # by SIGTERM: `qdel` sends both
}
_TORQUE_KINDS: Mapping[int, Kind] = {
    -10: WorkerOutOfMemoryError,
    -11: JobWalltimeError,
    265: JobCancelledError,
    271: JobCancelledError,
}
_END_COMMENTS: Sequence[tuple[str, Kind]] = (
    (r"preempt", PreemptedError),
    (r"walltime .*exceed", JobWalltimeError),
    (r"\bmem(?:ory)?\b.*exceed", WorkerOutOfMemoryError),
    (r"node (?:fail|down)", NodeLostError),
)


def _end_recorded(text: str) -> JobEnd | None:
    """Parse `qstat -x -f`: text in PBS Professional, XML in Torque, with different names of the exit status."""
    found = re.search(r"\b([Ee])xit_status\s*(?:=\s*|>)(-?\d+)", text)
    if found is None:
        return None
    comment = re.search(r"^\s*comment = (.*(?:\n\t.*)*)$", text, re.MULTILINE)
    words = re.sub(r"\n\t", "", comment[1]) if comment else ""
    code = int(found[2])
    kind = next((kind for pattern, kind in _END_COMMENTS if re.search(pattern, words, re.IGNORECASE)), None)
    kinds = _END_KINDS if found[1] == "E" else _TORQUE_KINDS
    return JobEnd(kind or kinds.get(code, JobLostError), f"exit status {code}", words)


PBS = System(
    name="pbs",
    title="PBS",
    index="$PBS_ARRAY_INDEX",
    directives=_directives,
    marker="#PBS",
    syntax=_SYNTAX,
    submit=("qsub",),
    submitted=re.compile(r"^(?:Moab\.)?(\d+)(?:\[\])?(?:\.\S*)?$", re.MULTILINE),
    find=lambda mark: ["qstat", "-f"],  # with -u it would show names of 16 characters
    found=_found,
    own_array=_own_array,
    query=lambda jobs: ["qstat", "-x", "-t", "-f", "-F", "json", *(f"{job}[]" for job in jobs)],
    states=_states,
    cancel=_cancel,
    cancel_all=lambda job: ["qdel", f"{job}[]"],
    too_many=re.compile(r"max_array_size|array size|exceeds? .*limit|max_queued|maximum number of jobs", re.IGNORECASE),
    forgotten=re.compile(r"unknown job|has finished|job id has finished", re.IGNORECASE),
    requeue_command=("qrerun", "$PBS_JOBID"),
    inside="PBS_JOBID",
    inherited=("PBS_", "NCPUS"),
    kept=("PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT"),
    own_logs="${PBS_JOBID%%[*}",
    dask_class="PBSCluster",
    marking=lambda name, mark: ("-N", _SYNTAX.marked_name("job_name", name, mark)),
    seconds=_seconds,
    walltimes="seconds, minutes:seconds, hours:minutes:seconds or (Torque, Moab) days before them: '1:00:00'",
    job_query=lambda jobs: ["qstat", "-f", *jobs],
    job_states=_job_states,
    job_directives=("-V",),
    starts_at_home=True,
    end_query=lambda job: ["qstat", "-x", "-f", job],
    end_recorded=_end_recorded,
    needed=("qstat",),
    version=("qstat", "--version"),
    queues=lambda: first_column("qstat", "-Q", header=1),
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


def _marking_of_moab(name: str, mark: str) -> Sequence[str]:
    return ("-N", _TORQUE_SYNTAX.marked_name("job_name", name, mark))


def _cancel_by_moab(job: str) -> list[str]:
    return ["canceljob", job]


MOAB = replace(
    PBS,
    name="moab",
    title="Moab",
    syntax=replace(_TORQUE_SYNTAX, title="Moab"),
    submit=("msub",),
    cancel_all=_cancel_by_moab,
    dask_class="MoabCluster",
    marking=_marking_of_moab,
    needed=("checkjob",),
    version=("msub", "--version"),
    queues=None,
)
"""Moab, for workers in its jobs."""
