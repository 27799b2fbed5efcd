"""One way into all examinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.doctor.finding import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Examination", "examine"]


class Examination:
    """The checks of one executor: iterate over it for the findings, each as soon as it is there.

    Attributes:
        healthy: Whether no check found a fault, so far.
        line: The line of Python that makes such a scheduler; once the iteration is over, with what was found out.
    """

    def __init__(self, executor: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self._executor = executor
        self._options = dict(options)
        self._timeout_s = timeout_s
        self.healthy = True

    def __iter__(self) -> Iterator[Finding]:
        from amlsched.doctor.site import SITES

        if self._executor in SITES:
            from amlsched.doctor.cluster import ClusterExamination

            cluster = ClusterExamination(self._executor, self._options, self._timeout_s)
            findings = iter(cluster)
        else:
            from amlsched.doctor.host import examine_host

            cluster = None
            findings = examine_host(self._executor, self._options)
        for found in findings:
            self.healthy &= found.verdict is not Verdict.FAULT
            yield found
        if cluster is not None:
            self._options = cluster.recommended

    @property
    def line(self) -> str:
        """The line of Python."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
        return f"Scheduler.with_{self._executor}({given})"


def examine(executor: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = 300.0) -> Examination:
    """The checks of an executor, in an order in which each needs those before.

    Args:
        executor: Its name, as in `Scheduler.from_name`.
        options: What its constructor would be given.
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
