"""`cw2.job`."""

from amlsched.experiments import Job

__all__ = ["Job"]
