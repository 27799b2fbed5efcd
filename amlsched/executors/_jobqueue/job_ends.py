"""How a job of a batch system ended, by what the batch system itself says of it, and which error that is.

Sources:
    The manuals of squeue and sacct (22.05); of qacct and sge_status (Grid Engine 8.1.9); of condor_history and the
    attributes of a job (HTCondor 23); of PBS Professional (2022), `Exit_status` and exit codes of jobs, and of Torque
    (6.1), job exit status.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.system import Element, Stage
from amlsched.errors import (
    BatchSystemError,
    JobCancelledError,
    JobLostError,
    JobWalltimeError,
    NodeLostError,
    PreemptedError,
    WorkerLostError,
    WorkerOutOfMemoryError,
)
from amlsched.executors._jobqueue.dask_classes import call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.batch_systems.queues import Queue
    from amlsched.executors._jobqueue.worker_history import Life

__all__ = ["JobEnd", "JobEnds", "how_ended", "read_end"]

_WITHIN_S = 45.0
"""How long a lost call waits for the batch system's answer."""
_RECORDED_S = 25.0
"""How long after its end a job may be missing in the accounts; Grid Engine writes them every 15 s."""
_RUNS_ON_S = 8.0
"""A job that still runs this long after its worker was lost did not take the worker along."""
_AGAIN_S = 1.0
_REMEMBERED = 1000

