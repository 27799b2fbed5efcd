"""A scheduler over several executors in turn, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = ["scheduler_fixture"]


def scheduler_fixture(*executors: str | tuple[str, Mapping[str, Any]], scope: str = "function") -> Any:
    """A pytest fixture: each test that uses it runs once for each executor, with a scheduler over that executor.

    The fixture has the name that it is assigned to, in a test module or in `conftest.py`:

        scheduler = scheduler_fixture("sequential", ("processes", {"max_workers": 2}))

    The workers are kept while the test runs, over several runs of the scheduler, and ended afterwards.

    Args:
        *executors: Names as for `Scheduler.from_name`, each alone or with its options; none for `"sequential"`, and
            `"threads"` and `"processes"` with two workers each.
        scope: As of `pytest.fixture`: with `"module"`, the tests of a module share the workers, and the callbacks.
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
