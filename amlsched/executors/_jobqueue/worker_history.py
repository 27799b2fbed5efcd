"""What the workers of jobs did before they left, and how many jobs in a row ended early."""

from __future__ import annotations

import importlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amlsched.executors._dask.calls import SHARED
from amlsched.executors._dask.clusters import ALLOWED_FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["EARLY_ENDS", "EndedJob", "FailedJobs", "WorkerRecord", "WorkerHistory", "job_names"]

EARLY_ENDS = 3
"""How many jobs in a row may end early before the run fails."""
SOON_S = 60.0
"""A job ends early if it ends this soon after its worker connected, with no call completed."""
_HOSTS_S = 1800.0
_PAUSES_S = (1.0, 60.0)  # before such a job is replaced: at first, and at most
_REMEMBERED = 1000
_SHOWN = 10


@dataclass(slots=True)
class WorkerRecord:
    """A worker, from when it connected until it left.

    Attributes:
        name: Its name.
        came: When it connected.
        gone: When it left; `None` while it is connected.
        useful: Whether a call was completed on it.
        busy: Whether it ran a call when it left.
        retired: Whether it left as planned, such as at the end of its lifetime.
        former: Whether its job has been replaced.
        job: The id of its job, if it is in one.
        address: Its address.
    """

    name: str
    came: float
    gone: float | None = None
    useful: bool = False
    busy: bool = False
    retired: bool = False
    former: bool = False
    job: str = ""
    address: str = ""


def job_names(worker: str) -> tuple[str, str]:
    """The names that the job of a worker may have: the worker's, or that without its number in a job of several."""
    return worker, worker.rpartition("-")[0]


