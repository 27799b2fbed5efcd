"""What becomes of calls whose worker was lost: they run again, and a call that kills its workers is found out.

Where an executor loses one call with one worker, that call is charged with the loss. Where a pool breaks as a whole,
each call that it ran is a suspect. The pool is made anew, calls that had not begun wait, and the suspects run alone,
one after the other, until one of them breaks the pool again: it did it. A suspect is charged once, however many pools
broke around it, and once more for each that broke while it ran alone; so no call fails because of others. The calls of
a batch are suspects, too: they are sent again one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from amlsched.batch import Part
from amlsched.errors import PoolBrokenError, WorkerLostError, WorkerStartError
from amlsched.events import add_note

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from amlsched.admission import Admission, Breakdown
    from amlsched.future import Future
    from amlsched.run_loop import RunLoop

__all__ = ["Losses"]

logger = logging.getLogger(__name__)

_FRUITLESS_RENEWALS = 10  # in a row, while no call ends, beyond those that a call may cause


class Losses:
    """The calls of one run whose workers were lost. Used in the loop's thread only.

    Args:
        run: Whose calls they are.
        admission: Brings them to the executor.
        limit: How often a call is run again that lost its worker, unless its task says otherwise.
        renew: Makes a new executor in place of one that broke; `None` where that is not ours to do.
    """

    def __init__(self, run: RunLoop, admission: Admission, limit: int, renew: Callable[[], Executor | None]) -> None:
        self._run = run
        self._admission = admission
        self._limit = limit
        self._renew_executor = renew
        self._suspects: deque[Future[Any]] = deque()
        self._alone: Future[Any] | None = None  # the suspect that runs
        self._fruitless = 0
        self._ended_before = -1

    # A call has ended in this

    def lost(self, future: Future[Any], error: BaseException, work: Any, ending: bool) -> BaseException | None:
        """What the call ends with; `None` where it runs again.

        Args:
            future: The call.
            error: What the executor said.
            work: The executor's future of it.
            ending: Whether the run is ending, so that nothing runs again.
        """
        if isinstance(error, WorkerStartError) or self._admission.capabilities.reruns_lost_calls:
            return error  # whoever starts workers, or has lost this call, has tried several times
        if ending or self._spent(future):
            return self._of_its_pool(future, error, self._admission.breakdown)
        # Pools that break as a whole say so by errors of their own; ours is of one worker, such as a child of `Limits`.
        if self._admission.capabilities.survives_lost_workers or isinstance(error, WorkerLostError):
            return self._lost_with_its_worker(future, error, alone=not isinstance(work, Part) or work.alone)
        return self._lost_with_its_pool(future, error)

    def refused(self, future: Future[Any], error: BrokenExecutor, ending: bool) -> None:
        """Make a new executor, now that the present one has refused a call since it is broken.

        Raises:
            BrokenExecutor: There is no other; what becomes of the call.
        """
        breakdown = self._admission.breakdown
        if isinstance(error, WorkerStartError):
            raise error
        if ending or not self._renew():
            raise self._of_its_pool(future, error, breakdown)
        self._sort_out(None, error, breakdown)

    def concluded(self, future: Future[Any]) -> None:
        """Take note of a call that has ended, while suspects run alone."""
        if future is not self._alone:
            return
        if future in self._admission.given_up:  # cancelled, and still running: with its worker it ends
            self._renew()
        self._alone = None
        self._next_suspect()

    @property
    def searching(self) -> bool:
        """Whether suspects run alone."""
        return self._alone is not None

    def _lost_with_its_worker(self, future: Future[Any], error: BaseException, alone: bool) -> BaseException | None:
        self._charge(future, alone)
        if self._spent(future):
            return self._named(future, error)
        self._run.runs_again(future, error)
        self._run.then(partial(self._run.resend, future))
        return None

    def _lost_with_its_pool(self, future: Future[Any], error: BaseException) -> BaseException | None:
        breakdown = self._admission.breakdown
        found = self._alone is future
        if not self._renew():
            return self._lost_for_good(future, error, breakdown)
        if not found:
            return self._sort_out(future, error, breakdown)
        self._charge(future, alone=True)
        cause = self._cause(future, error, breakdown)
        if self._spent(future):
            self._alone = None
            self._release()
            return self._named(future, cause)
        self._run.runs_again(future, cause)
        self._alone = None
        self._suspects.appendleft(future)
        self._run.then(self._next_suspect)
        return None

    def _lost_for_good(
        self, future: Future[Any], error: BaseException, breakdown: Breakdown | None
    ) -> BaseException | None:
        """The executor is not ours: it may still take calls, as far as is known."""
        self._charge(future, alone=True)
        if self._spent(future):
            return self._of_its_pool(future, error, breakdown)
        try:
            self._admission.send(future)
        except BrokenExecutor:
            return self._of_its_pool(future, error, breakdown)
        self._run.runs_again(future, error)
        return None

    # A pool has broken

    def _sort_out(
        self, first: Future[Any] | None, error: BaseException, breakdown: Breakdown | None
    ) -> BaseException | None:
        """Tell suspects from calls that had not begun, now that there is a new pool.

        Args:
            first: The call that told of it, if one did.
            error: What the executor said.
            breakdown: What was seen when the pool broke.

        Returns:
            What the first call ends with; `None` where it runs again.
        """
        admission = self._admission
        lost = admission.lost_calls(self._run.calls)
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
            if not self._spent(future):
                self._run.runs_again(future, cause)
                self._suspects.append(future)
            elif future is first:
                first_ends_with = self._named(future, cause)
            else:
                admission.refuse([future], cause)
        admission.pause()
        self._run.then(self._next_suspect)
        return first_ends_with

    def _next_suspect(self) -> None:
        if self._alone is not None:
            return
        while self._suspects:
            future = self._suspects.popleft()
            if not future.done():
                self._alone = future
                self._send(future)
                return
        self._release()

    def _send(self, future: Future[Any]) -> None:
        try:
            try:
                self._admission.send(future)
            except BrokenExecutor:  # it broke while it had nothing to do
                if not self._renew():
                    raise
                self._admission.send(future)
        except Exception as error:
            self._admission.refuse([future], error)

    def _release(self) -> None:
        """Let all calls run again; the suspects that are left are innocent, as far as is known."""
        self._admission.put_back([future for future in self._suspects if not future.done()])
        self._suspects.clear()
        self._admission.resume()

    def _renew(self) -> bool:
        """Whether there is a new executor in place of the one that broke."""
        ended = self._run.n_ended
        self._fruitless = self._fruitless + 1 if ended == self._ended_before else 0
        self._ended_before = ended
        if self._fruitless > self._limit + _FRUITLESS_RENEWALS:
            return False
        try:
            executor = self._renew_executor()
        except Exception:
            logger.exception("a pool broke, and no new one could be made")
            return False
        if executor is None:
            return False
        self._admission.use(executor)
        return True

    # Attempts

    def _charge(self, future: Future[Any], alone: bool) -> None:
        future.losses = future.losses + 1 if alone else max(future.losses, 1)

    def _spent(self, future: Future[Any]) -> bool:
        own = future.task.retries_on_loss if future.task is not None else None
        return future.losses > (self._limit if own is None else own)

    # What is told

    def _cause(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        """The error of a call that broke its pool while it ran alone."""
        if isinstance(error, WorkerLostError) and not isinstance(error, PoolBrokenError):
            return error
        if breakdown is None or not breakdown.deaths:
            return self._pool_broken(future, error, breakdown)
        cause: BaseException = breakdown.deaths[0].error(_name(future), self._admission.kills)
        cause.__cause__ = error
        return cause

    def _of_its_pool(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        """The error of a call that is not run again."""
        capabilities = self._admission.capabilities
        if capabilities.pickles and not capabilities.survives_lost_workers:
            return self._pool_broken(future, error, breakdown)
        return self._named(future, error)

    def _pool_broken(self, future: Future[Any], error: BaseException, breakdown: Breakdown | None) -> BaseException:
        if isinstance(error, WorkerLostError):
            return self._named(future, error)
        if breakdown is not None and breakdown.deaths:
            reason = f"a worker {breakdown.deaths[0].error(_name(future)).cause}"
        else:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        broken = PoolBrokenError(_name(future), self._admission.executor_name, reason)
        broken.__cause__ = error
        return self._named(future, broken)

    def _named(self, future: Future[Any], error: BaseException) -> BaseException:
        """The error with the number of attempts."""
        if future.attempt > 1:
            if isinstance(error, WorkerLostError):
                error.attempts = future.attempt
            else:
                add_note(error, f"attempt {future.attempt}, the last")
        return error


def _name(future: Future[Any]) -> str:
    name = getattr(future.function, "__qualname__", None)
    return name if isinstance(name, str) else type(future.function).__name__
