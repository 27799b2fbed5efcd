"""Why a run ended, and the policy for exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from amlsched.executors.user_function import describe

__all__ = ["CancelledMode", "ExceptionMode", "ExitState", "Policy"]

ExceptionMode = Literal["raise", "end", "continue"]
CancelledMode = Literal["raise", "end", "continue"]
_MODES = get_args(ExceptionMode)


class _Code(Enum):
    """The reasons for which a run ends."""

    STOPPED = auto()
    """`scheduler.stop()` was called."""
    TIMEOUT = auto()
    """The run reached its `timeout`."""
    EXHAUSTED = auto()
    """No calls remained, and no callback submitted another."""
    CANCELLED = auto()
    """A call was cancelled, under `on_cancelled="end"`."""
    EXCEPTION = auto()
    """A call or a callback raised, under `on_exception="end"`."""
    UNKNOWN = auto()
    """Unused; for compatibility with code written for amltk."""


# Users print and pickle it as `ExitState.Code`.
_Code.__name__, _Code.__qualname__ = "Code", "ExitState.Code"


class _Fields(NamedTuple):
    code: _Code
    exception: BaseException | None = None


class ExitState(_Fields):
    """Why a run ended.

    Attributes:
        code: The reason.
        exception: The exception that ended it, if any.
    """

    __slots__ = ()

    Code: TypeAlias = _Code

    def __str__(self) -> str:
        """A sentence, such as `The run was stopped.`."""
        return _SENTENCES[self.code] + ("." if self.exception is None else f": {describe(self.exception)}")


_SENTENCES = {
    _Code.STOPPED: "The run was stopped",
    _Code.TIMEOUT: "The run reached its timeout",
    _Code.EXHAUSTED: "The run finished: no calls remained",
    _Code.CANCELLED: "The run ended because a call was cancelled",
    _Code.EXCEPTION: "The run ended with an exception",
    _Code.UNKNOWN: "The run ended",
}


class Policy:
    """How exceptions affect the run, from `on_exception=`.

    Args:
        on_exception: One mode for all exceptions, or a mapping from exception types to modes: the first matching type
            decides, and an exception that matches none is raised.

    Raises:
        ValueError: A mode or a type is invalid.
    """

    def __init__(self, on_exception: ExceptionMode | Mapping[type[Exception], ExceptionMode]) -> None:
        modes: Mapping[Any, ExceptionMode] = (
            on_exception if isinstance(on_exception, Mapping) else {Exception: on_exception}
        )
        for kind, mode in modes.items():
            check_mode("on_exception", mode)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ValueError(
                    f"on_exception: Invalid key {kind!r}: must be a subclass of Exception "
                    "(a call that raises another BaseException fails with CallAbortedError; a callback ends the run)"
                )
        self._modes = tuple(modes.items())

    def __call__(self, error: BaseException) -> ExceptionMode:
        """The mode for this exception; always `"raise"` for a BaseException that is not an Exception."""
        for kind, mode in self._modes:
            if isinstance(error, kind):
                return mode
        return "raise"


def check_mode(name: str, mode: object) -> None:
    """Check that a value is a mode.

    Raises:
        ValueError: It is not; the message names the parameter, the value and the modes.
    """
    if mode not in _MODES:
        raise ValueError(f"{name}={mode!r}: must be one of {', '.join(map(repr, _MODES))}")
