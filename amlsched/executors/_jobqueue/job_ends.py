"""Determines how a job of a batch system ended, from the batch system's records, and the matching error.

Sources:
    The manuals of squeue and sacct (22.05); of qacct and sge_status (Grid Engine 8.1.9); of condor_history and the
    attributes of a job (HTCondor 23); of PBS Professional (2022), `Exit_status` and exit codes of jobs, and of Torque
    (6.1), job exit status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from amlsched.batch_systems.commands import call
from amlsched.batch_systems.system import Element, JobEnd, Stage
from amlsched.errors import BatchSystemError, JobLostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amlsched.batch_systems import System
    from amlsched.executors._jobqueue.worker_history import WorkerRecord

__all__ = ["JobEnds", "how_ended"]

_WITHIN_S = 45.0
"""How long a lost call waits for this information."""
_RECORDED_S = 25.0
"""How long after its end a job may be missing in the accounting records; Grid Engine writes them every 15 s."""
_RUNS_ON_S = 8.0
"""If a job still runs this long after its worker was lost, the job is not the cause."""
_AGAIN_S = 1.0
_REMEMBERED = 1000


async def how_ended(system: System, job: str, element: Element | None) -> JobEnd:
    """How a job ended that runs no longer. Accounts that are late are waited for, for a bounded time.

    Args:
        system: The batch system.
        job: The job.
        element: What the queue says of it; `None` where that has forgotten it.
    """
    if element is not None and (found := system.end_listed(element)) is not None:
        return found
    again = element is not None and element.stage is Stage.PENDING
    if system.end_query is not None and (found := await _recorded(system, system.end_query(job), again)):
        return found
    if element is None:
        return JobEnd(JobLostError, "gone", "the queue has forgotten it")
    return JobEnd(JobLostError, element.reason or str(element.stage), "requeued" if again else "")


async def _recorded(system: System, command: Sequence[str], once: bool) -> JobEnd | None:
    until = time.monotonic() + _RECORDED_S
    while True:
        try:
            if found := system.end_recorded(await call(system, command)):
                return found
        except BatchSystemError as error:
            if not system.not_recorded.search(error.words):  # there are no accounting records here
                return None
        if once or time.monotonic() + _AGAIN_S > until:
            return None
        await asyncio.sleep(_AGAIN_S)


class JobEnds:
    """Finds out how the jobs of lost workers ended. Used in the loop of their cluster.

    Args:
        system: The batch system.
        runs_on: Whether a job has a worker that came after this moment.
    """

    def __init__(self, system: System, runs_on: Callable[[str, float], bool]) -> None:
        self._system, self._runs_on = system, runs_on
        self._searches: dict[str, asyncio.Task[JobEnd | None]] = {}
        self._answers: dict[str, asyncio.Future[Element | None]] = {}
        self._given_up: dict[str, Element] = {}
        self._closed = False

    @property
    def asked_for(self) -> list[str]:
        """The jobs whose state is needed."""
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
        """Record the last state of a job that is about to be cancelled and replaced."""
        self._given_up[job] = element
        while len(self._given_up) > _REMEMBERED:
            del self._given_up[next(iter(self._given_up))]

    async def of(self, record: WorkerRecord) -> JobEnd | None:
        """How the job of a lost worker ended; `None` if it is still running."""
        if self._closed:
            return None
        search = self._searches.get(record.job)
        if search is None:
            search = self._searches[record.job] = asyncio.ensure_future(self._search(record.job, record.gone))
            search.add_done_callback(lambda _: self._searches.pop(record.job, None))
        try:
            return await asyncio.shield(search)
        except asyncio.CancelledError:
            if search.cancelled():  # the cluster was closed
                return None
            raise

    def close(self) -> None:
        """Cancel all searches: the queue is no longer queried."""
        self._closed = True
        for search in tuple(self._searches.values()):
            search.cancel()

    async def _search(self, job: str, lost: float | None) -> JobEnd | None:
        began = time.monotonic()
        so_far = JobEnd(JobLostError, "not known", f"{self._system.title} did not say within {_WITHIN_S:g} s")
        try:
            async with asyncio.timeout(_WITHIN_S):
                while True:
                    last = self._given_up.get(job)
                    element = await self._state(job) if last is None else last
                    if element is None or element.stage is not Stage.RUNNING:
                        return await how_ended(self._system, job, element)
                    ending = self._system.end_listed(element)
                    if last is not None:
                        return ending
                    if ending is None and (time.monotonic() - began > _RUNS_ON_S or self._runs_on(job, lost or began)):
                        return None
                    so_far = ending or so_far
        except TimeoutError:
            return so_far

    async def _state(self, job: str) -> Element | None:
        answer = self._answers.get(job)
        if answer is None or answer.done():  # that of a search that timed out
            answer = self._answers[job] = asyncio.get_running_loop().create_future()
        return await answer
