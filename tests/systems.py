"""Real batch systems on this host: which tests need which.

A test says by its mark what it needs, such as `@pytest.mark.slurm`. It runs where the scripts in
`tests/clusters/systems` find that system up (`make clusters-up`), and is skipped with the reason elsewhere.
"""

import functools
import os
import re
import subprocess
from pathlib import Path

import pytest

__all__ = ["SYSTEMS", "BatchSystems", "environment", "wanted", "why_not"]

SYSTEMS = ("slurm", "sge", "htcondor", "pbs")
"""Their marks, which are the names of their scripts as well."""

_SCRIPTS = Path(__file__).with_name("clusters") / "systems"


def _script(name: str, command: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_SCRIPTS / f"{name}.sh", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


@functools.cache
def why_not(name: str) -> str:
    """Why the tests of this system cannot run; empty if it is up."""
    try:
        up = _script(name, "status", 60).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the state of {name} is unknown: {error}"
    return "" if up else f"{name} is not up: make clusters-up SYSTEMS={name}"


@functools.cache
def environment(name: str) -> dict[str, str]:
    """The variables that make its commands the ones that are found."""
    told = _script(name, "env", 30).stdout
    return {key: os.path.expandvars(value) for key, value in re.findall(r"^export (\w+)=(.*)$", told, re.MULTILINE)}


def wanted(item: pytest.Item) -> list[str]:
    """The systems that a test needs, by its marks."""
    found = {mark.name for mark in item.iter_markers()}
    return [name for name in SYSTEMS if name in found]


class BatchSystems:
    """A pytest plugin: skips the tests of batch systems that are not up, with the command that brings them up."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for name in wanted(item):
            if reason := why_not(name):
                pytest.skip(reason)
