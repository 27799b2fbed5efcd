"""A call on its way to a worker and back: its future, and everything that can go wrong with pickling."""

import importlib
import inspect
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import NotPicklableError
from amlsched.executors._channel import Kind
from amlsched.executors._payload import Large, Payload, Sheet, dump, load

if TYPE_CHECKING:
    from amlsched.executors._crew import Crew
    from amlsched.executors._driven import Worker

__all__ = [
    "CallFuture",
    "RemoteTraceback",
    "call_name",
    "describe",
    "dump_by_value",
    "dump_call",
    "dump_exception",
    "dump_result",
    "exception_parts",
    "load_exception",
    "pickled_by_value",
    "shared_condition",
]


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

    def __init__(self, crew: "Crew", name: str, payload: bytes | Large) -> None:  # pyright: ignore[reportMissingSuperCall]
        self._condition = crew.condition  # nobody waits on this one: see result()
        self.crew = crew
        self.name = name
        self.payload: Payload | None = payload

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._watched_by is None:
            self._watched_by = []
        return self._watched_by

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
            self._invoke_callbacks()  # type: ignore[attr-defined]
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
        with self._condition:
            self._state = "PENDING"  # `Future` itself cancels nothing else
        super().cancel()
        self.set_running_or_notify_cancel()

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
        except Exception as reason:  # whatever the user's classes raise while they are loaded
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


class RemoteTraceback(Exception):  # noqa: N818  (it is shown as the cause of an error, as in the standard library)
    """Where in the worker an exception was raised.

    Args:
        text: The traceback, as printed by Python.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def call_name(fn: Any) -> str:
    """The name under which a call of this function appears in messages."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    inner = getattr(fn, "func", None)  # functools.partial
    return call_name(inner) if callable(inner) else type(fn).__qualname__


def dump_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Large:
    """Pickle a call, by cloudpickle where plain pickle cannot.

    Raises:
        NotPicklableError: Neither can; it names the argument.
    """
    if not hasattr(sys.modules["__main__"], "__file__"):
        # An interactive session: its functions can be defined anew after the workers were started.
        return dump_by_value(fn, args, kwargs)
    try:
        return dump((fn, args, kwargs))
    except Exception:  # whatever a __reduce__ raises
        return dump_by_value(fn, args, kwargs)


def dump_by_value(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Large:
    """Pickle a call by cloudpickle, with the functions and classes of `__main__` in it.

    Raises:
        NotPicklableError: It cannot; the error names the argument.
    """
    try:
        return dump((fn, args, kwargs), pickled_by_value)
    except Exception as error:
        parts = [("the function", fn)]
        parts += [(f"argument {_parameter(fn, index)}", value) for index, value in enumerate(args)]
        parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
        for what, value in parts:
            try:
                pickled_by_value(value, protocol=5)
            except Exception as reason:
                raise NotPicklableError(call_name(fn), what, describe(reason)) from reason
        raise NotPicklableError(call_name(fn), "the call", describe(error)) from error


def _parameter(fn: Callable[..., Any], index: int) -> str:
    """How to name a positional argument: by its parameter if the signature tells it, otherwise by its position."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
        named = parameters[index].kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    except (TypeError, ValueError, IndexError):
        return str(index)
    return repr(parameters[index].name) if named else str(index)


def dump_result(value: object, fn: Any) -> bytes | Large:
    """Pickle a result.

    Raises:
        NotPicklableError: It cannot be pickled.
    """
    try:
        return dump(value)
    except Exception:  # whatever a __reduce__ raises
        try:
            return dump(value, pickled_by_value)
        except Exception as error:
            raise NotPicklableError(call_name(fn), "the result", describe(error)) from error


def dump_exception(error: BaseException) -> bytes | Large:
    """Pickle an exception for `load_exception`."""
    return dump(exception_parts(error))


def exception_parts(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """What of an exception can travel: itself if it pickles in any way, and type, message and traceback in words."""
    tail = error.__traceback__.tb_next if error.__traceback__ else None  # without the worker's own frame
    text = "".join(traceback.format_exception(type(error), error, tail))
    described = (type(error).__qualname__, _message(error), text)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: error,
        lambda: _Taken(error),
        lambda: _Taken(error, plain=True),
    )
    for attempt in attempts:
        for dumps in (pickle.dumps, pickled_by_value):
            try:
                blob = dumps(attempt(), protocol=5)
                if isinstance(pickle.loads(blob), BaseException):  # a constructor with other arguments fails only here
                    return (blob, *described)
            except Exception:
                continue
    return (None, *described)


def load_exception(body: tuple[bytes | None, str, str, str], name: str) -> BaseException:
    """The exception of a call, with the worker's traceback as its cause."""
    blob, type_name, message, text = body
    error: BaseException | None = None
    if blob is not None:
        try:
            error = pickle.loads(blob)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        error = NotPicklableError(name, f"the exception {type_name}({message!r})", "see the traceback above")
    error.__cause__ = RemoteTraceback(text)
    return error


class _Taken:
    """Pickles as the exception taken to pieces, for those whose constructor wants something else than their `args`."""

    def __init__(self, error: BaseException, *, plain: bool = False) -> None:
        args, state = error.args, dict(error.__dict__)
        if plain:
            args = tuple(value if _pickles(value) else repr(value) for value in args)
            state = {key: value if _pickles(value) else repr(value) for key, value in state.items()}
        self.parts = (type(error), args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _put_together, self.parts


def _put_together(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _pickles(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value, protocol=5))
    except Exception:
        return False
    return True


def pickled_by_value(value: object, **options: Any) -> bytes:
    """Pickle by cloudpickle; the options are those of `pickle.dumps`."""
    cloudpickle: Any = importlib.import_module("cloudpickle")  # slow to import, seldom needed; it has no types
    data: bytes = cloudpickle.dumps(value, **options)
    return data


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as own:
        return f"<its message raised {type(own).__name__}>"


def describe(error: BaseException) -> str:
    """Type and message of an error."""
    return f"{type(error).__name__}: {_message(error)}"
