"""A logger that prints rows, and a Python logger whose messages go to the repetition's log files."""

from __future__ import annotations

import logging
import sys
from pprint import pformat
from typing import Any

from amlsched.experiments.loggers.base import AbstractLogger

__all__ = ["Printer", "PythonLogger", "getLogger"]

_NAME = "cw2"


class Printer(AbstractLogger):
    """Prints each row. Like all output of a repetition, it goes to its `out.log`."""

    def process(self, data: dict[str, Any]) -> None:
        """Print a row."""
        print(pformat(self.filter(data)))  # noqa: T201


class PythonLogger(AbstractLogger):
    """Does nothing: the messages of `getLogger` are printed, and captured with all output of the repetition."""


class _ToStreams(logging.Handler):
    """Writes errors to the current `sys.stderr`, and other messages to the current `sys.stdout`."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        try:
            stream.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Adds the time to errors."""

    def __init__(self) -> None:
        super().__init__("[%(name)s] [%(levelname)s] %(message)s")
        self._of_errors = logging.Formatter("[%(asctime)s]:[%(name)s] [%(levelname)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return self._of_errors.format(record) if record.levelno >= logging.ERROR else super().format(record)


def getLogger() -> logging.Logger:  # noqa: N802  (cw2's name)
    """A Python logger whose messages go to the repetition's `out.log`, and errors to its `err.log`.

    Returns:
        The logger `cw2`, with level INFO; its messages also propagate to the root logger.
    """
    logger = logging.getLogger(_NAME)
    if not any(isinstance(handler, _ToStreams) for handler in logger.handlers):
        handler = _ToStreams()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
    return logger
