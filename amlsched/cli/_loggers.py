"""The loggers that `--logger` names."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from amlsched._signals import raised_by_handler
from amlsched._spelling import suggestion
from amlsched._surroundings import is_installed
from amlsched.errors import AmlschedError, ExperimentError
from amlsched.executors.user_function import describe
from amlsched.experiments.loggers import AbstractLogger, Printer, WandBLogger
from amlsched.experiments.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KNOWN", "logger_from_option"]

KNOWN: dict[str, Callable[[], AbstractLogger]] = {"print": Printer, "wandb": WandBLogger}


def logger_from_option(text: str) -> AbstractLogger:
    """The logger of a `--logger` option.

    Args:
        text: `print`, `wandb`, or the place of a class or function that creates one, as in `my_loggers.py:MyLogger`.

    Raises:
        ExperimentError: There is no logger of this name, it cannot be created, or it is not a logger.
    """
    where = f"--logger {text}"
    if ":" not in text and text not in KNOWN:
        remedy = f"{suggestion(text, KNOWN)}, or path/to/file.py:Class"
        raise ExperimentError(where, "there is no such logger", remedy)
    make: Callable[[], object] = KNOWN[text] if text in KNOWN else Target.parse(text).found()
    try:
        logger = make()
    except TypeError as error:
        raise ExperimentError(
            where, f"cannot be created without arguments: {error}", "name a function that creates it"
        ) from error
    except BaseException as error:  # user code may also exit
        if isinstance(error, AmlschedError) or raised_by_handler(error):
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not is_installed(frame.filename)]
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise ExperimentError(where, f"cannot be created: {describe(error)}{place}") from error
    if not isinstance(logger, AbstractLogger):
        problem = f"gives a {type(logger).__name__}, which is not a logger"
        raise ExperimentError(where, problem, "derive it from amlsched.experiments.AbstractLogger")
    return logger
