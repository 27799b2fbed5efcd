"""Experiments: a class or a function, a YAML config, repetitions of each of its runs, and their results."""

from amlsched.errors import ExperimentSurrender
from amlsched.experiments._running.custom_schedulers import AbstractScheduler, Job, LocalScheduler
from amlsched.experiments._running.experiment_run import ExperimentRun
from amlsched.experiments.experiment import (
    AbstractExperiment,
    AbstractIterativeExperiment,
    Experiment,
    IterativeExperiment,
)
from amlsched.experiments.loggers.base import AbstractLogger, LoggerArray
from amlsched.experiments.loggers.console import Printer
from amlsched.experiments.loggers.csv import PandasLogger
from amlsched.experiments.loggers.repetition_log import RepetitionLog
from amlsched.experiments.loggers.wandb import WandBLogger
from amlsched.experiments.plan import Plan
from amlsched.experiments.results import iterations, load

__all__ = [
    "AbstractExperiment",
    "AbstractIterativeExperiment",
    "AbstractLogger",
    "AbstractScheduler",
    "Experiment",
    "ExperimentRun",
    "ExperimentSurrender",
    "IterativeExperiment",
    "Job",
    "LocalScheduler",
    "LoggerArray",
    "PandasLogger",
    "Plan",
    "Printer",
    "RepetitionLog",
    "WandBLogger",
    "iterations",
    "load",
]
