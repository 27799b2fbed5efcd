"""Retry calls whose worker died, and isolate a call that keeps killing its workers.

If an executor loses one call per worker, that call is charged with the loss. If a pool breaks as a whole, every call
that it was running is a suspect. The pool is recreated, calls that had not started are held, and the suspects run
alone, one after the other, until one of them breaks the pool again: that is the culprit. A suspect is charged once, no
matter how many pools broke around it, and once more for each pool that broke while it ran alone; so no call fails
because of others. The calls of a batch are suspects, too: they are submitted again one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from amlsched._run.batching import BatchItemFuture
from amlsched.errors import PoolBrokenError, WorkerLostError, WorkerStartError
from amlsched.events import add_note

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from amlsched._run.admission import Admission, Breakdown
    from amlsched._run.loop import RunLoop
    from amlsched.future import Future

__all__ = ["LostCalls"]

logger = logging.getLogger(__name__)

_MAX_FRUITLESS_RENEWALS = 10  # in a row without a finished call, in addition to those that a call may cause


class LostCalls:
    """The calls of one run whose workers were lost. Used in the loop's thread only.

    Args:
        run: The run.
        admission: Submits its calls to the executor.
        limit: How often to retry a call whose worker was lost, unless its task has its own limit.
        renew: Replaces a broken executor by a new one; returns `None` if the scheduler does not own it.
    """

    def __init__(self, run: RunLoop, admission: Admission, limit: int, renew: Callable[[], Executor | None]) -> None:
        self._run = run
        self._admission = admission
        self._limit = limit
        self._renew = renew
        self._suspects: deque[Future[Any]] = deque()
        self._running_suspect: Future[Any] | None = None
        self._fruitless_renewals = 0
        self._n_finished_before = -1

    # Called when a call was lost or has finished

    def call_lost(self, future: Future[Any], error: BaseException, work: Any, ending: bool) -> BaseException | None:
        """The final exception of a lost call; `None` if the call is retried.

        Args:
            future: The call.
            error: The executor's exception.
            work: The executor's future of the call.
            ending: Whether the run is ending, so that nothing is retried.
        """
        if isinstance(error, WorkerStartError) or self._admission.capabilities.reruns_lost_calls:
            return error  # the executor has already tried several times
        if ending or self._retries_exhausted(future):
            return self._pool_error(future, error, self._admission.breakdown)
        # Pools that break as a whole raise their own errors; ours is about one worker, such as a child of `Limits`.
        if self._admission.capabilities.survives_lost_workers or isinstance(error, WorkerLostError):
            return self._lost_with_its_worker(future, error, alone=not isinstance(work, BatchItemFuture) or work.alone)
        return self._lost_with_its_pool(future, error)

    def call_rejected(self, future: Future[Any], error: BrokenExecutor, ending: bool) -> None:
        """Replace the executor, which is broken and has rejected a call.

        Raises:
            BrokenExecutor: It cannot be replaced; this is the exception of the call.
        """
        breakdown = self._admission.breakdown
        if isinstance(error, WorkerStartError):
            raise error
        if ending or not self._replace_executor():
            raise self._pool_error(future, error, breakdown)
        self._separate_suspects(None, error, breakdown)

    def call_finished(self, future: Future[Any]) -> None:
        """Process a finished call while suspects run alone."""
        if future is not self._running_suspect:
            return
        if future in self._admission.abandoned:  # cancelled but still running: replace its worker
            self._replace_executor()
        self._running_suspect = None
        self._next_suspect()

    @property
    def searching(self) -> bool:
        """Whether suspects run alone."""
        return self._running_suspect is not None

    def _lost_with_its_worker(self, future: Future[Any], error: BaseException, alone: bool) -> BaseException | None:
        self._charge(future, alone)
        if self._retries_exhausted(future):
            return self._with_attempts(future, error)
        self._run.runs_again(future, error)
        self._run.then(partial(self._run.resend, future))
        return None

    def _lost_with_its_pool(self, future: Future[Any], error: BaseException) -> BaseException | None:
        breakdown = self._admission.breakdown
        found = self._running_suspect is future
        if not self._replace_executor():
            return self._resubmit(future, error, breakdown)
        if not found:
            return self._separate_suspects(future, error, breakdown)
        self._charge(future, alone=True)
        cause = self._cause(future, error, breakdown)
        if self._retries_exhausted(future):
            self._running_suspect = None
            self._resume()
            return self._with_attempts(future, cause)
        self._run.runs_again(future, cause)
        self._running_suspect = None
        self._suspects.appendleft(future)
        self._run.then(self._next_suspect)
        return None

    def _resubmit(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException | None:
        """Submit the call again to an executor that the scheduler does not own; it may still accept calls."""
        self._charge(future, alone=True)
        if self._retries_exhausted(future):
            return self._pool_error(future, error, breakdown)
        try:
            self._admission.send(future)
        except BrokenExecutor:
            return self._pool_error(future, error, breakdown)
        self._run.runs_again(future, error)
        return None

    # A pool has broken

    def _separate_suspects(
        self, first: Future[Any] | None, error: BaseException, breakdown: Breakdown | None
    ) -> BaseException | None:
        """Separate suspects from calls that had not started, once there is a new pool.

        Args:
            first: The call that reported the broken pool, if one did.
            error: The executor's exception.
            breakdown: What was observed when the pool broke.

        Returns:
            The final exception of the first call; `None` if that call is retried.
        """
        admission = self._admission
        lost = admission.take_lost_calls(self._run.calls)
        if first is not None:
            lost = sorted([first, *lost], key=lambda future: future.number)
        begun = frozenset(lost) if breakdown is None else breakdown.running
        suspects = [future for future in lost if future in begun]
        admission.put_back([future for future in lost if future not in begun])
        alone = len(suspects) == 1
        first_ends_with: BaseException | None = None
        for future in suspects:
            self._charge(future, alone)
            cause = self._cause(future, error, breakdown) if alone else self._pool_broken(future, error, breakdown)
            if not self._retries_exhausted(future):
                self._run.runs_again(future, cause)
                self._suspects.append(future)
            elif future is first:
                first_ends_with = self._with_attempts(future, cause)
            else:
                admission.reject([future], cause)
        admission.pause()
        self._run.then(self._next_suspect)
        return first_ends_with

    def _next_suspect(self) -> None:
        if self._running_suspect is not None:
            return
        while self._suspects:
            future = self._suspects.popleft()
            if not future.done():
                self._running_suspect = future
                self._send(future)
                return
        self._resume()

    def _send(self, future: Future[Any]) -> None:
        try:
            try:
                self._admission.send(future)
            except BrokenExecutor:  # it broke while it was idle
                if not self._replace_executor():
                    raise
                self._admission.send(future)
        except Exception as error:
            self._admission.reject([future], error)

    def _resume(self) -> None:
        """Let all calls run again; the remaining suspects are presumed innocent."""
        self._admission.put_back([future for future in self._suspects if not future.done()])
        self._suspects.clear()
        self._admission.resume()

    def _replace_executor(self) -> bool:
        """Replace the broken executor by a new one, and return whether that succeeded."""
        ended = self._run.n_finished
        self._fruitless_renewals = self._fruitless_renewals + 1 if ended == self._n_finished_before else 0
        self._n_finished_before = ended
        if self._fruitless_renewals > self._limit + _MAX_FRUITLESS_RENEWALS:
            return False
        try:
            executor = self._renew()
        except Exception:
            logger.exception("a pool broke and could not be recreated")
            return False
        if executor is None:
            return False
        self._admission.use(executor)
        return True

    # Attempts

    def _charge(self, future: Future[Any], alone: bool) -> None:
        future.losses = future.losses + 1 if alone else max(future.losses, 1)

    def _retries_exhausted(self, future: Future[Any]) -> bool:
        own = future.task.retries_on_loss if future.task is not None else None
        return future.losses > (self._limit if own is None else own)

    # Exceptions

    def _cause(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        """The exception of a call that broke its pool while it ran alone."""
        if isinstance(error, WorkerLostError) and not isinstance(error, PoolBrokenError):
            return error
        if breakdown is None or not breakdown.exits:
            return self._pool_broken(future, error, breakdown)
        cause: BaseException = breakdown.exits[0].error(_name(future), self._admission.kills)
        cause.__cause__ = error
        return cause

    def _pool_error(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        """The exception of a call that is not retried."""
        capabilities = self._admission.capabilities
        if capabilities.pickles and not capabilities.survives_lost_workers:
            return self._pool_broken(future, error, breakdown)
        return self._with_attempts(future, error)

    def _pool_broken(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        if isinstance(error, WorkerLostError):
            return self._with_attempts(future, error)
        if breakdown is not None and breakdown.exits:
            reason = f"a worker {breakdown.exits[0].error(_name(future)).cause}"
        else:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        broken = PoolBrokenError(_name(future), self._admission.executor_name, reason)
        broken.__cause__ = error
        return self._with_attempts(future, broken)

    def _with_attempts(self, future: Future[Any], error: BaseException) -> BaseException:
        """Add the number of attempts to an exception."""
        if future.attempt > 1:
            if isinstance(error, WorkerLostError):
                error.attempts = future.attempt
            else:
                add_note(error, f"attempt {future.attempt}, the last")
        return error


def _name(future: Future[Any]) -> str:
    name = getattr(future.function, "__qualname__", None)
    return name if isinstance(name, str) else type(future.function).__name__
