"""Callbacks for the errors of a config: they are raised at once, or collected to be reported together."""

from collections.abc import Callable

from amlsched.errors import ConfigError

__all__ = ["Note", "Report", "raise_error", "ignore_note"]

Report = Callable[[ConfigError], None]
"""Called with each error. If it returns, reading continues without the invalid value."""

Note = Callable[[str], None]
"""Called with each hint about something that works but may not be intended."""


def raise_error(fault: ConfigError) -> None:
    """Raise the error."""
    raise fault


def ignore_note(_: str) -> None:
    """Ignore a note."""
