"""Slurm.

Sources:
    The manuals of sbatch, squeue, sacct, scancel and slurm.conf, release 22.05. A backslash escapes in both kinds of
    quotes there.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from amlsched._surroundings import user_name
from amlsched.batch_systems.commands import columns, output
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
from amlsched.units import slurm_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["SLURM", "options_of_sbatch"]

_PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
)
_HELD = ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "DependencyNeverSatisfied", "launch_failed_requeued_held")


def _directives(job: ArrayJob) -> Iterator[str]:
    throttle = f"%{job.at_once}" if job.at_once else ""
    asked: dict[str, object] = {
        "job-name": _SYNTAX.name("job-name", job.name),
        "array": f"0-{job.count - 1}{throttle}",
        "chdir": job.folder,
        "open-mode": "append",  # an element that is started again appends to its logs
        "ntasks": job.tasks,
        "cpus-per-task": job.cpus,
        "partition": job.partition,
        "account": job.account,
        "time": None if job.time_s is None else job.clock or "UNLIMITED",
        "mem-per-cpu": f"{job.mebibytes()}M" if job.memory_bytes is not None else None,
        "signal": f"B:USR1@{job.warn_s}" if _is_warned(job) else None,  # B: the shell, which is the element
        "dependency": ":".join(("afterany", *job.after)) if job.after else None,
    }
    yield from options_of_sbatch(
        {name: value for name, value in asked.items() if value is not None and name not in job.options}
    )
    for name in ("output", "error"):
        if name not in job.options:
            yield f"--{name}={_SYNTAX.log('slurm_log', job.logs, f'{name[:3]}_%A_%a.log')}"
    if not {"requeue", "no-requeue"} & set(job.options):
        yield "--requeue" if job.requeue else "--no-requeue"
    yield from options_of_sbatch(job.options)


def options_of_sbatch(options: Mapping[str, object]) -> list[str]:
    """Options of sbatch as directives: without a value if it is `None` or true, left out if it is false.

    Raises:
        ValueError: A value has more than one line.
    """
    return [
        f"--{name}" if value is None or value is True else f"--{name}={_SYNTAX.value(name, value)}"
        for name, value in options.items()
        if value is not False
    ]


def _is_warned(job: ArrayJob) -> bool:
    """Whether to ask for a signal; not if it would arrive before the element handles signals.

    The element checks its end time as well.
    """
    return bool(job.warn_s) and (job.time_s is None or job.time_s > 2 * job.warn_s)


def _query(jobs: Sequence[str]) -> list[str]:
    return [
        "squeue",
        "--array",
        "--noheader",
        "--states=all",  # also those that finished recently
        f"--jobs={','.join(jobs)}",
        "--format=%F|%K|%T|%N|%r",
    ]


def _find(mark: str) -> list[str]:
    return ["squeue", "--me", "--noheader", "--states=all", "--format=%F|%o"]  # %o: the path of the script


def _found(text: str, mark: str) -> Iterator[str]:
    for line in text.splitlines():
        job, script = line.strip().split("|", 1)
        if mark in script.rpartition("/")[2]:
            yield str(int(job))


def _states(text: str) -> Places:
    found: Places = {}
    for line in text.splitlines():
        job, index, state, host, reason = line.strip().split("|", 4)
        if index.isdecimal():
            found[str(int(job)), int(index)] = _element(state, "" if reason == "None" else reason, host)
    return found


def _element(state: str, reason: str, host: str) -> Element:
    if state in _PENDING:
        held = any(held in reason.replace(" ", "_") for held in _HELD)
        return Element(Stage.STUCK if held else Stage.PENDING, reason)
    if state not in _ENDED:  # of an unknown or a truncated state it is not known that it is an end
        return Element(Stage.RUNNING, "" if state == "RUNNING" else state, host)
    # The reason of an element that has ended may still be the one for which it was pending.
    why = reason if reason.startswith(("NonZeroExitCode", "Raised", "Node", "OutOfMemory", "Prolog")) else ""
    return Element(Stage.ENDED, f"{state}{f' ({why})' if why else ''}", host)


def _past(jobs: Sequence[str]) -> list[str]:
    fields = "--format=JobID,State,ExitCode,NodeList"
    return ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", fields]


def _past_states(text: str) -> Places:
    found: Places = {}
    for line in text.splitlines():
        name, state, code, host = line.split("|", 3)
        job, _, indices = name.partition("_")
        word = state.split()[0] if state else ""  # CANCELLED by 1000
        element = _element(word, "", host)
        if element.stage is Stage.ENDED and word not in ("COMPLETED", "") and code != "0:0":
            element = Element(Stage.ENDED, f"{state} (exit code {code})", host)
        for low, high in re.findall(r"(\d+)(?:-(\d+))?", indices.partition("%")[0]):  # [2-5,7%3] while they wait
            found.update({(job, index): element for index in range(int(low), int(high or low) + 1)})
    return found


def _cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["scancel", f"{job}_[{','.join(ranges(indices))}]"]


def _largest(text: str) -> int | None:
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None  # the highest index is one less


_JOB_PENDING = ("PENDING", "REQUEUED", "REQUEUE_FED", "CONFIGURING")
_JOB_STUCK = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_JOB_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


def _job_states(text: str) -> JobStates:
    found: JobStates = {}
    for line in text.splitlines():
        job, state, host, reason = line.strip().split("|", 3)
        suffix = "" if reason in ("None", "") else f" ({reason})"
        if state in _JOB_RUNNING:
            stage = Stage.RUNNING
        elif state in _JOB_PENDING:
            stage = Stage.PENDING
        else:
            stage = Stage.STUCK if state in _JOB_STUCK else Stage.ENDED
        found[job] = Element(stage, f"{state}{suffix}", host)
    return found


def _seconds(text: str) -> float | None:
    if text.upper() in ("UNLIMITED", "INFINITE", "-1") or (text.isdecimal() and not int(text)):
        return math.inf
    return slurm_seconds(text)


_END_KINDS: Mapping[str, Kind] = {
    "CANCELLED": JobCancelledError,
    "TIMEOUT": JobWalltimeError,
    "DEADLINE": JobWalltimeError,
    "PREEMPTED": PreemptedError,
    "NODE_FAIL": NodeLostError,
    "BOOT_FAIL": NodeLostError,
    "OUT_OF_MEMORY": WorkerOutOfMemoryError,
    "FAILED": JobLostError,
    "COMPLETED": JobLostError,
    "REQUEUED": JobLostError,
    "REVOKED": JobLostError,
    "COMPLETING": JobLostError,
}


def _end_listed(element: Element) -> JobEnd | None:
    found = re.fullmatch(r"(\w+)(?: \((.*)\))?", element.reason)
    if not found or (kind := _END_KINDS.get(found[1])) is None:
        return None
    return JobEnd(kind, found[1], found[2] or "")


def _end_recorded(text: str) -> JobEnd | None:
    """The end of the last attempt: a requeued job has one line per attempt."""
    found: JobEnd | None = None
    for line in text.splitlines():
        state, _, code = line.partition("|")
        word, _, more = state.strip().partition(" ")  # CANCELLED by 1000
        kind = _END_KINDS.get(word)
        if kind is not None and word != "COMPLETING":
            exit_code = f"exit code {code}" if code not in ("", "0:0") else ""
            found = JobEnd(kind, word, ", ".join(filter(None, (more, exit_code))))
    return found


def _end_query(job: str) -> Sequence[str]:
    options = ["--duplicates", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode"]
    return ["sacct", *options, f"--jobs={job}"]


def _queues() -> dict[str, str]:
    rows = columns(output("sinfo", "--noheader", "--format=%R|%a|%D|%t|%l"), "|")
    found: dict[str, list[str]] = {}
    for name, available, nodes, state, limit in (row for row in rows if len(row) == 5):
        found.setdefault(name, []).append(f"{available}, {nodes} nodes {state}, time limit {limit}")
    return {name: "; ".join(states) for name, states in found.items()}


def _settings() -> dict[str, str]:
    text = output("scontrol", "show", "config")
    found: list[tuple[str, str]] = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    return dict(found)


def _accounts() -> list[str] | None:
    if "slurmdbd" not in _settings().get("AccountingStorageType", ""):
        return None
    text = output("sacctmgr", "-nP", "show", "associations", f"user={user_name()}", "format=account")
    return sorted(set(text.split()))


def _limits() -> dict[str, str]:
    settings = _settings()
    found: dict[str, str] = {name: settings[name] for name in ("MaxArraySize", "MaxJobCount") if name in settings}
    if "slurmdbd" in settings.get("AccountingStorageType", ""):
        asked = ("-nP", "show", "associations", f"user={user_name()}", "format=account,maxjobs,maxsubmit")
        rows = columns(output("sacctmgr", *asked), "|")
        for account, running, submitted in (row for row in rows if len(row) == 3):
            found[f"jobs of yours in {account}"] = f"{running or 'any'} running, {submitted or 'any'} submitted"
    return found


def _leave_out(hosts: Sequence[str], directives: Sequence[str]) -> list[str]:
    theirs = [found[1] for one in directives if (found := re.match(r"\s*(?:--exclude[= ]|-x ?)([^\s#]+)", one))]
    return [f"--exclude={','.join([*theirs[-1:], *hosts])}"]


_PREEMPTED = {
    "OFF": "jobs are not preempted",
    "CANCEL": "a job that is preempted is killed, and Slurm does not requeue it; workers are replaced",
    "REQUEUE": "a job that is preempted is killed; Slurm requeues elements of arrays (-s), and workers are replaced",
    "SUSPEND": "a job that is preempted is stopped, and continues later; calls on its worker may run again elsewhere",
}


def _preemption(queue: str | None) -> str:
    """By the setting of the partition, which takes precedence over that of the cluster."""
    if _settings().get("PreemptType", "preempt/none").endswith("/none"):
        return f"PreemptType preempt/none: {_PREEMPTED['OFF']}"
    text = output("scontrol", "--oneliner", "show", "partition", *([queue] if queue else []))
    rows: list[dict[str, str]] = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
    row = next((row for row in rows if queue or row.get("Default") == "YES"), dict[str, str]())
    mode = row.get("PreemptMode") or _settings().get("PreemptMode", "")
    meaning = next((words for name, words in _PREEMPTED.items() if name in mode.upper().split(",")), "")
    return f"PreemptMode {mode} in {row.get('PartitionName', 'the cluster')}: {meaning}" if meaning else ""


def _directive(text: str) -> str:
    """`--comment="lr sweep"` of `--comment=lr sweep`, which has no other meaning; the rest as it is."""
    found = re.fullmatch(r"""(--[\w-]+=)([^\s"'\\#]+(?:\s+[^\s"'\\#-][^\s"'\\#]*)+)""", text.strip())
    return f"{found[1]}{_SYNTAX.quote(found[2])}" if found else text


_SYNTAX = Syntax(
    title="Slurm",
    escape_path=lambda path: path.replace("%", "%%"),
    rejected_in_paths="\\",  # where there is one, Slurm reads no %A
    directive=_directive,
)

SLURM = System(
    name="slurm",
    title="Slurm",
    index="$SLURM_ARRAY_TASK_ID",
    directives=_directives,
    marker="#SBATCH",
    syntax=_SYNTAX,
    submit=("sbatch", "--parsable"),
    submitted=re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?$", re.MULTILINE),
    find=_find,
    found=_found,
    own_array=lambda variables: variables.get("SLURM_ARRAY_JOB_ID", ""),
    query=_query,
    states=_states,
    preempted=re.compile(r"PREEMPTED"),
    cancel=_cancel,
    cancel_all=lambda job: ["scancel", job],
    past=_past,
    past_states=_past_states,
    largest=("scontrol", "show", "config"),
    largest_of=_largest,
    # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, MaxJobCount, MaxArraySize
    too_many=re.compile(
        r"MaxSubmit|submit limit|too many|temporarily unable to accept|queue full|invalid job array", re.IGNORECASE
    ),
    forgotten=re.compile(r"invalid job id", re.IGNORECASE),
    # One of the elements has the id of the whole array as its job id, so the form ARRAY_INDEX is used.
    requeue_command=("scontrol", "requeue", "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"),
    inside="SLURM_JOB_ID",
    inherited=("SLURM_", "SBATCH_", "SLURMD_"),
    kept=("SLURM_CONF", "SLURM_CLUSTERS"),
    dask_class="SLURMCluster",
    seconds=_seconds,
    walltimes="minutes, minutes:seconds, hours:minutes:seconds, days-hours or days-hours:minutes:seconds: '1:00:00'",
    job_query=lambda jobs: ["squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%N|%r"],
    job_states=_job_states,
    job_directives=("--no-requeue",),
    leave_out=_leave_out,
    end_listed=_end_listed,
    end_query=_end_query,
    end_recorded=_end_recorded,
    needed=("squeue", "sinfo", "scontrol"),
    version=("sbatch", "--version"),
    quiet=("--output=/dev/null", "--error=/dev/null"),
    queues=_queues,
    accounts=_accounts,
    limits=_limits,
    preemption=_preemption,
)
"""Slurm, 20.11 and later."""
