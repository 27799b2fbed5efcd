"""A call on its way to a worker and back: its future."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import NotPicklableError
from amlsched.executors._channel import Kind
from amlsched.executors._ending import end_cancelled
from amlsched.executors._payload import Large, Payload, Sheet, load
from amlsched.executors._pickling import describe, load_exception

if TYPE_CHECKING:
    from amlsched.executors._crew import Crew
    from amlsched.executors._driven import Worker

__all__ = ["CallFuture", "shared_condition"]

_NOT_DONE = ("PENDING", "RUNNING")


class _Unwatched(type(threading.RLock())):  # type: ignore[misc]
    def notify_all(self) -> None:
        pass


def shared_condition() -> threading.Condition:
    """A lock that passes for the condition of all futures for which nobody waits."""
    return cast("threading.Condition", _Unwatched())


class CallFuture(Future[Any]):
    """The future of a call, and the call itself until it has ended.

    A pool may hold very many. So what `Future` makes for each one, a condition and two lists, is shared or made
    only when asked for: a call that waits costs little more than its pickle.

    Args:
        crew: Whose workers run it.
        name: Name of the function, for messages.
        payload: The pickled call.
        told: Called with `handle` when the call has ended; `None` for nobody.
        handle: What it is called with.
    """

    _state = "PENDING"
    _result = None
    _exception = None
    _watched_by: list[Any] | None = None
    _done_callbacks: Any = ()
    worker: "Worker | None" = None
    """Who has it."""
    started = False
    over = False
    """How it ends is settled, or it was withdrawn."""
    by_value = False

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        crew: "Crew",
        name: str,
        payload: bytes | Large,
        told: Callable[[Any], object] | None = None,
        handle: object = None,
    ) -> None:
        self._condition = crew.condition  # nobody waits on this one: see result()
        self.crew = crew
        self.name = name
        self.payload: Payload | None = payload
        self._told = told
        self._handle = handle

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._watched_by is None:
            self._watched_by = []
            self.crew.expect_answers()
        return self._watched_by

    def _invoke_callbacks(self) -> None:
        if self._told is not None:
            told, self._told = self._told, None
            told(self._handle)
            self._handle = None
        if self._done_callbacks:
            super()._invoke_callbacks()  # type: ignore[misc]

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As of any future."""
        with self._condition:
            if self._state in _NOT_DONE:
                if self._done_callbacks:
                    self._done_callbacks.append(fn)
                else:
                    self._done_callbacks = [fn]
                return
        super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """As of any future."""
        shared = self.crew.condition
        with shared:
            unwatched = self._condition is shared and self._watched_by is None and self._state in _NOT_DONE
            if unwatched:
                self._result = result
                self._state = "FINISHED"
        if unwatched:
            self._invoke_callbacks()
        else:
            super().set_result(result)

    def done(self) -> bool:
        """As of any future."""
        return self._state not in _NOT_DONE

    def result(self, timeout: float | None = None) -> Any:
        """As of any future."""
        if self._state in _NOT_DONE:
            self._expect_wait()
        elif self._state == "FINISHED" and self._exception is None:
            return self._result
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of any future."""
        if self._state in _NOT_DONE:
            self._expect_wait()
        elif self._state == "FINISHED":
            return self._exception
        return super().exception(timeout)

    def _expect_wait(self) -> None:
        """Get a condition of its own. It has the same lock as the shared one, so that it may take its place."""
        self.crew.expect_answers()
        shared = self.crew.condition
        with shared:
            if self._condition is shared and not self.done():
                self._condition = threading.Condition(cast("Any", shared))

    def cancel(self) -> bool:
        """Cancel the call unless a worker has begun it; one that waits in a worker's queue is taken back."""
        if self.crew.withdraw(self):
            self.end_cancelled()
        return self.cancelled()

    def start(self) -> None:
        """Note that a worker runs it now. Under the crew's lock, so it cannot be withdrawn at the same time."""
        if not self.started:
            self.started = True
            self._state = "RUNNING"

    def end_cancelled(self) -> None:
        """Cancelled, even if it was running: its worker is gone, or never saw it."""
        self.payload = None
        end_cancelled(self)

    def end(self, error: BaseException | None) -> None:
        """End without an answer of a worker: with this error, or as cancelled."""
        if error is None:
            self.end_cancelled()
        else:
            self.payload = None
            self.set_exception(error)

    def settle(self, kind: bytes, answer: Payload) -> None:
        """End as a worker's answer says."""
        sheet, self.payload = self.payload, None
        error: BaseException | None = None
        body: Any = None
        try:
            body = load(answer)
        except BaseException as reason:  # whatever the user's classes raise while they are loaded: they may exit
            error = NotPicklableError(self.name, "the result", describe(reason))
            error.__cause__ = reason
        if isinstance(sheet, Sheet):
            self.crew.recycle(sheet)
        if error is None and kind == Kind.RESULT:
            self.set_result(body)
            return
        error = error or load_exception(body, self.name)
        if kind == Kind.NOT_LOADED:
            cause = error
            error = NotPicklableError(self.name, "the call", f"its worker cannot load it: {describe(cause)}")
            error.__cause__ = cause
        self.set_exception(error)
