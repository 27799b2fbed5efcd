"""Experiments: a class or a function, a YAML file of settings, some repetitions of each; and their results."""

from amlsched.errors import ExperimentSurrender
from amlsched.experiments.experiment import (
    AbstractExperiment,
    AbstractIterativeExperiment,
    Experiment,
    IterativeExperiment,
)
from amlsched.experiments.loggers import AbstractLogger, LoggerArray
from amlsched.experiments.plan import Plan
from amlsched.experiments.results import iterations, load
from amlsched.experiments.run import ExperimentRun

__all__ = [
    "AbstractExperiment",
    "AbstractIterativeExperiment",
    "AbstractLogger",
    "Experiment",
    "ExperimentRun",
    "ExperimentSurrender",
    "IterativeExperiment",
    "LoggerArray",
    "Plan",
    "iterations",
    "load",
]
