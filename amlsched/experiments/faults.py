"""What is done with a fault of a config: it is raised at once, or noted so that all of them can be told together."""

from collections.abc import Callable

from amlsched.errors import ConfigError

__all__ = ["Report", "refuse"]

Report = Callable[[ConfigError], None]
"""Is given each fault. If it returns, reading goes on without the value that is wrong."""


def refuse(fault: ConfigError) -> None:
    """Raises the fault: the first one ends it."""
    raise fault
