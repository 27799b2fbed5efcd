"""Submits calls to the executor: one by one, in batches, or no more at a time than it should hold; measured or not."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amlsched._context import contextmanager
from amlsched._run.batching import BatchedCall, BatchItemFuture, TrackedCall, run_batch
from amlsched.executors.capabilities import (
    capabilities_of,
    clock_of,
    hides_starts,
    kill_call,
    main_travels,
    see_running,
    worker_count,
)
from amlsched.executors.pickled_calls import pickled_call
from amlsched.executors.worker_exit import OutOfMemoryKills, WorkerExit, exited_workers, is_loss
from amlsched.receipts import Measured, Outcome, settle, take

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from concurrent.futures import Executor
    from concurrent.futures import Future as Work

    from amlsched.executors.capabilities import InlineExecutor, PostingExecutor
    from amlsched.future import Future
    from amlsched.task import Task


__all__ = ["Admission", "Breakdown", "MeasuringAdmission"]


class Breakdown(NamedTuple):
    """What was observed when a pool broke.

    Attributes:
        running: The calls that were running on its workers.
        exits: The workers that exited by themselves.
    """

    running: frozenset[Future[Any]]
    exits: list[WorkerExit]


class Admission:
    """The queue of calls between one run and its executor.

    All methods are called in the loop's thread; `finished` is called in any thread.

    Args:
        executor: Where calls are submitted.
        finished: Called with the future of a call that finished in the executor or was cancelled.
        broken: Called when a broken executor rejects a call; sets a new executor by `use`, or raises the exception of
            the call.
        calls: The unfinished calls of the run; read in any thread.

    Attributes:
        inline: Whether calls run in this thread.
        abandoned: Calls that were reported as cancelled but are still running in the executor.
        breakdown: What was observed when the executor, a pool of processes, broke; `None` if it did not.
        kills: The kernel's count of out-of-memory kills, if the executor is one that may break.
    """

    def __init__(
        self,
        executor: Executor,
        finished: Callable[[Future[Any]], None],
        broken: Callable[[Future[Any], BrokenExecutor], None],
        calls: Iterable[Future[Any]],
    ) -> None:
        self._finished = finished
        self._broken = broken
        self._calls = calls
        self._sent: set[Future[Any]] = set()  # what the executor holds, if there is a bound
        self._waiting: deque[Future[Any]] = deque()
        self._batches: dict[Task[..., Any], list[tuple[Future[Any], BatchedCall]]] = {}
        self._pools = 0
        self._paused = False
        self.abandoned: set[Future[Any]] = set()
        self.kills: OutOfMemoryKills | None = None
        self.use(executor)

    def use(self, executor: Executor) -> None:
        """Submit calls to this executor from now on."""
        self._executor = executor
        self.capabilities = known = capabilities_of(executor)
        self._depth = 0 if self._paused else known.queue_depth
        self._submit: Callable[..., Work[Any]] = executor.submit
        self._post = cast("PostingExecutor", executor).post if known.posts else None
        self._prepickle = known.prepickle is not None
        self._tracked = not self._prepickle and hides_starts(executor)
        self._by_value = main_travels(executor)
        self.inline = known.inline
        self._fragile = known.pickles and not known.survives_lost_workers
        self._pools += 1
        self.breakdown: Breakdown | None = None
        self._sent.clear()
        self.abandoned.clear()  # the executor that ran them is gone
        if self._fragile and self.kills is None:
            self.kills = OutOfMemoryKills()

    def take(self, future: Future[Any]) -> None:
        """Submit a call or queue it.

        Raises:
            Exception: The executor rejected the call; the call is forgotten.
        """
        task = future.task
        if task is not None and task.batch_size > 1 and not (self.inline or self.capabilities.virtual):
            self._collect(task, future)
        elif self.inline or self._waiting or self._is_full():
            self._waiting.append(future)
        else:
            try:
                self.send(future)
            except BrokenExecutor as error:
                self._broken(future, error)
                self._waiting.append(future)

    def admit(self) -> None:
        """Submit queued calls while the executor has room, and batches that are not full."""
        while self._waiting and not self.inline and not self._is_full():
            future = self._waiting.popleft()
            if future.done():
                continue
            try:
                self.send(future)
            except Exception as error:
                self._rejected([future], error)
        if self._batches:
            batches, self._batches = self._batches, {}
            workers = worker_count(self._executor) or 1
            for task, batch in batches.items():
                # A batch that is not full is split between the workers, so that none is idle.
                size = min(task.batch_size, -(-len(batch) // workers))
                for start in range(0, len(batch), size):
                    self._send_batch(batch[start : start + size])

    def next_inline(self) -> Future[Any] | None:
        """The next call to run in this thread, if any."""
        while self.inline and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                return future
        return None

    def execute(self, future: Future[Any]) -> Any:
        """Run an inline call in this thread and return its result."""
        return cast("InlineExecutor", self._executor).execute(future.function, future.args, future.kwargs)

    def outcome(self, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """Result or exception of a call that finished in the executor.

        Raises:
            concurrent.futures.CancelledError: The executor cancelled it.
        """
        work = future.work
        error = work.exception()
        result = work.result() if error is None else None
        self._release(future)
        return result, error

    def forget(self, future: Future[Any]) -> None:
        """Drop a cancelled call, if it has finished in the executor as well."""
        if future.work is not None and future.work.done():
            self.abandoned.discard(future)
            self._release(future)

    def _release(self, future: Future[Any]) -> None:
        future.work = None  # its callback refers to the future: otherwise each call would be a reference cycle
        if self._depth is not None:
            self._sent.discard(future)
            if self._waiting:
                self.admit()

    # Retries

    def resend(self, future: Future[Any]) -> None:
        """Submit a call again, ahead of the queue and outside of batches."""
        if self.inline or self._is_full():
            self._waiting.appendleft(future)
            return
        try:
            self.send(future)
        except Exception as error:
            self.reject([future], error)

    def grows(self, future: Future[Any], error: BaseException) -> bool:
        """Whether a call that failed runs again, as it had less memory than it would have requested itself."""
        return False

    def runs_again(self, future: Future[Any], error: BaseException) -> None:
        """Note that the next attempt of a call follows, and the exception of the last one."""

    def put_back(self, futures: Sequence[Future[Any]]) -> None:
        """Put calls at the head of the queue."""
        self._waiting.extendleft(reversed(futures))

    def take_lost_calls(self, calls: Iterable[Future[Any]]) -> list[Future[Any]]:
        """The unfinished calls of a broken executor, detached from it."""
        lost = [
            future
            for future in calls
            if not future.done() and (work := future.work) is not None and (not work.done() or _is_broken(work))
        ]
        for future in lost:
            future.work = None
        return lost

    def pause(self) -> None:
        """Submit nothing except by `send`."""
        self._paused, self._depth = True, 0

    def resume(self) -> None:
        """Submit queued calls again."""
        self._paused, self._depth = False, self.capabilities.queue_depth
        if self._depth is None:
            self._sent.clear()
        self.admit()

    @property
    def executor_name(self) -> str:
        """Name of the executor in messages."""
        return type(self._executor).__name__

    # Cancelling

    def cancel(self, future: Future[Any]) -> bool:
        """Cancel a call, now or once its worker has been killed, and return whether that is possible."""
        work: Work[Any] | None = future.work
        if work is None:
            self._finished(future)
        elif work.cancel():
            pass  # the executor's callback reports it
        elif work.done():
            return False
        elif isinstance(work, BatchItemFuture) or not kill_call(self._executor, getattr(work, "work", work)):
            self.abandoned.add(future)
            self._finished(future)
        return True

    async def refresh_running(self) -> None:
        """Wait until the executor knows which calls are running, so that none of them is mistaken for unstarted."""
        await see_running(self._executor)

    def cancel_unstarted(self, future: Future[Any]) -> bool:
        """Cancel a call if it has not started, and return whether that succeeded."""
        if future.work is None:
            self._finished(future)
            return True
        return bool(future.work.cancel())

    # Submitting

    def _is_full(self) -> bool:
        return self._depth is not None and len(self._sent) >= self._depth

    def send(self, future: Future[Any]) -> None:
        """Submit a call now, even if the executor has no room, and outside of batches.

        Raises:
            Exception: The executor rejected the call.
        """
        if self._post is not None:
            future.work = self._post(future.function, future.args, future.kwargs, self._finished, future)
            if self._depth is not None:
                self._sent.add(future)
            return
        if self._prepickle:
            pickled = pickled_call(future.function, future.args, future.kwargs, by_value=self._by_value)
            work = self._submit(run_batch, [pickled])
            future.work = BatchItemFuture(work, 0, alone=True)
        elif self._tracked:
            call = TrackedCall(future.function, future.kwargs)
            work = call.send(self._submit, *future.args)
            future.work = call
        else:
            future.work = work = self._submit(future.function, *future.args, **future.kwargs)
        if self._depth is not None:
            self._sent.add(future)
        if self._fragile:
            work.add_done_callback(partial(self._fragile_done, (future,), self._pools))
        else:
            # A bound method, not a partial: fewer objects per queued call for the garbage collector to visit.
            work.add_done_callback(future.work_done)

    def _batch_done(self, futures: Sequence[Future[Any]], _work: Work[Any]) -> None:
        for future in futures:
            self._finished(future)

    def _fragile_done(self, futures: Sequence[Future[Any]], pool: int, work: Work[Any]) -> None:
        if _is_broken(work) and pool == self._pools:
            self._record_breakdown(futures)
        self._batch_done(futures, work)

    def _record_breakdown(self, futures: Sequence[Future[Any]]) -> None:
        """Record what a pool was running that has just broken: when it fails its first call, the others still run."""
        if self.breakdown is None:
            others = [future for future in list(self._calls) if (work := future.work) is not None and work.running()]
            self.breakdown = Breakdown(frozenset((*futures, *others)), exited_workers(self._executor))

    def _collect(self, task: Task[..., Any], future: Future[Any]) -> None:
        call: BatchedCall = (future.function, future.args, future.kwargs)
        if self.capabilities.pickles:
            call = pickled_call(*call, by_value=self._by_value)
        batch = self._batches.setdefault(task, [])
        batch.append((future, call))
        if len(batch) >= task.batch_size:
            del self._batches[task]
            self._send_batch(batch)

    def _send_batch(self, batch: list[tuple[Future[Any], BatchedCall]]) -> None:
        batch = [(future, call) for future, call in batch if not future.done()]
        futures = [future for future, _ in batch]
        if not futures:
            return
        if self._paused:
            self._waiting.extend(futures)
            return
        calls = [call for _, call in batch]
        sent: Any
        try:
            if self._tracked:
                sent = TrackedCall(run_batch, {})
                work = sent.send(self._submit, calls)
            else:
                sent = work = self._submit(run_batch, calls)
        except Exception as error:
            self._rejected(futures, error)
            return
        for index, future in enumerate(futures):
            future.work = BatchItemFuture(sent, index, alone=len(futures) == 1)
        if self._depth is not None:
            self._sent.update(futures)
        if self._fragile:
            work.add_done_callback(partial(self._fragile_done, futures, self._pools))
        else:
            work.add_done_callback(partial(self._batch_done, futures))

    def _rejected(self, futures: Sequence[Future[Any]], error: Exception) -> None:
        if isinstance(error, BrokenExecutor):
            try:
                self._broken(futures[0], error)
            except Exception as reason:
                error = reason
            else:
                self._waiting.extend(futures)
                return
        self.reject(futures, error)

    def is_rejection(self, work: Any) -> bool:
        """Whether this is the outcome of a call that the executor rejected."""
        return isinstance(work, _RejectedCall)

    def reject(self, futures: Sequence[Future[Any]], error: BaseException) -> None:
        """Fail calls that the executor rejected, when it is too late to raise in `submit`."""
        for future in futures:
            future.work = _RejectedCall(error)
            self._finished(future)


class MeasuringAdmission(Admission):
    """Has each call measured where it runs. A separate class, so that calls without receipts cost nothing."""

    def use(self, executor: Executor) -> None:
        """See `Admission`."""
        super().use(executor)
        self._time = clock_of(executor) if self.capabilities.virtual else time.time

    def take(self, future: Future[Any]) -> None:
        """See `Admission`."""
        future.receipt = Outcome(self._time())
        super().take(future)

    def send(self, future: Future[Any]) -> None:
        """See `Admission`."""
        with self._measured(future):
            super().send(future)

    def execute(self, future: Future[Any]) -> Any:
        """See `Admission`."""
        try:
            with self._measured(future):
                receipt = super().execute(future)
        except BaseException:
            settle(future, self._time())
            raise
        result, error = take(future, receipt, None)
        if error is not None:
            raise error
        return result

    def outcome(self, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """See `Admission`."""
        work = future.work
        result, error = super().outcome(future)
        if self.capabilities.virtual and not self.is_rejection(work):
            future.receipt = replace(future.receipt, attempt=future.attempt, **work.measured)
            return result, error
        return take(future, result, error)

    def forget(self, future: Future[Any]) -> None:
        """See `Admission`."""
        super().forget(future)
        if future.receipt.ended is None or future.receipt.attempt != future.attempt:
            settle(future, self._time())

    def _collect(self, task: Task[..., Any], future: Future[Any]) -> None:
        with self._measured(future):
            super()._collect(task, future)

    @contextmanager
    def _measured(self, future: Future[Any]) -> Generator[None]:
        """Inside, the call has the measured function, which is sent; elsewhere the submitted one."""
        function: Any = future.function
        known = self.capabilities
        # A batch that became full is sent while its last call is collected.
        if known.virtual or isinstance(function, Measured):
            yield
            return
        in_child = getattr(function, "in_child", None)  # measure in the child, not where its parent waits
        tree = future.task is not None and future.task.learns
        if in_child is not None:
            future.function = function.with_function(Measured(in_child, shared=False, travels=True, tree=tree))
        else:
            in_threads = not known.pickles and not known.inline
            future.function = Measured(function, shared=in_threads, travels=known.pickles, tree=tree)
        try:
            yield
        finally:
            future.function = function


class _RejectedCall:
    """Represents the executor's future of a call that the executor rejected."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def exception(self) -> BaseException:
        return self._error

    def cancel(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False


def _is_broken(work: Any) -> bool:
    """Whether a finished call was lost because its executor broke."""
    try:
        return is_loss(work.exception())
    except CancelledError:
        return False
