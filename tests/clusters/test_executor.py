"""The contract of executors, over workers in jobs.

All checks run on Slurm. On the other systems those run that hang on how jobs are submitted and what reaches them; what
follows is the same code, and `tests/conformance/test_scheduler.py` runs over all four.
"""

from typing import Any

import pytest

from amlsched.testing import EXECUTOR_CHECKS, ExecutorCheck
from tests.backends import BACKENDS, Lent, MakesScheduler
from tests.clusters.site import KINDS, Site

(SLURM,) = (row for row in BACKENDS if row.name == "slurm")

EVERYWHERE = ("an exception is passed on and harms no other call", "shutdown can cancel the calls that wait")


def cases() -> list[Any]:
    return [
        pytest.param(KINDS[name], check, id=f"{name}-{check.name}", marks=getattr(pytest.mark, name))
        for name in KINDS
        for check in EXECUTOR_CHECKS
        if name == "slurm" or check.name in EVERYWHERE
    ]


@pytest.mark.parametrize(("site", "check"), cases(), indirect=["site"])
def test_workers_in_jobs_hold_the_contract(site: Site, check: ExecutorCheck, shared_scheduler: MakesScheduler) -> None:
    make: Any = lambda: site.scheduler(2).executor  # noqa: E731
    if site.name == "slurm" and Lent.serves(check):  # jobs take seconds to start
        make = lambda: Lent(shared_scheduler(SLURM).executor)  # noqa: E731
    check.run(make, timeout_s=90)


def test_the_checks_that_run_everywhere_are_there() -> None:
    assert set(EVERYWHERE) <= {check.name for check in EXECUTOR_CHECKS}
