"""`cw2.job`."""

from amlsched.experiments.scheduling import Job

__all__ = ["Job"]
