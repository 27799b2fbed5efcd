"""Brings calls to the executor: one by one, in batches, or as many at a time as it should be given."""

from __future__ import annotations

from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amlsched.batch import BatchedCall, Part, TrackedCall, run_batch
from amlsched.executors.capabilities import (
    capabilities_of,
    hides_starts,
    kill_call,
    main_travels,
    see_running,
    worker_count,
)
from amlsched.executors.deaths import Death, OutOfMemoryKills, dead_workers, is_loss
from amlsched.executors.pickled import pickled_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor
    from concurrent.futures import Future as Work

    from amlsched.executors.capabilities import InlineExecutor, PostingExecutor
    from amlsched.future import Future
    from amlsched.task import Task

__all__ = ["Admission", "Breakdown"]


class Breakdown(NamedTuple):
    """What was seen of a pool when it broke.

    Attributes:
        running: The calls that it had handed to workers.
        deaths: The workers that ended by themselves.
    """

    running: frozenset[Future[Any]]
    deaths: list[Death]


class Admission:
    """Where the calls of one run wait until the executor gets them.

    Everything is called in the loop's thread, and `finished` in any thread.

    Args:
        executor: Where calls are sent.
        finished: Called with the handle of a call that the executor is done with, or that was cancelled.
        broken: Called when the executor says of a call that it is broken; it gives a new one by `use`, or raises what
            becomes of the call.
        calls: Those of the run that have not ended; read in any thread.

    Attributes:
        inline: Whether calls are run in this thread.
        given_up: Calls that were told as cancelled, but the executor still runs them.
        breakdown: What was seen when the executor broke, if it did, and its calls were processes' calls.
        kills: What the kernel says of processes that it ended, where the executor may break.
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
        self._sent: set[Future[Any]] = set()  # what it has now, where there is a bound
        self._waiting: deque[Future[Any]] = deque()
        self._batches: dict[Task[..., Any], list[tuple[Future[Any], BatchedCall]]] = {}
        self._pools = 0
        self._paused = False
        self.given_up: set[Future[Any]] = set()
        self.kills: OutOfMemoryKills | None = None
        self.use(executor)

    def use(self, executor: Executor) -> None:
        """Send calls there from now on."""
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
        self.given_up.clear()  # the executor that ran them is gone
        if self._fragile and self.kills is None:
            self.kills = OutOfMemoryKills()

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
            try:
                self.send(future)
            except BrokenExecutor as error:
                self._broken(future, error)
                self._waiting.append(future)

    def admit(self) -> None:
        """Send calls that wait, while there is room, and batches that are not full."""
        while self._waiting and not self.inline and not self._full():
            future = self._waiting.popleft()
            if future.done():
                continue
            try:
                self.send(future)
            except Exception as error:
                self._not_taken([future], error)
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

    # Calls that run again

    def resend(self, future: Future[Any]) -> None:
        """Send a call again, before those that wait, and in no batch."""
        if self.inline or self._full():
            self._waiting.appendleft(future)
            return
        try:
            self.send(future)
        except Exception as error:
            self.refuse([future], error)

    def put_back(self, futures: Sequence[Future[Any]]) -> None:
        """Let calls wait before all others."""
        self._waiting.extendleft(reversed(futures))

    def lost_calls(self, calls: Iterable[Future[Any]]) -> list[Future[Any]]:
        """Those that a broken executor had and that have not ended; it has them no more."""
        lost = [
            future
            for future in calls
            if not future.done() and (work := future.work) is not None and (not work.done() or _is_broken(work))
        ]
        for future in lost:
            future.work = None
        return lost

    def pause(self) -> None:
        """Send nothing but by `send`."""
        self._paused, self._depth = True, 0

    def resume(self) -> None:
        """Send what waits."""
        self._paused, self._depth = False, self.capabilities.queue_depth
        if self._depth is None:
            self._sent.clear()
        self.admit()

    @property
    def executor_name(self) -> str:
        """What messages call the executor."""
        return type(self._executor).__name__

    # Cancelling

    def cancel(self, future: Future[Any]) -> bool:
        """Whether the call ends as cancelled by this, now or when its worker has been ended."""
        work: Work[Any] | None = future.work
        if work is None:
            self._finished(future)
        elif work.cancel():
            pass  # the executor's callback tells
        elif work.done():
            return False
        elif isinstance(work, Part) or not kill_call(self._executor, getattr(work, "work", work)):
            self.given_up.add(future)
            self._finished(future)
        return True

    async def see_running(self) -> None:
        """Wait until the executor knows which calls have begun, so that only others are taken for unstarted."""
        await see_running(self._executor)

    def cancel_unstarted(self, future: Future[Any]) -> bool:
        """Whether the call had not started, and now never will."""
        if future.work is None:
            self._finished(future)
            return True
        return bool(future.work.cancel())

    def _full(self) -> bool:
        return self._depth is not None and len(self._sent) >= self._depth

    def send(self, future: Future[Any]) -> None:
        """Send a call now, whatever the executor has, and in no batch.

        Raises:
            Exception: What the executor raises where it refuses the call.
        """
        if self._post is not None:
            future.work = self._post(future.function, future.args, future.kwargs, self._finished, future)
            if self._depth is not None:
                self._sent.add(future)
            return
        if self._prepickle:
            pickled = pickled_call(future.function, future.args, future.kwargs, by_value=self._by_value)
            work = self._submit(run_batch, [pickled])
            future.work = Part(work, 0, alone=True)
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
            # A method, not a partial: what a queued call is made of is what the garbage collector goes through.
            work.add_done_callback(future.work_done)

    def _batch_done(self, futures: Sequence[Future[Any]], _work: Work[Any]) -> None:
        for future in futures:
            self._finished(future)

    def _fragile_done(self, futures: Sequence[Future[Any]], pool: int, work: Work[Any]) -> None:
        if _is_broken(work) and pool == self._pools:
            self._take_note(futures)
        self._batch_done(futures, work)

    def _take_note(self, futures: Sequence[Future[Any]]) -> None:
        """See what a pool ran that has just broken. When it tells of its first call, the others do not know it yet."""
        if self.breakdown is None:
            others = [future for future in list(self._calls) if (work := future.work) is not None and work.running()]
            self.breakdown = Breakdown(frozenset((*futures, *others)), dead_workers(self._executor))

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
            self._not_taken(futures, error)
            return
        for index, future in enumerate(futures):
            future.work = Part(sent, index, alone=len(futures) == 1)
        if self._depth is not None:
            self._sent.update(futures)
        if self._fragile:
            work.add_done_callback(partial(self._fragile_done, futures, self._pools))
        else:
            work.add_done_callback(partial(self._batch_done, futures))

    def _not_taken(self, futures: Sequence[Future[Any]], error: Exception) -> None:
        if isinstance(error, BrokenExecutor):
            try:
                self._broken(futures[0], error)
            except Exception as reason:
                error = reason
            else:
                self._waiting.extend(futures)
                return
        self.refuse(futures, error)

    def refused(self, work: Any) -> bool:
        """Whether this is what the executor said to a call that it did not take."""
        return isinstance(work, _Refused)

    def refuse(self, futures: Sequence[Future[Any]], error: BaseException) -> None:
        """End calls that the executor refuses; who submitted them is long gone."""
        for future in futures:
            future.work = _Refused(error)
            self._finished(future)


def _is_broken(work: Any) -> bool:
    """Whether a call that has ended, ended with its executor."""
    try:
        return is_loss(work.exception())
    except CancelledError:
        return False


class _Refused:
    """Stands for the executor's future of a call that the executor refused."""

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
