"""The entry point of the doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.batch_systems import WORKER_SYSTEMS
from amlsched.doctor.cluster import ClusterExamination
from amlsched.doctor.findings import Finding, Verdict
from amlsched.doctor.host import examine_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Examination", "examine"]


class Examination:
    """The checks of one executor: iterate over it to get each finding as soon as it is available.

    Attributes:
        healthy: Whether no check has found a fault so far.
        line: A line of Python that creates such a scheduler; after the iteration, completed by the findings.
    """

    def __init__(self, executor: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self._executor = executor
        self._options = dict(options)
        self._timeout_s = timeout_s
        self.healthy = True

    def __iter__(self) -> Iterator[Finding]:
        if self._executor in WORKER_SYSTEMS:
            cluster = ClusterExamination(self._executor, self._options, self._timeout_s)
            findings = iter(cluster)
        else:
            cluster = None
            findings = examine_host(self._executor, self._options)
        for found in findings:
            self.healthy &= found.verdict is not Verdict.FAULT
            yield found
        if cluster is not None:
            self._options = cluster.recommended

    @property
    def line(self) -> str:
        """The line of Python that creates the scheduler."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
        return f"Scheduler.with_{self._executor}({given})"


def examine(executor: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = 300.0) -> Examination:
    """Check an executor. Each check depends on the previous ones.

    Args:
        executor: Its name, as in `Scheduler.from_name`.
        options: Arguments of its constructor.
        timeout_s: How long a job of a batch system may take to start.

    Example:
        ```python
        from amlsched.doctor import examine

        examination = examine("processes", {"max_workers": 2})
        for finding in examination:
            print(finding)
        assert examination.healthy
        ```
    """
    return Examination(executor, options or {}, timeout_s)
