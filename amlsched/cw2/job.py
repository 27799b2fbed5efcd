"""`cw2.job`."""

from amlsched.experiments._running.custom_schedulers import Job

__all__ = ["Job"]
