"""What the workers of jobs did before they left, and which jobs in a row did nothing."""

from __future__ import annotations

import importlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amlsched.executors._dask.calls import SHARED
from amlsched.executors._dask.clusters import ALLOWED_FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["EARLY_ENDS", "End", "Fruitless", "Life", "Lives"]

EARLY_ENDS = 3
"""So many jobs in a row may end before they have done anything."""
SOON_S = 60.0
"""A job that ends within this after its worker came, with no call completed, has done nothing."""
_PAUSES_S = (1.0, 60.0)  # until the next job in place of such a one: at first, and at most
_REMEMBERED = 1000
_TOLD = 10


@dataclass(slots=True)
class Life:
    """A worker's time with the cluster.

    Attributes:
        name: The worker's.
        came: When it came.
        gone: When it left; `None` while it is there.
        useful: Whether a call was completed on it.
        busy: Whether it ran a call when it left.
        retired: Whether it left in good order, as at the end of its lifetime.
        former: Whether its job has been given up.
        job: The id of that job, if it is in one.
        address: Where it was.
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


class Lives:
    """Which workers came, what they did, and how they left, as dask's scheduler tells; in the thread of its loop.

    Args:
        job_of: The id of the job that holds a worker of this name now; empty for none.

    Attributes:
        completed: How many calls ended on workers.
        proved: How many workers have completed a call.
    """

    def __init__(self, job_of: Callable[[str], str] = lambda _: "") -> None:
        self.completed = self.proved = 0
        self._job_of = job_of
        self._here: dict[str, Life] = {}
        self._gone: deque[Life] = deque(maxlen=_REMEMBERED)

    def listen(self, scheduler: Any) -> None:
        """Have a `distributed.Scheduler` tell, from now on."""
        lives = self
        distributed: Any = importlib.import_module("distributed")

        class Told(distributed.SchedulerPlugin):  # type: ignore[misc]
            name = "amlsched-lives"

            def add_worker(self, scheduler: Any, worker: str) -> None:
                lives.came(worker, str(scheduler.workers[worker].name))

            def transition(self, key: Any, start: str, finish: str, *_: Any, **more: Any) -> None:
                if start == "processing" and finish == "memory" and not str(key).startswith(SHARED):
                    lives.done(more.get("worker", ""))

            def log_event(self, topic: str, msg: Any) -> None:
                if topic == "all" and msg["action"] == "remove-worker":  # dask's own topic: they all have one
                    lives.left(msg["worker"], bool(msg.get("processing-tasks")), bool(msg.get("expected")))

        scheduler.add_plugin(Told())

    def came(self, address: str, name: str) -> None:
        """A worker is there."""
        self._here[address] = Life(name, time.monotonic(), job=self._job_of(name), address=address)

    def done(self, address: str) -> None:
        """A call was completed on a worker."""
        self.completed += 1
        life = self._here.get(address)
        if life is not None and not life.useful:
            life.useful = True
            self.proved += 1

    def left(self, address: str, busy: bool, retired: bool) -> None:
        """A worker is not there any more."""
        life = self._here.pop(address, None)
        if life is not None:
            life.gone, life.busy, life.retired = time.monotonic(), busy, retired
            self._gone.append(life)

    def here(self) -> list[Life]:
        """Those that are there, of jobs that have not been given up."""
        return [life for life in self._here.values() if not life.former]

    def of(self, job: str) -> list[Life]:
        """Those of the job that has this name now; those that are there last."""
        return [
            life
            for life in (*self._gone, *self._here.values())
            if not life.former and (life.name == job or life.name.startswith(f"{job}-"))
        ]

    def at(self, address: str) -> Life | None:
        """That of the worker that is, or was last, at this address; `None` where it is not known."""
        return self._here.get(address) or next((life for life in reversed(self._gone) if life.address == address), None)

    def has_come(self, job: str, since: float) -> bool:
        """Whether there is a worker in the job with this id that came after this moment."""
        return any(life.job == job and life.came > since for life in self._here.values())

    def give_up(self, job: str) -> None:
        """From now on, another job has this name."""
        for life in self.of(job):
            life.former = True


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended.

    Attributes:
        job: Its id.
        how: What the batch system says.
        submitted: When it was submitted.
        ended: When its end was seen.
        lives: Of its workers, all of which have left.
    """

    job: str
    how: str
    submitted: float
    ended: float
    lives: list[Life]

    @property
    def lasted(self) -> float:
        """Seconds from when its first worker came until its last one left."""
        if not self.lives:
            return 0.0
        return max(life.gone or self.ended for life in self.lives) - min(life.came for life in self.lives)

    @property
    def busy(self) -> bool:
        """Whether a call was running on it, which may be what ended it."""
        return any(life.busy for life in self.lives)

    @property
    def fruitless(self) -> bool:
        """Whether the job ended before its worker came, or soon after and with no call completed."""
        return self.lasted < SOON_S and not any(life.useful or life.retired for life in self.lives)


@dataclass
class Fruitless:
    """Jobs in a row that ended before a call was completed on them: before their worker came, or soon after.

    Jobs that end together, as those of a node that fails, count as one where their workers had come. While there is a
    worker that has outlasted them, they are not too many: the fault is not with all jobs.

    Attributes:
        ends: Of those jobs.
        not_before: When the next job may be submitted in the place of one that ended.
    """

    lives: Lives
    ends: list[End] = field(default_factory=list["End"])
    not_before: float = 0.0
    _pause_s: float = 0.0
    _paused: float = 0.0
    _seen: tuple[int, int] = (0, 0)

    def look(self, now: float) -> None:
        """Forget them where a call was completed since the last look, or a worker stays."""
        completed, proved = self.lives.completed, self.lives.proved
        stays = any(now - life.came > SOON_S for life in self.lives.here())
        if completed != self._seen[0] or stays:
            self.ends.clear()
        if proved != self._seen[1]:
            self._pause_s = 0.0
        self._seen = completed, proved

    def add(self, end: End) -> None:
        """One more; the next job waits for some time, twice as long each time."""
        self.ends.append(end)
        if end.submitted >= self._paused:
            self._paused, self._pause_s = end.ended, min(max(_PAUSES_S[0], 2 * self._pause_s), _PAUSES_S[1])
        self.not_before = end.ended + self._pause_s

    def too_many(self, now: float) -> str:
        """Which they are, if they are too many; empty if not."""
        longest = max((end.lasted for end in self.ends), default=0.0)
        if any(now - life.came > longest for life in self.lives.here()):
            return ""
        never = sum(not end.lives for end in self.ends)
        idle = _in_a_row(end for end in self.ends if not end.busy)
        # No call can be the cause of more than a call is tried.
        if never < EARLY_ENDS and idle < EARLY_ENDS and _in_a_row(self.ends) < EARLY_ENDS + ALLOWED_FAILURES + 1:
            return ""
        when = "their worker came" if never == len(self.ends) else "a call was completed on them"
        told = "; ".join(f"job {end.job}: {end.how}" for end in self.ends[-_TOLD:])
        return f"{len(self.ends)} jobs in a row ended before {when}: {told}"


def _in_a_row(ends: Iterable[End]) -> int:
    """How many, where those count as one of which none was submitted after the end of another."""
    count, last = 0, -1.0
    for end in ends:
        if end.submitted > last:
            count, last = count + 1, end.ended
    return count
