"""A `contextmanager` that leaves the user's exceptions unchanged.

`contextlib.contextmanager` sets an attribute of an exception that leaves the block. If the class of the exception does
not allow that, such as a frozen dataclass, the resulting AttributeError would hide the exception.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

__all__ = ["contextmanager"]

P = ParamSpec("P")
T = TypeVar("T")


class _Context(AbstractContextManager[T], Generic[T]):
    def __init__(self, generator: Generator[T, Any, Any]) -> None:
        self._generator = generator

    def __enter__(self) -> T:
        return next(self._generator)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            next(self._generator, None)
            return False
        try:
            self._generator.throw(error)
        except StopIteration:
            return True  # the context has handled the exception
        except BaseException as raised:
            # A generator turns a StopIteration into the cause of a RuntimeError (PEP 479).
            if raised is not error and not (isinstance(error, StopIteration) and raised.__cause__ is error):
                raise
            BaseException.with_traceback(error, trace)  # without the frames of the generator
            return False
        raise RuntimeError("the context manager did not stop after an exception")


def contextmanager(function: Callable[P, Generator[T, Any, Any]]) -> Callable[P, AbstractContextManager[T]]:
    """Like `contextlib.contextmanager`, but leaves exceptions unchanged."""

    @wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Context(function(*args, **kwargs))

    return made
