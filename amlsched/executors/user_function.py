"""Calls the user's functions, on behalf of all executors and plugins.

A function that forks may return twice, once in each process. The child has copies of everything around the function:
the transport of its worker, the lock of a pool, the record of a repetition. If it continued, it would serve calls,
answer a call a second time, or wait forever. So a forked child exits when it returns from the function.
"""

from __future__ import annotations

import importlib
import mmap
import os
import signal
import sys
import threading
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, TypeVar

from amlsched._context import contextmanager
from amlsched.errors import CallAbortedError
from amlsched.events import lazy_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = [
    "LAZY",
    "AlarmsEnd",
    "aborted",
    "call_function",
    "call_name",
    "cause_of",
    "check_function",
    "check_initializer",
    "describe",
    "drop_frame",
    "forked_children_end",
    "is_ordinary",
    "message_of",
    "ran_nothing",
    "set_args",
    "set_cause",
    "traceback_of",
]

R = TypeVar("R")

_own = vars(BaseException)
# Through the base class: a user's class may override these attributes, with code that may even raise SystemExit.
traceback_of: Callable[[BaseException], Any] = _own["__traceback__"].__get__
cause_of: Callable[[BaseException], BaseException | None] = _own["__cause__"].__get__
set_cause: Callable[[BaseException, BaseException], None] = _own["__cause__"].__set__
set_args: Callable[[BaseException, tuple[Any, ...]], None] = _own["args"].__set__
_said = mmap.mmap(-1, 1)
"""Shared with the children of this process: whether one of them has printed why it exits. One line is enough."""


def call_function(function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> R:
    """Call the function and return its result; a child that it forked exits instead of returning.

    Raises:
        BaseException: The exception of the function, with a traceback that begins in the function.
    """
    pid = os.getpid()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        drop_frame(error)
        if os.getpid() != pid:
            _end_child(call_name(function), error)
        raise
    if os.getpid() != pid:
        _end_child(call_name(function))
    return result


_handler_of: Callable[[int], Any] = importlib.import_module("_signal").getsignal  # ten times as fast without an enum
_timer: Callable[[int], tuple[float, float]] = importlib.import_module("_signal").getitimer
_ALARM, _DEFAULT, _REAL = getattr(signal, "SIGALRM", 0), int(signal.SIG_DFL), int(signal.ITIMER_REAL)


class AlarmsEnd:
    """Resets alarms that the function has set by `signal.alarm` or the like; otherwise the next call would get them."""

    __slots__ = ("_armed",)

    def __enter__(self) -> None:
        self._armed = not _ALARM or (
            _handler_of(_ALARM) is not _DEFAULT
            and (threading.current_thread() is not threading.main_thread() or _timer(_REAL)[0] > 0.0)
        )

    def __exit__(self, *_: object) -> None:
        if not self._armed and _timer(_REAL)[0]:  # armed: by other code before
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def call_name(fn: Any) -> str:
    """The name of a function's calls in messages."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    inner = getattr(fn, "func", None)  # functools.partial
    return call_name(inner) if callable(inner) else type(fn).__qualname__


def message_of(error: BaseException) -> str:
    """The message of an error, even of one whose own code raises."""
    try:
        return str(error)
    except BaseException as own:
        return f"<its message raised {type(own).__name__}>"


def describe(error: BaseException) -> str:
    """Type and message of an error."""
    return f"{type(error).__name__}: {message_of(error)}"


def drop_frame(error: BaseException) -> None:
    """Remove the first frame of an exception's traceback, which is that of the calling function."""
    trace = traceback_of(error)
    BaseException.with_traceback(error, trace and trace.tb_next)


def is_ordinary(error: BaseException) -> TypeGuard[Exception]:
    """Whether it is an `Exception`, and `isinstance` works with it without raising."""
    try:
        return issubclass(error.__class__, Exception) and isinstance(error, Exception)
    except BaseException:
        return False


def aborted(function: Callable[..., Any], error: BaseException) -> CallAbortedError:
    """The exception of a call whose function raised something other than an ordinary `Exception`.

    The original exception would end the event loop and the program if the call is awaited.
    """
    ends_with = CallAbortedError(call_name(function), describe(error).removesuffix(": "))
    ends_with.__cause__ = error
    return ends_with


def check_function(function: object, user: str) -> None:
    """Check that a worker can run a function.

    Args:
        function: The function.
        user: What needs it, for the message.

    Raises:
        TypeError: It is not callable, or calling it would run nothing: it is async or a generator function.
    """
    if not callable(function):
        raise TypeError(f"{user} needs a function, not {function!r}")
    if (kind := lazy_kind(function)) is not None:
        remedies = {
            "async": "call asyncio.run(…) in a plain function, or use it as a callback",
            "a generator function": "return the items as a list from a plain function",
        }
        raise TypeError(
            f"{user} needs a function that a worker can call, but {call_name(function)} is {kind}, so that calling it "
            f"would run nothing: {remedies[kind]}"
        )


def check_initializer(initializer: object, initargs: object) -> None:
    """Check an initializer of workers and its arguments.

    Raises:
        TypeError: Workers cannot call it, or its arguments are not a tuple.
    """
    if initializer is not None:
        check_function(initializer, "initializer")
    if not isinstance(initargs, tuple | list):
        raise TypeError(f"initargs={initargs!r}: must be a tuple, such as ({initargs!r},)")


LAZY: dict[type, str] = {
    GeneratorType: "a generator, and nothing of it has run: return what is in it, as by list(…)",
    AsyncGeneratorType: "an async generator, and nothing of it has run: return a list of what is in it",
    CoroutineType: "a coroutine, and nothing of it has run: run it in the function, by asyncio.run(…)",
}
"""Types of results that have not run, which functions return by mistake, each with the problem."""


def ran_nothing(function: Callable[..., Any], result: Any) -> TypeError:
    """The exception of a call that returned one of these."""
    mistake = LAZY[type(result)]
    if isinstance(result, CoroutineType):
        result.close()  # otherwise Python warns that it was never awaited
    return TypeError(f"{call_name(function)} returned {mistake}")


@contextmanager
def forked_children_end(name: str) -> Generator[None]:
    """A context that processes forked inside of it never leave: they exit at its end.

    Args:
        name: Name of the code that runs inside, for the message.
    """
    pid = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != pid:
            _end_child(name, error)
        raise
    if os.getpid() != pid:
        _end_child(name)


def _end_child(name: str, error: BaseException | None = None) -> NoReturn:
    """Exit from this process as a program would: with its output, and an error or a warning about the fork."""
    code = 0 if error is None else 1
    try:
        words = ""
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1 if error.code else 0
            words = error.code if isinstance(error.code, str) else ""
        elif error is not None:
            import traceback

            words = "".join(traceback.format_exception(error))
        elif not _said[0]:
            _said[0] = 1
            words = (
                f"amlsched: process {os.getpid()}, which {name} forked, returned from it and was terminated: "
                "only the original process continues (exit from a child with os._exit)"
            )
        if words:
            sys.stderr.write(words.rstrip() + "\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # a closed stream, a user's class that raises
        code = code or 1
    finally:
        os._exit(code)
