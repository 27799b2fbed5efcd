"""The calls of a pool of processes: who gets which, and what becomes of them when a worker ends."""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing import util
from multiprocessing.context import BaseContext
from typing import Any

from amlsched.executors._calls import CallFuture, shared_condition
from amlsched.executors._channel import SLOTS, Answer, Kind, fits_slot
from amlsched.executors._driven import State, Worker, start_error
from amlsched.executors._listener import Listener
from amlsched.executors._payload import Sheet, load
from amlsched.executors._pickling import dump_by_value, load_exception
from amlsched.executors._worker import Portable
from amlsched.executors.deaths import OutOfMemoryKills

__all__ = ["Crew"]

_START_ATTEMPTS = 3  # in a row, while no worker comes up
_AHEAD_S = 0.002  # work that a worker is given ahead of time, as far as it can be foretold
_TINY_S = 0.000_03  # where calls are shorter than it takes to wake a worker, a busy one is given several
_PATIENCE_S = 0.001  # how long such a call may wait behind another while there is an idle worker
_SHORT_S = 0.005  # only calls shorter than this are given ahead; one that lasts longer gives back what waits behind it
_SPARE_SHEETS = 8
_PATIENT_S = 2.0  # for a loop to hear that killed workers have ended

_Endings = list[Callable[[], object]]


