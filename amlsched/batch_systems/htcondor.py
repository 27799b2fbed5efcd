"""HTCondor.

Sources:
    HTCondor's manual, release 23: condor_submit, condor_q, condor_history, condor_rm, and the attributes of a job.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.commands import columns, output
from amlsched.batch_systems.system import ArrayJob, Element, JobEnd, JobStates, Kind, Places, Stage, Syntax, System
from amlsched.errors import JobCancelledError, JobLostError, JobWalltimeError, WorkerOutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["HTCONDOR"]

_ATTRIBUTES = "ClusterId,ProcId,JobStatus,HoldReason,RemoveReason,RemoteHost,ExitCode,ExitBySignal,ExitSignal"
_MARK = "AmlschedMark"  # an attribute of the jobs of workers
_AGAIN = 85
_LATER = "JobMaterializeNextProcId,TotalSubmitProcs"
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD = 1, 2, 3, 4, 5


def _directives(job: ArrayJob) -> Iterator[str]:
    yield "universe = vanilla"
    yield "arguments = $(Process)"
    yield f"batch_name = {_SYNTAX.value('job-name', _SYNTAX.name('job-name', job.name))}"
    yield f"initialdir = {_SYNTAX.value('folder', job.folder)}"
    yield f"output = {_SYNTAX.log('slurm_log', job.logs, 'out_$(Cluster)_$(Process).log')}"
    yield f"error = {_SYNTAX.log('slurm_log', job.logs, 'err_$(Cluster)_$(Process).log')}"
    yield "stream_output = True"
    yield "stream_error = True"
    yield "getenv = True"  # otherwise there is not even a PATH
    yield "should_transfer_files = NO"  # the folder for the results is shared
    yield f"request_cpus = {job.slots}"
    if job.memory_bytes is not None:
        yield f"request_memory = {job.mebibytes(job.slots)}M"
    if job.warn_s:
        yield f"job_max_vacate_time = {job.warn_s}"  # between SIGTERM and SIGKILL
    if job.account is not None:
        yield f"accounting_group = {_SYNTAX.value('account', job.account)}"
    if job.partition is not None:
        raise ValueError("HTCondor has no partitions: write directives: [requirements = …]")
    if job.time_s is not None and job.clock:
        over = f"(JobStatus == 2) && (time() - EnteredCurrentStatus > {math.ceil(job.time_s)})"
        yield f"periodic_remove = {over}"
        yield 'periodic_remove_reason = "the time limit was reached"'
    if job.requeue:
        yield f"on_exit_remove = ExitBySignal || ExitCode != {_AGAIN}"
    else:
        yield "requirements = NumJobStarts == 0"
    if job.at_once:
        yield f"max_materialize = {job.at_once}"


def _find(mark: str) -> list[str]:
    own = f'regexp("{mark}", Cmd) || regexp("{mark}", {_MARK})'
    return ["condor_q", "-constraint", own, "-json", "-attributes", f"ClusterId,Cmd,{_MARK}"]


def _found(text: str, mark: str) -> Iterator[str]:
    jobs: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return (
        str(job["ClusterId"]) for job in jobs if mark in job["Cmd"].rpartition("/")[2] or mark in job.get(_MARK, "")
    )


def _own_array(variables: Mapping[str, str]) -> str:
    """The id in the description of its job that HTCondor writes for each job."""
    try:
        found = re.search(r"^ClusterId = (\d+)$", Path(variables["_CONDOR_JOB_AD"]).read_text("utf-8"), re.MULTILINE)
    except (KeyError, OSError, ValueError):
        return ""
    return found[1] if found else ""


def _query(jobs: Sequence[str]) -> list[str]:
    return ["condor_q", *jobs, "-json", "-attributes", f"{_ATTRIBUTES},{_LATER}"]


def _past(jobs: Sequence[str]) -> list[str]:
    return ["condor_history", *jobs, "-json", "-attributes", _ATTRIBUTES]


def _states(text: str) -> Places:
    found: Places = {}
    jobs: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    for job in jobs:
        if "ProcId" in job:
            found[str(job["ClusterId"]), int(job["ProcId"])] = _element(job)
    for job in jobs:  # with max_materialize, the other elements are created as these finish
        total = job.get("TotalSubmitProcs", 0)
        for index in range(job.get("JobMaterializeNextProcId", total), total):
            found.setdefault((str(job["ClusterId"]), index), Element(Stage.PENDING, "max_materialize"))
    return found


def _element(job: dict[str, Any]) -> Element:
    status, host = job.get("JobStatus"), str(job.get("RemoteHost", "")).rpartition("@")[2]
    if status == _IDLE:
        return Element(Stage.PENDING, "idle")
    if status == _HELD:
        return Element(Stage.STUCK, str(job.get("HoldReason", "held")))
    if status == _REMOVED:
        return Element(Stage.ENDED, str(job.get("RemoveReason", "removed")), host)
    if status == _COMPLETED:
        if job.get("ExitBySignal"):
            return Element(Stage.ENDED, f"killed by signal {job.get('ExitSignal')}", host)
        code = job.get("ExitCode", 0)
        return Element(Stage.ENDED, f"exit code {code}" if code else "", host)
    return Element(Stage.RUNNING, "" if status == _RUNNING else f"status {status}", host)


def _cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["condor_rm", *(f"{job}.{index}" for index in indices)]


def _leave_out(hosts: Sequence[str], directives: Sequence[str]) -> list[str]:
    """A line of the submit description. It replaces one of the user, which it therefore includes."""
    found = (re.fullmatch(r"requirements\s*=\s*(.+)", one.strip(), re.IGNORECASE) for one in directives)
    theirs = [f"({one[1]})" for one in found if one]
    others = (f'(TARGET.Machine =!= "{host}")' for host in hosts)
    return ["-append", f"requirements = {' && '.join([*theirs[-1:], *others])}"]


def _job_states(text: str) -> JobStates:
    return {f"{job}.{index}": element for (job, index), element in _states(text).items()}


_END_STATES = {3: "REMOVED", 4: "COMPLETED", 5: "HELD"}
_END_KINDS: Sequence[tuple[str, Kind]] = (
    (r"via condor_rm", JobCancelledError),
    (r"memory", WorkerOutOfMemoryError),
    (r"time limit|wall ?time|duration|run ?time", JobWalltimeError),
)


def _end_kind(words: str) -> Kind:
    return next((kind for pattern, kind in _END_KINDS if re.search(pattern, words, re.IGNORECASE)), JobLostError)


def _end_listed(element: Element) -> JobEnd | None:
    return JobEnd(_end_kind(element.reason), "HELD", element.reason) if element.stage is Stage.STUCK else None


def _end_recorded(text: str) -> JobEnd | None:
    jobs: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    if not jobs or (state := _END_STATES.get(jobs[0].get("JobStatus", 0))) is None:
        return None
    job = jobs[0]
    if state == "COMPLETED":
        by_signal = job.get("ExitBySignal")
        exit_status = f"signal {job.get('ExitSignal')}" if by_signal else f"exit code {job.get('ExitCode', 0)}"
        return JobEnd(JobLostError, state, exit_status)
    reason = str(job.get("RemoveReason" if state == "REMOVED" else "HoldReason", ""))
    return JobEnd(_end_kind(reason), state, reason)


def _end_query(job: str) -> Sequence[str]:
    attributes = "JobStatus,RemoveReason,HoldReason,ExitCode,ExitBySignal,ExitSignal"
    return ["condor_history", job, "-limit", "1", "-json", "-attributes", attributes]


def _pool() -> dict[str, str]:
    rows = columns(output("condor_status", "-af", "Machine", "Cpus", "Memory"))
    machines = [(row[0], int(row[1])) for row in rows if len(row) == 3]
    if not machines:
        return {}
    return {"the pool": f"{len(dict(machines))} hosts with {sum(cpus for _, cpus in machines)} free CPUs"}


def _limits() -> dict[str, str]:
    names = ("MAX_JOBS_PER_OWNER", "MAX_JOBS_PER_SUBMISSION", "MAX_JOBS_SUBMITTED")
    return {name: value for name in names if (value := output("condor_config_val", name).strip())}


def _without_macros(text: str) -> str:
    return text.replace("$(", "$(DOLLAR)(")


_SYNTAX = Syntax(
    title="HTCondor",
    quote=str,
    escape=_without_macros,
    rejected_at_end="\\",  # it joins the next line
    names=re.compile(r".*[^\\]", re.DOTALL),
    names_rule="text that does not end with a backslash",
)

HTCONDOR = System(
    name="htcondor",
    title="HTCondor",
    index="$1",
    directives=_directives,
    marker="",
    syntax=_SYNTAX,
    submit=("condor_submit", "-terse"),
    submitted=re.compile(r"^(?:\d+ job\(s\) submitted to cluster )?(\d+)(?:\.|\.\d+ - \d+\.\d+)$", re.MULTILINE),
    find=_find,
    found=_found,
    own_array=_own_array,
    query=_query,
    states=_states,
    cancel=_cancel,
    cancel_all=lambda job: ["condor_rm", job],
    past=_past,
    past_states=_states,
    too_many=re.compile(r"MAX_JOBS_(?:SUBMITTED|PER_OWNER|PER_SUBMISSION)|number of jobs", re.IGNORECASE),
    forgotten=re.compile(r"not found", re.IGNORECASE),
    requeue_code=_AGAIN,
    inside="_CONDOR_JOB_AD",
    inherited=("_CONDOR_",),
    dask_class="HTCondorCluster",
    leave_out=_leave_out,
    marking=lambda name, mark: ("-append", f'MY.{_MARK} = "{mark}"'),
    job_id=lambda cluster: f"{cluster}.0",
    job_query=_query,
    job_states=_job_states,
    job_directives={"getenv": "True"},
    end_listed=_end_listed,
    end_query=_end_query,
    end_recorded=_end_recorded,
    needed=("condor_q", "condor_status"),
    version=("condor_version",),
    quiet=(),
    queues=_pool,
    limits=_limits,
)
"""HTCondor."""
