"""Experiments: a class or a function, a YAML config, repetitions of each of its runs, and their results."""

from amlsched.errors import ExperimentSurrender
from amlsched.experiments.console import Printer
from amlsched.experiments.experiment import (
    AbstractExperiment,
    AbstractIterativeExperiment,
    Experiment,
    IterativeExperiment,
)
from amlsched.experiments.loggers import AbstractLogger, LoggerArray, RepetitionLog
from amlsched.experiments.pandas_logger import PandasLogger
from amlsched.experiments.plan import Plan
from amlsched.experiments.results import iterations, load
from amlsched.experiments.run import ExperimentRun
from amlsched.experiments.scheduling import AbstractScheduler, Job, LocalScheduler
from amlsched.experiments.wandb_logger import WandBLogger

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
