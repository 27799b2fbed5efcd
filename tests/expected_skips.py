"""In CI a skip is a failure unless `expected_skips.txt` foresees it.

A line of that file is a pattern (as in `fnmatch`) of test ids, two spaces or more, and why the skip is right:

    tests/clusters/test_lsf.py::*    LSF is not free software; its job scripts are checked in tests/unit
"""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest


class ExpectedSkips:
    """A pytest plugin that fails the session on a skip that is not listed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.patterns = _read(path)
        self.unexpected: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not any(_matches(report.nodeid, pattern) for pattern in self.patterns):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.unexpected.append((report.nodeid, reason))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexpected:
            terminalreporter.section("unexpected skips", red=True)
            for nodeid, reason in self.unexpected:
                terminalreporter.line(f"{nodeid}: {reason}")
            terminalreporter.line(f"A skip that is right in CI belongs into {self.path.name}, with its reason.")


def _matches(nodeid: str, pattern: str) -> bool:
    # The brackets of a parametrised id are no character classes.
    return fnmatchcase(nodeid, pattern.replace("[", "[[]"))


def _read(path: Path) -> list[str]:
    patterns: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition("  ")
        if not reason.strip():
            raise pytest.UsageError(f"{path}:{number}: a skip needs a reason, two spaces after its pattern")
        patterns.append(pattern)
    return patterns
