"""Where a function of the user runs: the one place that all executors and plugins go through.

A function that forks may return twice, once in each process. The child has copies of all that is around the function:
the channel of its worker, the lock of a pool, the record of a repetition. Let into it, the child would serve calls,
answer a call a second time, or wait for ever. So it ends where it returns.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from amlsched.errors import CallAbortedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = ["aborted", "call_function", "forked_children_end"]

R = TypeVar("R")

_traceback: Callable[[BaseException], Any] = vars(BaseException)["__traceback__"].__get__
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
        # Without this frame. By way of the base class: what a class of the user's makes of it is of no use here.
        BaseException.with_traceback(error, _traceback(error).tb_next)
        if os.getpid() != pid:
            _end_child(_name(function), error)
        raise
    if os.getpid() != pid:
        _end_child(_name(function))
    return result


def aborted(function: Callable[..., Any], error: BaseException) -> CallAbortedError:
    """What a call ends with whose function raised what is no `Exception`.

    As it is, it would end the loop and the program of whoever awaits the call.
    """
    from amlsched.executors._pickling import describe

    ends_with = CallAbortedError(_name(function), describe(error).removesuffix(": "))
    ends_with.__cause__ = error
    return ends_with


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
