"""What every test shares."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlsched import Scheduler
from tests.backends import BACKENDS, Backend
from tests.expected_skips import ExpectedSkips


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(ExpectedSkips(Path(__file__).with_name("expected_skips.txt")))


def _over(which: Callable[[Backend], bool]) -> Any:
    """A fixture that walks the rows of the table for which this holds."""

    def chosen(request: pytest.FixtureRequest) -> Backend:
        backend: Backend = request.param
        backend.skip_if_absent()
        return backend

    return pytest.fixture(params=[row.parameter() for row in BACKENDS if which(row)])(chosen)


backend = _over(lambda row: True)
inline_backend = _over(lambda row: row.capabilities.inline)
concurrent_backend = _over(lambda row: not row.capabilities.inline)
process_backend = _over(lambda row: row.processes)
pickling_backend = _over(lambda row: row.capabilities.pickles)
robust_backend = _over(lambda row: row.capabilities.survives_lost_workers)


@pytest.fixture
def scheduler(backend: Backend) -> Scheduler:
    """A new scheduler over each backend."""
    return backend.scheduler()
