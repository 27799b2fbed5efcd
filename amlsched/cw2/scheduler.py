"""`cw2.scheduler`."""

from amlsched.experiments._running.custom_schedulers import AbstractScheduler, LocalScheduler

__all__ = ["AbstractScheduler", "LocalScheduler"]
