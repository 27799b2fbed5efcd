"""Calls on workers in the jobs of a batch system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.executors._dask_executor import DaskExecutor

if TYPE_CHECKING:
    from amlsched.executors._jobqueue_site import Jobs
    from amlsched.executors.capabilities import WorkersNow

__all__ = ["JobQueueExecutor"]


class JobQueueExecutor(DaskExecutor):
    """Calls run on workers in jobs of a batch system. The first call submits the jobs."""

    site: Jobs

    def job_script(self) -> str:
        """The script of a job; nothing is submitted for it."""
        return self.site.job_script()

    @property
    def cluster(self) -> Any:
        """dask-jobqueue's cluster; `None` before the first call."""
        return self.site.cluster

    @property
    def status(self) -> WorkersNow | None:
        """How many workers there are, and what the batch system says of the jobs without one.

        `None` before the first call.
        """
        return self.site.status
