"""Assigns calls to workers. Short calls are prefetched by workers that are still busy, but not behind a long one."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from amlsched.executors._payload import Sheet
from amlsched.executors._processes.call_future import CallFuture
from amlsched.executors._processes.transport import SLOTS, fits_slot
from amlsched.executors._processes.worker_handle import Roster, State, Worker, start_error

__all__ = ["Endings", "Handout"]

_AHEAD_S = 0.002  # seconds of estimated work to prefetch per worker
_TINY_S = 0.000_03  # calls shorter than the time to wake up a worker: a busy worker gets several
_PATIENCE_S = 0.001  # how long such a call may wait behind another one while there is an idle worker
_SHORT_S = 0.005  # only calls shorter than this are prefetched; those behind a longer one are reclaimed
_SPARE_SHEETS = 8

Endings = list[Callable[[], object]]
"""Functions that complete calls, to be called without the lock."""


class Handout:
    """The queue of calls, and their dispatch to workers. All methods are called under the manager's lock.

    Args:
        roster: The workers.
        wake: Wakes up the poller, so that it calls `wish` soon.

    Attributes:
        queued: Calls without a worker; some may have been completed.
        idle: Workers without a call. The last one to become idle gets the next call, as its caches are warm.
        full: Whether no worker has room for another call.
    """

    def __init__(self, roster: Roster, wake: Callable[[], object]) -> None:
        self._roster, self._wake = roster, wake
        self.queued: deque[CallFuture] = deque()
        self.idle: list[Worker] = []
        self.full = False
        self._mean_s = float("inf")  # moving average of the duration of calls
        self._looked = 0.0
        self._restless = False  # calls wait behind others although another worker could run them
        self._spare: list[Sheet] = []

    def give_up(self, reason: BaseException, endings: Endings) -> None:
        """Fail the queued calls if there is no worker and none can be started."""
        if not self._roster.hopeless:
            return
        self._roster.failed_starts = 0  # later calls may try again
        for call in self.queued:
            if not call.over:
                call.over = True
                endings.append(partial(call.end, start_error(call.name, reason)))
        self.queued.clear()

    def note_duration(self, seconds: float) -> None:
        """Update the estimated duration of calls."""
        if self._mean_s == float("inf"):
            self._mean_s = seconds
        else:
            self._mean_s += (seconds - self._mean_s) * (0.5 if seconds > self._mean_s else 0.1)

    def give(self, endings: Endings) -> None:
        """Dispatch queued calls to workers while there is room."""
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
        """Dispatch calls to a worker up to a limit, and return whether at least one left the queue."""
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
        """The worker for the next call, and how many calls it may then have.

        Args:
            can_wait: Whether the call can be prefetched.
            endings: Extended by completions of calls that fail meanwhile.
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
        """Calls are going to wait behind others: have the poller check whether the first of them takes long."""
        if not self._restless:
            self._restless = True
            self._wake()

    def take_back(self, worker: Worker) -> None:
        """Reclaim the calls that a worker has not started, and put them at the head of the queue."""
        if worker.calls:
            self.full = False
            self.queued.extendleft(reversed(worker.take_back()))
            if not worker.calls and worker.state is State.READY and worker.calls_left:
                self.idle.append(worker)

    def relieve(self) -> None:
        """Reclaim calls from workers whose running call turns out to be long."""
        now = time.monotonic()
        if now - self._looked > _SHORT_S:
            self._looked = now
            for worker in self._roster.workers:
                if len(worker.calls) > 1 and now - worker.since > _SHORT_S:
                    self.take_back(worker)

    def rebalance(self) -> None:
        """Reclaim calls that wait behind running ones, for idle workers."""
        if not self.queued and self._some_wait():
            tiny, now = self._mean_s < _TINY_S, time.monotonic()
            for worker in self._roster.workers:
                if worker.state is State.STARTING or not tiny or now - worker.since > _PATIENCE_S:
                    self.take_back(worker)

    def wish(self, due: bool) -> float | None:
        """Seconds until the next `rebalance`; `None` if nothing waits.

        Args:
            due: Whether `rebalance` has just been called.
        """
        tiny = self._mean_s < _TINY_S
        self._restless = (tiny or not due) and self._some_wait()
        return (_PATIENCE_S if tiny else 0.0) if self._restless else None

    def _some_wait(self) -> bool:
        """Whether calls wait at one worker while another one could run them."""
        may_start = self._roster.has_room
        for worker in self._roster.workers:
            if worker.state is State.READY and len(worker.calls) > 1 and (self.idle or may_start):
                return True
            if worker.state is State.STARTING and worker.calls and self.idle:
                return True
        return False

    def recycle(self, sheet: Sheet) -> None:
        """Keep a shared file for the next large call. Takes no lock."""
        if len(self._spare) < _SPARE_SHEETS and sheet.can_be_kept():
            self._spare.append(sheet)

    def forget_all(self) -> None:
        """In a process forked from the driver: drop the calls, which belong to the parent."""
        self.queued, self.idle, self._spare = deque(), [], []
