"""Assigns calls to workers. Short calls are prefetched by workers that are still busy, but not behind a long one."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from amlsched.executors._payload import SharedFile
from amlsched.executors._processes.call_future import CallFuture
from amlsched.executors._processes.transport import SLOTS, fits_slot
from amlsched.executors._processes.worker_handle import State, Worker, Workers
from amlsched.executors.worker_exit import start_error

__all__ = ["Completions", "CallQueue"]

_AHEAD_S = 0.002  # seconds of estimated work to prefetch per worker
_TINY_S = 0.000_03  # calls shorter than the time to wake up a worker: a busy worker gets several
_PATIENCE_S = 0.001  # how long such a call may wait behind another one while there is an idle worker
_SHORT_S = 0.005  # only calls shorter than this are prefetched; those behind a longer one are reclaimed
_SPARE_FILES = 8

Completions = list[Callable[[], object]]
"""Functions that complete calls, to be called without the lock."""


class CallQueue:
    """The queue of calls, and their dispatch to workers. All methods are called under the manager's lock.

    Args:
        workers: The workers.
        wake: Wakes up the poller, so that it calls `next_rebalance_s` soon.

    Attributes:
        waiting: Calls without a worker; some may have been completed.
        idle: Workers without a call. The last one to become idle gets the next call, as its caches are warm.
        full: Whether no worker has room for another call.
    """

    def __init__(self, workers: Workers, wake: Callable[[], object]) -> None:
        self._workers, self._wake = workers, wake
        self.waiting: deque[CallFuture] = deque()
        self.idle: list[Worker] = []
        self.full = False
        self._mean_s = float("inf")  # moving average of the duration of calls
        self._looked = 0.0
        self._restless = False  # calls wait behind others although another worker could run them
        self._spare: list[SharedFile] = []

    def fail_unless_workers(self, reason: BaseException, completions: Completions) -> None:
        """Fail the queued calls if there is no worker and none can be started."""
        if self._workers.cannot_start:
            self.fail_all(reason, completions)

    def fail_all(self, reason: BaseException, completions: Completions) -> None:
        """Fail the queued calls."""
        self._workers.failed_starts = 0  # later calls may try again
        for call in self.waiting:
            if not call.over:
                call.over = True
                completions.append(partial(call.end, start_error(call.name, reason)))
        self.waiting.clear()

    def note_duration(self, seconds: float) -> None:
        """Update the estimated duration of calls."""
        if self._mean_s == float("inf"):
            self._mean_s = seconds
        else:
            self._mean_s += (seconds - self._mean_s) * (0.5 if seconds > self._mean_s else 0.1)

    def dispatch(self, completions: Completions) -> None:
        """Dispatch queued calls to workers while there is room."""
        waiting = self.waiting
        while waiting:
            call = waiting[0]
            if call.over:
                waiting.popleft()
                continue
            worker, limit = self._worker_with_room(fits_slot(call.payload), completions)
            if worker is None or not self._fill(worker, limit, completions):
                self.full = True
                break

    def _fill(self, worker: Worker, limit: int, completions: Completions) -> bool:
        """Dispatch calls to a worker up to a limit, and return whether at least one left the queue."""
        waiting = self.waiting
        before = len(waiting)
        while waiting:
            call = waiting[0]
            if not call.over:
                try:
                    if not worker.put(call, self._spare):
                        break
                except (OSError, MemoryError) as error:  # no memory for a large call
                    call.over = True
                    completions.append(partial(call.end, error))
            waiting.popleft()
            if len(worker.calls) >= limit or not worker.calls_left:
                break
        worker.channel.post()
        if not worker.calls and worker.state is State.READY:
            self.idle.append(worker)
        return len(waiting) < before

    def _worker_with_room(self, can_wait: bool, completions: Completions) -> tuple[Worker | None, int]:
        """The worker for the next call, and how many calls it may then have.

        Args:
            can_wait: Whether the call can be prefetched.
            completions: Extended by completions of calls that fail meanwhile.
        """
        mean, now = self._mean_s, time.monotonic()
        several = 1
        if mean < _TINY_S and can_wait:
            several = min(SLOTS, int(_TINY_S / max(mean, 1e-9)) + 1)
            for worker in self._workers.all:
                if 0 < len(worker.calls) < several and worker.can_queue(now - _PATIENCE_S):
                    self._rebalance_soon()
                    return worker, several
        if self.idle:
            if several > 1 and len(self.waiting) > 1:
                self._rebalance_soon()
            return self.idle.pop(), several
        if self._workers.may_start():
            try:
                return self._workers.start(), 1
            except Exception as error:
                self.fail_unless_workers(error, completions)
                return None, 1
        if mean > _SHORT_S or not can_wait:
            return None, 0
        depth = least = max(2, min(SLOTS, int(_AHEAD_S / max(mean, 1e-9))))
        best = None
        for worker in self._workers.all:
            here = len(worker.calls)
            if here < least and worker.can_queue(now - _SHORT_S):
                best, least = worker, here
        return best, depth

    def _rebalance_soon(self) -> None:
        """Calls are going to wait behind others: have the poller check whether the first of them takes long."""
        if not self._restless:
            self._restless = True
            self._wake()

    def reclaim(self, worker: Worker) -> None:
        """Reclaim the calls that a worker has not started, and put them at the head of the queue."""
        if worker.calls:
            self.full = False
            self.waiting.extendleft(reversed(worker.reclaim()))
            if not worker.calls and worker.state is State.READY and worker.calls_left:
                self.idle.append(worker)

    def reclaim_behind_long(self) -> None:
        """Reclaim calls from workers whose running call turns out to be long."""
        now = time.monotonic()
        if now - self._looked > _SHORT_S:
            self._looked = now
            for worker in self._workers.all:
                if len(worker.calls) > 1 and now - worker.since > _SHORT_S:
                    self.reclaim(worker)

    def rebalance(self) -> None:
        """Reclaim calls that wait behind running ones, for idle workers."""
        if not self.waiting and self._some_wait():
            tiny, now = self._mean_s < _TINY_S, time.monotonic()
            for worker in self._workers.all:
                if worker.state is State.STARTING or not tiny or now - worker.since > _PATIENCE_S:
                    self.reclaim(worker)

    def next_rebalance_s(self, due: bool) -> float | None:
        """Seconds until the next `rebalance`; `None` if nothing waits.

        Args:
            due: Whether `rebalance` has just been called.
        """
        tiny = self._mean_s < _TINY_S
        self._restless = (tiny or not due) and self._some_wait()
        return (_PATIENCE_S if tiny else 0.0) if self._restless else None

    def _some_wait(self) -> bool:
        """Whether calls wait at one worker while another one could run them."""
        may_start = self._workers.has_room
        for worker in self._workers.all:
            if worker.state is State.READY and len(worker.calls) > 1 and (self.idle or may_start):
                return True
            if worker.state is State.STARTING and worker.calls and self.idle:
                return True
        return False

    def recycle(self, shared_file: SharedFile) -> None:
        """Keep a shared file for the next large call. Takes no lock."""
        if len(self._spare) < _SPARE_FILES and shared_file.can_be_kept():
            self._spare.append(shared_file)

    def forget_all(self) -> None:
        """In a process forked from the driver: drop the calls, which belong to the parent."""
        self.waiting, self.idle, self._spare = deque(), [], []
