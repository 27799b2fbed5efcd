"""One run of a scheduler: the only place that emits the outcomes of calls.

Executor threads append finished calls to one inbox and wake the loop once for many of them. The loop then takes a turn:
it delivers posted events, completes finished calls, runs calls of an inline executor, and checks whether the run has
finished. Everything visible to a user's callback happens inside a turn, one step after the other, so callbacks never
nest and the stack does not grow with the length of a chain of calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError
from functools import partial
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from amlsched._run.admission import Admission, MeasuringAdmission
from amlsched._signals import raised_by_handler
from amlsched.errors import SchedulerNotRunningError
from amlsched.events import add_note
from amlsched.executors.capabilities import clock_of, failures_of, served_by
from amlsched.executors.user_function import LAZY, aborted, is_ordinary, ran_nothing
from amlsched.executors.worker_exit import is_loss
from amlsched.exit_state import ExitState, Policy
from amlsched.future import Future

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Executor
    from typing import Self

    from amlsched._run.lost_calls import LostCalls
    from amlsched._run.placement import PlacedCalls
    from amlsched.estimates.estimator import Estimator
    from amlsched.events import Stopwatch, Subscriber
    from amlsched.exit_state import CancelledMode
    from amlsched.policies import Policy as PlacingPolicy
    from amlsched.resources.pool import Pool
    from amlsched.resources.request import Wanted
    from amlsched.scheduler import Scheduler
    from amlsched.task import Task

__all__ = ["RunLoop", "Waker"]

logger = logging.getLogger(__name__)
Code = ExitState.Code
# How long a turn may take before it yields to timers, signals and the user's own tasks in the loop.
_TURN_S = 0.002
# How long results are gathered for `on_results` at most while more arrive.
_GATHER_S = 0.1
# How long async callbacks may take to finish once they are cancelled.
_GRACE_S = 2.0
_NO_KWARGS: dict[str, Any] = {}


class _Ending(NamedTuple):
    """Why the run ends, and what `run` returns or raises."""

    code: ExitState.Code
    exception: BaseException | None = None
    raised: bool = False
    message: str = ""


class Deliverable(Protocol):
    """Something that a turn delivers: an event or a plain function call."""

    def deliver(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> None: ...


class _Call:
    """A plain function call in the queue of events."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def deliver(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> None:
        self._function()


