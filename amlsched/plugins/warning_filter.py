"""Filters warnings of calls."""

from __future__ import annotations

import functools
import re
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched._context import contextmanager
from amlsched.executors.user_function import call_function
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["WarningFilter"]


class WarningFilter(Plugin):
    """Runs calls of the task under a warning filter; the worker's filters are restored afterwards.

    Python's warning filters apply to the whole process: with `with_threads`, concurrent calls share their filters until
    the last of them has finished.

    Args:
        *args: Arguments of `warnings.filterwarnings`, such as `"ignore"`.
        **kwargs: Its keyword arguments, such as `category=UserWarning`.

    Raises:
        TypeError: `warnings.filterwarnings` does not accept these arguments.
        ValueError: The action is unknown, or an argument is invalid.
    """

    name: ClassVar[str] = "warning-filter"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            with _filters(args, kwargs):  # so that a mistake raises here, not in each call
                self.warning_args = args
                self.warning_kwargs = kwargs
        except (AssertionError, ValueError, re.error) as error:  # by Python's version
            raise ValueError(f"WarningFilter: {error}; its arguments are those of warnings.filterwarnings") from None

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Wrap the function to run under the filter."""
        return _Filtered(fn, self.warning_args, self.warning_kwargs), args, kwargs

    def __str__(self) -> str:
        given = [*map(repr, self.warning_args), *(f"{key}={value!r}" for key, value in self.warning_kwargs.items())]
        return f"{self.name}: {', '.join(given)}"


class _Filtered:
    """Sent to the worker in place of the function."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with _filters(self.args, self.kwargs):
            return call_function(self.function, args, kwargs)


# If each thread saved the filters on entry and restored them on exit, two of them could restore each other's filters,
# and one would stay forever. So the first one to enter saves them, and the last one to leave restores them.
_lock = threading.Lock()
_inside = 0
_outside = warnings.catch_warnings()
_each_thread_has_its_own = bool(getattr(sys.flags, "context_aware_warnings", False))  # from Python 3.14 on


@contextmanager
def _filters(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generator[None]:
    if _each_thread_has_its_own:
        with warnings.catch_warnings():
            warnings.filterwarnings(*args, **kwargs)
            yield
        return
    _enter()
    try:
        warnings.filterwarnings(*args, **kwargs)
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _outside
    with _lock:
        if not _inside:
            _outside = warnings.catch_warnings()
            _outside.__enter__()
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            _outside.__exit__(None, None, None)
