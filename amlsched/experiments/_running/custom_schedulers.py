"""Custom schedulers, as in cw2: they get the jobs, and decide how their repetitions run."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError
from amlsched.experiments._running.repetition import Repetition, RepetitionOutcome, run_repetition
from amlsched.experiments._running.summary import record_failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["AbstractScheduler", "Job", "LocalScheduler"]


class Job:
    """Repetitions that run as one job; see `reps_per_job`. It can be pickled.

    Args:
        index: Number of the job, from 0.
        repetitions: Its repetitions.
        todo: The folders of those to run; the others are done.
        n_parallel: How many of them run at a time.

    Attributes:
        tasks: The `cw_config` of each repetition, in order.
    """

    def __init__(
        self, index: int, repetitions: Iterable[Repetition], todo: Iterable[Path], n_parallel: int = 1
    ) -> None:
        self.index = index
        self.n_parallel = n_parallel
        self._repetitions = {one.config["_rep_log_path"]: one for one in repetitions}
        self._todo = frozenset(todo)
        self.tasks: list[dict[str, Any]] = [one.config for one in self._repetitions.values()]

    def __len__(self) -> int:
        return len(self.tasks)

    def run_task(self, task: dict[str, Any], overwrite: bool = False) -> RepetitionOutcome | None:
        """Run one repetition in this process.

        An exception of the experiment is written to its `err.log` and its record, and not raised, so that the next
        repetition can run. Ctrl-C is raised.

        Args:
            task: One of `tasks`; the experiment gets it with all changes that were made to it.
            overwrite: Whether to run it even if it is done.

        Returns:
            The outcome; `None` if it failed, or was skipped because it is done.

        Raises:
            ExperimentError: The task does not belong to this job.
        """
        repetition = self._repetitions.get(task.get("_rep_log_path", ""))
        if repetition is None:
            raise ExperimentError(
                f"job {self.index}", "the task does not belong to this job", "use tasks from job.tasks"
            )
        if repetition.folder not in self._todo and not overwrite:
            return None
        repetition = replace(repetition, config=task, seen=None if overwrite else repetition.seen)
        try:
            return run_repetition(repetition)
        except Exception as error:
            with contextlib.suppress(OSError):
                record_failure(repetition, error)  # in case it could not record that itself
            print(f"{repetition} failed: {error}", file=sys.stderr)  # noqa: T201  (the trace is in err.log)
            return None


class AbstractScheduler(ABC):
    """Base class of custom schedulers. Implement `run`, which gets the jobs from `self.joblist`.

    Args:
        conf: Kept as `config`, for your own use.
    """

    def __init__(self, conf: Any = None) -> None:
        self.config = conf
        self.joblist: Sequence[Job] = ()

    def assign(self, joblist: Sequence[Job]) -> None:
        """Set the jobs; called before `run`."""
        self.joblist = joblist

    @abstractmethod
    def run(self, overwrite: bool = False) -> Any:
        """Run the jobs.

        Args:
            overwrite: To be passed to `job.run_task`.
        """


class LocalScheduler(AbstractScheduler):
    """Runs one job at a time in this process, with `reps_in_parallel` of its repetitions at a time in threads."""

    def run(self, overwrite: bool = False) -> None:
        """Run the jobs."""
        for job in self.joblist:
            if job.n_parallel == 1:
                for task in job.tasks:
                    job.run_task(task, overwrite)
            else:
                with ThreadPoolExecutor(job.n_parallel) as threads:
                    list(threads.map(job.run_task, job.tasks, [overwrite] * len(job)))