class RunLoop:
    """The state of one run; the scheduler creates one for each.

    Args:
        scheduler: The scheduler, whose events are emitted.
        executor: Where calls are submitted.
        policy: How exceptions affect the run.
        on_cancelled: How a cancelled call affects it.
        end_on_empty: Whether to end the run when no calls remain.
        order: In which order finished calls are reported.
        retries_on_loss: How often to retry a call whose worker was lost.
        renew: Replaces a broken executor by a new one; returns `None` if the scheduler does not own it.
        receipts: Whether to measure calls.
        pools: What each node has, if calls request resources.
        placing_policy: Creates the policy that chooses calls for nodes; `None` for `Portfolio`.
        estimator: What learns from the calls of the scheduler, if something does.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        *,
        policy: Policy,
        on_cancelled: CancelledMode,
        end_on_empty: bool,
        order: Literal["completion", "submission"],
        retries_on_loss: int,
        renew: Callable[[], Executor | None],
        receipts: bool,
        pools: Sequence[Pool] | None = None,
        placing_policy: Callable[[], PlacingPolicy] | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.executing = False  # an inline call is running
        self.interruption: BaseException | None = None  # what a signal's handler raises into it
        self.accepting = False
        self._scheduler = scheduler
        self._executor = executor
        self._policy = policy
        self._on_cancelled = on_cancelled
        self._end_on_empty = end_on_empty
        self._thread = get_ident()

        self._calls: dict[Future[Any], None] = {}  # unfinished ones, in the order of submission
        self.places_calls = pools is not None
        self._retries_on_loss, self._renew = retries_on_loss, renew
        self._lost_calls: LostCalls | None = None  # created when the first worker is lost
        self._submitted = 0
        self._inbox: deque[Future[Any]] = deque()  # finished in the executor; filled from any thread
        self._posted: deque[tuple[Deliverable, tuple[Any, ...], dict[str, Any]]] = deque()
        self._gathered: dict[Subscriber[[list[Any]], Any], list[Any]] = {}  # for `on_results`: not delivered yet
        self._gathered_since = 0.0
        self._subscriber_tasks: dict[Subscriber[[list[Any]], Any], set[asyncio.Task[Any]]] = {}  # its async callbacks
        self.stopwatch: Stopwatch | None = None
        self._unclaimed: list[Future[Any]] = []  # failed, and not yet awaited although that is expected
        self._spawned: set[asyncio.Task[Any]] = set()  # unfinished async callbacks
        self._awake = False  # a turn is scheduled or in progress
        self._waker = Waker(self.loop, self._turn)
        self._empty_emitted = False
        self._ended_empty = False  # no calls remained when the run ended, and on_empty is still to be emitted

        self._ordered = order == "submission"
        self._plain = not self._ordered  # and no worker has been lost
        self._held: dict[int, tuple[Future[Any], Any, BaseException | None]] = {}
        self._held_cancelled: set[int] = set()  # numbers of the cancelled ones among them
        self._next = 1

        self._admission: Admission
        if pools is None:
            admission = MeasuringAdmission if receipts else Admission
            self._admission = admission(executor, self.finished, self._broken, self._calls)
        else:
            from amlsched._run.placement import MeasuringPlacement, Placement
            from amlsched.policies import Portfolio

            self._admission = (MeasuringPlacement if receipts else Placement)(
                executor,
                self.finished,
                self._broken,
                self._calls,
                pools=pools,
                policy=placing_policy or Portfolio,
                clock=self.loop.time,
                estimator=estimator,
                then=self.then,
            )

        self._now = clock_of(executor)
        self._begun = self._now()
        self._elapsed_s: float | None = None
        self._deadline: float | None = None
        self._ending: _Ending | None = None
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._settled: asyncio.Future[None] | None = None
        self._aborted = False
        self._timers: set[asyncio.TimerHandle] = set()

    # Called by the scheduler

    async def run(self, timeout: float | None, wait: bool, terminate: Callable[[], None]) -> ExitState:
        """Run until something ends the run.

        Args:
            timeout: Seconds after which the run ends; `None` for no limit.
            wait: Whether to wait for calls that are running at the end, rather than cancel them.
            terminate: Terminates the executor's workers if the run does not wait for them.

        Returns:
            Why the run ended.

        Raises:
            BaseException: The exception that ended the run, if the policy is to raise it.
        """
        scheduler = self._scheduler
        interrupted: asyncio.CancelledError | None = None
        timer = None
        with (
            self._waker,
            served_by(self._executor, self.loop, self._with_turn),
            failures_of(self._executor, self._executor_failed),
        ):
            self.accepting = True
            self._begun = self._now()
            if timeout is not None:
                self._deadline = self._now() + timeout
                timer = self.loop.call_later(timeout, self.end, Code.TIMEOUT)
            scheduler.on_start.emit()
            self._wake()
            try:
                await self._ended
            except asyncio.CancelledError as error:
                # The task that awaits the run was cancelled, by Ctrl-C or its own timeout: leave nothing behind.
                interrupted = error
                self.end(Code.CANCELLED, message="the run was cancelled from outside")
            if timer is not None:
                timer.cancel()

            ending = self._ending
            assert ending is not None
            if self._ended_empty and not self._aborted:
                self._empty_emitted = True
                scheduler.on_empty.emit()
            if ending.code is Code.TIMEOUT:
                scheduler.on_timeout.emit()
            elif ending.code is not Code.EXHAUSTED:
                scheduler.on_stop.emit(ending.message, ending.exception)
            if wait and interrupted is None:
                try:
                    await self._admission.refresh_running()
                except asyncio.CancelledError as error:
                    interrupted = error
            self._cancel_unstarted()
            scheduler.on_finishing.emit()
            if interrupted is not None or not wait:
                self.abort()
            try:
                await self._until_settled()
            except asyncio.CancelledError as error:
                interrupted = error
                self.abort()
                await self._until_settled()
            if self._aborted:
                terminate()
            scheduler.on_finished.emit()
            await self._until_settled()
            for pending in self._timers:
                pending.cancel()
            self._elapsed_s = self.elapsed_s
        if interrupted is not None:
            raise interrupted
        return self._exit_state()

    def submit(
        self,
        task: Task[..., Any] | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wanted: Wanted | None = None,
    ) -> Future[Any]:
        """Submit a call and return its future. Called in the loop's thread only."""
        if not self.accepting:
            name = getattr(function, "__name__", repr(function))
            raise SchedulerNotRunningError(f"{name} cannot be submitted: the run is ending")
        if get_ident() != self._thread:
            raise RuntimeError("calls can only be submitted in the loop's thread, such as in callbacks, not in another")
        future = Future(self, task, function, args, kwargs or _NO_KWARGS)
        future.number = self._submitted + 1
        if wanted is not None:
            future.wanted = wanted
        self._admission.take(future)
        self._submitted += 1
        self._calls[future] = None
        self._empty_emitted = False
        self._scheduler.on_future_submitted.emit_packed((future,), _NO_KWARGS)
        if task is not None:
            task.n_running += 1
            task.n_submitted += 1
            task.on_submitted.emit_packed((future, *args), kwargs)
        if not self._awake:
            self._wake()
        return future

    def cancel(self, future: Future[Any]) -> bool:
        """Cancel a call and return whether that succeeded; the caller then cancels the future itself."""
        return self._admission.cancel(future)

    def end(
        self,
        code: ExitState.Code,
        exception: BaseException | None = None,
        *,
        raised: bool = False,
        message: str = "",
    ) -> None:
        """End the run.

        The first reason is kept, except that an exception replaces a reason without one, and a KeyboardInterrupt or
        another non-`Exception` replaces any.
        """
        self.accepting = False
        former = self._ending.exception if self._ending is not None else None
        interrupts = exception is not None and not isinstance(exception, Exception)
        if self._ending is None or (exception is not None and former is None) or interrupts:
            self._ending = _Ending(code, exception, raised, message)
        if not self._ended.done():
            # For example by the exception of the last call, before the turn that would find the queue empty.
            self._ended_empty = not (self._empty_emitted or self._calls or self._spawned)
            self._ended.set_result(None)

    def fail(self, error: BaseException, message: str) -> None:
        """Apply the policy to an exception of a call or a callback, or one passed to `stop`."""
        mode = self._policy(error)
        if mode != "continue":
            self.end(Code.EXCEPTION, error, raised=mode == "raise", message=message)

    def _executor_failed(self, error: BaseException) -> None:
        """End the run, whatever the policy: the executor can run no more calls. Called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.interrupt, error)

    def interrupt(self, error: BaseException) -> None:
        """End the run at once, as Ctrl-C does: cancel calls, terminate workers, and raise the error."""
        self.end(Code.EXCEPTION, error, raised=True, message=f"interrupted by {type(error).__name__}")
        if not self._aborted:
            self.abort()

    def abort(self) -> None:
        """Stop waiting: cancel the remaining calls and callbacks, and have the workers terminated."""
        self._aborted = True
        self._cancel_unstarted()
        for future in tuple(self._calls):
            future.mark_cancelled()
            self.finished(future)
        for callback in tuple(self._spawned):
            callback.cancel()
        if self._spawned:
            self.call_later(_GRACE_S, self._abandon_callbacks)
        self._admission.abandoned.clear()
        self._wake()

    def call_later(self, delay: float, function: Callable[[], object]) -> asyncio.TimerHandle:
        """Call a function after `delay` seconds, as a callback: between two turns, under the policy."""

        def call() -> None:
            self._timers.discard(timer)
            begun = time.perf_counter()
            try:
                made = function()
                if asyncio.iscoroutine(made):
                    self.spawn(made, "in a function given to call_later")
            except BaseException as error:  # the policy decides
                self.callback_failed(error)
            if self.stopwatch is not None:
                self.stopwatch.seconds += time.perf_counter() - begun
            self._wake()

        timer = self.loop.call_later(delay, call)
        self._timers.add(timer)
        return timer

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run, or from there to its end, on the clock of its executor."""
        return self._now() - self._begun if self._elapsed_s is None else self._elapsed_s

    @property
    def calls(self) -> list[Future[Any]]:
        """The unfinished calls, oldest first."""
        return list(self._calls)

    @property
    def placed(self) -> PlacedCalls | None:
        """The calls and what they hold, if calls request resources."""
        from amlsched._run.placement import Placement  # only where estimates are made

        return self._admission.placed() if isinstance(self._admission, Placement) else None

    def more_memory(self, future: Future[Any], error: BaseException, factor: float, most: float) -> int | None:
        """Have the next attempt of a call request more memory; see `Scheduler.more_memory`."""
        from amlsched._run.placement import Placement  # only where a call has run out of memory

        admission = self._admission
        return admission.more_memory(future, error, factor, most) if isinstance(admission, Placement) else None

    @property
    def held_calls(self) -> list[Future[Any]]:
        """The calls that have finished, but wait for earlier calls to be reported first."""
        return [future for future, *_ in self._held.values()]

    @property
    def held_back(self) -> tuple[int, int]:
        """How many calls are finished and how many are cancelled, but wait for earlier calls to be reported first."""
        return len(self._held) - len(self._held_cancelled), len(self._held_cancelled)

    # Called by events (see `events.Dispatcher`)

    def post(self, subscriber: Deliverable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Deliver an event in a turn, after those posted before."""
        self._posted.append((subscriber, args, kwargs))
        if not self._awake:
            self._wake()

    def spawn(self, coroutine: Coroutine[Any, Any, object], note: str) -> asyncio.Task[Any]:
        """Run an async callback as a task, which is returned; the run does not end before it has finished."""
        watch = self.stopwatch
        callback = self.loop.create_task(coroutine if watch is None else watch.timed(coroutine))
        self._spawned.add(callback)
        callback.add_done_callback(partial(self._callback_done, note=note))
        return callback

    def callback_failed(self, error: BaseException) -> None:
        """Treat an exception of a callback like one of a call, except if it submitted too late."""
        if isinstance(error, SchedulerNotRunningError) and not self.accepting:
            logger.debug("a callback submitted a call while the run was ending: %s", error)
            return
        if not isinstance(error, Exception):
            self.interrupt(error)
            return
        if self._policy(error) == "continue":
            logger.error("a callback raised; the run continues", exc_info=error)
        self.fail(error, "a callback raised")

    # Turns

    def _wake(self) -> None:
        if self._awake:
            return
        self._awake = True
        if get_ident() == self._thread:
            self.loop.call_soon(self._turn)
            return
        try:
            self._waker.wake()
        except RuntimeError:  # the loop is closed: an abandoned call has finished after its run
            self._awake = False

    def finished(self, future: Future[Any]) -> None:
        """Process a call that finished in the executor or was cancelled. Called in any thread."""
        self._inbox.append(future)
        if not self._awake:
            self._wake()

    def _with_turn(self, complete: Callable[[], object]) -> None:
        """Let an executor that this loop serves complete calls, then take a turn at once; saves a loop iteration."""
        if self._awake:
            complete()
            return
        self._awake = True
        try:
            complete()
        finally:
            self._turn()

    def _turn(self) -> None:
        try:
            self._process()
        except BaseException as error:  # a KeyboardInterrupt in a callback, or a bug of ours: never hang
            self._awake = False
            self.end(Code.EXCEPTION, error, raised=True, message="the run loop was interrupted")
            self.abort()
            if not isinstance(error, Exception):
                raise

    def _process(self) -> None:
        until = self._now() + _TURN_S
        inbox, posted = self._inbox, self._posted
        while True:
            if posted:
                subscriber, args, kwargs = posted.popleft()
                subscriber.deliver(args, kwargs)
            elif inbox:
                self._complete(inbox.popleft())
            elif self._gathered and self._deliver_gathered():
                pass
            elif self._admission.inline and not self._should_end() and (future := self._admission.next_inline()):
                self._execute(future)
            else:
                self._admission.admit()
                # Nothing left to do. A thread that appends from now on either sees that the loop is not awake, or
                # appended before this line and is seen below.
                self._awake = False
                if not (inbox or posted):
                    self._settle()
                    return
                self._awake = True
            if (now := self._now()) > until:
                if self._gathered and now > self._gathered_since + _GATHER_S:
                    self._deliver_gathered()
                self.loop.call_soon(self._turn)
                return

    def _should_end(self) -> bool:
        if self._deadline is not None and self._ending is None and self._now() >= self._deadline:
            self.end(Code.TIMEOUT)
        return self._ending is not None

    def _execute(self, future: Future[Any]) -> None:
        """Run a call of an inline executor, here and now."""
        result, error = None, None
        self.executing = True
        asyncio._set_running_loop(None)  # the function may run its own loop, as in any worker
        try:
            result = self._admission.execute(future)
        except BaseException as raised:  # the policy decides
            error = raised
        finally:
            asyncio._set_running_loop(self.loop)
            self.executing = False
        if error is not None:
            if error is self.interruption:
                future.mark_cancelled()
                self.interrupt(error)
            elif not raised_by_handler(error) and (error := self._failed(future, error, None)) is None:
                return
        self._conclude(future, result, error)

    def _complete(self, future: Future[Any]) -> None:
        """Process a call that finished in the executor or was cancelled."""
        result, error = None, None
        if not future.done():
            work = future.work
            if self._lost_calls is not None and (work is None or not work.done()):
                return  # reported by a pool that is gone; another one has the call now
            try:
                result, error = self._admission.outcome(future)
            except CancelledError:
                future.mark_cancelled()
            if error is not None:
                if self.interruption is not None and isinstance(error, (KeyboardInterrupt, BrokenExecutor)):
                    future.mark_cancelled()  # a worker got the Ctrl-C, too, and reported it before our handler ran
                elif (error := self._failed(future, error, work)) is None:
                    return
        if future.done():
            self._admission.forget(future)
        if future in self._calls:  # else it was reported as cancelled while it was running
            self._conclude(future, result, error)

    # Calls that run again

    def _failed(self, future: Future[Any], error: BaseException, work: Any) -> BaseException | None:
        """The final exception of a failed call; `None` if the call is retried."""
        if not is_ordinary(error):
            error = aborted(future.function, error)
        if isinstance(error, BrokenExecutor) and (self._admission.is_rejection(work) or is_loss(error)):
            return self._get_lost_calls().call_lost(future, error, work, ending=self._ending is not None)
        if self._ending is not None or future.task is None:
            return error
        if self._admission.grows(future, error):
            self.runs_again(future, error)
            self.then(partial(self.resend, future))
            return None
        for plugin in future.task.plugins:
            try:
                wait_s = plugin.retry_after(future, error)
            except Exception as own:
                add_note(own, f"in the plugin {plugin.name} of {future!r}")
                self.callback_failed(own)
                continue
            if wait_s is not None:
                self.runs_again(future, error)
                if wait_s > 0:
                    self.call_later(wait_s, partial(self.resend, future))
                else:
                    self.then(partial(self.resend, future))
                return None
        return error

    def resend(self, future: Future[Any]) -> None:
        """Submit a call again, unless it was cancelled meanwhile."""
        if not future.done():
            self._admission.resend(future)

    def then(self, function: Callable[[], object]) -> None:
        """Call a function in a turn, after the events posted before."""
        self.post(_Call(function), (), _NO_KWARGS)

    def _broken(self, future: Future[Any], error: BrokenExecutor) -> None:
        self._get_lost_calls().call_rejected(future, error, ending=self._ending is not None)

    def _get_lost_calls(self) -> LostCalls:
        if self._lost_calls is None:
            from amlsched._run.lost_calls import LostCalls

            self._plain = False
            self._lost_calls = LostCalls(self, self._admission, self._retries_on_loss, self._renew)
        return self._lost_calls

    def runs_again(self, future: Future[Any], error: BaseException) -> None:
        """Count a retry of a call, and emit it."""
        self._admission.runs_again(future, error)
        attempt = future.attempt
        future.attempt = attempt + 1
        self._scheduler.on_future_retry.emit_packed((future, error, attempt), _NO_KWARGS)
        if future.task is not None:
            future.task.on_retry.emit_packed((future, error, attempt), _NO_KWARGS)

    @property
    def n_finished(self) -> int:
        """How many calls have finished."""
        return self._submitted - len(self._calls)

    # The ends of calls

    def _conclude(self, future: Future[Any], result: Any, error: BaseException | None) -> None:
        if self._plain:
            self._deliver(future, result, error)
            return
        if self._lost_calls is not None and self._lost_calls.searching:
            self._lost_calls.call_finished(future)
        if not self._ordered:
            self._deliver(future, result, error)
            return
        self._held[future.number] = (future, result, error)
        if future.cancelled():
            self._held_cancelled.add(future.number)
        while self._next in self._held:
            held = self._held.pop(self._next)
            self._held_cancelled.discard(self._next)
            self._next += 1
            self._deliver(*held)

    def _deliver(self, future: Future[Any], result: Any, error: BaseException | None) -> None:
        """Report a finished call: set its future, emit its events, apply the policy."""
        del self._calls[future]
        scheduler, task = self._scheduler, future.task
        if task is not None:
            task.n_running -= 1
        if error is None and type(result) in LAZY:
            error = ran_nothing(future.function, result)
        if future.cancelled():
            scheduler.on_future_cancelled.deliver((future,))
            if task is not None:
                task.on_cancelled.deliver((future,))
            self._call_cancelled(future)
        elif error is None:
            future.set_result(result)
            scheduler.on_future_done.deliver((future,))
            scheduler.on_future_result.deliver((future, result))
            if task is not None:
                task.on_done.deliver((future,))
                task.on_result.deliver((future, result))
                if task.on_results.handlers:
                    self._gather(task.on_results, future, result)
        else:
            self._set_exception(future, error)
            scheduler.on_future_done.deliver((future,))
            scheduler.on_future_exception.deliver((future, error))
            if task is not None:
                task.on_done.deliver((future,))
                task.on_exception.deliver((future, error))
            if not isinstance(error, Exception) or future.awaited is False:
                self.fail(error, f"{future!r} raised {type(error).__name__}")
            elif future.awaited is None:
                self._unclaimed.append(future)

    def _gather(self, subscriber: Subscriber[[list[Any]], Any], future: Future[Any], result: Any) -> None:
        """Keep a result for the next event of `on_results`."""
        if not self._gathered:
            self._gathered_since = self._now()
        self._gathered.setdefault(subscriber, []).append((future, result))

    def _deliver_gathered(self) -> bool:
        """Deliver gathered results where earlier async callbacks have finished, and return whether there were any."""
        ready = [each for each in self._gathered if not self._subscriber_tasks.get(each)]
        for subscriber in ready:
            before = set(self._spawned)
            subscriber.deliver((self._gathered.pop(subscriber),))
            self._subscriber_tasks[subscriber] = self._spawned - before
        return bool(ready)

    def _set_exception(self, future: Future[Any], error: BaseException) -> None:
        if isinstance(error, StopIteration):  # a future that is awaited cannot carry one (PEP 479)
            wrapped = RuntimeError(f"{future!r} raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        future.set_exception(error)
        future.exception()  # mark as retrieved: events report it, so asyncio need not log it

    def _call_cancelled(self, future: Future[Any]) -> None:
        if self._on_cancelled == "continue" or self._ending is not None or future.awaited:
            return
        message = f"{future!r} was cancelled"
        self.end(Code.CANCELLED, CancelledError(message), raised=self._on_cancelled == "raise", message=message)

    def _abandon_callbacks(self) -> None:
        if self._spawned:
            names = ", ".join(sorted(str(callback.get_coro()) for callback in self._spawned))
            logger.warning("async callbacks did not finish after being cancelled and were abandoned: %s", names)
            self._spawned.clear()
            self._subscriber_tasks.clear()

    def _callback_done(self, callback: asyncio.Task[Any], *, note: str) -> None:
        self._spawned.discard(callback)
        for tasks in self._subscriber_tasks.values():
            tasks.discard(callback)
        if not callback.cancelled() and (error := callback.exception()) is not None:
            add_note(error, note)
            self.callback_failed(error)
        self._wake()

    # The end

    def _settle(self) -> None:
        """Called when there is nothing to do: check whether the queue is empty and whether the run has finished."""
        if self._calls or self._spawned or self._admission.abandoned:
            return
        unclaimed, self._unclaimed = self._unclaimed, []
        for future in unclaimed:
            if not future.awaited and (error := future.exception()) is not None:
                self.fail(error, f"{future!r} raised {type(error).__name__} and was never awaited")
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        elif self._ending is None:
            if not self._empty_emitted:
                self._empty_emitted = True
                self._scheduler.on_empty.emit()
                self._wake()
            elif self._end_on_empty:
                self.end(Code.EXHAUSTED)

    async def _until_settled(self) -> None:
        self._settled = self.loop.create_future()
        self._wake()
        await self._settled

    def _cancel_unstarted(self) -> None:
        """Cancel the calls that have not started."""
        for future in tuple(self._calls):
            if not future.done() and self._admission.cancel_unstarted(future):
                future.mark_cancelled()
        self._wake()

    def _exit_state(self) -> ExitState:
        ending = self._ending
        assert ending is not None
        if ending.exception is not None and ending.raised:
            raise ending.exception
        return ExitState(ending.code, ending.exception)


class Waker:
    """Calls a function in the thread of a loop when any thread asks for it. A context manager.

    It does the same as `loop.call_soon_threadsafe` at a third of the cost: one write and one read of an eventfd, while
    asyncio creates a handle, copies a context, and reads its socket until that is empty. If the system or the loop does
    not support it, this uses `call_soon_threadsafe`.

    Args:
        loop: The loop.
        function: The function; called once for several wake-ups that arrive before the loop handles them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        self._loop = loop
        self._function = function
        self._descriptor: int | None = None
        self._lock = Lock()  # a late thread must not write to another file that has reused the descriptor

    def __enter__(self) -> Self:
        if hasattr(os, "eventfd"):  # Linux
            descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._loop.add_reader(descriptor, self._woken, descriptor)
                self._descriptor = descriptor
            except NotImplementedError:
                os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def wake(self) -> None:
        """Have the function called in the loop's thread.

        Raises:
            RuntimeError: The loop is closed.
        """
        with self._lock:
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)
                return
        self._loop.call_soon_threadsafe(self._function)

    def _woken(self, descriptor: int) -> None:
        os.eventfd_read(descriptor)
        self._function()
