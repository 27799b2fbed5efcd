"""Examines this host, for the executors whose workers run on it.

Sources:
    `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of Linux; proc(5).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.doctor.finding import Finding, Verdict
from amlsched.doctor.first_call import first_call
from amlsched.resources import cpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["examine_host"]

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
