"""Results: what a results folder holds, as a survey, as a table and as plots."""

from amlsched.experiments.results.survey import iterations, load

__all__ = ["iterations", "load"]
