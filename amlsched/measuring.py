"""Admission of calls that are measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from amlsched._context import contextmanager
from amlsched.admission import Admission
from amlsched.receipts import Measured, Outcome, settle, take

if TYPE_CHECKING:
    from collections.abc import Generator

    from amlsched.future import Future
    from amlsched.task import Task

__all__ = ["MeasuringAdmission"]


class MeasuringAdmission(Admission):
    """Has each call measured where it runs. A separate class, so that calls without receipts cost nothing."""

    def take(self, future: Future[Any]) -> None:
        """See `Admission`."""
        future.receipt = Outcome(time.time())
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
            settle(future)
            raise
        result, error = take(future, receipt, None)
        if error is not None:
            raise error
        return result

    def outcome(self, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """See `Admission`."""
        result, error = super().outcome(future)
        return take(future, result, error)

    def forget(self, future: Future[Any]) -> None:
        """See `Admission`."""
        super().forget(future)
        if future.receipt.ended is None or future.receipt.attempt != future.attempt:
            settle(future)

    def _collect(self, task: Task[..., Any], future: Future[Any]) -> None:
        with self._measured(future):
            super()._collect(task, future)

    @contextmanager
    def _measured(self, future: Future[Any]) -> Generator[None]:
        """Inside, the call has the measured function, which is sent; elsewhere the submitted one."""
        function: Any = future.function
        known = self.capabilities
        if isinstance(function, Measured):  # a batch that became full is sent while its last call is collected
            yield
            return
        in_child = getattr(function, "in_child", None)  # measure in the child, not where its parent waits
        if in_child is not None:
            future.function = function.with_function(Measured(in_child, shared=False, travels=True))
        else:
            in_threads = not known.pickles and not known.inline
            future.function = Measured(function, shared=in_threads, travels=known.pickles)
        try:
            yield
        finally:
            future.function = function
