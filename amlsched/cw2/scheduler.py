"""`cw2.scheduler`."""

from amlsched.experiments import AbstractScheduler, LocalScheduler

__all__ = ["AbstractScheduler", "LocalScheduler"]
