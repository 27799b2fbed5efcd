"""Loggers: they keep the rows that a repetition logs while it runs.

An experiment passes each row to `logger.process`. `CsvLogger` is always used; others can be added. A logger written for
cw2 works after changing its import line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["AbstractLogger", "LoggerArray"]


class AbstractLogger:
    """Base class of loggers, which keep what an experiment logs.

    `initialize` is called before the experiment's own, `process` for each row, and `finalize` at the end, even after a
    failure.

    Args:
        ignore_keys: Columns to leave out.
        allow_keys: The only columns to keep.

    Raises:
        ValueError: Both were given.
    """

    def __init__(self, ignore_keys: Iterable[str] | None = None, allow_keys: Iterable[str] | None = None) -> None:
        if ignore_keys is not None and allow_keys is not None:
            raise ValueError("give ignore_keys or allow_keys, not both")
        self.ignore_keys = None if ignore_keys is None else frozenset(ignore_keys)
        self.allow_keys = None if allow_keys is None else frozenset(allow_keys)

    def filter(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that this logger keeps."""
        ignore, allow = self.ignore_keys or (), self.allow_keys
        return {key: value for key, value in data.items() if key not in ignore and (allow is None or key in allow)}

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Prepare for a repetition.

        Args:
            config: The `cw_config` of the repetition.
            rep: Its index.
            rep_log_path: Its folder, which exists.
        """

    def preprocess(self, *args: Any) -> None:
        """Called by experiments from their `initialize`, with anything that the logger needs to know."""

    def process(self, data: dict[str, Any]) -> None:
        """Keep one row."""

    def finalize(self) -> None:
        """Write what has not been written yet, and close."""

    def load(self) -> Any:
        """Load what was logged; `None` if this logger loads nothing."""
        return None


class LoggerArray(AbstractLogger):
    """Several loggers as one: it calls each of them, in the order in which they were added."""

    def __init__(self, loggers: Iterable[AbstractLogger] = ()) -> None:
        super().__init__()
        self._logger_array = list(loggers)

    def add(self, logger: AbstractLogger) -> None:
        """Add a logger."""
        self._logger_array.append(logger)

    def initialize(self, config: dict[str, Any], rep: int, rep_log_path: str) -> None:
        """Prepare all for a repetition."""
        for logger in self._logger_array:
            logger.initialize(config, rep, rep_log_path)

    def preprocess(self, *args: Any) -> None:
        """Pass the arguments to all."""
        for logger in self._logger_array:
            logger.preprocess(*args)

    def process(self, data: dict[str, Any]) -> None:
        """Pass the row to all."""
        for logger in self._logger_array:
            logger.process(data)

    def finalize(self) -> None:
        """Close all. If some raise, the others are still closed, and then the first error is raised."""
        first: BaseException | None = None
        for logger in self._logger_array:
            try:
                logger.finalize()
            except BaseException as error:  # user code may also exit
                first = error if first is None else first
        if first is not None:
            raise first

    def load(self) -> dict[str, Any]:
        """What each logger loaded, by the name of its class."""
        loaded = {type(logger).__name__: logger.load() for logger in self._logger_array}
        return {name: data for name, data in loaded.items() if data is not None}

    def __iter__(self) -> Iterator[AbstractLogger]:
        return iter(self._logger_array)

    def is_empty(self) -> bool:
        """Whether it has no loggers."""
        return not self._logger_array
