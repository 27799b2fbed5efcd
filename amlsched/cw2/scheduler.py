"""`cw2.scheduler`."""

from amlsched.experiments.scheduling import AbstractScheduler, LocalScheduler

__all__ = ["AbstractScheduler", "LocalScheduler"]
