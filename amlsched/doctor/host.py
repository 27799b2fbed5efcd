"""What a job sees, beside what this process sees.

Examines this host, for the executors whose workers run on it.

Sources:
    `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of Linux; proc(5).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.doctor.examination import Finding, Verdict, first_call
from amlsched.doctor.probe import packages
from amlsched.resources import cpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["compare", "examine_host"]

OK, WARNING, FAULT = Verdict.OK, Verdict.WARNING, Verdict.FAULT
_GIB = 2**30
_SHM_WARNING = _GIB // 4
_FREE_WARNING = _GIB
_FILES_A_WORKER = 16
_CALL_S = 120.0


def examine_host(name: str, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Examine this host for an executor.

    Args:
        name: Of the executor, such as `processes`.
        options: What its constructor would be given.

    Yields:
        A finding for each check.
    """
    cores = len(cpus())
    yield _cpus(cores, options.get("max_workers", options.get("n_workers")))
    yield _memory()
    if name not in ("sequential", "threads"):
        yield _start_method(options)
        yield _shared_memory()
        yield _open_files(cores)
    yield _temporary()
    yield first_call("call", name, options, _CALL_S)


def _cpus(cores: int, workers: object) -> Finding:
    quota = _cgroup_cpus()
    told = f"{os.cpu_count()} on this host, {len(os.sched_getaffinity(0))} by affinity, " + (
        f"{quota:g} by the control group" if quota else "no limit by a control group"
    )
    if isinstance(workers, int) and workers > cores:
        return Finding(
            "cores", WARNING, f"{told}; {workers} workers", f"no more than {cores} workers: max_workers={cores}"
        )
    return Finding("cores", OK, told)


def _memory() -> Finding:
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    total, free = (int(found.get(key, 0)) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = _cgroup_memory()
    told = f"{_gib(free)} of {_gib(total)} available"
    if limit is not None and limit < total:
        told += f"; {_gib(limit)} by the control group"
        free = min(free, limit)
    if free < _GIB // 2:
        return Finding("memory", WARNING, told, "fewer workers, or a host with more memory")
    return Finding("memory", OK, told)


def _start_method(options: Mapping[str, Any]) -> Finding:
    import multiprocessing

    context = options.get("mp_context")
    chosen = context.get_start_method() if context is not None else "the executor's own"
    there = ", ".join(multiprocessing.get_all_start_methods())
    return Finding("start", OK, f"start method of processes: {chosen}; there are {there}")


def _shared_memory() -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        remedy = "mount a tmpfs there; libraries that share arrays between processes need it"
        return Finding("/dev/shm", WARNING, f"cannot be used: {error.strerror}", remedy)
    told = f"{_gib(usage.free)} of {_gib(usage.total)} free"
    if usage.free < _SHM_WARNING:
        return Finding(
            "/dev/shm", WARNING, told, "libraries that share arrays between processes need it; docker: --shm-size=2g"
        )
    return Finding("/dev/shm", OK, told)


def _open_files(cores: int) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 128 + _FILES_A_WORKER * cores:
        return Finding("files", WARNING, f"{soft} may be open at a time", f"ulimit -n {hard if hard > soft else 4096}")
    return Finding("files", OK, f"{soft} may be open at a time")


def _temporary() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < _FREE_WARNING:
        return Finding("temporary", WARNING, f"{_gib(free)} free in {folder}", "export TMPDIR=… names another folder")
    return Finding("temporary", OK, f"{_gib(free)} free in {folder}")


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.1f} GiB"


# ---------------------------------------------------------------------------------------------------- control groups
def _cgroup_files(controller: str, name: str) -> Iterator[Path]:
    """This process's files of that name, from its own group up to the root."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        for folder in [top / path.lstrip("/"), *(top / path.lstrip("/")).parents]:
            yield folder / name
            if folder == top:
                break


def _first_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _cgroup_cpus() -> float | None:
    """The smallest quota, in CPUs; `None` if there is none."""
    found: list[float] = []
    for path in _cgroup_files("cpu", "cpu.max"):
        found += _quota(_first_words(path))
    for path in _cgroup_files("cpu", "cpu.cfs_quota_us"):
        found += _quota([*_first_words(path), *_first_words(path.with_name("cpu.cfs_period_us"))])
    return min(found, default=None)


def _quota(words: list[str]) -> list[float]:
    """Of `max 100000` or `-1 100000`, which are no limit, none."""
    if len(words) != 2 or not words[0].isdecimal() or not int(words[1]):
        return []
    return [int(words[0]) / int(words[1])]


def _cgroup_memory() -> int | None:
    """The smallest limit, in bytes; `None` if there is none."""
    paths = (*_cgroup_files("memory", "memory.max"), *_cgroup_files("memory", "memory.limit_in_bytes"))
    limits = [int(words[0]) for path in paths if (words := _first_words(path)) and words[0].isdecimal()]
    return min(limits, default=None)


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
