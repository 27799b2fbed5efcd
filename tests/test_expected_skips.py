"""The plugin that fails CI on a skip that nobody foresaw."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest

def test_that_passes():
    assert True

@pytest.mark.parametrize("system", ["lsf"])
def test_that_skips(system):
    pytest.skip("no LSF here")

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    assert False
"""

MODULE_THAT_SKIPS = """
import pytest
pytest.skip("not on this machine", allow_module_level=True)
"""


def run_pytest(folder: Path, listed: str, tests: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(tests)
    (folder / "expected_skips.txt").write_text(listed)
    (folder / "conftest.py").write_text(
        "from pathlib import Path\n"
        "from tests.expected_skips import ExpectedSkips\n"
        "def pytest_configure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n"
        "        config.pluginmanager.register(ExpectedSkips(Path(__file__).with_name('expected_skips.txt')))\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *words, str(folder)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the others take seconds
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("listed", "tests", "code"),
    [
        ("", TESTS, 1),
        ("test_it.py::test_that_skips[lsf]  not free software\n", TESTS, 0),
        ("test_it.py::*   not free software\n", TESTS, 0),
        ("test_it.py::test_another  reason\n", TESTS, 1),
        ("", MODULE_THAT_SKIPS, 1),
        (
            "test_it.py   reason\n",
            MODULE_THAT_SKIPS + "def test_a(): assert True\n",
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ),
    ],
)
def test_a_skip_fails_the_run_unless_it_is_listed(tmp_path: Path, listed: str, tests: str, code: int) -> None:
    done = run_pytest(tmp_path, listed, tests)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("unexpected skips" in done.stdout) == (code == 1)


@pytest.mark.parametrize(("tests", "code"), [(TESTS, 0), (MODULE_THAT_SKIPS, pytest.ExitCode.NO_TESTS_COLLECTED)])
@pytest.mark.parametrize("listed", ["", "test_it.py::test_that_skips[lsf]  not free software\ntest_it.py  reason\n"])
def test_skips_in_other_processes_count_likewise(tmp_path: Path, listed: str, tests: str, code: int) -> None:
    done = run_pytest(tmp_path, listed, tests, "-p", "xdist", "-n", "2")
    assert done.returncode == (code if listed else 1), done.stdout + done.stderr
    assert ("unexpected skips" in done.stdout) == (not listed)


def test_a_listed_skip_needs_a_reason(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "test_it.py::test_that_skips\n", TESTS)
    assert done.returncode != 0
    assert "expected_skips.txt:1: a skip needs a reason" in done.stdout + done.stderr
