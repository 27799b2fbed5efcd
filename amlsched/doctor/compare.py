"""What a job sees, beside what this process sees."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.doctor.finding import Finding, Verdict
from amlsched.doctor.probe import packages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["compare"]

OK, WARNING, FAULT = Verdict.OK, Verdict.WARNING, Verdict.FAULT
_TALK = ("amlsched", "cloudpickle", "dask", "dask-jobqueue", "distributed", "msgpack", "tornado")
"""Packages through which driver and workers talk: they have to be the same."""
_SHOWN = 8
_CLOCK_WARNING_S, _CLOCK_FAULT_S = 2.0, 60.0


def compare(
    report: Mapping[str, Any], shared: Path, offered: Sequence[tuple[str, str, int]], wanted: str | None
) -> Iterator[Finding]:
    """Judge the report of a probe.

    Args:
        report: What the probe saw.
        shared: The folder that it should see.
        offered: Interface, address and port of each socket that it tried.
        wanted: The interface that workers are told to use; `None` for any.
    """
    yield _project(report)
    same = _packages(report)
    yield _python(report, same)
    yield same
    yield _folder(report, shared)
    yield _driver(report, offered, wanted)
    yield _clock(report)


def _project(report: Mapping[str, Any]) -> Finding:
    here = Path.cwd()
    remedy = "start from a folder that the nodes mount, or have the code copied to one (see Code copy in the docs)"
    if report["project"] is None:
        return Finding("project", FAULT, f"the job does not see {here}", remedy)
    # The doctor's own folder and the folders of logs come and go.
    names = [name for name in os.listdir(here) if not name.startswith(".")]
    missing = [name for name in names if name not in report["project"]]
    if missing and missing == names:
        return Finding("project", FAULT, f"the job sees another folder, or an empty one, as {here}", remedy)
    if missing:
        return Finding("project", FAULT, f"in the job {here} lacks {', '.join(sorted(missing)[:_SHOWN])}", remedy)
    return Finding("project", OK, f"the job sees {here}")


def _python(report: Mapping[str, Any], same: Finding) -> Finding:
    version = platform.python_version()
    told = f"{report['python']} ({report['version']}) in the job, {sys.executable} ({version}) here"
    remedy = "name it: python='…'; or activate its environment: job_script_prologue=['source …/bin/activate']"
    if report["version"].split(".")[:2] != version.split(".")[:2]:
        return Finding("python", FAULT, f"another Python: {told}", remedy)
    if report["prefix"] != sys.prefix:
        return Finding("python", FAULT if same.verdict is FAULT else WARNING, f"another Python: {told}", remedy)
    if report["version"] != version:
        return Finding("python", WARNING, f"another release: {told}", remedy)
    return Finding("python", OK, f"the same: {sys.executable} ({version})")


def _packages(report: Mapping[str, Any]) -> Finding:
    ours, theirs = packages(), report["packages"]
    remedy = "install the same there: pip freeze here, pip install -r there; or let jobs use this environment"
    differ = [_pair(name, ours, theirs) for name in _TALK if name in ours and ours[name] != theirs.get(name)]
    if differ:
        return Finding("packages", FAULT, f"these have to be the same: {', '.join(differ)}", remedy)
    if report["amlsched"] is None:
        error = report.get("import_error", "")
        return Finding("packages", FAULT, f"amlsched cannot be imported in the job: {error}", remedy)
    others = [_pair(name, ours, theirs) for name in sorted(ours) if ours[name] != theirs.get(name)]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        return Finding("packages", WARNING, f"{', '.join(others[:_SHOWN])}{more}", remedy)
    return Finding("packages", OK, f"the same {len(ours)}")


def _pair(name: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    return f"{name} {theirs.get(name, 'missing')} instead of {ours[name]}"


def _folder(report: Mapping[str, Any], shared: Path) -> Finding:
    if not report["folder"]:
        remedy = "keys, logs and results lie there: start from, or set log_directory=… to, a folder that nodes mount"
        return Finding("folder", FAULT, f"the job does not see {shared}: it is not shared", remedy)
    return Finding("folder", OK, f"the job reads and writes {shared}")


def _driver(report: Mapping[str, Any], offered: Sequence[tuple[str, str, int]], wanted: str | None) -> Finding:
    reached: Mapping[str, Any] = report["reached"]
    good = [(name, host, port) for name, host, port in offered if "error" not in reached.get(name, {"error": ""})]
    bad = [(name, host) for name, host, _ in offered if "error" in reached.get(name, {"error": ""})]
    failures = "; ".join(f"{name} ({host}): {reached.get(name, {}).get('error', 'not tried')}" for name, host in bad)
    names = ", ".join(f"{name} ({host})" for name, host, _ in good)
    if not good:
        remedy = (
            "ask whether a firewall stands between nodes and this host, and which ports it leaves open:\n"
            "scheduler_options={'port': …} sets the scheduler's; or run the driver in a job itself"
        )
        return Finding("driver", FAULT, f"the job on {report['host']} reaches this host nowhere: {failures}", remedy)
    if wanted is not None and wanted not in [name for name, *_ in good]:
        told = f"the job on {report['host']} does not reach this host over {wanted}: {failures}"
        return Finding("driver", FAULT, told, f"interface=… is one of: {names}")
    name, host, port = next((each for each in good if each[0] == wanted), good[0])
    told = f"the job reaches this host over {names}; {host}, port {port}, was answered"
    if wanted is None and name not in report["interfaces"]:
        remedy = f"interface=… has to name one of the node's: {', '.join(report['interfaces'])}"
        return Finding("driver", WARNING, f"{told}; the node has no interface {name}", remedy)
    return Finding("driver", OK, told)


def _clock(report: Mapping[str, Any]) -> Finding:
    offsets = [each["offset_s"] for each in report["reached"].values() if "offset_s" in each]
    if not offsets:
        return Finding("clock", Verdict.SKIPPED, "only compared over the network")
    offset = min(offsets, key=abs)
    told = f"the node's is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"
    remedy = "times in results would be wrong, and fresh keys not yet valid: have the clocks set (NTP)"
    if abs(offset) > _CLOCK_FAULT_S:
        return Finding("clock", FAULT, told, remedy)
    if abs(offset) > _CLOCK_WARNING_S:
        return Finding("clock", WARNING, told, remedy)
    return Finding("clock", OK, told)
