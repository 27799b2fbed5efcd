"""The CPUs, memory and GPUs that this process may use, which may be less than the machine has."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._surroundings import import_extra
from amlsched.errors import ImportFailedError, MissingExtraError
from amlsched.units import slurm_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "Gpu",
    "Gpus",
    "cgroups",
    "cpu_quotas",
    "cpus",
    "devices",
    "free_memory",
    "gpus",
    "machine_memory",
    "memory",
    "memory_limit",
]

_NO_DEVICES = frozenset({"", "-1", "NoDevFiles", "none", "void"})
_MIB = 2**20
_NO_LIMIT = 1 << 60
"""Control groups of version 1 report no limit as the largest number of whole pages."""


def cpus(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> tuple[int, ...]:
    """Numbers of the CPUs that this process may use.

    These are the CPUs of its affinity mask, or fewer if a cgroup's quota or the variables of a batch system allow less.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `proc` and `sys`.

    Returns:
        At least one.

    Sources:
        sched_getaffinity(2); cgroups(7): `cpu.max`, in version 1 `cpu.cfs_quota_us`; the documents of the batch
        systems: sbatch: `SLURM_CPUS_ON_NODE`; PBS: `NCPUS`, Torque: `PBS_NUM_PPN`; Grid Engine, qsub(1): `NSLOTS`,
        `PE_HOSTFILE`; LSF: `LSB_MCPU_HOSTS`; HTCondor: `_CONDOR_MACHINE_AD`; oarsub(1): `OAR_NODEFILE`.
    """
    environ = os.environ if environ is None else environ
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quotas = (max(1, math.floor(quota)) for quota in cpu_quotas(root))
    count = min([len(allowed), *quotas, *_cpus_of_job(environ)])
    return tuple(allowed[: max(1, count)])


def _cpus_of_job(environ: Mapping[str, str]) -> Iterator[int]:
    """The number of CPUs of the job on this host; if the batch system binds jobs, the affinity mask says the same."""
    if "SLURM_JOB_ID" in environ:
        yield from _whole(environ.get("SLURM_CPUS_ON_NODE"))
    if "PBS_JOBID" in environ:
        yield from _whole(environ.get("NCPUS") or environ.get("PBS_NUM_PPN"))
    if "JOB_ID" in environ and "SGE_TASK_ID" in environ:
        of_hosts = [line.split() for line in _text(environ.get("PE_HOSTFILE", "")).splitlines()]
        yield from _whole(_of_this_host(of_hosts) or ("" if of_hosts else environ.get("NSLOTS")))
    if "LSB_JOBID" in environ:
        words = environ.get("LSB_MCPU_HOSTS", "").split()
        yield from _whole(_of_this_host(zip(words[::2], words[1::2], strict=False)))
    if "OAR_JOB_ID" in environ:
        hosts = _text(environ.get("OAR_NODEFILE", "")).split()
        yield from _whole(str(sum(_is_this_host(host) for host in hosts)))
    yield from _whole(_of_condor(environ, "Cpus"))


def _memory_of_job(environ: Mapping[str, str]) -> Iterator[int]:
    """The memory of the job on this host, in bytes."""
    if "SLURM_JOB_ID" in environ:
        factors = {
            "SLURM_MEM_PER_NODE": "1",
            "SLURM_MEM_PER_CPU": environ.get("SLURM_CPUS_ON_NODE"),
            "SLURM_MEM_PER_GPU": environ.get("SLURM_GPUS_ON_NODE"),
        }
        for name, factor in factors.items():
            for number in _whole(factor):
                if amount := slurm_bytes(environ.get(name, "")):  # 0 requests all of the node's
                    yield amount * number
    for amount in _whole(_of_condor(environ, "Memory")):
        yield amount * _MIB


def _of_condor(environ: Mapping[str, str], name: str) -> str:
    """A number that HTCondor's description of the slot gives; empty if there is none."""
    found = re.search(rf"^{name}\s*=\s*(\d+)\s*$", _text(environ.get("_CONDOR_MACHINE_AD", "")), re.MULTILINE)
    return found[1] if found else ""


def _of_this_host(pairs: Iterable[Any]) -> str:
    return next((str(count) for host, count, *_ in pairs if _is_this_host(host)), "")


def _is_this_host(name: str) -> bool:
    return name.partition(".")[0].lower() == platform.node().partition(".")[0].lower()


def _whole(text: str | None) -> Iterator[int]:
    """The positive whole number in a text, if that is what it contains."""
    if text and text.isdecimal() and int(text):
        yield int(text)