class Crew:
    """Workers, and the calls that they run or wait for.

    One lock guards it. Futures are completed outside of it, since their callbacks may submit, in the thread of whoever
    listens to the workers.

    Args:
        size: Number of workers at most.
        context: How to start them.
        initializer: What each calls first.
        initargs: Arguments of that.
        calls_per_worker: After how many calls a worker is replaced; `None` for never.
    """

    def __init__(
        self,
        size: int,
        context: BaseContext,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        calls_per_worker: int | None,
    ) -> None:
        self._size = size
        calls_left = float("inf") if calls_per_worker is None else calls_per_worker
        self._new_worker = partial(
            Worker, context, Portable(initializer) if initializer else None, initargs, calls_left
        )
        self._lock = threading.Lock()
        self.condition = shared_condition()  # of the futures
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []  # the last to become idle is the first to get a call: its caches are warm
        self._queued: deque[CallFuture] = deque()
        self._by_fd: dict[int, Worker] = {}
        self.listener = Listener(self._lock, self._handle)
        self._failed_starts = 0
        self._kills = OutOfMemoryKills()
        self._mean_s = float("inf")  # of the calls so far, the recent ones above all
        self._full = False  # no worker has room for another call
        self._looked = 0.0
        self._due_by = float("inf")  # when the next worker is overdue
        self._restless = False  # calls wait behind others though a worker could have them
        self._spare: list[Sheet] = []
        self._in_doubt = 0  # calls that are with no worker and in no queue while they are pickled anew
        self._forgotten = self._killed = False
        self.closing = False
        self._ended = False
        if not _crews:
            # At the exit of this process, before multiprocessing waits for its children, the keepers. In processes
            # that multiprocessing starts, atexit would do nothing.
            util.Finalize(None, _end_all, exitpriority=100)
        _crews.add(self)

    @property
    def has_idle(self) -> bool:
        """Whether a call would be sent at once."""
        return bool(self._idle)

    # ------------------------------------------------------------------------------------------------ what is asked

    def submit(self, call: CallFuture) -> None:
        """Queue a call, or send it at once if a worker can have it."""
        endings: _Endings = []
        with self._lock:
            if self.closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queued.append(call)
            if self._full and len(self._queued) > 1:
                return
            self._dispatch(endings)
            if self.listener.is_deaf:
                self.listener.ensure()
        if endings:
            _run(endings)

    def withdraw(self, call: CallFuture) -> bool:
        """Whether the call will not be run, because no worker has begun it; the caller then ends it."""
        endings: _Endings = []
        with self._lock:
            if call.over or call.started:
                return False
            if call.worker is not None:
                self._take_back(call.worker)
            withdrawn = call.over = call.worker is None
            self._dispatch(endings)
        _run(endings)
        return withdrawn

    def kill_call(self, call: CallFuture, verdict: BaseException | None, grace_s: float) -> bool:
        """Whether the call is being ended early: as cancelled, or with the verdict."""
        endings: _Endings = []
        with self._lock:
            worker = call.worker
            if not call.over and worker is not None and worker.doomed is None:
                self._take_back(worker)
                if worker.calls and call is worker.calls[-1]:
                    worker.doom(call, verdict, grace_s)
                    self._set_alarm()
            doomed = not call.over
            if doomed and call.worker is None:
                call.over = True
                endings.append(partial(call.end, verdict))
            elif worker is None or worker.doomed is not call:
                doomed = False  # its answer is on the way
            self._dispatch(endings)
        _run(endings)
        return doomed

    def running(self) -> dict[Future[Any], int]:
        """The calls that run now, with the process ids of their workers."""
        with self._lock:
            return {worker.calls[0]: worker.pid for worker in self._workers if worker.calls and worker.pid is not None}

    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        with self._lock:
            return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self, *, cancel: bool) -> None:
        """Take no more calls; the workers leave when those there are have ended.

        Args:
            cancel: Whether those that no worker has begun are cancelled.
        """
        endings: _Endings = []
        with self._lock:
            self.closing = True
            if cancel:
                for worker in self._workers:
                    self._take_back(worker)
                for call in self._queued:
                    if not call.started and not call.over:
                        call.over = True
                        endings.append(call.end_cancelled)
            self._dispatch(endings)
        _run(endings)

    def kill(self) -> None:
        """Take no more calls, end all workers at once and every call as cancelled."""
        endings: _Endings = []
        with self._lock:
            self.closing = self._killed = True
            self._idle.clear()
            for worker in self._workers:
                self._take_back(worker)
                if worker.calls and worker.doomed is None:
                    worker.doomed = worker.calls[-1]
                worker.kill()
            self._set_alarm()
            for call in self._queued:
                if not call.over:
                    call.over = True
                    endings.append(call.end_cancelled)
            self._dispatch(endings)
        _run(endings)

    def kill_and_wait(self) -> None:
        """Return when all workers have ended; those that nothing can end are left, with a warning."""
        self.kill()
        self.listener.wait(_PATIENT_S)

    def forget(self) -> None:
        """Leave when the calls have ended. Takes no lock, so that a garbage collection can call it at any moment."""
        self._forgotten = True
        self.listener.wake()

    def abandon(self) -> None:
        """In a process forked from the driver: let go of the workers, they are the parent's."""
        self._lock = threading.Lock()
        self.closing = True
        self._workers, self._idle, self._queued, self._by_fd = [], [], deque(), {}
        self._ended = True
        self.listener.abandon(self._lock)

    def detach(self) -> None:
        """Be listened to by a thread, as far as there is something to hear."""
        self.listener.detach(needed=bool(self._workers))

    def expect_answers(self) -> None:
        """Somebody is going to wait for a call: a loop that was closed without `detach` will not bring its answer."""
        if self.listener.is_deaf:
            with self._lock:
                self.listener.ensure()

    def _handle(self, fds: list[int], due: bool, is_my_turn: Callable[[], bool]) -> float | None:
        endings: _Endings = []
        with self._lock:
            if not is_my_turn():
                return None
            self.closing = self.closing or self._forgotten
            for fd in fds:
                worker = self._by_fd.get(fd)
                if worker is None:
                    pass  # a mere wake-up, or it was buried a moment ago
                elif fd == worker.ended_fd:
                    self._bury(worker, endings)
                elif fd == worker.channel.answers_fd:
                    self._hear(worker, endings)
                else:
                    self._listen(worker)
            now = time.monotonic() if self._due_by < float("inf") else 0.0
            if now >= self._due_by:
                self._see_to_overdue(now, endings)
            if due:
                self._rebalance()
            elif self._queued:
                self._relieve()
            self._dispatch(endings)
        _run(endings)
        with self._lock:  # only now, after the callbacks of what has just ended: they may submit
            tiny = self._mean_s < _TINY_S
            self._restless = (tiny or not due) and self._some_wait()
            if self._restless:
                return _PATIENCE_S if tiny else 0.0
            return max(0.0, self._due_by - now) if self._due_by < float("inf") else None

    # ------------------------------------------------------------------------------------------------ under the lock

    def _dispatch(self, endings: _Endings) -> None:
        """Give calls to workers as far as there is room; let the workers leave if nothing can come any more."""
        queued = self._queued
        while queued:
            call = queued[0]
            if call.over:
                queued.popleft()
                continue
            worker, limit = self._worker_with_room(fits_slot(call.payload), endings)
            if worker is None:
                self._full = True
                break
            if not self._fill(worker, limit, endings):
                self._full = True
                break
        if self.closing and not queued and not self._in_doubt and not self._ended:
            self._idle.clear()
            for worker in self._workers:
                if not worker.calls and worker.state is not State.LEAVING:
                    worker.quit()
                    self._set_alarm()
            if not self._workers:
                self._ended = True
                self._spare.clear()
                self.listener.end()

    def _fill(self, worker: Worker, limit: int, endings: _Endings) -> bool:
        """Give a worker calls until it has as many as the limit; whether at least one is out of the queue."""
        queued = self._queued
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
            self._idle.append(worker)
        return len(queued) < before

    def _worker_with_room(self, can_wait: bool, endings: _Endings) -> tuple[Worker | None, int]:
        """Who shall have the next call, and how many it may have then.

        Args:
            can_wait: Whether it is a call that a worker can be given ahead of time.
            endings: Of calls that end by the way.
        """
        mean, now = self._mean_s, time.monotonic()
        several = 1
        if mean < _TINY_S and can_wait:
            several = min(SLOTS, int(_TINY_S / max(mean, 1e-9)) + 1)
            for worker in self._workers:
                if 0 < len(worker.calls) < several and worker.can_queue(now - _PATIENCE_S):
                    self._look_later()
                    return worker, several
        if self._idle:
            if several > 1 and len(self._queued) > 1:
                self._look_later()
            return self._idle.pop(), several
        if len(self._workers) < self._size and self._failed_starts < _START_ATTEMPTS:
            return self._start(endings), 1
        if mean > _SHORT_S or not can_wait:
            return None, 0
        depth = least = max(2, min(SLOTS, int(_AHEAD_S / max(mean, 1e-9))))
        best = None
        for worker in self._workers:
            here = len(worker.calls)
            if here < least and worker.can_queue(now - _SHORT_S):
                best, least = worker, here
        return best, depth

    def _look_later(self) -> None:
        """Calls are going to wait behind others: somebody has to see it if the first of them takes long."""
        if not self._restless:
            self._restless = True
            self.listener.wake()

    def _start(self, endings: _Endings) -> Worker | None:
        try:
            worker = self._new_worker()
        except Exception as error:  # no memory, no process to be had, an initializer that cannot be pickled
            self._failed_starts = _START_ATTEMPTS
            self._give_up(error, endings)
            return None
        self._workers.append(worker)
        for fd in worker.fds():
            self._by_fd[fd] = worker
            self.listener.watch(fd)
        self.listener.ensure()
        self._set_alarm()
        return worker

    def _take_back(self, worker: Worker) -> None:
        """Queue again, ahead of all others, what a worker has not read."""
        if worker.calls:
            self._full = False
            self._queued.extendleft(reversed(worker.take_back()))
            if not worker.calls and worker.state is State.READY and worker.calls_left:
                self._idle.append(worker)

    def _relieve(self) -> None:
        """Take calls back from workers whose present call proves long."""
        now = time.monotonic()
        if now - self._looked > _SHORT_S:
            self._looked = now
            for worker in self._workers:
                if len(worker.calls) > 1 and now - worker.since > _SHORT_S:
                    self._take_back(worker)

    def _some_wait(self) -> bool:
        """Whether calls wait at one worker while another could have them."""
        may_start = len(self._workers) < self._size
        for worker in self._workers:
            if worker.state is State.READY and len(worker.calls) > 1 and (self._idle or may_start):
                return True
            if worker.state is State.STARTING and worker.calls and self._idle:
                return True
        return False

    def _rebalance(self) -> None:
        """Let idle workers have what waits behind the calls of others."""
        if not self._queued and self._some_wait():
            tiny, now = self._mean_s < _TINY_S, time.monotonic()
            for worker in self._workers:
                if worker.state is State.STARTING or not tiny or now - worker.since > _PATIENCE_S:
                    self._take_back(worker)

    def _set_alarm(self) -> None:
        """Have the listener call in time for the worker that is overdue next."""
        former, self._due_by = self._due_by, min((worker.due_by for worker in self._workers), default=float("inf"))
        if self._due_by < former:
            self.listener.wake()

    def _see_to_overdue(self, now: float, endings: _Endings) -> None:
        for worker in [worker for worker in self._workers if worker.due_by <= now]:
            if worker.overdue():
                self._bury(worker, endings)
        self._set_alarm()

    def _listen(self, worker: Worker) -> None:
        """Take note of what a worker or its keeper says about itself."""
        for kind, body in worker.channel.messages():
            if kind == Kind.KEPT:
                worker.kept()
                self._set_alarm()
            elif kind == Kind.READY:
                self._failed_starts = 0
                worker.come_up(int(body))
                self._next_of(worker)
            elif kind == Kind.FAILED_TO_START:
                worker.start_error = load_exception(load(body), "the start of a worker")
            else:
                status, peak_kib = body.split()
                worker.status, worker.peak_bytes = int(status), int(peak_kib) * 1024
                if worker in self._idle:
                    self._idle.remove(worker)

    def _hear(self, worker: Worker, endings: _Endings) -> None:
        """Take the answers of a worker."""
        for answer in worker.channel.answers(worker.calls):
            call = worker.calls.popleft()
            call.worker = None
            seconds = answer.seconds
            if self._mean_s == float("inf"):
                self._mean_s = seconds
            else:
                self._mean_s += (seconds - self._mean_s) * (0.5 if seconds > self._mean_s else 0.1)
            if call is worker.doomed:
                pass  # its end waits for that of its worker
            elif answer.kind == Kind.NOT_LOADED and not call.by_value:
                self._in_doubt += 1
                endings.append(partial(self._send_by_value, call, answer))
            else:
                call.over = True
                endings.append(partial(call.settle, answer.kind, answer.body))
        if worker.channel.has_messages:
            self._listen(worker)
        self._next_of(worker)

    def _next_of(self, worker: Worker) -> None:
        """What a worker does now that it has answered."""
        self._full = False
        if worker.state is not State.READY or worker.status is not None:
            return
        if worker.calls:
            worker.begin()
        elif not worker.calls_left:
            worker.quit()
            self._set_alarm()
        elif worker not in self._idle:
            self._idle.append(worker)

    def _bury(self, worker: Worker, endings: _Endings) -> None:
        """Settle the calls of a worker that has ended, together with its keeper."""
        self._listen(worker)
        self._hear(worker, endings)
        for fd in worker.fds():
            self.listener.unwatch(fd)
            del self._by_fd[fd]
        self._workers.remove(worker)
        self._set_alarm()
        if worker in self._idle:
            self._idle.remove(worker)
        self._queued.extendleft(reversed(worker.take_back()))
        self._full = False
        keeper_code = worker.reap()
        worker.close()
        if worker.doomed is not None:
            worker.doomed.over = True
            endings.append(partial(worker.doomed.end, worker.verdict))
        for call in worker.calls:  # the one that it ran
            if call is not worker.doomed:
                call.over = True
                endings.append(partial(call.end, worker.death(call.name, keeper_code, self._kills)))
            call.worker = None
        if worker.pid is not None:
            self._failed_starts = 0
        elif worker.state is State.STARTING:
            self._failed_starts += 1
            self._give_up(worker.death("", keeper_code, self._kills), endings)

    def _give_up(self, reason: BaseException, endings: _Endings) -> None:
        """Fail the calls that wait if no worker is left and none can be started."""
        if self._workers or self._failed_starts < _START_ATTEMPTS:
            return
        self._failed_starts = 0  # calls submitted later may try again
        for call in self._queued:
            if not call.over:
                call.over = True
                endings.append(partial(call.end, start_error(call.name, reason)))
        self._queued.clear()

    # ------------------------------------------------------------------------------------------------ without the lock

    def recycle(self, sheet: Sheet) -> None:
        """Keep a sheet for the next large call."""
        if len(self._spare) < _SPARE_SHEETS and not self._ended and sheet.can_be_kept():
            self._spare.append(sheet)

    def _send_by_value(self, call: CallFuture, answer: Answer) -> None:
        """Send a call again, with the functions of `__main__` in it: its worker could not load it by name."""
        former, payload = call.payload, None
        if former is not None:  # otherwise it was killed meanwhile
            try:
                payload = dump_by_value(*load(former))
            except Exception:  # then what the worker said stands
                payload = None
        endings: _Endings = []
        with self._lock:
            self._in_doubt -= 1
            if call.over:
                pass
            elif self._killed or payload is None:
                call.over = True
                endings.append(call.end_cancelled if self._killed else partial(call.settle, answer.kind, answer.body))
            else:
                call.payload, call.by_value = payload, True
                self._queued.appendleft(call)
            self._dispatch(endings)
        _run(endings)


def _run(endings: _Endings) -> None:
    """End calls; what a callback of one raises does not keep the others from it."""
    for index, ending in enumerate(endings):
        try:
            ending()
        except BaseException:
            _run(endings[index + 1 :])
            raise


_crews: "weakref.WeakSet[Crew]" = weakref.WeakSet()


def _abandon_all() -> None:
    for crew in list(_crews):
        crew.abandon()
    _crews.clear()


def _end_all() -> None:
    for crew in list(_crews):
        crew.kill_and_wait()


os.register_at_fork(after_in_child=_abandon_all)
