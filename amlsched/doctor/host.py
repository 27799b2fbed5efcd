"""Checks this host, for executors whose workers run on it; and compares the environment of a job with this process's.

Sources:
    `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of Linux; proc(5).
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.doctor.findings import Finding, Verdict, first_call
from amlsched.doctor.probe import packages
from amlsched.resources.detect import cpu_quotas, cpus, machine_memory, memory_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["compare", "examine_host"]

OK, WARNING, FAULT = Verdict.OK, Verdict.WARNING, Verdict.FAULT
_GIB = 2**30
_SHM_WARNING = _GIB // 4
_FREE_WARNING = _GIB
_FILES_A_WORKER = 16
_LONGEST_TEMPORARY = 75  # bytes of the path: multiprocessing appends 32, and that of a socket may have 107
_CALL_S = 120.0


def examine_host(name: str, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Check this host for an executor.

    Args:
        name: Name of the executor, such as `processes`.
        options: Arguments of its constructor.

    Yields:
        A finding per check.
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
    quota = min(cpu_quotas(), default=None)
    text = f"{os.cpu_count()} on this host, {len(os.sched_getaffinity(0))} by affinity, " + (
        f"{quota:g} by the cgroup" if quota else "no limit by a cgroup"
    )
    if isinstance(workers, int) and workers > cores:
        return Finding(
            "cores", WARNING, f"{text}; {workers} workers", f"use at most {cores} workers: max_workers={cores}"
        )
    return Finding("cores", OK, text)


def _memory() -> Finding:
    total, free = machine_memory()
    limit = memory_limit()
    text = f"{_gib(free)} of {_gib(total)} available"
    if limit is not None and limit < total:
        text += f"; {_gib(limit)} by the cgroup"
        free = min(free, limit)
    if free < _GIB // 2:
        return Finding("memory", WARNING, text, "use fewer workers, or a host with more memory")
    return Finding("memory", OK, text)


def _start_method(options: Mapping[str, Any]) -> Finding:
    import multiprocessing

    context = options.get("mp_context")
    chosen = context.get_start_method() if context is not None else "the executor's own"
    available = ", ".join(multiprocessing.get_all_start_methods())
    return Finding("start", OK, f"start method of processes: {chosen}; available are {available}")


def _shared_memory() -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        remedy = "mount a tmpfs there; libraries that share arrays between processes need it"
        return Finding("/dev/shm", WARNING, f"cannot be used: {error.strerror}", remedy)
    text = f"{_gib(usage.free)} of {_gib(usage.total)} free"
    if usage.free < _SHM_WARNING:
        return Finding(
            "/dev/shm", WARNING, text, "libraries that share arrays between processes need it; docker: --shm-size=2g"
        )
    return Finding("/dev/shm", OK, text)


def _open_files(cores: int) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 128 + _FILES_A_WORKER * cores:
        return Finding(
            "files", WARNING, f"{soft} files may be open at a time", f"ulimit -n {hard if hard > soft else 4096}"
        )
    return Finding("files", OK, f"{soft} files may be open at a time")


def _temporary() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < _FREE_WARNING:
        return Finding("temporary", WARNING, f"{_gib(free)} free in {folder}", "set another folder by export TMPDIR=…")
    if len(os.fsencode(folder)) > _LONGEST_TEMPORARY:
        text = f"the path of {folder} is too long for sockets in it, as multiprocessing and Ray have them"
        return Finding("temporary", WARNING, text, "export TMPDIR=/tmp, or another short path")
    return Finding("temporary", OK, f"{_gib(free)} free in {folder}")


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.1f} GiB"


_TALK = ("amlsched", "cloudpickle", "dask", "dask-jobqueue", "distributed", "msgpack", "tornado")
"""Packages with which driver and workers communicate: their versions must be the same."""
_SHOWN = 8
_CLOCK_WARNING_S, _CLOCK_FAULT_S = 2.0, 60.0


def compare(
    report: Mapping[str, Any], shared: Path, offered: Sequence[tuple[str, str, int]], wanted: str | None
) -> Iterator[Finding]:
    """Evaluate the report of a probe.

    Args:
        report: The report.
        shared: The folder that should be shared.
        offered: Interface, address and port of each socket that the probe tried.
        wanted: The interface that workers should use; `None` for any.
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
    remedy = "start from a folder that the nodes mount, or copy the code to one (see Code copy in the docs)"
    if report["project"] is None:
        return Finding("project", FAULT, f"the job does not see {here}", remedy)
    # Hidden entries may change meanwhile, such as the doctor's own folder and the folders of logs.
    names = [name for name in os.listdir(here) if not name.startswith(".")]
    missing = [name for name in names if name not in report["project"]]
    if missing and missing == names:
        return Finding("project", FAULT, f"in the job, {here} is another folder or empty", remedy)
    if missing:
        return Finding("project", FAULT, f"in the job, {here} lacks {', '.join(sorted(missing)[:_SHOWN])}", remedy)
    return Finding("project", OK, f"the job sees {here}")


