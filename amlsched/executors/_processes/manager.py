"""The manager of a pool of processes: submits calls to its workers, kills and completes them, and shuts down."""

from __future__ import annotations

import contextlib
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

from amlsched.executors._payload import SharedFile, load
from amlsched.executors._processes.call_future import CallFuture, shared_condition
from amlsched.executors._processes.call_queue import CallQueue, Completions
from amlsched.executors._processes.poller import Poller
from amlsched.executors._processes.transport import Answer, Kind
from amlsched.executors._processes.worker_handle import State, Worker, Workers
from amlsched.executors._processes.worker_main import Portable
from amlsched.executors.pickling import dump_by_value, load_exception
from amlsched.executors.worker_exit import OutOfMemoryKills

__all__ = ["Manager"]

_PATIENT_S = 2.0  # for an event loop to notice that killed workers have exited


class Manager:
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
        self.poller = Poller(self._lock, self._handle)
        self._workers = Workers(size, new_worker, self.poller)
        self._queue = CallQueue(self._workers, self.poller.wake)
        self._receiver = Receiver(self._workers, self._queue, self._not_loaded)
        self._being_repickled = 0  # calls that are being pickled again: with no worker and in no queue
        self._forgotten = self._killed = False
        self.closing = False
        self._ended = False
        if not _managers:
            # At the exit of this process, before multiprocessing waits for its children, the supervisors. In processes
            # started by multiprocessing, atexit would not run it.
            util.Finalize(None, _end_all, exitpriority=100)
        _managers.add(self)

    @property
    def has_idle(self) -> bool:
        """Whether a call would be dispatched at once."""
        return bool(self._queue.idle)

    # ------------------------------------------------------------------------------------------------ requests

    def submit(self, call: CallFuture) -> None:
        """Queue a call, or dispatch it at once if a worker has room."""
        completions: Completions = []
        with self._lock:
            if self.closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            queue = self._queue
            queue.waiting.append(call)
            if self._workers.all and self.poller.is_idle:
                self._poll_again(completions)
            if queue.full and len(queue.waiting) > 1:
                return
            self._dispatch(completions)
        if completions:
            _complete(completions)

    def withdraw(self, call: CallFuture) -> bool:
        """Withdraw a call that no worker has started, and return whether that succeeded; the caller then cancels it."""
        completions: Completions = []
        with self._lock:
            if call.over or call.started:
                return False
            if call.worker is not None:
                self._queue.reclaim(call.worker)
            withdrawn = call.over = call.worker is None
            self._dispatch(completions)
        _complete(completions)
        return withdrawn

    def kill_call(self, call: CallFuture, kill_error: BaseException | None, grace_s: float) -> bool:
        """Kill a call, so that it ends as cancelled or with an error, and return whether that is possible."""
        completions: Completions = []
        with self._lock:
            worker = call.worker
            if not call.over and worker is not None and worker.killed_for is None:
                self._queue.reclaim(worker)
                if worker.calls and call is worker.calls[-1]:
                    worker.kill_for(call, kill_error, grace_s)
                    self._workers.update_check_at()
            can_kill = not call.over
            if can_kill and call.worker is None:
                call.over = True
                completions.append(partial(call.end, kill_error))
            elif worker is None or worker.killed_for is not call:
                can_kill = False  # its answer has already been sent
            self._dispatch(completions)
        _complete(completions)
        return can_kill

    def running(self) -> dict[Future[Any], int]:
        """The running calls, with the process ids of their workers."""
        with self._lock:
            return {
                worker.calls[0]: worker.pid for worker in self._workers.all if worker.calls and worker.pid is not None
            }

    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        with self._lock:
            return [worker.pid for worker in self._workers.all if worker.pid is not None]

    def close(self, *, cancel: bool) -> None:
        """Accept no more calls; the workers exit once all calls have finished.

        Args:
            cancel: Whether to cancel calls that no worker has started.
        """
        completions: Completions = []
        with self._lock:
            self.closing = True
            if cancel:
                for worker in self._workers.all:
                    self._queue.reclaim(worker)
                for call in self._queue.waiting:
                    if not call.started and not call.over:
                        call.over = True
                        completions.append(call.end_cancelled)
            self._dispatch(completions)
        _complete(completions)

    def kill(self) -> None:
        """Accept no more calls, kill all workers at once, and cancel every call."""
        completions: Completions = []
        with self._lock:
            self.closing = self._killed = True
            self._queue.idle.clear()
            for worker in self._workers.all:
                self._queue.reclaim(worker)
                if worker.calls and worker.killed_for is None:
                    worker.killed_for = worker.calls[-1]
                worker.kill()
            self._workers.update_check_at()
            for call in self._queue.waiting:
                if not call.over:
                    call.over = True
                    completions.append(call.end_cancelled)
            self._dispatch(completions)
        _complete(completions)

    def kill_and_wait(self) -> None:
        """Kill all workers and wait for their exit; those that cannot be killed are abandoned with a warning."""
        self.kill()
        self.poller.wait(_PATIENT_S)

    def forget(self) -> None:
        """Close once the calls have finished. Takes no lock, so that a garbage collection can call it at any time."""
        self._forgotten = True
        self.poller.wake()

    def abandon(self) -> None:
        """In a process forked from the driver: release the workers, which belong to the parent."""
        self._lock = threading.Lock()
        self.closing = True
        self._workers.forget_all()
        self._queue.forget_all()
        self._ended = True
        self.poller.abandon(self._lock)

    def detach(self) -> None:
        """Poll in a thread, if there are workers, instead of in an event loop."""
        self.poller.detach()
        if self._workers.all:
            # Suppressed: there are no more threads. Then whoever waits for a call or the end polls, or raises this.
            with contextlib.suppress(RuntimeError), self._lock:
                self.poller.ensure_polling()

    def expect_answers(self) -> None:
        """Called before a thread waits for a call: poll, even if the polling loop was closed without `detach`.

        Raises:
            RuntimeError: No thread can be started that polls.
        """
        if self._workers.all and self.poller.is_idle:
            with self._lock:
                self.poller.ensure_polling()

    def _handle(self, fds: list[int], due: bool, is_my_turn: Callable[[], bool]) -> float | None:
        completions: Completions = []
        with self._lock:
            if not is_my_turn():
                return None
            self.closing = self.closing or self._forgotten
            for fd in fds:
                worker = self._workers.at(fd)
                if worker is None:
                    pass  # only a wake-up, or the worker has just been removed
                elif fd == worker.ended_fd:
                    self._receiver.worker_exited(worker, completions)
                elif fd == worker.channel.answers_fd:
                    self._receiver.read_answers(worker, completions)
                else:
                    self._receiver.read_messages(worker)
            if self._workers.check_at < float("inf"):
                for worker in self._workers.check_due():
                    self._receiver.worker_exited(worker, completions)
            if due:
                self._queue.rebalance()
            elif self._queue.waiting:
                self._queue.reclaim_behind_long()
            self._dispatch(completions)
        _complete(completions)
        with self._lock:  # only now, after the callbacks of finished calls: they may submit
            next_rebalance_s = self._queue.next_rebalance_s(due)
            if next_rebalance_s is None and self._workers.check_at < float("inf"):
                next_rebalance_s = max(0.0, self._workers.check_at - time.monotonic())
            return next_rebalance_s

    # ------------------------------------------------------------------------------------------------ under the lock

    def _dispatch(self, completions: Completions) -> None:
        """Dispatch calls while there is room, and let the workers exit if no more calls can come."""
        self._queue.dispatch(completions)
        if self.closing and not self._queue.waiting and not self._being_repickled and not self._ended:
            self._queue.idle.clear()
            for worker in self._workers.all:
                if not worker.calls and worker.state is not State.LEAVING:
                    worker.quit()
                    self._workers.update_check_at()
            if not self._workers.all:
                self._ended = True
                self.poller.end()

    def _poll_again(self, completions: Completions) -> None:
        """Poll the workers that there are; if no thread can be started, the queued calls fail."""
        try:
            self.poller.ensure_polling()
        except RuntimeError as error:
            self._queue.fail_all(error, completions)

    def _not_loaded(self, call: CallFuture, answer: Answer, completions: Completions) -> None:
        self._being_repickled += 1
        completions.append(partial(self._send_by_value, call, answer))

    # ------------------------------------------------------------------------------------------------ without the lock

    def recycle(self, shared_file: SharedFile) -> None:
        """Keep a shared file for the next large call."""
        if not self._ended:
            self._queue.recycle(shared_file)

    def _send_by_value(self, call: CallFuture, answer: Answer) -> None:
        """Send a call again with the functions of `__main__` by value: its worker could not load them by name."""
        former, payload = call.payload, None
        if former is not None:  # else it was killed meanwhile
            try:
                payload = dump_by_value(*load(former))
            except BaseException:  # code of an argument, which may exit: then keep the worker's answer
                payload = None
        completions: Completions = []
        with self._lock:
            self._being_repickled -= 1
            if call.over:
                pass
            elif self._killed or payload is None:
                call.over = True
                completions.append(
                    call.end_cancelled if self._killed else partial(call.set_answer, answer.kind, answer.body)
                )
            else:
                call.payload, call.by_value = payload, True
                self._queue.waiting.appendleft(call)
            self._dispatch(completions)
        _complete(completions)


