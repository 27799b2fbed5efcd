"""A call of a pool of processes, which is its own future."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import NotPicklableError
from amlsched.executors._payload import Large, Payload, SharedFile, load
from amlsched.executors._processes.transport import Kind
from amlsched.executors.pickling import load_exception
from amlsched.executors.user_function import describe
from amlsched.executors.worker_exit import end_cancelled

if TYPE_CHECKING:
    from amlsched.executors._processes.manager import Manager
    from amlsched.executors._processes.worker_handle import Worker

__all__ = ["CallFuture", "shared_condition"]

_NOT_DONE = ("PENDING", "RUNNING")


class _Unwatched(type(threading.RLock())):  # type: ignore[misc]
    def notify_all(self) -> None:
        pass


def shared_condition() -> threading.Condition:
    """A lock that serves as the condition of all futures without waiting threads."""
    return cast("threading.Condition", _Unwatched())


class CallFuture(Future[Any]):
    """A call and its future in one object.

    A pool may hold very many of them. So the condition and the two lists that `Future` creates for each are shared or
    created on demand: a queued call takes little more memory than its pickle.

    Args:
        manager: The manager of the pool.
        name: Name of the function, for messages.
        payload: The pickled call.
        on_done: Called with `handle` when the call has finished; `None` for no callback.
        handle: The argument of `on_done`.
    """

    _state = "PENDING"
    _result = None
    _exception = None
    _watched_by: list[Any] | None = None
    _done_callbacks: Any = ()
    worker: "Worker | None" = None
    """The worker that it is assigned to."""
    started = False
    over = False
    """Its outcome is decided, or it was withdrawn."""
    by_value = False

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        manager: "Manager",
        name: str,
        payload: bytes | Large,
        on_done: Callable[[Any], object] | None = None,
        handle: object = None,
    ) -> None:
        self._condition = manager.condition  # no thread waits on this one: see result()
        self.manager = manager
        self.name = name
        self.payload: Payload | None = payload
        self._on_done = on_done
        self._handle = handle

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._watched_by is None:
            self._watched_by = []
            if self._state in _NOT_DONE:  # otherwise it is the future itself that asks whom to notify
                self.manager.expect_answers()
        return self._watched_by

    def _invoke_callbacks(self) -> None:
        if self._on_done is not None:
            on_done, self._on_done = self._on_done, None
            on_done(self._handle)
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
        shared = self.manager.condition
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
        """Create a condition of its own. It has the same lock as the shared one, so that it can replace that."""
        self.manager.expect_answers()
        shared = self.manager.condition
        with shared:
            if self._condition is shared and not self.done():
                self._condition = threading.Condition(cast("Any", shared))

    def cancel(self) -> bool:
        """Cancel the call unless a worker has started it; a prefetched one is reclaimed."""
        if self.manager.withdraw(self):
            self.end_cancelled()
        return self.cancelled()

    def start(self) -> None:
        """Mark it as running. Called under the manager's lock, so that it cannot be withdrawn at the same time."""
        if not self.started:
            self.started = True
            self._state = "RUNNING"

    def end_cancelled(self) -> None:
        """Complete it as cancelled, even if it was running: its worker is gone, or never received it."""
        self.payload = None
        end_cancelled(self)

    def end(self, error: BaseException | None) -> None:
        """Complete it without an answer of a worker: with this error, or as cancelled."""
        if error is None:
            self.end_cancelled()
        else:
            self.payload = None
            self.set_exception(error)

    def set_answer(self, kind: bytes, answer: Payload) -> None:
        """Complete it with a worker's answer."""
        shared_file, self.payload = self.payload, None
        error: BaseException | None = None
        body: Any = None
        try:
            body = load(answer)
        except BaseException as reason:  # the user's classes may raise anything, even SystemExit, when they are loaded
            error = NotPicklableError(self.name, "the result", describe(reason))
            error.__cause__ = reason
        if isinstance(shared_file, SharedFile):
            self.manager.recycle(shared_file)
        if error is None and kind == Kind.RESULT:
            self.set_result(body)
            return
        error = error or load_exception(body, self.name)
        if kind == Kind.NOT_LOADED:
            cause = error
            error = NotPicklableError(self.name, "the call", f"its worker cannot load it: {describe(cause)}")
            error.__cause__ = cause
        self.set_exception(error)
