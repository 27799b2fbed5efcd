"""All checks of an executor, the contract that a scheduler relies on; and a pytest fixture over several executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.scheduler import Scheduler
from amlsched.testing import calls, lifetimes
from amlsched.testing.stage import ExecutorCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

__all__ = ["EXECUTOR_CHECKS", "check_executor", "scheduler_fixture"]

EXECUTOR_CHECKS: tuple[ExecutorCheck, ...] = tuple(
    value for module in (calls, lifetimes) for value in vars(module).values() if isinstance(value, ExecutorCheck)
)
"""The checks that an executor must pass; use them one by one with `pytest.mark.parametrize`."""


def check_executor(
    make_executor: Callable[[], Executor],
    *,
    skip: Collection[str] = (),
    timeout_s: float = 30.0,
    folder: Path | str | None = None,
) -> list[str]:
    """Run all checks that apply to an executor, and return the names of those that passed.

    Args:
        make_executor: Creates the executor; called once for each check, which shuts it down.
        skip: Names of checks that are known to fail.
        timeout_s: How long a check waits for each step, in seconds.
        folder: A folder that the workers can access; needed if they are on other hosts.

    Raises:
        ExceptionGroup: One or more checks failed; contains an error for each.
        ValueError: `skip` names a check that does not exist.
    """
    unknown = set(skip) - {check.name for check in EXECUTOR_CHECKS}
    if unknown:
        raise ValueError(f"skip: there is no check {sorted(unknown)}; see the names in EXECUTOR_CHECKS")
    executor = make_executor()
    chosen = [check for check in EXECUTOR_CHECKS if check.name not in skip and check.applies_to(executor)]
    executor.shutdown()
    errors: list[Exception] = []
    held: list[str] = []
    for check in chosen:
        try:
            check.run(make_executor, timeout_s=timeout_s, folder=folder)
            held.append(check.name)
        except Exception as error:
            error.add_note(f"check: {check.name}")
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{type(executor).__name__} failed {len(errors)} of {len(chosen)} checks", errors)
    return held


def scheduler_fixture(*executors: str | tuple[str, Mapping[str, Any]], scope: str = "function") -> Any:
    """Create a pytest fixture: each test that uses it runs once per executor, with a scheduler over that executor.

    Assign it to a name in a test module or in `conftest.py`:

        scheduler = scheduler_fixture("sequential", ("processes", {"max_workers": 2}))

    The workers are kept during the test, over several runs of the scheduler, and shut down afterwards.

    Args:
        *executors: Names as for `Scheduler.from_name`, each alone or with its options; by default `"sequential"`, and
            `"threads"` and `"processes"` with two workers each.
        scope: As of `pytest.fixture`: with `"module"`, the tests of a module share the workers and the callbacks.
    """
    import pytest

    two = {"max_workers": 2}
    chosen = executors or ("sequential", ("threads", two), ("processes", two))
    cases: list[tuple[str, Mapping[str, Any]]] = [(each, {}) if isinstance(each, str) else each for each in chosen]

    @pytest.fixture(scope=scope, params=cases, ids=[name for name, _ in cases])  # type: ignore[call-overload,untyped-decorator,unused-ignore]  # a scope is a Literal there
    def scheduler(request: Any) -> Generator[Scheduler]:
        name, options = request.param
        with Scheduler.from_name(name, **options) as made:
            yield made

    return scheduler
