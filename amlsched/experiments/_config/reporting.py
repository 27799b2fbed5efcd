"""Callbacks for the errors of a config: they are raised at once, or collected to be reported together."""

from collections.abc import Callable
from typing import TypeVar

from amlsched.errors import AmlschedError, ConfigError

__all__ = ["Note", "Report", "add_once", "ignore_note", "raise_error"]

Error = TypeVar("Error", bound=AmlschedError)

Report = Callable[[ConfigError], None]
"""Called with each error. If it returns, reading continues without the invalid value."""

Note = Callable[[str], None]
"""Called with each hint about something that works but may not be intended."""


def raise_error(fault: ConfigError) -> None:
    """Raise the error."""
    raise fault


def add_once(errors: list[Error], error: Error) -> None:
    """Add an error, unless one with the same text is already there."""
    if str(error) not in map(str, errors):
        errors.append(error)


def ignore_note(_: str) -> None:
    """Ignore a note."""
