"""Grid Engine.

Sources:
    The manuals of qsub, qstat, qdel, queue_conf, sge_conf and sge_types, release 8.1.9.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from amlsched._surroundings import user_name
from amlsched.batch_systems.commands import columns, first_column, output
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
from amlsched.errors import JobCancelledError, JobLostError, JobWalltimeError, WorkerOutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["GRID_ENGINE"]


def _directives(job: ArrayJob) -> Iterator[str]:
    yield f"-N {_SYNTAX.value('job-name', _SYNTAX.marked_name('job-name', job.name, job.mark))}"
    yield f"-t 1-{job.count}"
    if job.at_once:
        yield f"-tc {job.at_once}"
    yield f"-wd {_SYNTAX.value('folder', job.folder)}"
    yield f"-o {_SYNTAX.log('slurm_log', job.logs, 'out_$JOB_ID.$TASK_ID.log')}"
    yield f"-e {_SYNTAX.log('slurm_log', job.logs, 'err_$JOB_ID.$TASK_ID.log')}"
    yield "-V"  # by default it exports no variables
    yield "-notify"  # SIGUSR2 before it kills
    yield f"-r {'y' if job.requeue else 'n'}"
    if job.partition is not None:
        yield f"-q {_SYNTAX.value('partition', job.partition)}"
    if job.account is not None:
        yield f"-P {_SYNTAX.value('account', job.account)}"
    if job.clock:
        yield f"-l h_rt={job.clock}"
    if job.memory_bytes is not None:
        yield f"-l h_vmem={job.mebibytes()}M"  # for each slot
    if job.slots > 1 and not any(line.split()[0] == "-pe" for line in job.directives if line.strip()):
        yield f"-pe smp {job.slots}"
    if job.after:
        yield f"-hold_jid {','.join(job.after)}"


def _query(jobs: Sequence[str]) -> list[str]:
    return ["qstat", "-xml", "-g", "d", "-u", user_name()]


def _found(text: str, mark: str) -> Iterator[str]:
    for job in ElementTree.fromstring(text).iter("job_list"):
        if mark in job.findtext("JB_name", "").rpartition(".")[2]:
            yield job.findtext("JB_job_number", "")


def _states(text: str) -> Places:
    found: Places = {}
    if not text.strip():
        return found
    for job in ElementTree.fromstring(text).iter("job_list"):
        state, host = job.findtext("state", ""), job.findtext("queue_name", "") or ""
        element = _element(state, host.partition("@")[2])
        for index in _indices(job.findtext("tasks", "") or "1"):
            found[job.findtext("JB_job_number", ""), index] = element
    return found


def _element(state: str, host: str) -> Element:
    if "E" in state:
        return Element(Stage.STUCK, f"{state}: qstat -j shows why")
    if "w" in state:
        return Element(Stage.STUCK if "h" in state and "R" not in state and state != "hqw" else Stage.PENDING, state)
    return Element(Stage.RUNNING, "" if state in ("r", "t") else state, host)


def _indices(text: str) -> Iterator[int]:
    """The indices in text such as `1,3-9:2`."""
    for part in text.split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip()):
            low = int(found[1])
            yield from range(low, int(found[2] or low) + 1, int(found[3] or 1))


def _cancel(job: str, indices: Sequence[int]) -> list[str]:
    return ["qdel", *(f"{job}.{part}" for part in ranges(indices))]


def _job_states(text: str) -> JobStates:
    return {job: element for (job, _), element in _states(text).items()}


def _seconds(text: str) -> float | None:
    if text.upper() == "INFINITY":
        return math.inf
    if found := re.fullmatch(r"(\d*):(\d*):(\d*)", text):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return (hours * 60 + minutes) * 60 + seconds or None
    if re.fullmatch(r"0x[\da-f]+|\d+", text, re.IGNORECASE):
        base = 16 if "x" in text.lower() else 8 if text.startswith("0") else 10
        return _whole(text, base) or None
    return None


def _whole(text: str, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:  # 09
        return None


def _leave_out(hosts: Sequence[str], directives: Sequence[str]) -> list[str]:
    """An expression of complex(5). The option replaces one of the user for hosts, which it therefore includes."""
    theirs = [found[1] for one in directives for found in re.finditer(r"-l\s+(?:\S*,)?h(?:ostname)?=([^\s,#]+)", one)]
    others = f"!({'|'.join(hosts)})"
    return ["-l", f"h=({theirs[-1]})&{others}" if theirs else f"h={others}"]


_ENFORCED, _BY_SIGNAL = 37, 100  # sge_status(5)


def _end_listed(element: Element) -> JobEnd | None:
    # The state of a job that was deleted while its host does not answer.
    return JobEnd(JobCancelledError, element.reason, "deleted") if re.fullmatch(r"d\w*", element.reason) else None


def _end_recorded(text: str) -> JobEnd | None:
    last = re.split(r"^=+$", text, flags=re.MULTILINE)[-1]
    record = {key: value.strip() for key, value in re.findall(r"^(\w+)[ \t]+(.*)$", last, re.MULTILINE)}
    failed = re.match(r"\d+", record.get("failed", ""))
    if failed is None:
        return None
    code, status = int(failed[0]), record.get("exit_status", "")
    state = f"failed {' '.join(record['failed'].split())}" if code else "finished"
    reason = f"exit status {' '.join(status.split())}"
    if (by := record.get("deleted_by", "NONE")) not in ("NONE", "undefined", ""):
        return JobEnd(JobCancelledError, state, f"deleted by {by}")
    if code == _ENFORCED:
        return JobEnd(_limit_passed(record), state, record.get("category", ""))
    # Neither the accounting record nor the queue says who sent the signal, but this is how `qdel` kills a job.
    if code == _BY_SIGNAL and status.startswith("137"):
        return JobEnd(JobCancelledError, state, reason)
    return JobEnd(JobLostError, state, reason)


def _limit_passed(record: Mapping[str, str]) -> Kind:
    """The error for an exceeded limit: of time, unless the job ran for a shorter time and has a memory limit."""
    asked = record.get("category", "")
    wall = re.match(r"\d+", record.get("ru_wallclock", ""))
    limit = re.search(r"\bh_rt=([\d:]+)", asked)
    if limit and wall:
        seconds = 0
        for part in limit[1].split(":"):
            seconds = 60 * seconds + int(part or 0)
        if int(wall[0]) >= seconds:
            return JobWalltimeError
    if "h_vmem=" in asked:
        return WorkerOutOfMemoryError
    return JobLostError if "h_cpu=" in asked else JobWalltimeError


def _limits() -> dict[str, str]:
    settings = {row[0]: row[1] for row in columns(output("qconf", "-sconf", "global")) if len(row) == 2}
    return {name: settings[name] for name in ("max_jobs", "max_u_jobs", "max_aj_tasks") if name in settings}


def _quote(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./~$-]+", text) else f'"{text}"'


_SYNTAX = Syntax(
    title="Grid Engine",
    quote=_quote,
    rejected="\"'#",  # it drops both kinds of quotes everywhere, and reads # as a comment
    escape_path=lambda path: f":{path}" if ":" in path else path,  # host:path
    rejected_in_paths=",",  # a list of paths
    names=re.compile(r"""(?!\d)(?:(?![/:@\\*?"'#])[!-~])+"""),
    names_rule="ASCII characters other than blanks, quotes and / : @ \\ * ? #, and no digit as the first,",
)

GRID_ENGINE = System(
    name="sge",
    title="Grid Engine",
    index="$SGE_TASK_ID",
    first=1,
    directives=_directives,
    marker="#$",
    syntax=_SYNTAX,
    submit=("qsub", "-terse"),
    submitted=re.compile(
        r"^(?:Your job(?:-array)? )?(\d+)(?:\.\d+-\d+:\d+)?(?: \(.*\) has been submitted)?$", re.MULTILINE
    ),
    find=lambda mark: ["qstat", "-xml", "-u", user_name()],
    found=_found,
    own_array=lambda variables: variables.get("JOB_ID", ""),
    query=_query,
    states=_states,
    cancel=_cancel,
    cancel_all=lambda job: ["qdel", job],
    too_many=re.compile(r"only .*(?:tasks|jobs)|exceed|max_u_jobs|max_aj_tasks|job limit", re.IGNORECASE),
    forgotten=re.compile(r"do(?:es)? not exist", re.IGNORECASE),
    requeue_code=99,
    inside="SGE_TASK_ID",
    inherited=("SGE_TASK_", "SGE_STDIN", "SGE_STDOUT", "SGE_STDERR", "SGE_O_", "SGE_JOB_", "JOB_ID"),
    logs=("out_{job}.{index}.log", "err_{job}.{index}.log"),
    dask_class="SGECluster",
    marking=lambda name, mark: ("-N", _SYNTAX.marked_name("job_name", name, mark)),
    seconds=_seconds,
    walltimes="seconds or hours:minutes:seconds: '1:00:00'",
    job_query=_query,
    job_states=_job_states,
    job_directives=("-V",),
    leave_out=_leave_out,
    end_listed=_end_listed,
    end_query=lambda job: ["qacct", "-j", job],
    end_recorded=_end_recorded,
    not_recorded=re.compile("not found"),
    needed=("qstat", "qconf"),
    version=("qstat", "-help"),
    queues=lambda: first_column("qconf", "-sql"),
    limits=_limits,
)
"""Grid Engine and its descendants."""
