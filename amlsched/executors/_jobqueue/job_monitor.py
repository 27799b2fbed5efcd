"""Keeps the jobs of a cluster up, and tells why there are no workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.system import Element, Stage
from amlsched.errors import BatchSystemError
from amlsched.executors._jobqueue.dask_classes import call
from amlsched.executors._jobqueue.job_ends import JobEnds
from amlsched.executors._jobqueue.worker_history import End, Fruitless, Lives
from amlsched.executors.capabilities import WorkersNow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from amlsched.batch_systems.queues import Queue
    from amlsched.errors import WorkerLostError
    from amlsched.executors._jobqueue.job_canceller import Guard

__all__ = ["Watch"]

logger = logging.getLogger("amlsched.jobs")

_TICK_S = 0.5
_ASKED_S = (1.0, 10.0)  # how often the batch system is asked: at first, and at most
_TOLD_S = (5.0, 300.0)  # how often the log says that no worker has come
_GRACE_S = 15.0  # a job whose worker has left ends within this, or is ended
_SETTLED_S = 4.0  # a job that was submitted just now may not be known yet
_LOG_LINES = 20
_UNKNOWN = "no job is known"


@dataclass
class _Seen:
    """What was seen of a job."""

    submitted: float
    gone: float | None = None


class Watch:
    """Looks after the jobs of one cluster, in the thread of its loop.

    A job that ended, or whose worker has left, is replaced; one that the batch system has put back into its queue,
    too. When several in a row end before they have done anything, or none comes in time, that is told as a failure.

    Args:
        queue: The batch system.
        cluster: dask-jobqueue's cluster, with classes of ours.
        environment: The variables of commands.
        logs: The folder with the logs of jobs.
        script: A copy of the job script, for messages.
        start_timeout: Seconds until the first worker must be there; `None` for any time.
        guard: Told of every job.
        busy: Whether there are calls that need a worker, and how many have ended.
        fail: Told why the cluster will not do.
    """

    def __init__(
        self,
        queue: Queue,
        cluster: Any,
        *,
        environment: Mapping[str, str],
        logs: Path,
        script: Path,
        start_timeout: float | None,
        guard: Guard,
        busy: Callable[[], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._queue, self._cluster, self._environment = queue, cluster, environment
        self._logs, self._script = logs, script
        self._start_timeout = start_timeout
        self._guard, self._busy, self._fail = guard, busy, fail
        self._seen: dict[Any, _Seen] = {}
        self._states: dict[str, Element] = {}
        self._lives = Lives(self._job_of)
        self._lives.listen(cluster.scheduler)
        self._ends = JobEnds(queue, environment, self._lives.has_come)
        self._fruitless = Fruitless(self._lives)
        self._here = False  # a worker has come
        self._waits_since = self._began = time.monotonic()
        self._next_ask, self._ask_s = 0.0, _ASKED_S[0]
        self._next_word, self._word_s = time.monotonic() + _TOLD_S[0], _TOLD_S[0]
        self._not_before = 0.0  # the next job in place of one that was refused
        self.status = WorkersNow(0, 0)

    async def run(self) -> None:
        """Look after them until cancelled, or until that makes no sense any more."""
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                try:
                    await self._tick()
                except BatchSystemError as error:
                    self._fail(error)
                    return
                except Exception:  # whatever it is, the run must not lose its jobs silently
                    logger.exception("the jobs of %s could not be looked after", self._queue.title)
        finally:
            self._ends.close()

    def jobs(self) -> list[str]:
        """The ids of the jobs that were submitted and not seen to end."""
        return [job.job_id for job in self._cluster.workers.values() if job.job_id]

    async def _tick(self) -> None:
        now = time.monotonic()
        self._fruitless.look(now)
        self._refused()
        here = {life.name for life in self._lives.here()}
        missing: list[Any] = []
        for name, job in list(self._cluster.workers.items()):
            if job not in self._seen and job.job_id:
                self._guard.add(job.job_id)
                logger.info("%s job %s was submitted", self._queue.title, job.job_id)
            seen = self._seen.setdefault(job, _Seen(now))
            if str(name) in here or any(worker.startswith(f"{name}-") for worker in here):
                seen.gone = None
                self._here = True
            elif job.job_id:
                if seen.gone is None:
                    seen.gone, self._next_ask, self._ask_s = now, min(self._next_ask, now + 1), _ASKED_S[0]
                missing.append(name)
        self._seen = {job: seen for job, seen in self._seen.items() if job in set(self._cluster.workers.values())}
        if (missing or self._ends.asked_for) and now >= self._next_ask:
            await self._ask(missing)
        self._tell(now, len(here))
        due = now >= max(self._not_before, self._fruitless.not_before)
        if due and set(self._cluster.worker_spec) - set(self._cluster.workers):
            await asyncio.shield(self._cluster._correct_state())  # else it would never run again

    # What the batch system says

    async def _ask(self, missing: list[Any]) -> None:
        jobs = {name: self._cluster.workers[name] for name in missing}
        ids = list(dict.fromkeys([*(job.job_id for job in jobs.values()), *self._ends.asked_for]))
        try:
            text = await call(self._queue.title, list(self._queue.query(ids)), self._environment)
        except BatchSystemError as error:
            if len(ids) > 1 or "invalid job id" not in error.words.lower():
                known = self._queue.system is not None and self._queue.system.forgotten.search(error.words)
                if not known:
                    logger.warning("the state of jobs is not known: %s", error)
                    self._next_ask = time.monotonic() + _ASKED_S[1]
                    return
            text = ""
        former = self._states
        self._states = {job: each for job, each in self._queue.read(text).items() if job in ids}
        now = time.monotonic()
        self._ask_s = _ASKED_S[0] if self._states != former else min(1.5 * self._ask_s, _ASKED_S[1])
        self._next_ask = now + self._ask_s
        self._ends.answered(ids, self._states)
        for name, job in jobs.items():
            if self._cluster.workers.get(name) is job:
                await self._judge(name, job, now)

    async def _judge(self, name: Any, job: Any, now: float) -> None:
        """Replace a job without a worker, where that will not come or come back."""
        seen = self._seen[job]
        state = self._states.get(job.job_id)
        if state is None:
            if now - seen.submitted < _SETTLED_S:
                return
            state = Element(Stage.ENDED, "it is not in the queue any more")
        lives = self._lives.of(str(name))
        if any(life.gone is None for life in lives):  # it has come, or come back, just now
            return
        if state.stage is Stage.RUNNING and (not lives or now - (lives[-1].gone or now) < _GRACE_S):
            return
        if state.stage is Stage.PENDING and not lives:
            return
        end = End(job.job_id, state.reason or str(state.stage), seen.submitted, now, lives)
        what = f"{self._queue.title} job {job.job_id}"
        if end.fruitless:
            tail = self._tail(job.job_id)
            when = "soon after its worker came" if lives else "before its worker came"
            logger.warning("%s ended %s: %s%s", what, when, end.how, "" if self._fruitless.ends else tail)
            self._fruitless.add(end)
            if too_many := self._fruitless.too_many(now):
                told = f"{too_many}; the job script: {self._script}{tail}"
                raise BatchSystemError(self._queue.title, "its jobs", told)
        else:
            logger.warning("%s lost its worker (%s): it is replaced", what, end.how)
        self._ends.given_up(job.job_id, state)
        await job.close()
        self._cluster.workers.pop(name, None)
        self._lives.give_up(str(name))

    # What is said

    def _refused(self) -> None:
        """Raise where the batch system took no job; where it took others, do with those for a while."""
        for name, job in list(self._cluster.workers.items()):
            if job.error is None:
                continue
            error, taken = job.error, any(each.job_id for each in self._cluster.workers.values())
            if not taken:
                where = f"the job script: {self._script}"
                if isinstance(error, BatchSystemError):
                    remedy = self._remedy(error.words)
                    raise BatchSystemError(
                        error.system, error.command, f"{error.words}\n{where}", remedy or error.remedy
                    ) from error
                raise BatchSystemError(self._queue.title, self._queue.submit, f"{error}\n{where}") from error
            logger.warning("a job was refused, and is tried again later: %s", error)
            self._not_before = time.monotonic() + 30.0
            self._cluster.workers.pop(name, None)

    def _remedy(self, words: str) -> str:
        inside = self._queue.inside
        if inside is None:
            return ""
        own = " or with_slurm_allocation() for workers on the nodes of this job" if self._queue.name == "slurm" else ""
        return f"this program runs in job {inside}: sites may forbid jobs to submit jobs; run it on a login node,{own}"

    def _tell(self, now: float, workers: int) -> None:
        wanted = sum(len(each.get("group", [""])) for each in self._cluster.worker_spec.values())
        told = self._summary(now)
        self.status = WorkersNow(workers, max(wanted, workers), tuple(told))  # some may be about to leave
        if workers or not self._busy():
            self._waits_since, self._next_word, self._word_s = now, now + _TOLD_S[0], _TOLD_S[0]
            return
        waited = now - self._waits_since
        if now >= self._next_word:
            self._word_s = min(2 * self._word_s, _TOLD_S[1])
            self._next_word = now + self._word_s
            logger.warning("%s: no worker for %.0f s: %s", self._queue.title, waited, ", ".join(told) or _UNKNOWN)
        if not self._here and self._start_timeout is not None and now - self._began > self._start_timeout:
            seen = ", ".join(told) or _UNKNOWN
            logs = "".join(self._tail(job) for job in self.jobs()[:1])
            raise BatchSystemError(
                self._queue.title,
                "its jobs",
                f"no worker came within {self._start_timeout:g} s: {seen}; the job script: {self._script}{logs}",
                f"ask for less, wait longer by start_timeout=, or see the reasons with {self._queue.query(['JOB'])[0]}",
            )

    def _summary(self, now: float) -> list[str]:
        """What there is instead of workers, such as `2 jobs PENDING (Resources)`."""
        jobs = self._cluster.workers.values()
        without = [job for job in jobs if job in self._seen and self._seen[job].gone is not None]
        counts = Counter(self._words(self._states.get(job.job_id)) for job in without)
        told = [f"{count} job{'s' * (count > 1)} {words}" for words, count in counts.items()]
        if missing := len(set(self._cluster.worker_spec) - set(self._cluster.workers)):
            due = max(self._not_before, self._fruitless.not_before) - now
            told.append(f"{missing} job{'s' * (missing > 1)} to be submitted" + (f" in {due:.0f} s" if due > 1 else ""))
        return told

    def _words(self, state: Element | None) -> str:
        return "submitted" if state is None else state.reason or str(state.stage)

    async def loss(self, call: str, worker: str, host: str | None) -> WorkerLostError | None:
        """The error of a call that was lost with the job of its worker; `None` where that job goes on.

        Args:
            call: Name of the call.
            worker: Address of the worker.
            host: Host of it, if known.
        """
        life = self._lives.at(worker)
        if life is None or not life.job:
            return None
        self._next_ask, self._ask_s = min(self._next_ask, time.monotonic()), _ASKED_S[0]
        try:
            end = await self._ends.of(life)
        except Exception:  # whatever the batch system says, the call must end
            logger.exception("how %s job %s ended could not be found out", self._queue.title, life.job)
            return None
        return None if end is None else end.error(call, self._queue.title, life.job, host)

    def log_of(self, worker: str) -> str:
        """The end of the log of the job that holds, or held, the worker at this address; empty where there is none."""
        life = self._lives.at(worker)
        return self._tail(life.job).strip() if life is not None and life.job else ""

    def _job_of(self, worker: str) -> str:
        """The id of the job that holds the worker of this name."""
        for name, job in self._cluster.workers.items():
            if job.job_id and (worker == str(name) or worker.startswith(f"{name}-")):
                return str(job.job_id)
        return ""

    def _tail(self, job: str) -> str:
        """The end of a job's log, for a message; empty where there is none."""
        told = ""
        for path in sorted(self._logs.glob(f"*{job}*")) if self._logs.is_dir() else ():
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            if lines:
                told += f"\nthe end of {path}:\n" + "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])
        return told
