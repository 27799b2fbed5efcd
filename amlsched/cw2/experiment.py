"""`cw2.experiment`."""

from amlsched.errors import ExperimentSurrender
from amlsched.experiments.experiment import AbstractExperiment, AbstractIterativeExperiment

__all__ = ["AbstractExperiment", "AbstractIterativeExperiment", "ExperimentSurrender"]
