"""The manager of a pool of processes: submits calls to its workers, kills and completes them, and shuts down."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing import util
from multiprocessing.context import BaseContext
from typing import Any

from amlsched.executors._payload import Sheet, load
from amlsched.executors._processes.call_future import CallFuture, shared_condition
from amlsched.executors._processes.call_queue import Endings, Handout
from amlsched.executors._processes.poller import Listener
from amlsched.executors._processes.transport import Answer, Kind
from amlsched.executors._processes.worker_handle import Roster, State, Worker
from amlsched.executors._processes.worker_main import Portable
from amlsched.executors.pickling import dump_by_value, load_exception
from amlsched.executors.worker_exit import OutOfMemoryKills

__all__ = ["Crew"]

_PATIENT_S = 2.0  # for an event loop to notice that killed workers have exited


class Crew:
    """The workers of a pool, and its running and queued calls.

    Guarded by one lock. Futures are completed without the lock, since their callbacks may submit calls, in the thread
    that polls the workers.

    Args:
        size: Maximum number of workers.
        context: How to start them.
        environment: Returns the environment variables of a new worker, in addition to those of this process.
        initializer: What each worker calls first.
        initargs: Arguments of the initializer.
        calls_per_worker: After how many calls to replace a worker; `None` for never.
    """

    def __init__(
        self,
        size: int,
        context: BaseContext,
        environment: Callable[[], dict[str, str]],
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        calls_per_worker: int | None,
    ) -> None:
        calls_left = float("inf") if calls_per_worker is None else calls_per_worker
        portable = Portable(initializer) if initializer else None
        new_worker = partial(Worker, context, environment, portable, initargs, calls_left)
        self._lock = threading.Lock()
        self.condition = shared_condition()  # of the futures
        self.listener = Listener(self._lock, self._handle)
        self._roster = Roster(size, new_worker, self.listener)
        self._handout = Handout(self._roster, self.listener.wake)
        self._hearing = Hearing(self._roster, self._handout, self._not_loaded)
        self._in_doubt = 0  # calls that are being pickled again: with no worker and in no queue
        self._forgotten = self._killed = False
        self.closing = False
        self._ended = False
        if not _crews:
            # At the exit of this process, before multiprocessing waits for its children, the supervisors. In processes
            # started by multiprocessing, atexit would not run it.
            util.Finalize(None, _end_all, exitpriority=100)
        _crews.add(self)

    @property
    def has_idle(self) -> bool:
        """Whether a call would be dispatched at once."""
        return bool(self._handout.idle)

    # ------------------------------------------------------------------------------------------------ requests

    def submit(self, call: CallFuture) -> None:
        """Queue a call, or dispatch it at once if a worker has room."""
        endings: Endings = []
        with self._lock:
            if self.closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            handout = self._handout
            handout.queued.append(call)
            if handout.full and len(handout.queued) > 1:
                return
            self._dispatch(endings)
            if self.listener.is_deaf:
                self.listener.ensure()
        if endings:
            _run(endings)

    def withdraw(self, call: CallFuture) -> bool:
        """Withdraw a call that no worker has started, and return whether that succeeded; the caller then cancels it."""
        endings: Endings = []
        with self._lock:
            if call.over or call.started:
                return False
            if call.worker is not None:
                self._handout.take_back(call.worker)
            withdrawn = call.over = call.worker is None
            self._dispatch(endings)
        _run(endings)
        return withdrawn

    def kill_call(self, call: CallFuture, verdict: BaseException | None, grace_s: float) -> bool:
        """Kill a call, so that it ends as cancelled or with an error, and return whether that is possible."""
        endings: Endings = []
        with self._lock:
            worker = call.worker
            if not call.over and worker is not None and worker.doomed is None:
                self._handout.take_back(worker)
                if worker.calls and call is worker.calls[-1]:
                    worker.doom(call, verdict, grace_s)
                    self._roster.set_alarm()
            doomed = not call.over
            if doomed and call.worker is None:
                call.over = True
                endings.append(partial(call.end, verdict))
            elif worker is None or worker.doomed is not call:
                doomed = False  # its answer has already been sent
            self._dispatch(endings)
        _run(endings)
        return doomed

    def running(self) -> dict[Future[Any], int]:
        """The running calls, with the process ids of their workers."""
        with self._lock:
            return {
                worker.calls[0]: worker.pid
                for worker in self._roster.workers
                if worker.calls and worker.pid is not None
            }

    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        with self._lock:
            return [worker.pid for worker in self._roster.workers if worker.pid is not None]

    def close(self, *, cancel: bool) -> None:
        """Accept no more calls; the workers exit once all calls have finished.

        Args:
            cancel: Whether to cancel calls that no worker has started.
        """
        endings: Endings = []
        with self._lock:
            self.closing = True
            if cancel:
                for worker in self._roster.workers:
                    self._handout.take_back(worker)
                for call in self._handout.queued:
                    if not call.started and not call.over:
                        call.over = True
                        endings.append(call.end_cancelled)
            self._dispatch(endings)
        _run(endings)

    def kill(self) -> None:
        """Accept no more calls, kill all workers at once, and cancel every call."""
        endings: Endings = []
        with self._lock:
            self.closing = self._killed = True
            self._handout.idle.clear()
            for worker in self._roster.workers:
                self._handout.take_back(worker)
                if worker.calls and worker.doomed is None:
                    worker.doomed = worker.calls[-1]
                worker.kill()
            self._roster.set_alarm()
            for call in self._handout.queued:
                if not call.over:
                    call.over = True
                    endings.append(call.end_cancelled)
            self._dispatch(endings)
        _run(endings)

    def kill_and_wait(self) -> None:
        """Kill all workers and wait for their exit; those that cannot be killed are abandoned with a warning."""
        self.kill()
        self.listener.wait(_PATIENT_S)

    def forget(self) -> None:
        """Close once the calls have finished. Takes no lock, so that a garbage collection can call it at any time."""
        self._forgotten = True
        self.listener.wake()

    def abandon(self) -> None:
        """In a process forked from the driver: release the workers, which belong to the parent."""
        self._lock = threading.Lock()
        self.closing = True
        self._roster.forget_all()
        self._handout.forget_all()
        self._ended = True
        self.listener.abandon(self._lock)

    def detach(self) -> None:
        """Poll in a thread, if there are workers, instead of in an event loop."""
        self.listener.detach(needed=bool(self._roster.workers))

    def expect_answers(self) -> None:
        """Called before a thread waits for a call: poll, even if the polling loop was closed without `detach`."""
        if self.listener.is_deaf:
            with self._lock:
                self.listener.ensure()

    def _handle(self, fds: list[int], due: bool, is_my_turn: Callable[[], bool]) -> float | None:
        endings: Endings = []
        with self._lock:
            if not is_my_turn():
                return None
            self.closing = self.closing or self._forgotten
            for fd in fds:
                worker = self._roster.at(fd)
                if worker is None:
                    pass  # only a wake-up, or the worker has just been removed
                elif fd == worker.ended_fd:
                    self._hearing.bury(worker, endings)
                elif fd == worker.channel.answers_fd:
                    self._hearing.hear(worker, endings)
                else:
                    self._hearing.listen(worker)
            if self._roster.due_by < float("inf"):
                for worker in self._roster.overdue():
                    self._hearing.bury(worker, endings)
            if due:
                self._handout.rebalance()
            elif self._handout.queued:
                self._handout.relieve()
            self._dispatch(endings)
        _run(endings)
        with self._lock:  # only now, after the callbacks of finished calls: they may submit
            wish = self._handout.wish(due)
            if wish is None and self._roster.due_by < float("inf"):
                wish = max(0.0, self._roster.due_by - time.monotonic())
            return wish

    # ------------------------------------------------------------------------------------------------ under the lock

    def _dispatch(self, endings: Endings) -> None:
        """Dispatch calls while there is room, and let the workers exit if no more calls can come."""
        self._handout.give(endings)
        if self.closing and not self._handout.queued and not self._in_doubt and not self._ended:
            self._handout.idle.clear()
            for worker in self._roster.workers:
                if not worker.calls and worker.state is not State.LEAVING:
                    worker.quit()
                    self._roster.set_alarm()
            if not self._roster.workers:
                self._ended = True
                self.listener.end()

    def _not_loaded(self, call: CallFuture, answer: Answer, endings: Endings) -> None:
        self._in_doubt += 1
        endings.append(partial(self._send_by_value, call, answer))

    # ------------------------------------------------------------------------------------------------ without the lock

    def recycle(self, sheet: Sheet) -> None:
        """Keep a shared file for the next large call."""
        if not self._ended:
            self._handout.recycle(sheet)

    def _send_by_value(self, call: CallFuture, answer: Answer) -> None:
        """Send a call again with the functions of `__main__` by value: its worker could not load them by name."""
        former, payload = call.payload, None
        if former is not None:  # else it was killed meanwhile
            try:
                payload = dump_by_value(*load(former))
            except BaseException:  # code of an argument, which may exit: then keep the worker's answer
                payload = None
        endings: Endings = []
        with self._lock:
            self._in_doubt -= 1
            if call.over:
                pass
            elif self._killed or payload is None:
                call.over = True
                endings.append(call.end_cancelled if self._killed else partial(call.settle, answer.kind, answer.body))
            else:
                call.payload, call.by_value = payload, True
                self._handout.queued.appendleft(call)
            self._dispatch(endings)
        _run(endings)


class Hearing:
    """Receives from workers and completes their calls. All methods are called under the manager's lock.

    Args:
        roster: The workers.
        handout: The queue of calls.
        not_loaded: Called with a call that its worker could not load by name, the worker's answer, and completions.
    """

    def __init__(
        self, roster: Roster, handout: Handout, not_loaded: Callable[[CallFuture, Answer, Endings], object]
    ) -> None:
        self._roster, self._handout, self._not_loaded = roster, handout, not_loaded
        self._kills = OutOfMemoryKills()

    def listen(self, worker: Worker) -> None:
        """Process the messages of a worker or its supervisor about itself."""
        for kind, body in worker.channel.messages():
            if kind == Kind.KEPT:
                worker.kept()
                self._roster.set_alarm()
            elif kind == Kind.READY:
                self._roster.failed_starts = 0
                worker.come_up(int(body))
                self._roster.set_alarm()
                self._next_of(worker)
            elif kind == Kind.FAILED_TO_START:
                worker.start_error = load_exception(load(body), "the start of a worker")
            else:
                status, peak_kib = body.split()
                worker.status, worker.peak_bytes = int(status), int(peak_kib) * 1024
                if worker in self._handout.idle:
                    self._handout.idle.remove(worker)

    def hear(self, worker: Worker, endings: Endings) -> None:
        """Process the answers of a worker."""
        for answer in worker.channel.answers(worker.calls):
            call = worker.calls.popleft()
            call.worker = None
            self._handout.note_duration(answer.seconds)
            if call is worker.doomed:
                pass  # it is completed when its worker has exited
            elif answer.kind == Kind.NOT_LOADED and not call.by_value:
                self._not_loaded(call, answer, endings)
            else:
                call.over = True
                endings.append(partial(call.settle, answer.kind, answer.body))
        if worker.channel.has_messages:
            self.listen(worker)
        self._next_of(worker)

    def _next_of(self, worker: Worker) -> None:
        """Continue a worker that has answered: with its next call, an exit, or as idle."""
        self._handout.full = False
        if worker.state is not State.READY or worker.status is not None:
            return
        if worker.calls:
            worker.begin()
        elif not worker.calls_left:
            worker.quit()
            self._roster.set_alarm()
        elif worker not in self._handout.idle:
            self._handout.idle.append(worker)

    def bury(self, worker: Worker, endings: Endings) -> None:
        """Complete the calls of a worker that has exited, together with its supervisor."""
        self.listen(worker)
        self.hear(worker, endings)
        if worker in self._handout.idle:
            self._handout.idle.remove(worker)
        self._handout.queued.extendleft(reversed(worker.take_back()))
        self._handout.full = False
        keeper_code = self._roster.strike_off(worker)
        if worker.doomed is not None:
            worker.doomed.over = True
            endings.append(partial(worker.doomed.end, worker.verdict))
        for call in worker.calls:  # the running one
            if call is not worker.doomed:
                call.over = True
                endings.append(partial(call.end, worker.death(call.name, keeper_code, self._kills)))
            call.worker = None
        if worker.pid is not None:
            self._roster.failed_starts = 0
        elif worker.state is State.STARTING:
            self._roster.failed_starts += 1
            self._handout.give_up(worker.death("", keeper_code, self._kills), endings)


def _run(endings: Endings) -> None:
    """Complete calls, all of them even if a callback raises."""
    for index, ending in enumerate(endings):
        try:
            ending()
        except BaseException:
            _run(endings[index + 1 :])
            raise


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


def _abandon_all() -> None:
    for crew in list(_crews):
        crew.abandon()
    _crews.clear()


def _end_all() -> None:
    for crew in list(_crews):
        crew.kill_and_wait()


os.register_at_fork(after_in_child=_abandon_all)
