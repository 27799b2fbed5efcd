"""Brings calls to the executor: one by one, in batches, or as many at a time as it should be given."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from amlsched.batch import BatchedCall, Part, run_batch
from amlsched.executors.capabilities import capabilities_of, kill_call, worker_count
from amlsched.executors.pickled import pickled_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from concurrent.futures import Future as Work

    from amlsched.executors.capabilities import InlineExecutor, PostingExecutor
    from amlsched.future import Future
    from amlsched.task import Task

__all__ = ["Admission"]


class Admission:
    """Where the calls of one run wait until the executor gets them.

    Everything is called in the loop's thread, and `finished` in any thread.

    Args:
        executor: Where calls are sent.
        finished: Called with the handle of a call that the executor is done with, or that was cancelled.
    """

    def __init__(self, executor: Executor, finished: Callable[[Future[Any]], None]) -> None:
        self._executor = executor
        self._finished = finished
        self._capabilities = capabilities_of(executor)
        self._depth = self._capabilities.queue_depth
        self._sent: set[Future[Any]] = set()  # what it has now, where there is a bound
        self._waiting: deque[Future[Any]] = deque()
        self._submit: Callable[..., Work[Any]] = executor.submit
        self._post = cast("PostingExecutor", executor).post if self._capabilities.posts else None
        self._prepickle = self._capabilities.prepickle is not None
        self._by_value = self._capabilities.prepickle == "by value" or self._capabilities.remote
        self._batches: dict[Task[..., Any], list[tuple[Future[Any], BatchedCall]]] = {}
        self.inline = self._capabilities.inline
        self.given_up: set[Future[Any]] = set()  # told as cancelled, but the executor still runs them

    def take(self, future: Future[Any]) -> None:
        """Send a call, or let it wait for its turn.

        Raises:
            Exception: What the executor raises where it refuses the call; the call is forgotten.
        """
        task = future.task
        if task is not None and task.batch_size > 1 and not self.inline:
            self._collect(task, future)
        elif self.inline or self._waiting or self._full():
            self._waiting.append(future)
        else:
            self._send(future)

    def admit(self) -> None:
        """Send calls that wait, while there is room, and batches that are not full."""
        while self._waiting and not self.inline and not self._full():
            future = self._waiting.popleft()
            if future.done():
                continue
            try:
                self._send(future)
            except Exception as error:
                self._refuse([future], error)
        if self._batches:
            batches, self._batches = self._batches, {}
            workers = worker_count(self._executor) or 1
            for task, batch in batches.items():
                # A batch that is not full is shared out, so that no worker is idle while another has all of it.
                size = min(task.batch_size, -(-len(batch) // workers))
                for start in range(0, len(batch), size):
                    self._send_batch(batch[start : start + size])

    def next_inline(self) -> Future[Any] | None:
        """The next call that this thread is to run, if any."""
        while self.inline and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                return future
        return None

    def execute(self, future: Future[Any]) -> Any:
        """What the function of an inline call returns, now and in this thread."""
        return cast("InlineExecutor", self._executor).execute(future.function, future.args, future.kwargs)

    def outcome(self, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """Result or exception of a call that the executor is done with.

        Raises:
            concurrent.futures.CancelledError: The executor cancelled it.
        """
        work = future.work
        error = work.exception()
        result = work.result() if error is None else None
        self._let_go(future)
        return result, error

    def forget(self, future: Future[Any]) -> None:
        """Let go of a call that was cancelled, as far as the executor is done with it too."""
        if future.work is not None and future.work.done():
            self.given_up.discard(future)
            self._let_go(future)

    def _let_go(self, future: Future[Any]) -> None:
        future.work = None  # its callback refers to the handle: without this, each call would be a cycle for the gc
        if self._depth is not None:
            self._sent.discard(future)
            if self._waiting:
                self.admit()

    def cancel(self, future: Future[Any]) -> bool:
        """Whether the call ends as cancelled by this, now or when its worker has been ended."""
        work: Work[Any] | None = future.work
        if work is None:
            self._finished(future)
        elif work.cancel():
            pass  # the executor's callback tells
        elif work.done():
            return False
        elif isinstance(work, Part) or not kill_call(self._executor, work):
            self.given_up.add(future)
            self._finished(future)
        return True

    def cancel_unstarted(self, future: Future[Any]) -> bool:
        """Whether the call had not started, and now never will."""
        if future.work is None:
            self._finished(future)
            return True
        return bool(future.work.cancel())

    def _full(self) -> bool:
        return self._depth is not None and len(self._sent) >= self._depth

    def _send(self, future: Future[Any]) -> None:
        if self._post is not None:
            future.work = self._post(future.function, future.args, future.kwargs, self._finished, future)
            self._sent.add(future)
            return
        if self._prepickle:
            call = pickled_call(future.function, future.args, future.kwargs, by_value=self._by_value)
            work = self._submit(run_batch, [call])
            future.work = Part(work, 0, alone=True)
        else:
            future.work = work = self._submit(future.function, *future.args, **future.kwargs)
        if self._depth is not None:
            self._sent.add(future)
        # A method, not a partial: what a queued call is made of is what the garbage collector goes through.
        work.add_done_callback(future.work_done)

    def _batch_done(self, futures: Sequence[Future[Any]], _work: Work[Any]) -> None:
        for future in futures:
            self._finished(future)

    def _collect(self, task: Task[..., Any], future: Future[Any]) -> None:
        call: BatchedCall = (future.function, future.args, future.kwargs)
        if self._capabilities.pickles:
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
        try:
            work = self._submit(run_batch, [call for _, call in batch])
        except Exception as error:
            self._refuse(futures, error)
            return
        for index, future in enumerate(futures):
            future.work = Part(work, index, alone=len(futures) == 1)
        if self._depth is not None:
            self._sent.update(futures)
        work.add_done_callback(partial(self._batch_done, futures))

    def _refuse(self, futures: Sequence[Future[Any]], error: Exception) -> None:
        """End calls that the executor refuses; who submitted them is long gone."""
        for future in futures:
            future.work = _Refused(error)
            self._finished(future)


class _Refused:
    """Stands for the executor's future of a call that the executor refused."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def exception(self) -> Exception:
        return self._error

    def cancel(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False
