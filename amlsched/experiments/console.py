"""What an experiment says besides its rows: a logger that prints them, and Python's logging into its own files."""

from __future__ import annotations

import logging
import sys
from pprint import pformat
from typing import Any

from amlsched.experiments.loggers import AbstractLogger

__all__ = ["Printer", "PythonLogger", "getLogger"]

_NAME = "cw2"


class Printer(AbstractLogger):
    """Prints each row; it lands in the repetition's `out.log`, as all that is printed does."""

    def process(self, data: dict[str, Any]) -> None:
        """Print a row."""
        print(pformat(self.filter(data)))  # noqa: T201


class PythonLogger(AbstractLogger):
    """Has nothing left to do: what `getLogger` logs is printed, and so caught like anything that is printed."""


class _ToStreams(logging.Handler):
    """Errors to what is the standard error at that moment, the rest to the standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        try:
            stream.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """With the time where something went wrong."""

    def __init__(self) -> None:
        super().__init__("[%(name)s] [%(levelname)s] %(message)s")
        self._of_errors = logging.Formatter("[%(asctime)s]:[%(name)s] [%(levelname)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return self._of_errors.format(record) if record.levelno >= logging.ERROR else super().format(record)


def getLogger() -> logging.Logger:  # noqa: N802  (cw2's name)
    """A logger of Python whose messages land in the repetition's `out.log`, errors in its `err.log`.

    Returns:
        The logger `cw2`, from level INFO up; the root logger gets its messages too.
    """
    logger = logging.getLogger(_NAME)
    if not any(isinstance(handler, _ToStreams) for handler in logger.handlers):
        handler = _ToStreams()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
    return logger
