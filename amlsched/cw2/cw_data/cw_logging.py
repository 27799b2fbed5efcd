"""`cw2.cw_data.cw_logging`."""

from amlsched.experiments.console import Printer, PythonLogger, getLogger
from amlsched.experiments.loggers import AbstractLogger, LoggerArray

__all__ = ["AbstractLogger", "LoggerArray", "Printer", "PythonLogger", "getLogger"]