def _python(report: Mapping[str, Any], same: Finding) -> Finding:
    version = platform.python_version()
    pythons = f"{report['python']} ({report['version']}) in the job, {sys.executable} ({version}) here"
    remedy = "set it by python='…', or activate its environment: job_script_prologue=['source …/bin/activate']"
    if report["version"].split(".")[:2] != version.split(".")[:2]:
        return Finding("python", FAULT, f"another Python: {pythons}", remedy)
    if report["prefix"] != sys.prefix:
        return Finding("python", FAULT if same.verdict is FAULT else WARNING, f"another Python: {pythons}", remedy)
    if report["version"] != version:
        return Finding("python", WARNING, f"another release: {pythons}", remedy)
    return Finding("python", OK, f"the same: {sys.executable} ({version})")


def _packages(report: Mapping[str, Any]) -> Finding:
    ours, theirs = packages(), report["packages"]
    remedy = "install the same versions there (pip freeze here, pip install -r there), or let jobs use this environment"
    differ = [_pair(name, ours, theirs) for name in _TALK if name in ours and ours[name] != theirs.get(name)]
    if differ:
        return Finding("packages", FAULT, f"these must be the same: {', '.join(differ)}", remedy)
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
        remedy = "keys and logs are stored there: start from, or set log_directory=… to, a folder that nodes mount"
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
            "ask whether there is a firewall between the nodes and this host, and which ports are open: set the port\n"
            "of the scheduler by scheduler_options={'port': …}; or run the driver in a job itself"
        )
        return Finding("driver", FAULT, f"the job on {report['host']} cannot reach this host: {failures}", remedy)
    if wanted is not None and wanted not in [name for name, *_ in good]:
        text = f"the job on {report['host']} cannot reach this host over {wanted}: {failures}"
        return Finding("driver", FAULT, text, f"interface=… is one of: {names}")
    name, host, port = next((each for each in good if each[0] == wanted), good[0])
    text = f"the job reaches this host over {names}; {host}, port {port}, answered"
    if wanted is None and name not in report["interfaces"]:
        remedy = f"interface=… must be one of the node's: {', '.join(report['interfaces'])}"
        return Finding("driver", WARNING, f"{text}; the node has no interface {name}", remedy)
    return Finding("driver", OK, text)


def _clock(report: Mapping[str, Any]) -> Finding:
    offsets = [each["offset_s"] for each in report["reached"].values() if "offset_s" in each]
    if not offsets:
        return Finding("clock", Verdict.SKIPPED, "can only be compared over the network")
    offset = min(offsets, key=abs)
    text = f"the node's is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"
    remedy = "times in results would be wrong, and new keys not yet valid: have the clocks synchronized (NTP)"
    if abs(offset) > _CLOCK_FAULT_S:
        return Finding("clock", FAULT, text, remedy)
    if abs(offset) > _CLOCK_WARNING_S:
        return Finding("clock", WARNING, text, remedy)
    return Finding("clock", OK, text)