class WorkerHistory:
    """The workers of a cluster, by the events of dask's scheduler. Used in the thread of its loop.

    Args:
        job_of: Returns the id of the job of the worker with a name; empty for none.

    Attributes:
        completed: How many calls were completed.
        proved: How many workers have completed a call.
    """

    def __init__(self, job_of: Callable[[str], str] = lambda _: "") -> None:
        self.completed = self.proved = 0
        self._job_of = job_of
        self._here: dict[str, WorkerRecord] = {}
        self._gone: deque[WorkerRecord] = deque(maxlen=_REMEMBERED)

    def listen(self, scheduler: Any) -> None:
        """Follow the events of a `distributed.Scheduler` from now on."""
        history = self
        distributed: Any = importlib.import_module("distributed")

        class HistoryPlugin(distributed.SchedulerPlugin):  # type: ignore[misc]
            name = "amlsched-worker-history"

            def add_worker(self, scheduler: Any, worker: str) -> None:
                history.came(worker, str(scheduler.workers[worker].name))

            def transition(self, key: Any, start: str, finish: str, *_: Any, **more: Any) -> None:
                if start == "processing" and finish == "memory" and not str(key).startswith(SHARED):
                    history.done(more.get("worker", ""))

            def log_event(self, topic: str, msg: Any) -> None:
                if topic == "all" and msg["action"] == "remove-worker":  # dask's topic for all workers
                    history.left(msg["worker"], bool(msg.get("processing-tasks")), bool(msg.get("expected")))

        scheduler.add_plugin(HistoryPlugin())

    def came(self, address: str, name: str) -> None:
        """A worker connected."""
        self._here[address] = WorkerRecord(name, time.monotonic(), job=self._job_of(name), address=address)

    def done(self, address: str) -> None:
        """A call was completed on a worker."""
        self.completed += 1
        record = self._here.get(address)
        if record is not None and not record.useful:
            record.useful = True
            self.proved += 1

    def left(self, address: str, busy: bool, retired: bool) -> None:
        """A worker left."""
        record = self._here.pop(address, None)
        if record is not None:
            record.gone, record.busy, record.retired = time.monotonic(), busy, retired
            self._gone.append(record)

    def here(self) -> list[WorkerRecord]:
        """The connected workers of jobs that have not been replaced."""
        return [record for record in self._here.values() if not record.former]

    def of(self, job: str) -> list[WorkerRecord]:
        """The workers of the job that has this name now; connected ones last."""
        return [
            record
            for record in (*self._gone, *self._here.values())
            if not record.former and job in job_names(record.name)
        ]

    def at(self, address: str) -> WorkerRecord | None:
        """The worker that has, or had last, this address; `None` if unknown."""
        return self._here.get(address) or next(
            (record for record in reversed(self._gone) if record.address == address), None
        )

    def has_come(self, job: str, since: float) -> bool:
        """Whether a worker of the job with this id connected after this time."""
        return any(record.job == job and record.came > since for record in self._here.values())

    def give_up(self, job: str) -> None:
        """The job with this name is replaced by another with the same name."""
        for record in self.of(job):
            record.former = True


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended.

    Attributes:
        job: Its id.
        how: How it ended, in the words of the batch system.
        submitted: When it was submitted.
        ended: When that was noticed.
        records: Its workers, which have all left.
        host: The host on which it ran; empty if unknown.
    """

    job: str
    how: str
    submitted: float
    ended: float
    records: list[WorkerRecord]
    host: str = ""

    @property
    def lasted(self) -> float:
        """Seconds from when its first worker connected until its last one left."""
        if not self.records:
            return 0.0
        return max(record.gone or self.ended for record in self.records) - min(record.came for record in self.records)

    @property
    def busy(self) -> bool:
        """Whether a call was running on it, which may be the cause."""
        return any(record.busy for record in self.records)

    @property
    def ended_early(self) -> bool:
        """Whether it ended before its worker connected, or soon after and with no call completed."""
        return self.lasted < SOON_S and not any(record.useful or record.retired for record in self.records)


@dataclass
class FailedJobs:
    """Jobs in a row that ended early.

    Jobs that end together, such as those of a node that fails, count as one if their workers had connected. While a
    worker is connected that has outlasted them, they are not too many, as not all jobs fail.

    Attributes:
        history: The workers of the cluster.
        ends: These jobs.
        not_before: When the next job may be submitted as a replacement.
    """

    history: WorkerHistory
    ends: list[EndedJob] = field(default_factory=list["EndedJob"])
    not_before: float = 0.0
    _pause_s: float = 0.0
    _paused: float = 0.0
    _seen: tuple[int, int] = (0, 0)
    _on_hosts: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def update(self, now: float) -> None:
        """Clear them if a call was completed since the last time, or a worker has stayed."""
        completed, proved = self.history.completed, self.history.proved
        stays = any(now - record.came > SOON_S for record in self.history.here())
        if completed != self._seen[0] or stays:
            self.ends.clear()
        if proved != self._seen[1]:
            self._pause_s = 0.0
        self._seen = completed, proved

    def add(self, end: EndedJob) -> None:
        """Add a job; the next replacement is delayed, twice as long each time."""
        self.ends.append(end)
        if end.host:
            self._on_hosts.append((end.ended, end.host))
        if end.submitted >= self._paused:
            self._paused, self._pause_s = end.ended, min(max(_PAUSES_S[0], 2 * self._pause_s), _PAUSES_S[1])
        self.not_before = end.ended + self._pause_s

    def _others_stay(self, now: float) -> bool:
        """Whether a worker is connected that has outlasted these jobs."""
        longest = max((end.lasted for end in self.ends), default=0.0)
        return any(now - record.came > longest for record in self.history.here())

    def bad_hosts(self, now: float) -> dict[str, int]:
        """The hosts on which too many of the jobs ended early, and how many did; none if those on others did, too.

        A call that completes on another host does not count in favour of them.
        """
        if not self._others_stay(now):
            return {}
        self._on_hosts = [(when, host) for when, host in self._on_hosts if now - when < _HOSTS_S]
        counts = Counter(host for _, host in self._on_hosts)
        return {host: count for host, count in counts.items() if count >= EARLY_ENDS}

    def too_many(self, now: float) -> str:
        """A message if they are too many; else empty."""
        if self._others_stay(now):
            return ""
        never = sum(not end.records for end in self.ends)
        idle = _in_a_row(end for end in self.ends if not end.busy)
        # One call is tried so often, and may be the cause of as many.
        if never < EARLY_ENDS and idle < EARLY_ENDS and _in_a_row(self.ends) < EARLY_ENDS + ALLOWED_FAILURES + 1:
            return ""
        when = "their worker started" if never == len(self.ends) else "they completed a call"
        listed = "; ".join(f"job {end.job}: {end.how}" for end in self.ends[-_SHOWN:])
        return f"{len(self.ends)} jobs in a row ended before {when}: {listed}"


def _in_a_row(ends: Iterable[EndedJob]) -> int:
    """The number of jobs, counting as one those of which none was submitted after another had ended."""
    count, last = 0, -1.0
    for end in ends:
        if end.submitted > last:
            count, last = count + 1, end.ended
    return count