def _text(path: str | Path) -> str:
    """The content of a file; empty if there is none."""
    if not path or path == Path():
        return ""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def cgroups(controller: str, root: str | Path = "/") -> Iterator[Path]:
    """The folders of this process's cgroups that may limit a resource, and of their parents.

    Args:
        controller: The controller of the resource, such as `cpu`; in version 2, all have the same folders.
        root: The folder that contains `proc` and `sys`.
    """
    for line in _text(Path(root, "proc/self/cgroup")).splitlines():
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


# Memory


def memory(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> int:
    """Bytes of memory that this process and its children may use in all: those of the machine, or less.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `proc` and `sys`.

    Returns:
        The smallest of the machine's memory, the limits of the cgroups, and what the batch system gave to the job.

    Raises:
        OSError: The system does not say how much memory it has.

    Sources:
        proc(5): `/proc/meminfo`; cgroups(7): `memory.max`, in version 1 `memory.limit_in_bytes`; sbatch:
        `SLURM_MEM_PER_NODE`, `SLURM_MEM_PER_CPU`, `SLURM_MEM_PER_GPU`; HTCondor: `Memory` of the machine's description.
    """
    environ = os.environ if environ is None else environ
    limit = memory_limit(root)
    return min([machine_memory(root)[0], *([] if limit is None else [limit]), *_memory_of_job(environ)])


def free_memory(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> int:
    """Bytes of memory that this process and its children can still allocate without swapping or being killed.

    Cached files count as free, since the system drops them first. In a cgroup with a limit, what is used there counts;
    what is left of the job's memory is not known if the batch system sets no such limit, so all of it counts.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `proc` and `sys`.

    Raises:
        OSError: The system does not say how much memory it has.

    Sources:
        As of `memory`; `MemAvailable`; `memory.current` and `inactive_file` of `memory.stat`, in version 1
        `memory.usage_in_bytes` and `total_inactive_file`.
    """
    environ = os.environ if environ is None else environ
    left = [max(0, limit - used) for folder, limit in _memory_limits(root) for used in _memory_used(folder)]
    return min([machine_memory(root)[1], memory(environ, root), *left])


def memory_limit(root: str | Path = "/") -> int | None:
    """The smallest memory limit of this process's cgroups and their parents, in bytes; `None` if there is none.

    Args:
        root: The folder that contains `proc` and `sys`.
    """
    return min((limit for _, limit in _memory_limits(root)), default=None)


def _memory_limits(root: str | Path) -> Iterator[tuple[Path, int]]:
    for folder in cgroups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for limit in _whole(_text(folder / name).strip()):  # not "max"
                if limit < _NO_LIMIT:
                    yield folder, limit


def _memory_used(folder: Path) -> Iterator[int]:
    """Bytes used in a cgroup, without cached files that can be dropped."""
    for usage, cached in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
        for used in _whole(_text(folder / usage).strip()):
            found = re.search(rf"^{cached} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            yield max(0, used - int(found[1] if found else 0))


def machine_memory(root: str | Path = "/") -> tuple[int, int]:
    """The machine's memory, and what is available of it, in bytes, whatever this process may use of it."""
    path = Path(root, "proc/meminfo")
    try:
        found: dict[str, str] = dict(re.findall(r"^(\w+):\s*(\d+) kB", path.read_text(), re.MULTILINE))
    except OSError:
        if Path(root) != Path("/"):
            raise
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not Linux: what is free is not known
        return pages, pages
    total = int(found.get("MemTotal", 0)) * 1024
    return total, int(found.get("MemAvailable", found.get("MemFree", 0))) * 1024


# GPUs


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or an instance of one that is divided by MIG.

    Attributes:
        name: As in the variable that selects GPUs: a number, a UUID, or the name of a MIG instance.
        model: The product's name; empty if unknown.
        memory_bytes: Its memory; `None` if unknown.
        free_bytes: What of it is free now; `None` if unknown.
    """

    name: str
    model: str = ""
    memory_bytes: int | None = None
    free_bytes: int | None = None

    @property
    def usable_bytes(self) -> int | None:
        """What calls may use of its memory: what is free, or all if that is unknown; `None` if neither is known."""
        return self.memory_bytes if self.free_bytes is None else self.free_bytes


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that this process may use.

    Attributes:
        found: The GPUs.
        variable: The environment variable that selects some of them in a process.
        looked_for: What was looked for, and what was there: for the message of a request that cannot be met.
    """

    found: tuple[Gpu, ...] = ()
    variable: str = "CUDA_VISIBLE_DEVICES"
    looked_for: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.found) or 'no'} GPU{'s' * (len(self.found) != 1)} ({'; '.join(self.looked_for)})"


def devices(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> tuple[str, ...]:
    """The names of the GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`, without asking the driver.

    If that variable is set, its entries are used unchanged: numbers, UUIDs, names of MIG instances. Otherwise the GPUs
    of the Slurm job, or else those of the machine, are numbered from 0. `gpus` also finds their memory, MIG instances,
    and GPUs of AMD.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `dev`.

    Sources:
        CUDA programming guide, environment variables; sbatch: `SLURM_GPUS_ON_NODE`.
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _entries(visible)
    of_slurm = environ.get("SLURM_GPUS_ON_NODE", "")
    if "SLURM_JOB_ID" in environ and of_slurm.isdigit():
        return tuple(map(str, range(int(of_slurm))))
    return tuple(map(str, range(len(_nodes_of_nvidia(root)))))


def gpus(environ: Mapping[str, str] | None = None, root: str | Path = "/") -> Gpus:
    """The GPUs that this process may use, with their memory where the driver reports it.

    GPUs of NVIDIA come first. An inherited `CUDA_VISIBLE_DEVICES` selects among them, and its entries stay as they are:
    numbers, UUIDs or their beginnings, names of MIG instances. Without it, each GPU has its number, or its UUID if
    CUDA may number the GPUs in another order than their driver; a GPU that is divided by MIG is replaced by its
    instances. Models and memory are those that NVML reports, if `amlsched[gpu]` is installed.

    Otherwise, GPUs of AMD are those of the kernel's driver, selected by an inherited `ROCR_VISIBLE_DEVICES` and
    `HIP_VISIBLE_DEVICES`.

    Args:
        environ: The environment variables; `None` for those of this process.
        root: The folder that contains `dev` and `sys`.

    Sources:
        CUDA programming guide, environment variables; NVML API reference; HIP documentation, GPU isolation; Linux,
        `drivers/gpu/drm/amd/amdkfd/kfd_topology.c`.
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    seen, note = _of_nvml()
    notes = ["CUDA_VISIBLE_DEVICES is not set" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}", note]
    if not seen:
        of_amd = _of_amd(environ, root)
        if of_amd.found:
            return of_amd
        notes += of_amd.looked_for
    if visible is None and seen:
        return Gpus(_numbered(seen, environ), looked_for=tuple(notes))
    found = tuple(_looked_up(name, seen, environ) for name in devices(environ, root))
    if visible is None and not found:
        notes.append(f"there is no {Path(root, 'dev/nvidia0')}")
    return Gpus(found, looked_for=tuple(dict.fromkeys(notes)))


def _entries(visible: str) -> tuple[str, ...]:
    """The devices that such a variable names."""
    entries = [entry.strip() for entry in visible.split(",")]
    stop = next((n for n, entry in enumerate(entries) if entry in _NO_DEVICES), len(entries))  # as CUDA does
    return tuple(dict.fromkeys(entries[:stop]))


def _nodes_of_nvidia(root: str | Path) -> list[str]:
    try:
        return [name for name in os.listdir(Path(root) / "dev") if re.fullmatch(r"nvidia\d+", name)]
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class _Seen:
    """A GPU as NVML reports it.

    Attributes:
        gpu: The GPU, named by its UUID.
        instances: Its MIG instances, named likewise, each with the older name of its kind; `None` if it is not divided.
    """

    gpu: Gpu
    instances: tuple[tuple[Gpu, str], ...] | None


def _of_nvml() -> tuple[list[_Seen], str]:
    """The GPUs that NVML reports, in its order, and what to say about it."""
    try:
        nvml: Any = import_extra("pynvml", "the memory of GPUs", "nvidia-ml-py", "gpu")
    except MissingExtraError:
        return [], "NVML was not asked: pip install 'amlsched[gpu]'"
    except ImportFailedError as error:
        return [], f"NVML was not asked: {error}"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    try:
        seen: list[_Seen] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # one that this process must not use, or that has failed
                seen.append(_seen(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
        return seen, f"NVML reports {len(seen)}"
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    finally:
        nvml.nvmlShutdown()


def _seen(nvml: Any, handle: Any) -> _Seen:
    gpu = _gpu(nvml, handle)
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # this model cannot be divided
        divided = False
    if not divided:
        return _Seen(gpu, None)
    instances: list[tuple[Gpu, str]] = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with contextlib.suppress(nvml.NVMLError):  # there are fewer
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            ids = nvml.nvmlDeviceGetGpuInstanceId(instance), nvml.nvmlDeviceGetComputeInstanceId(instance)
            instances.append((_gpu(nvml, instance), f"MIG-{gpu.name}/{ids[0]}/{ids[1]}"))
    return _Seen(gpu, tuple(instances))


def _gpu(nvml: Any, handle: Any) -> Gpu:
    def asked(function: Callable[[Any], Any]) -> Any:
        try:
            return function(handle)
        except nvml.NVMLError:
            return None

    name, model = _decoded(nvml.nvmlDeviceGetUUID(handle)), _decoded(asked(nvml.nvmlDeviceGetName) or "")
    amount: Any = asked(nvml.nvmlDeviceGetMemoryInfo)
    if amount is None:  # not supported by GPUs that share the machine's memory
        return Gpu(name, model)
    return Gpu(name, model, int(amount.total), int(amount.free))


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text  # older versions of nvidia-ml-py return bytes


def _is_ordered(seen: list[_Seen], environ: Mapping[str, str]) -> bool:
    """Whether CUDA numbers GPUs as NVML does: it puts the fastest first, unless a variable says otherwise."""
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({each.gpu.model for each in seen}) == 1


def _numbered(seen: list[_Seen], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """All GPUs, with names that CUDA understands."""
    by_number = _is_ordered(seen, environ) and all(each.instances is None for each in seen)
    found: list[Gpu] = []
    for number, each in enumerate(seen):
        if each.instances is not None:
            found += (instance for instance, _ in each.instances)
        else:
            found.append(_named(each.gpu, str(number) if by_number else each.gpu.name))
    return tuple(found)


def _looked_up(name: str, seen: list[_Seen], environ: Mapping[str, str]) -> Gpu:
    """The GPU that has this name in `CUDA_VISIBLE_DEVICES`, if NVML knows it."""
    if name.isdecimal():
        usable = [each.instances[0][0] if each.instances else each.gpu for each in seen]
        if not _is_ordered(seen, environ) and usable:
            return _smallest(name, usable)
        return _named(usable[int(name)], name) if int(name) < len(usable) else Gpu(name)
    for each in seen:
        for instance, older in each.instances or ():
            if instance.name == name or older == name:
                return _named(instance, name)
        if each.gpu.name.startswith(name):
            return _named(each.gpu, name)
    return Gpu(name)


def _named(gpu: Gpu, name: str) -> Gpu:
    return Gpu(name, gpu.model, gpu.memory_bytes, gpu.free_bytes)


def _smallest(name: str, candidates: list[Gpu]) -> Gpu:
    """A GPU of which is known only that it is one of these: it has at least the memory of the smallest."""
    amounts = [(gpu.memory_bytes, gpu.free_bytes) for gpu in candidates]
    totals, free = [t for t, _ in amounts if t is not None], [f for _, f in amounts if f is not None]
    complete = len(totals) == len(free) == len(candidates)
    return Gpu(name, "", min(totals), min(free)) if complete else Gpu(name)


def _of_amd(environ: Mapping[str, str], root: str | Path) -> Gpus:
    """The GPUs of the kernel's driver for AMD."""
    nodes = Path(root, "sys/class/kfd/kfd/topology/nodes")
    try:
        order = sorted(int(entry.name) for entry in nodes.iterdir() if entry.name.isdecimal())
    except OSError:
        return Gpus(looked_for=("the kernel has no driver for GPUs of AMD",))
    there = [gpu for number in order if (gpu := _kfd_gpu(nodes / str(number), root)) is not None]
    notes = [f"the driver for AMD reports {len(there)}"]
    variable = "ROCR_VISIBLE_DEVICES"
    found = [_named(gpu, str(number)) for number, gpu in enumerate(there)]
    if (visible := environ.get(variable)) is not None:
        notes.append(f"{variable}={visible}")
        uuids = {gpu.name: gpu for gpu in there}
        found = [_named(_by_entry(entry, found, uuids), entry) for entry in _entries(visible)]
    # HIP counts what ROCr left; its own variable takes precedence over CUDA's, which it reads, too.
    for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if (visible := environ.get(name)) is not None:
            notes.append(f"{name}={visible}")
            found, variable = [_named(_by_entry(entry, found, {}), entry) for entry in _entries(visible)], name
            break
    return Gpus(tuple(found), variable, tuple(notes))


def _by_entry(entry: str, found: list[Gpu], uuids: Mapping[str, Gpu]) -> Gpu:
    if entry.isdecimal() and int(entry) < len(found):
        return found[int(entry)]
    return uuids.get(entry.lower().replace("gpu-", "GPU-"), Gpu(entry))


def _kfd_gpu(node: Path, root: str | Path) -> Gpu | None:
    """A GPU that this process may open, named by its UUID; `None` for a CPU."""
    properties = dict(re.findall(r"^(\w+) (\d+)$", _text(node / "properties"), re.MULTILINE))
    if not int(properties.get("simd_count", 0)):
        return None
    render = f"renderD{properties.get('drm_render_minor', 0)}"
    if not os.access(Path(root, "dev/dri", render), os.R_OK | os.W_OK):
        return None
    device = Path(root, "sys/class/drm", render, "device")
    total = next(_whole(_text(device / "mem_info_vram_total").strip()), None)
    used = next(_whole(_text(device / "mem_info_vram_used").strip()), 0)
    name = f"GPU-{int(properties.get('unique_id', 0)):016x}"
    return Gpu(name, _text(node / "name").strip(), total, None if total is None else max(0, total - used))
