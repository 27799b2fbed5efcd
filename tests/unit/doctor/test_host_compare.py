"""What the doctor makes of the report of a job."""

import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from amlsched.doctor import Finding, Verdict
from amlsched.doctor.host import compare
from amlsched.doctor.probe import packages

OFFERED = [("eth0", "192.0.2.1", 4000), ("lo", "127.0.0.1", 4001)]


def report(**more: Any) -> dict[str, Any]:
    """Of a healthy job."""
    return {
        "host": "n1",
        "python": sys.executable,
        "prefix": sys.prefix,
        "version": platform.python_version(),
        "interfaces": ["lo", "eth0"],
        "folder": True,
        "project": ["train.py"],
        "packages": packages(),
        "amlsched": "amlsched/__init__.py",
        "reached": {name: {"offset_s": 0.01, "took_s": 0.02} for name, *_ in OFFERED},
        **more,
    }


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)


def judged(wanted: str | None = None, **more: Any) -> dict[str, Finding]:
    return {found.check: found for found in compare(report(**more), Path("/shared"), OFFERED, wanted)}


def bad(findings: dict[str, Finding]) -> dict[str, Verdict]:
    return {check: found.verdict for check, found in findings.items() if found.verdict is not Verdict.OK}


def test_a_healthy_job() -> None:
    assert bad(judged()) == {}


@pytest.mark.parametrize("seen", [None, [], ["other.py"]])
def test_the_project_is_not_there(seen: list[str] | None) -> None:
    assert bad(judged(project=seen)) == {"project": Verdict.FAULT}


def test_another_release_of_python_is_worth_a_word() -> None:
    major, minor, _ = platform.python_version_tuple()
    assert bad(judged(version=f"{major}.{minor}.999")) == {"python": Verdict.WARNING}
    assert bad(judged(version="3.8.1")) == {"python": Verdict.FAULT}


def test_another_environment_matters_if_its_packages_differ() -> None:
    assert bad(judged(prefix="/other")) == {"python": Verdict.WARNING}
    without = {name: version for name, version in packages().items() if name != "cloudpickle"}
    findings = judged(prefix="/other", packages=without)
    assert bad(findings) == {"python": Verdict.FAULT, "packages": Verdict.FAULT}
    assert "cloudpickle missing" in findings["packages"].told


def test_other_packages_may_differ() -> None:
    findings = judged(packages={**packages(), "pytest": "0.1"})
    assert bad(findings) == {"packages": Verdict.WARNING}
    assert "pytest 0.1 instead of" in findings["packages"].told


def test_a_folder_that_is_not_shared() -> None:
    assert bad(judged(folder=False)) == {"folder": Verdict.FAULT}


def test_an_interface_that_is_reached_is_named_where_the_wanted_one_is_not() -> None:
    reached = {"eth0": {"error": "timed out"}, "lo": {"offset_s": 0.0, "took_s": 0.1}}
    findings = judged("eth0", reached=reached)
    assert bad(findings) == {"driver": Verdict.FAULT}
    assert "eth0 (192.0.2.1): timed out" in findings["driver"].told
    assert findings["driver"].remedy == "interface=… is one of: lo (127.0.0.1)"
    assert bad(judged(reached=reached)) == {}


def test_a_driver_that_is_reached_nowhere() -> None:
    findings = judged(reached={name: {"error": "timed out"} for name, *_ in OFFERED})
    assert bad(findings) == {"driver": Verdict.FAULT, "clock": Verdict.SKIPPED}


def test_the_interface_has_to_be_one_of_the_node_too() -> None:
    findings = judged(interfaces=["lo", "ib0"], reached={"eth0": {"offset_s": 0.0, "took_s": 0.1}})
    assert bad(findings) == {"driver": Verdict.WARNING}
    assert "lo, ib0" in findings["driver"].remedy


@pytest.mark.parametrize(
    ("offset", "verdict"), [(1.0, Verdict.OK), (-5.0, Verdict.WARNING), (90.0, Verdict.FAULT), (-90.0, Verdict.FAULT)]
)
def test_clocks(offset: float, verdict: Verdict) -> None:
    found = judged(reached={"eth0": {"offset_s": offset, "took_s": 0.1}})["clock"]
    assert found.verdict is verdict
    assert ("ahead" in found.told) == (offset > 0)
