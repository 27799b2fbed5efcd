"""`cw2.cw_data.cw_logging`."""

from amlsched.experiments.loggers.base import AbstractLogger, LoggerArray
from amlsched.experiments.loggers.console import Printer, PythonLogger, getLogger

__all__ = ["AbstractLogger", "LoggerArray", "Printer", "PythonLogger", "getLogger"]
