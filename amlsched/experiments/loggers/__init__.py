"""Loggers: what is done with the rows that a repetition logs."""

from amlsched.experiments.loggers.base import AbstractLogger, LoggerArray
from amlsched.experiments.loggers.console import Printer
from amlsched.experiments.loggers.csv import PandasLogger
from amlsched.experiments.loggers.repetition_log import RepetitionLog
from amlsched.experiments.loggers.wandb import WandBLogger

__all__ = ["AbstractLogger", "LoggerArray", "PandasLogger", "Printer", "RepetitionLog", "WandBLogger"]
