"""A scheduler whose calls end when a test says so."""

from __future__ import annotations

import pytest

from amlsched import Scheduler
from tests.backends import ByHand


@pytest.fixture
def executor() -> ByHand:
    return ByHand()


@pytest.fixture
def scheduler(executor: ByHand) -> Scheduler:
    return Scheduler(executor)
