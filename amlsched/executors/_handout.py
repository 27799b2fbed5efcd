"""Which worker of a pool gets which call, and when: ahead of time while calls prove short, never behind a long one."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from amlsched.executors._calls import CallFuture
from amlsched.executors._channel import SLOTS, fits_slot
from amlsched.executors._driven import State, Worker, start_error
from amlsched.executors._payload import Sheet
from amlsched.executors._roster import Roster

__all__ = ["Endings", "Handout"]

_AHEAD_S = 0.002  # work that a worker is given ahead of time, as far as it can be foretold
_TINY_S = 0.000_03  # where calls are shorter than it takes to wake a worker, a busy one is given several
_PATIENCE_S = 0.001  # how long such a call may wait behind another while there is an idle worker
_SHORT_S = 0.005  # only calls shorter than this are given ahead; one that lasts longer gives back what waits behind it
_SPARE_SHEETS = 8

Endings = list[Callable[[], object]]
"""What ends calls, to be called without the lock."""


class Handout:
    """The queue of calls, and its way to the workers. Everything is called under the lock of its crew.

    Args:
        roster: The workers.
        wake: Has `wish` asked for soon.

    Attributes:
        queued: Calls that no worker has; some may be over.
        idle: Workers without a call. The last to become idle is the first to get one: its caches are warm.
        full: No worker has room for another call.
    """

    def __init__(self, roster: Roster, wake: Callable[[], object]) -> None:
        self._roster, self._wake = roster, wake
        self.queued: deque[CallFuture] = deque()
        self.idle: list[Worker] = []
        self.full = False
        self._mean_s = float("inf")  # of the calls so far, the recent ones above all
        self._looked = 0.0
        self._restless = False  # calls wait behind others though a worker could have them
        self._spare: list[Sheet] = []

    def give_up(self, reason: BaseException, endings: Endings) -> None:
        """Fail the calls that wait if no worker is left and none can be started."""
        if not self._roster.hopeless:
            return
        self._roster.failed_starts = 0  # calls submitted later may try again
        for call in self.queued:
            if not call.over:
                call.over = True
                endings.append(partial(call.end, start_error(call.name, reason)))
        self.queued.clear()

    def note_duration(self, seconds: float) -> None:
        """Learn from a call how long calls take."""
        if self._mean_s == float("inf"):
            self._mean_s = seconds
        else:
            self._mean_s += (seconds - self._mean_s) * (0.5 if seconds > self._mean_s else 0.1)

    def give(self, endings: Endings) -> None:
        """Give calls to workers as far as there is room."""
        queued = self.queued
        while queued:
            call = queued[0]
            if call.over:
                queued.popleft()
                continue
            worker, limit = self._worker_with_room(fits_slot(call.payload), endings)
            if worker is None or not self._fill(worker, limit, endings):
                self.full = True
                break

    def _fill(self, worker: Worker, limit: int, endings: Endings) -> bool:
        """Give a worker calls until it has as many as the limit; whether at least one is out of the queue."""
        queued = self.queued
        before = len(queued)
        while queued:
            call = queued[0]
            if not call.over:
                try:
                    if not worker.put(call, self._spare):
                        break
                except (OSError, MemoryError) as error:  # no memory for a large call
                    call.over = True
                    endings.append(partial(call.end, error))
            queued.popleft()
            if len(worker.calls) >= limit or not worker.calls_left:
                break
        worker.channel.post()
        if not worker.calls and worker.state is State.READY:
            self.idle.append(worker)
        return len(queued) < before

    def _worker_with_room(self, can_wait: bool, endings: Endings) -> tuple[Worker | None, int]:
        """Who shall have the next call, and how many it may have then.

        Args:
            can_wait: Whether it is a call that a worker can be given ahead of time.
            endings: Of calls that end by the way.
        """
        mean, now = self._mean_s, time.monotonic()
        several = 1
        if mean < _TINY_S and can_wait:
            several = min(SLOTS, int(_TINY_S / max(mean, 1e-9)) + 1)
            for worker in self._roster.workers:
                if 0 < len(worker.calls) < several and worker.can_queue(now - _PATIENCE_S):
                    self._look_later()
                    return worker, several
        if self.idle:
            if several > 1 and len(self.queued) > 1:
                self._look_later()
            return self.idle.pop(), several
        if self._roster.may_start():
            try:
                return self._roster.start(), 1
            except Exception as error:
                self.give_up(error, endings)
                return None, 1
        if mean > _SHORT_S or not can_wait:
            return None, 0
        depth = least = max(2, min(SLOTS, int(_AHEAD_S / max(mean, 1e-9))))
        best = None
        for worker in self._roster.workers:
            here = len(worker.calls)
            if here < least and worker.can_queue(now - _SHORT_S):
                best, least = worker, here
        return best, depth

    def _look_later(self) -> None:
        """Calls are going to wait behind others: somebody has to see it if the first of them takes long."""
        if not self._restless:
            self._restless = True
            self._wake()

    def take_back(self, worker: Worker) -> None:
        """Queue again, ahead of all others, what a worker has not read."""
        if worker.calls:
            self.full = False
            self.queued.extendleft(reversed(worker.take_back()))
            if not worker.calls and worker.state is State.READY and worker.calls_left:
                self.idle.append(worker)

    def relieve(self) -> None:
        """Take calls back from workers whose present call proves long."""
        now = time.monotonic()
        if now - self._looked > _SHORT_S:
            self._looked = now
            for worker in self._roster.workers:
                if len(worker.calls) > 1 and now - worker.since > _SHORT_S:
                    self.take_back(worker)

    def rebalance(self) -> None:
        """Let idle workers have what waits behind the calls of others."""
        if not self.queued and self._some_wait():
            tiny, now = self._mean_s < _TINY_S, time.monotonic()
            for worker in self._roster.workers:
                if worker.state is State.STARTING or not tiny or now - worker.since > _PATIENCE_S:
                    self.take_back(worker)

    def wish(self, due: bool) -> float | None:
        """Seconds after which to rebalance; `None` where nothing waits.

        Args:
            due: Whether that has just been done.
        """
        tiny = self._mean_s < _TINY_S
        self._restless = (tiny or not due) and self._some_wait()
        return (_PATIENCE_S if tiny else 0.0) if self._restless else None

    def _some_wait(self) -> bool:
        """Whether calls wait at one worker while another could have them."""
        may_start = self._roster.has_room
        for worker in self._roster.workers:
            if worker.state is State.READY and len(worker.calls) > 1 and (self.idle or may_start):
                return True
            if worker.state is State.STARTING and worker.calls and self.idle:
                return True
        return False

    def recycle(self, sheet: Sheet) -> None:
        """Keep a sheet for the next large call. Takes no lock."""
        if len(self._spare) < _SPARE_SHEETS and sheet.can_be_kept():
            self._spare.append(sheet)

    def forget_all(self) -> None:
        """In a process forked from the driver: the calls are the parent's."""
        self.queued, self.idle, self._spare = deque(), [], []
