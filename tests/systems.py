"""Real batch systems on this host: which tests need which, and bringing them up.

A test says by its mark what it needs, such as `@pytest.mark.slurm`. It runs where the scripts in
`tests/clusters/systems` find that system up or can bring it up, and is skipped with the reason elsewhere.
"""

import functools
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

__all__ = ["SYSTEMS", "BatchSystems", "environment", "why_not"]

SYSTEMS = ("slurm", "sge", "htcondor", "pbs")
"""Their marks, which are the names of their scripts as well."""

_SCRIPTS = Path(__file__).with_name("clusters") / "systems"
_BRING_UP_S = 600.0


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
    """Why the tests of this system cannot run; empty if it is up, or could be brought up."""
    try:
        done = _script(name, "up", _BRING_UP_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name} cannot be brought up: {error}"
    return f"{name} is not up: {(done.stderr.strip() or 'no reason given')[-1000:]}" if done.returncode else ""


@functools.cache
def environment(name: str) -> dict[str, str]:
    """The variables that make its commands the ones that are found."""
    told = _script(name, "env", 30).stdout
    return {key: os.path.expandvars(value) for key, value in re.findall(r"^export (\w+)=(.*)$", told, re.MULTILINE)}


class BatchSystems:
    """A pytest plugin: brings up what the chosen tests need, and ends what it brought up when they are through."""

    def __init__(self) -> None:
        self.brought_up: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            return
        for name in _wanted(session.items):
            was_up = (_SCRIPTS / f"{name}.sh").exists() and _script(name, "status", 60).returncode == 0
            if not why_not(name) and not was_up:
                self.brought_up.append(name)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for name in _wanted([item]):
            if reason := why_not(name):
                pytest.skip(reason)

    def pytest_sessionfinish(self) -> None:
        for name in reversed(self.brought_up):
            _script(name, "down", 120)


def _wanted(items: Iterable[pytest.Item]) -> list[str]:
    found = {mark.name for item in items for mark in item.iter_markers()}
    return [name for name in SYSTEMS if name in found]
