"""The CPUs and GPUs that this process may use, which may be fewer than the machine has."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["cgroups", "cpu_quotas", "cpus", "devices"]

_NO_DEVICES = frozenset({"", "-1", "NoDevFiles", "none", "void"})


def cpus(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> tuple[int, ...]:
    """Numbers of the CPUs that this process may use.

    These are the CPUs of its affinity mask, or fewer if a cgroup's quota or Slurm's variables allow less.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `proc` and `sys`.

    Returns:
        At least one.

    Sources:
        sched_getaffinity(2); cgroups(7): `cpu.max`, in version 1 `cpu.cfs_quota_us`; sbatch: `SLURM_CPUS_ON_NODE`.
    """
    environ = os.environ if environ is None else environ
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quotas = (max(1, math.floor(quota)) for quota in cpu_quotas(root))
    count = min([len(allowed), *quotas, *_of_slurm(environ)])
    return tuple(allowed[: max(1, count)])


def _of_slurm(environ: Mapping[str, str]) -> Iterator[int]:
    """The number of CPUs of the job on this node; if Slurm binds jobs, the affinity mask says the same."""
    text = environ.get("SLURM_CPUS_ON_NODE", "")
    if "SLURM_JOB_ID" in environ and text.isdigit() and int(text):
        yield int(text)


def cgroups(controller: str, root: str | Path = "/") -> Iterator[Path]:
    """The folders of this process's cgroups that may limit a resource, and of their parents.

    Args:
        controller: The controller of the resource, such as `cpu`; in version 2, all have the same folders.
        root: The folder that contains `proc` and `sys`.
    """
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = Path(root, "sys/fs/cgroup", controller if controllers else "")
        parts = [part for part in path.split("/") if part]
        for length in range(len(parts) + 1):
            yield top.joinpath(*parts[:length])


def cpu_quotas(root: str | Path = "/") -> Iterator[float]:
    """The quotas of this process's cgroups and their parents, in CPUs.

    Args:
        root: The folder that contains `proc` and `sys`.
    """
    for folder in cgroups("cpu", root):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):  # there are no such files, or they contain "max"
                quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
                if quota > 0:  # -1 means no quota
                    yield quota / period


def devices(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> tuple[str, ...]:
    """The GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`.

    If that variable is set, its entries are used unchanged: numbers, UUIDs, names of MIG instances. Otherwise the GPUs
    of the Slurm job, or else those of the machine, are numbered from 0.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `dev`.

    Sources:
        CUDA programming guide, environment variables; sbatch: `SLURM_GPUS_ON_NODE`.
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        stop = next((n for n, entry in enumerate(entries) if entry in _NO_DEVICES), len(entries))  # as CUDA does
        return tuple(dict.fromkeys(entries[:stop]))
    of_slurm = environ.get("SLURM_GPUS_ON_NODE", "")
    if "SLURM_JOB_ID" in environ and of_slurm.isdigit():
        return tuple(map(str, range(int(of_slurm))))
    try:
        shown = [name for name in os.listdir(Path(root) / "dev") if re.fullmatch(r"nvidia\d+", name)]
    except OSError:
        return ()
    return tuple(map(str, range(len(shown))))
