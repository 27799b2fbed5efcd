"""What is done with a fault of a config: it is raised at once, or noted so that all of them can be told together."""

from collections.abc import Callable

from amlsched.errors import ConfigError

__all__ = ["Note", "Report", "refuse", "unheard"]

Report = Callable[[ConfigError], None]
"""Is given each fault. If it returns, reading goes on without the value that is wrong."""

Note = Callable[[str], None]
"""Is given each text about something that works and deserves a look."""


def refuse(fault: ConfigError) -> None:
    """Raises the fault: the first one ends it."""
    raise fault


def unheard(_: str) -> None:
    """Drops a note."""
