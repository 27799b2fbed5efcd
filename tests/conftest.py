"""What every test shares."""

import os
from pathlib import Path

import pytest

from tests.expected_skips import ExpectedSkips


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(ExpectedSkips(Path(__file__).with_name("expected_skips.txt")))
