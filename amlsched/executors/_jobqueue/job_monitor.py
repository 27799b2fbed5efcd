"""Replaces lost jobs of a cluster, and reports why workers are missing."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.commands import call
from amlsched.batch_systems.system import Element, Stage
from amlsched.errors import BatchSystemError, MaybeSubmittedError
from amlsched.executors._jobqueue.job_ends import JobEnds
from amlsched.executors._jobqueue.worker_history import EndedJob, FailedJobs, WorkerHistory, WorkerRecord, job_names
from amlsched.executors.capabilities import WorkersNow
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.batch_systems import System
    from amlsched.errors import WorkerLostError
    from amlsched.executors._jobqueue.job_canceller import JobCanceller

__all__ = ["JobMonitor"]

logger = logging.getLogger("amlsched.jobs")

_TICK_S = 0.5
_QUERIED_S = (1.0, 10.0)  # seconds between two queries of the batch system: at first, and at most
_REPORTED_S = (5.0, 300.0)  # seconds between two log messages that no worker has connected
_GRACE_S = 15.0  # a job whose worker has left as planned is cancelled after this
_RESTARTED_S = 60.0  # and one whose worker was lost, after this: dask restarts workers in jobs that still run
_SETTLED_S = 4.0  # the batch system may not list a new job yet
_AGAIN_S = 30.0  # after a submission that failed
_SILENT_S = 5.0  # a query that takes longer is reported
_LOG_LINES = 20


@dataclass
class _Seen:
    """A job that was submitted: when, since when it has no worker, and how often in a row it was not in the queue."""

    submitted: float
    gone: float | None = None
    absent: int = 0


class JobMonitor:
    """Monitors the jobs of one cluster, in the thread of its loop.

    A job that ended, whose worker left, or that the batch system requeued is replaced. If several in a row end early,
    or no worker connects in time, the run fails.

    Args:
        system: The batch system.
        cluster: dask-jobqueue's cluster, with our classes.
        logs: The folder with the logs of jobs.
        script: A copy of the job script, for messages.
        start_timeout: Seconds in which the first worker has to connect; `None` for no limit.
        canceller: Cancels the jobs if this process exits.
        busy: Returns whether there are calls that need a worker.
        fail: Called with the error that ends the run.
        leave_out: Called with hosts on which no more jobs should run; returns the options of the command that submits
            with which they do not, or none.
    """

    def __init__(
        self,
        system: System,
        cluster: Any,
        *,
        logs: Path,
        script: Path,
        start_timeout: float | None,
        canceller: JobCanceller,
        busy: Callable[[], bool],
        fail: Callable[[BaseException], None],
        leave_out: Callable[[Sequence[str]], Sequence[str]] = lambda hosts: (),
    ) -> None:
        self._system, self._cluster = system, cluster
        self._logs, self._script = logs, script
        self._start_timeout = start_timeout
        self._canceller, self._busy, self._fail, self._leave_out = canceller, busy, fail, leave_out
        self._seen: dict[Any, _Seen] = {}
        self._states: dict[str, Element] = {}
        self._history = WorkerHistory(self._job_of)
        self._history.listen(cluster.scheduler)
        self._ends = JobEnds(system, self._history.has_come)
        self._failed = FailedJobs(self._history)
        self._here = False  # a worker has connected
        self._waits_since = self._began = time.monotonic()
        self._next_ask, self._ask_s = 0.0, _QUERIED_S[0]
        self._asking: asyncio.Task[None] | None = None
        self._asked: float | None = None  # when the first query began that has not been answered
        self._submitting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._avoided: list[str] = []
        self._unclear = ""  # the last answer to a submission that said neither yes nor no
        self._next_word, self._word_s = time.monotonic() + _REPORTED_S[0], _REPORTED_S[0]
        self._not_before = 0.0  # when the next job may be submitted after one was rejected
        self.status = WorkersNow(0, 0)

    async def run(self) -> None:
        """Monitor them until cancelled, or until the run fails."""
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                try:
                    await self._tick()
                except BatchSystemError as error:
                    self._fail(error)
                    return
                except Exception:  # whatever it is, the run must not lose its jobs silently
                    logger.exception("the jobs of %s could not be monitored", self._system.title)
        finally:
            self._ends.close()
            if self._asking is not None:
                self._asking.cancel()

    def jobs(self) -> list[str]:
        """The ids of the jobs that were submitted and have not ended."""
        return [job.job_id for job in self._cluster.workers.values() if job.job_id]

    async def _tick(self) -> None:
        now = time.monotonic()
        self._failed.update(now)
        self._check_rejected()
        here = {record.name for record in self._history.here()}
        with_worker = {job for worker in here for job in job_names(worker)}
        missing: list[Any] = []
        for name, job in list(self._cluster.workers.items()):
            if job not in self._seen and job.job_id:
                self._canceller.add(job.job_id)
                logger.info("%s job %s was submitted", self._system.title, job.job_id)
            seen = self._seen.setdefault(job, _Seen(now))
            if str(name) in with_worker:
                seen.gone = None
                self._here = True
            elif job.job_id:
                if seen.gone is None:
                    seen.gone, self._next_ask, self._ask_s = now, min(self._next_ask, now + 1), _QUERIED_S[0]
                missing.append(name)
        kept = set(self._cluster.workers.values())
        self._seen = {job: seen for job, seen in self._seen.items() if job in kept}
        wanted = bool(missing or self._ends.asked_for)
        if self._asking is None and not wanted:
            self._asked = None
        if self._asking is None and wanted and now >= self._next_ask:
            self._asked = self._asked or now
            self._asking = asyncio.ensure_future(self._ask(missing))
        if self._asking is not None and await _ended(self._asking):
            asking, self._asking = self._asking, None
            asking.result()
        await self._replace_without_answer()
        self._report(now, len(here))
        due = now >= max(self._not_before, self._failed.not_before)
        if self._submitting is None and due and set(self._cluster.worker_spec) - set(self._cluster.workers):
            self._submitting = asyncio.ensure_future(self._cluster._correct_state())
        if self._submitting is not None and await _ended(self._submitting):
            submitting, self._submitting = self._submitting, None
            submitting.result()

    # Queries of the batch system

    async def _ask(self, missing: list[Any]) -> None:
        jobs = {name: self._cluster.workers[name] for name in missing}
        ids = list(dict.fromkeys([*(job.job_id for job in jobs.values()), *self._ends.asked_for]))
        words = self._system.job_query(ids)
        try:
            states = self._system.job_states(await call(self._system, words, lists_jobs=True))
        except (BatchSystemError, ValueError, KeyError, SyntaxError) as error:  # SyntaxError: of XML
            why = (
                error if isinstance(error, BatchSystemError) else f"the output of {words[0]} cannot be parsed: {error}"
            )
            logger.warning("the state of jobs is unknown: %s", why)
            self._next_ask = time.monotonic() + _QUERIED_S[1]
            return
        former, self._asked = self._states, None
        self._states = {job: each for job, each in states.items() if job in ids}
        now = time.monotonic()
        self._ask_s = _QUERIED_S[0] if self._states != former else min(1.5 * self._ask_s, _QUERIED_S[1])
        self._next_ask = now + self._ask_s
        self._ends.answered(ids, self._states)
        for name, job in jobs.items():
            if self._cluster.workers.get(name) is job:
                await self._replace_if_lost(name, job, now)

    async def _replace_if_lost(self, name: Any, job: Any, now: float) -> None:
        """Replace a job without a worker if none will connect to it."""
        seen = self._seen[job]
        state = self._states.get(job.job_id)
        seen.absent = seen.absent + 1 if state is None else 0
        if state is None:
            if now - seen.submitted < _SETTLED_S:
                return
            if seen.absent < 2:  # an answer may lack jobs
                self._next_ask = now + _QUERIED_S[0]
                return
            state = Element(Stage.ENDED, "it is no longer in the queue")
        records = self._history.of(str(name))
        if any(record.gone is None for record in records):  # it has just connected, or reconnected
            return
        if state.stage is Stage.RUNNING and not self._stays_away(records, now):
            return
        if state.stage is Stage.PENDING and not records:
            return
        end = EndedJob(job.job_id, state.reason or str(state.stage), seen.submitted, now, records, state.host)
        what = f"{self._system.title} job {job.job_id}"
        if end.ended_early:
            tail = self._tail(job.job_id)
            when = "soon after its worker started" if records else "before its worker started"
            logger.warning("%s ended %s: %s%s", what, when, end.how, "" if self._failed.ends else tail)
            self._failed.add(end)
            if (too_many := self._failed.too_many(now)) and not self._is_about_to_avoid(state.host):
                text = f"{too_many}; the job script: {self._script}{tail}"
                raise BatchSystemError(self._system.title, "its jobs", text)
            if too_many:
                self._failed.ends.clear()
            if too_many or state.host in self._failed.bad_hosts(now):
                self._avoid(state.host)
        else:
            logger.warning("%s lost its worker (%s) and is replaced", what, end.how)
        self._ends.given_up(job.job_id, state)
        await self._replace(name, job)

    def _is_about_to_avoid(self, host: str) -> bool:
        """Whether too many jobs ended early, but all on this host, while one runs on another; once in a run."""
        elsewhere = (state for state in self._states.values() if state.stage is Stage.RUNNING)
        return (
            not self._avoided
            and {end.host for end in self._failed.ends} == {host}
            and any(state.host not in ("", host) for state in elsewhere)
        )

    def _avoid(self, host: str) -> None:
        """Leave out a host on which job after job ended early, while jobs on other hosts stay."""
        if not host or host in self._avoided:
            return
        self._avoided.append(host)
        options = " ".join(self._leave_out(self._avoided))
        done = f"it is left out from now on ({options})" if options else "job_extra_directives can leave it out"
        logger.warning("%s: job after job ended early on %s, others do not: %s", self._system.title, host, done)

    async def _replace_without_answer(self) -> None:
        """Replace jobs whose worker has left for good, while the batch system does not say how they are."""
        now = time.monotonic()
        if self._asked is None or now - self._asked < _GRACE_S:
            return
        for name, job in list(self._cluster.workers.items()):
            records = self._history.of(str(name))
            if job.job_id and records and self._stays_away(records, now):
                query = self._system.job_query([job.job_id])[0]
                text = "%s job %s lost its worker and is replaced; %s has not answered for %.0f s"
                logger.warning(text, self._system.title, job.job_id, query, now - self._asked)
                await self._replace(name, job)

    def _stays_away(self, records: list[WorkerRecord], now: float) -> bool:
        """Whether all workers of a job have left, and none will connect again."""
        if not records or any(record.gone is None for record in records):
            return False
        last = records[-1]
        return now - (last.gone or now) > (_GRACE_S if last.retired else _RESTARTED_S)

    async def _replace(self, name: Any, job: Any) -> None:
        """Cancel a job; the next tick submits another."""
        closing = asyncio.ensure_future(job.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await _ended(closing)
        self._cluster.workers.pop(name, None)
        self._history.give_up(str(name))

    # Reports

    def _check_rejected(self) -> None:
        """Raise if the batch system rejected all jobs; if it accepted some, or may have, submit again later."""
        for name, job in list(self._cluster.workers.items()):
            if job.error is None:
                continue
            error, taken = job.error, any(each.job_id for each in self._cluster.workers.values())
            if isinstance(error, MaybeSubmittedError):
                self._unclear = error.words
                logger.warning("a job will be submitted again later, if it is not in the queue by then: %s", error)
                self._not_before = time.monotonic() + _AGAIN_S
                self._cluster.workers.pop(name, None)
                continue
            if not taken:
                where = f"the job script: {self._script}"
                if isinstance(error, BatchSystemError):
                    words, remedy = f"{error.words}\n{where}", self._remedy() or error.remedy
                    raise BatchSystemError(error.system, error.command, words, remedy) from error
                raise BatchSystemError(self._system.title, self._system.submit[0], f"{error}\n{where}") from error
            logger.warning("a job was rejected and will be submitted again later: %s", error)
            self._not_before = time.monotonic() + _AGAIN_S
            self._cluster.workers.pop(name, None)

    def _remedy(self) -> str:
        inside = self._system.own_job
        if inside is None:
            return ""
        own = " or with_slurm_allocation() for workers on the nodes of this job" if self._system.name == "slurm" else ""
        return (
            f"this program runs in job {inside}, which may not be allowed to submit jobs: run it on a login node{own}"
        )

    def _report(self, now: float, workers: int) -> None:
        wanted = sum(len(each.get("group", [""])) for each in self._cluster.worker_spec.values())
        reasons = self._summary(now)
        self.status = WorkersNow(workers, max(wanted, workers), tuple(reasons))  # some may be about to leave
        if workers or not self._busy():
            self._waits_since, self._next_word, self._word_s = now, now + _REPORTED_S[0], _REPORTED_S[0]
            return
        shown = ", ".join(reasons) or "no job is known"
        waited = now - self._waits_since
        if now >= self._next_word:
            self._word_s = min(2 * self._word_s, _REPORTED_S[1])
            self._next_word = now + self._word_s
            logger.warning("%s: no worker for %.0f s: %s", self._system.title, waited, shown)
        if not self._here and self._start_timeout is not None and now - self._began > self._start_timeout:
            logs = "".join(self._tail(job) for job in self.jobs()[:1])
            if self._unclear and not self.jobs():
                shown += f"; the last answer to a submission: {self._unclear}"
            raise BatchSystemError(
                self._system.title,
                "its jobs",
                f"no worker came within {self._start_timeout:g} s: {shown}; the job script: {self._script}{logs}",
                f"ask for less, wait longer (start_timeout=), or see {self._system.job_query([''])[0]} for the reasons",
            )

    def _summary(self, now: float) -> list[str]:
        """Why workers are missing, such as `2 jobs PENDING (Resources)`."""
        jobs = self._cluster.workers.values()
        without = [job for job in jobs if job in self._seen and self._seen[job].gone is not None]
        if self._asked is not None and now - self._asked > _SILENT_S and without:
            query = self._system.job_query([""])[0]
            counts = Counter(
                {f"in a state unknown for {now - self._asked:.0f} s, as {query} does not answer": len(without)}
            )
        else:
            counts = Counter(self._words(self._states.get(job.job_id)) for job in without)
        reasons = [f"{counted(count, 'job')} {words}" for words, count in counts.items()]
        if missing := len(set(self._cluster.worker_spec) - set(self._cluster.workers)):
            due = max(self._not_before, self._failed.not_before) - now
            later = f" in {due:.0f} s" if due > 1 else ""
            reasons.append(f"{counted(missing, 'job')} to be submitted{later}")
        return reasons

    def _words(self, state: Element | None) -> str:
        return "submitted" if state is None else state.reason or str(state.stage)

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """The error of a call that was lost with the job of its worker; `None` if that job continues.

        Args:
            call: Name of the call.
            worker: Address of the worker.
            host: Host of it, if known.
        """
        record = self._history.at(worker)
        if record is None or not record.job:
            return None
        self._next_ask, self._ask_s = min(self._next_ask, time.monotonic()), _QUERIED_S[0]
        try:
            end = await self._ends.of(record)
        except Exception:  # whatever the batch system says, the call must end
            logger.exception("how %s job %s ended could not be found out", self._system.title, record.job)
            return None
        return None if end is None else end.error(call, self._system.title, record.job, host)

    def log_of(self, worker: str) -> str:
        """The end of the log of the job of the worker that has, or had, this address; empty if there is none."""
        record = self._history.at(worker)
        return self._tail(record.job).strip() if record is not None and record.job else ""

    def _job_of(self, worker: str) -> str:
        """The id of the job of the worker with this name."""
        for name, job in self._cluster.workers.items():
            if job.job_id and str(name) in job_names(worker):
                return str(job.job_id)
        return ""

    def _tail(self, job: str) -> str:
        """The end of a job's log, for a message; empty if there is none."""
        tail = ""
        named = re.compile(rf"(?<!\d){re.escape(job)}(?!\d)")  # not job 123 for job 12
        for path in sorted(self._logs.iterdir()) if self._logs.is_dir() else ():
            if not named.search(path.name) or path.suffix == ".sh":  # a script, with random characters in its name
                continue
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            if lines:
                tail += f"\nthe end of {path}:\n" + "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])
        return tail


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Whether a task ends within a moment; it is not cancelled otherwise, nor if the caller is."""
    done, _ = await asyncio.wait({task}, timeout=_TICK_S)
    return bool(done)
