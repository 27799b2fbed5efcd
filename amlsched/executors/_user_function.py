"""Where a function of the user runs: the one place that all executors and plugins go through.

A function that forks may return twice, once in each process. The child has copies of all that is around the function:
the channel of its worker, the lock of a pool, the record of a repetition. Let into it, the child would serve calls,
answer a call a second time, or wait for ever. So it ends where it returns.
"""

from __future__ import annotations

import importlib
import mmap
import os
import signal
import sys
import threading
import time
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
    "cause_of",
    "check_function",
    "check_initializer",
    "drop_frame",
    "forked_children_end",
    "is_ordinary",
    "ran_nothing",
    "set_args",
    "set_cause",
    "traceback_of",
]

R = TypeVar("R")

_own = vars(BaseException)
# By way of the base class: what a class of the user's makes of its attributes, which may exit, is of no use here.
traceback_of: Callable[[BaseException], Any] = _own["__traceback__"].__get__
cause_of: Callable[[BaseException], BaseException | None] = _own["__cause__"].__get__
set_cause: Callable[[BaseException, BaseException], None] = _own["__cause__"].__set__
set_args: Callable[[BaseException, tuple[Any, ...]], None] = _own["args"].__set__
_said = mmap.mmap(-1, 1)
"""Shared with the children of this process: whether one of them has said what it is ended for. One line is enough."""


def call_function(function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> R:
    """What the function returns, in the process that called it; a child that it forked ends where it returns.

    Raises:
        BaseException: What the function raises, with a traceback that begins in the function.
    """
    pid = os.getpid()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        drop_frame(error)
        if os.getpid() != pid:
            _end_child(_name(function), error)
        raise
    if os.getpid() != pid:
        _end_child(_name(function))
    return result


_handler_of: Callable[[int], Any] = importlib.import_module("_signal").getsignal  # gives no enum: ten times as fast
_ALARM, _DEFAULT = getattr(signal, "SIGALRM", 0), int(signal.SIG_DFL)
_SHORT_S = 20e-6


class AlarmsEnd:
    """What `signal.alarm` and its like set in here rings in here alone: the next call of this process would get it.

    To ask for an alarm takes as long as a short call. So where there is no handler, which only the main thread can
    set, the shortest calls are trusted.
    """

    __slots__ = ("_armed", "_began")

    def __enter__(self) -> None:
        self._armed = not _ALARM or (
            _handler_of(_ALARM) is not _DEFAULT
            and (
                threading.current_thread() is not threading.main_thread()
                or signal.getitimer(signal.ITIMER_REAL)[0] > 0.0
            )
        )
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._armed:  # by somebody else
            return
        if time.perf_counter() - self._began > _SHORT_S or _handler_of(_ALARM) is not _DEFAULT:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def drop_frame(error: BaseException) -> None:
    """Let the traceback of an exception begin one frame later, without that of whoever catches it."""
    trace = traceback_of(error)
    BaseException.with_traceback(error, trace and trace.tb_next)


def is_ordinary(error: BaseException) -> TypeGuard[Exception]:
    """Whether it is an `Exception`, and does not raise where it is asked for its class, as `isinstance` does."""
    try:
        return issubclass(error.__class__, Exception) and isinstance(error, Exception)
    except BaseException:
        return False


def aborted(function: Callable[..., Any], error: BaseException) -> CallAbortedError:
    """What a call ends with whose function raised what is no ordinary `Exception`.

    As it is, it would end the loop and the program of whoever awaits the call.
    """
    from amlsched.executors._pickling import describe

    ends_with = CallAbortedError(_name(function), describe(error).removesuffix(": "))
    ends_with.__cause__ = error
    return ends_with


def check_function(function: object, user: str) -> None:
    """Refuse what a worker cannot run.

    Args:
        function: What it is to run.
        user: What needs it.

    Raises:
        TypeError: It cannot be called, or a call of it would run nothing: it is async, or yields.
    """
    if not callable(function):
        raise TypeError(f"{user} needs a function, not {function!r}")
    if (kind := lazy_kind(function)) is not None:
        remedies = {
            "async": "call asyncio.run(…) in a plain function, or make it a callback",
            "a generator function": "return what it yields, as by list(…) of it in a plain function",
        }
        raise TypeError(
            f"{user} needs a function that a worker can call, and {_name(function)} is {kind}, so that nothing "
            f"of it would run: {remedies[kind]}"
        )


def check_initializer(initializer: object, initargs: object) -> None:
    """Refuse what no worker can call before its first call, and arguments of it that are no tuple.

    Raises:
        TypeError: One of them is wrong.
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
"""What a function may return by mistake that has not run: what is wrong with it, by its type."""


def ran_nothing(function: Callable[..., Any], result: Any) -> TypeError:
    """What a call ends with that returned one of these."""
    mistake = LAZY[type(result)]
    if isinstance(result, CoroutineType):
        result.close()  # else Python warns that it was never awaited
    return TypeError(f"{_name(function)} returned {mistake}")


@contextmanager
def forked_children_end(name: str) -> Generator[None]:
    """A process that is forked in here ends where it would leave.

    Args:
        name: Of what runs in here, for the message.
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
    """End this process as a program would: with its output, and a word of what went wrong or is likely a mistake."""
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
                f"amlsched: process {os.getpid()}, which {name} forked, returned from it and is ended: "
                "only the process that was called goes on (end a child with os._exit)"
            )
        if words:
            sys.stderr.write(words.rstrip() + "\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # a stream that is closed, a class of the user's that raises
        code = code or 1
    finally:
        os._exit(code)


def _name(function: Any) -> str:
    from amlsched.executors._pickling import call_name

    return call_name(function)
