"""`cw2.experiment`."""

from amlsched.experiments.experiment import AbstractExperiment, AbstractIterativeExperiment

__all__ = ["AbstractExperiment", "AbstractIterativeExperiment"]
