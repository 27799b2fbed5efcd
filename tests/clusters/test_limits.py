"""Limits of a call hold in the jobs of a batch system."""

from amlsched import ExitState, MemoryLimitError, WalltimeLimitError
from amlsched.plugins import Limits
from tests import calls
from tests.clusters.site import Site
from tests.faults.guilty import guilty


def test_calls_that_pass_their_limits_fail_alone(slurm_or_sge: Site) -> None:
    scheduler = slurm_or_sge.scheduler(2)
    slow = scheduler.task(guilty, plugins=Limits(walltime="1 s"))
    large = scheduler.task(guilty, plugins=Limits(memory="64 MiB"))
    good = scheduler.task(calls.double)
    errors: list[BaseException] = []
    results: list[int] = []

    @scheduler.on_start
    def start() -> None:
        slow.submit("sleeps")
        large.submit("memory")
        for number in range(20):
            good.submit(number)

    scheduler.on_future_exception(lambda _, error: errors.append(error))
    good.on_result(lambda _, result: results.append(result))
    assert scheduler.run(on_exception="continue", timeout=180) == ExitState(ExitState.Code.EXHAUSTED)
    assert {type(error) for error in errors} == {WalltimeLimitError, MemoryLimitError}
    assert len(errors) == 2
    assert sorted(results) == [2 * number for number in range(20)]