Kind = type[JobLostError] | type[WorkerOutOfMemoryError]


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended.

    Attributes:
        kind: The type of error of a call that was lost with it.
        state: How the batch system calls it, such as `NODE_FAIL`.
        reason: What else it says; empty for nothing.
    """

    kind: Kind
    state: str
    reason: str = ""

    def error(self, call: str, system: str, job: str, host: str | None = None) -> WorkerLostError:
        """What a call ends with that was lost with the job.

        Args:
            call: Name of the call.
            system: What people call the batch system.
            job: Id of the job.
            host: Host of the worker, if known.
        """
        if issubclass(self.kind, WorkerOutOfMemoryError):
            words = f"{self.state}: {self.reason}" if self.reason else self.state
            return WorkerOutOfMemoryError(call, f"{system} job {job}: {words}", host=host)
        return self.kind(call, job, self.state, self.reason, host)


@dataclass(frozen=True, slots=True)
class _Report:
    """Where a batch system says how a job ended.

    Attributes:
        listed: Reads it from the queue; `None` where the queue does not say. Of a job that runs: how it is being ended.
        past: The command that shows the accounts of a job; `None` if there is none.
        recorded: Reads those; `None` where the end is not in them yet.
        not_yet: Finds in a refusal of that command that the job is not in the accounts yet.
    """

    listed: Callable[[Element], JobEnd | None] = lambda element: None
    past: Callable[[str], Sequence[str]] | None = None
    recorded: Callable[[str], JobEnd | None] = lambda text: None
    not_yet: re.Pattern[str] = re.compile(r"(?!)")


# --------------------------------------------------------------------------------------------------------------- Slurm

_SLURM: Mapping[str, Kind] = {
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


def _slurm_listed(element: Element) -> JobEnd | None:
    found = re.fullmatch(r"(\w+)(?: \((.*)\))?", element.reason)
    if not found or (kind := _SLURM.get(found[1])) is None:
        return None
    return JobEnd(kind, found[1], found[2] or "")


def _slurm_recorded(text: str) -> JobEnd | None:
    """Of the last time that it ran: a job that was put back into the queue has a line for each."""
    found: JobEnd | None = None
    for line in text.splitlines():
        state, _, code = line.partition("|")
        word, _, more = state.strip().partition(" ")  # CANCELLED by 1000
        kind = _SLURM.get(word)
        if kind is not None and word != "COMPLETING":
            told = f"exit code {code}" if code not in ("", "0:0") else ""
            found = JobEnd(kind, word, ", ".join(filter(None, (more, told))))
    return found


def _slurm_past(job: str) -> Sequence[str]:
    options = ["--duplicates", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode"]
    return ["sacct", *options, f"--jobs={job}"]


# --------------------------------------------------------------------------------------------------------- Grid Engine

_ENFORCED, _BY_SIGNAL = 37, 100  # sge_status(5)


def _sge_listed(element: Element) -> JobEnd | None:
    # A job that is deleted while its host does not answer stays in the queue like this.
    return JobEnd(JobCancelledError, element.reason, "deleted") if re.fullmatch(r"d\w*", element.reason) else None


def _sge_recorded(text: str) -> JobEnd | None:
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
        return JobEnd(_sge_limit(record), state, record.get("category", ""))
    # Neither the accounts nor the queue say who sent the signal; it is how `qdel` ends a job.
    if code == _BY_SIGNAL and status.startswith("137"):
        return JobEnd(JobCancelledError, state, reason)
    return JobEnd(JobLostError, state, reason)


def _sge_limit(record: Mapping[str, str]) -> Kind:
    """The limit that the job passed: of time, unless it had not run for that long and has one of memory."""
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


# ------------------------------------------------------------------------------------------------------------ HTCondor

_CONDOR_STATES = {3: "REMOVED", 4: "COMPLETED", 5: "HELD"}
_CONDOR_KINDS: Sequence[tuple[str, Kind]] = (
    (r"via condor_rm", JobCancelledError),
    (r"memory", WorkerOutOfMemoryError),
    (r"time limit|wall ?time|duration|run ?time", JobWalltimeError),
)


def _condor_kind(words: str) -> Kind:
    return next((kind for pattern, kind in _CONDOR_KINDS if re.search(pattern, words, re.IGNORECASE)), JobLostError)


def _condor_listed(element: Element) -> JobEnd | None:
    return JobEnd(_condor_kind(element.reason), "HELD", element.reason) if element.stage is Stage.STUCK else None


def _condor_recorded(text: str) -> JobEnd | None:
    jobs: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    if not jobs or (state := _CONDOR_STATES.get(jobs[0].get("JobStatus", 0))) is None:
        return None
    job = jobs[0]
    if state == "COMPLETED":
        by_signal = job.get("ExitBySignal")
        told = f"signal {job.get('ExitSignal')}" if by_signal else f"exit code {job.get('ExitCode', 0)}"
        return JobEnd(JobLostError, state, told)
    reason = str(job.get("RemoveReason" if state == "REMOVED" else "HoldReason", ""))
    return JobEnd(_condor_kind(reason), state, reason)


def _condor_past(job: str) -> Sequence[str]:
    attributes = "JobStatus,RemoveReason,HoldReason,ExitCode,ExitBySignal,ExitSignal"
    return ["condor_history", job, "-limit", "1", "-json", "-attributes", attributes]


# ----------------------------------------------------------------------------------------------------------------- PBS

_PBS_KINDS: Mapping[int, Kind] = {
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
_PBS_COMMENTS: Sequence[tuple[str, Kind]] = (
    (r"preempt", PreemptedError),
    (r"walltime .*exceed", JobWalltimeError),
    (r"\bmem(?:ory)?\b.*exceed", WorkerOutOfMemoryError),
    (r"node (?:fail|down)", NodeLostError),
)


def _pbs_recorded(text: str) -> JobEnd | None:
    """Of `qstat -x -f`: text in PBS Professional, XML in Torque, where the exit status has another name."""
    found = re.search(r"\b([Ee])xit_status\s*(?:=\s*|>)(-?\d+)", text)
    if found is None:
        return None
    comment = re.search(r"^\s*comment = (.*(?:\n\t.*)*)$", text, re.MULTILINE)
    words = re.sub(r"\n\t", "", comment[1]) if comment else ""
    code = int(found[2])
    kind = next((kind for pattern, kind in _PBS_COMMENTS if re.search(pattern, words, re.IGNORECASE)), None)
    kinds = _PBS_KINDS if found[1] == "E" else _TORQUE_KINDS
    return JobEnd(kind or kinds.get(code, JobLostError), f"exit status {code}", words)


def _pbs_past(job: str) -> Sequence[str]:
    return ["qstat", "-x", "-f", job]


_PBS = _Report(past=_pbs_past, recorded=_pbs_recorded)
_REPORTS: Mapping[str, _Report] = {
    "slurm": _Report(_slurm_listed, _slurm_past, _slurm_recorded),
    "sge": _Report(_sge_listed, lambda job: ["qacct", "-j", job], _sge_recorded, re.compile("not found")),
    "htcondor": _Report(_condor_listed, _condor_past, _condor_recorded),
    "pbs": _PBS,
    "moab": _PBS,
}


def read_end(name: str, text: str) -> JobEnd | None:
    """How a job ended, as the accounts of this batch system say; `None` where its end is not in them."""
    return _REPORTS[name].recorded(text)


async def how_ended(queue: Queue, job: str, element: Element | None, environment: Mapping[str, str]) -> JobEnd:
    """How a job ended that runs no longer. Accounts that are late are waited for, for a bounded time.

    Args:
        queue: The batch system.
        job: The job.
        element: What the queue says of it; `None` where that has forgotten it.
        environment: For the command.
    """
    report = _REPORTS.get(queue.name, _Report())
    if element is not None and (found := report.listed(element)) is not None:
        return found
    again = element is not None and element.stage is Stage.PENDING
    if report.past is not None and (found := await _recorded(queue, report, report.past(job), environment, again)):
        return found
    if element is None:
        return JobEnd(JobLostError, "gone", "the queue has forgotten it")
    return JobEnd(JobLostError, element.reason or str(element.stage), "put back into the queue" if again else "")


async def _recorded(
    queue: Queue, report: _Report, command: Sequence[str], environment: Mapping[str, str], once: bool
) -> JobEnd | None:
    until = time.monotonic() + _RECORDED_S
    while True:
        try:
            if found := report.recorded(await call(queue.title, command, environment)):
                return found
        except BatchSystemError as error:
            if not report.not_yet.search(error.words):  # this site keeps no accounts
                return None
        if once or time.monotonic() + _AGAIN_S > until:
            return None
        await asyncio.sleep(_AGAIN_S)


class JobEnds:
    """Finds out how the jobs of lost workers ended. Used in the loop of their cluster.

    Args:
        queue: The batch system.
        environment: For its commands.
        runs_on: Whether a job has a worker that came after this moment.
    """

    def __init__(self, queue: Queue, environment: Mapping[str, str], runs_on: Callable[[str, float], bool]) -> None:
        self._queue, self._environment, self._runs_on = queue, environment, runs_on
        self._report = _REPORTS.get(queue.name, _Report())
        self._searches: dict[str, asyncio.Task[JobEnd | None]] = {}
        self._answers: dict[str, asyncio.Future[Element | None]] = {}
        self._given_up: dict[str, Element] = {}
        self._closed = False

    @property
    def asked_for(self) -> list[str]:
        """The jobs whose state is waited for."""
        return list(self._answers)

    def answered(self, jobs: Sequence[str], states: Mapping[str, Element]) -> None:
        """The queue has answered.

        Args:
            jobs: The jobs that it was asked about.
            states: Those that it knows.
        """
        for job in jobs:
            answer = self._answers.pop(job, None)
            if answer is not None and not answer.done():
                answer.set_result(states.get(job))

    def given_up(self, job: str, element: Element) -> None:
        """A job is about to be cancelled here, and another submitted in its place: what was its state until then."""
        self._given_up[job] = element
        while len(self._given_up) > _REMEMBERED:
            del self._given_up[next(iter(self._given_up))]

    async def of(self, life: Life) -> JobEnd | None:
        """How the job of a worker that was lost ended; `None` where it goes on."""
        if self._closed:
            return None
        search = self._searches.get(life.job)
        if search is None:
            search = self._searches[life.job] = asyncio.ensure_future(self._search(life.job, life.gone))
            search.add_done_callback(lambda _: self._searches.pop(life.job, None))
        try:
            return await asyncio.shield(search)
        except asyncio.CancelledError:
            if search.cancelled():  # the cluster is ended
                return None
            raise

    def close(self) -> None:
        """End all searches: nobody asks the queue any more."""
        self._closed = True
        for search in tuple(self._searches.values()):
            search.cancel()

    async def _search(self, job: str, lost: float | None) -> JobEnd | None:
        began = time.monotonic()
        so_far = JobEnd(JobLostError, "not known", f"{self._queue.title} did not say within {_WITHIN_S:g} s")
        try:
            async with asyncio.timeout(_WITHIN_S):
                while True:
                    element = self._given_up.get(job)
                    final = element is not None
                    if element is None:
                        element = await self._state(job)
                    if element is None or element.stage is not Stage.RUNNING:
                        return await how_ended(self._queue, job, element, self._environment)
                    ending = self._report.listed(element)
                    if ending is None and (
                        final or time.monotonic() - began > _RUNS_ON_S or self._runs_on(job, lost or began)
                    ):
                        return None
                    if ending is not None and final:
                        return ending
                    so_far = ending or so_far
        except TimeoutError:
            return so_far

    async def _state(self, job: str) -> Element | None:
        answer = self._answers.get(job)
        if answer is None or answer.done():  # that of a search that timed out
            answer = self._answers[job] = asyncio.get_running_loop().create_future()
        return await answer