class Receiver:
    """Receives from workers and completes their calls. All methods are called under the manager's lock.

    Args:
        workers: The workers.
        queue: The queue of calls.
        not_loaded: Called with a call that its worker could not load by name, the worker's answer, and completions.
    """

    def __init__(
        self, workers: Workers, queue: CallQueue, not_loaded: Callable[[CallFuture, Answer, Completions], object]
    ) -> None:
        self._workers, self._queue, self._not_loaded = workers, queue, not_loaded
        self._kills = OutOfMemoryKills()

    def read_messages(self, worker: Worker) -> None:
        """Process the messages of a worker or its supervisor about itself."""
        for kind, body in worker.channel.messages():
            if kind == Kind.SUPERVISED:
                worker.supervisor_started()
                self._workers.update_check_at()
            elif kind == Kind.READY:
                self._workers.failed_starts = 0
                worker.became_ready(int(body))
                self._workers.update_check_at()
                self._next_of(worker)
            elif kind == Kind.FAILED_TO_START:
                worker.start_error = load_exception(load(body), "the start of a worker")
            else:
                status, peak_kib = body.split()
                worker.status, worker.peak_bytes = int(status), int(peak_kib) * 1024
                if worker in self._queue.idle:
                    self._queue.idle.remove(worker)

    def read_answers(self, worker: Worker, completions: Completions) -> None:
        """Process the answers of a worker."""
        for answer in worker.channel.answers(worker.calls):
            call = worker.calls.popleft()
            call.worker = None
            self._queue.note_duration(answer.seconds)
            if call is worker.killed_for:
                pass  # it is completed when its worker has exited
            elif answer.kind == Kind.NOT_LOADED and not call.by_value:
                self._not_loaded(call, answer, completions)
            else:
                call.over = True
                completions.append(partial(call.set_answer, answer.kind, answer.body))
        if worker.channel.has_messages:
            self.read_messages(worker)
        self._next_of(worker)

    def _next_of(self, worker: Worker) -> None:
        """Continue a worker that has answered: with its next call, an exit, or as idle."""
        self._queue.full = False
        if worker.state is not State.READY or worker.status is not None:
            return
        if worker.calls:
            worker.begin()
        elif not worker.calls_left:
            worker.quit()
            self._workers.update_check_at()
        elif worker not in self._queue.idle:
            self._queue.idle.append(worker)

    def worker_exited(self, worker: Worker, completions: Completions) -> None:
        """Complete the calls of a worker that has exited, together with its supervisor."""
        self.read_messages(worker)
        self.read_answers(worker, completions)
        if worker in self._queue.idle:
            self._queue.idle.remove(worker)
        self._queue.waiting.extendleft(reversed(worker.reclaim()))
        self._queue.full = False
        supervisor_code = self._workers.remove(worker)
        if worker.killed_for is not None:
            worker.killed_for.over = True
            completions.append(partial(worker.killed_for.end, worker.kill_error))
        for call in worker.calls:  # the running one
            if call is not worker.killed_for:
                call.over = True
                completions.append(partial(call.end, worker.exit_error(call.name, supervisor_code, self._kills)))
            call.worker = None
        if worker.pid is not None:
            self._workers.failed_starts = 0
        elif worker.state is State.STARTING:
            self._workers.failed_starts += 1
            self._queue.fail_unless_workers(worker.exit_error("", supervisor_code, self._kills), completions)


def _complete(completions: Completions) -> None:
    """Complete calls, all of them even if a callback raises."""
    for index, completion in enumerate(completions):
        try:
            completion()
        except BaseException:
            _complete(completions[index + 1 :])
            raise


_managers: weakref.WeakSet[Manager] = weakref.WeakSet()


def _abandon_all() -> None:
    for manager in list(_managers):
        manager.abandon()
    _managers.clear()


def _end_all() -> None:
    for manager in list(_managers):
        manager.kill_and_wait()


os.register_at_fork(after_in_child=_abandon_all)
