"""Arguments for dask-jobqueue: the user's, and defaults that work on a cluster."""

from __future__ import annotations

import importlib
import math
import re
import shlex
import socket
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems import commands
from amlsched.errors import BatchSystemError
from amlsched.executors._dask.clusters import NANNY
from amlsched.executors._jobqueue.checks import check_folder, check_options
from amlsched.executors._jobqueue.dask_classes import QUOTED
from amlsched.executors.worker_setup import HASH_SEED_VARIABLE, hash_seed
from amlsched.resources.binding import exports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amlsched.batch_systems import System
    from amlsched.resources.binding import WorkerThreads

__all__ = ["LOGS", "driver_host", "lifetime", "of_job", "settings", "shortest_lifetime"]

LOGS = "amlsched-jobs"
"""The folder for logs of jobs, inside the current one."""
_TEMPORARY = '"${TMPDIR:-/tmp}"'  # for the shell of the job, on its node
_SHORTEST_S = 60.0
_ASK_S = 5.0
_OF_CLUSTER = (
    "asynchronous",
    "loop",
    "name",
    "scheduler_cls",
    "scheduler_options",
    "shared_temp_directory",
    "silence_logs",
)


def settings(system: System, options: Mapping[str, Any], native_threads: WorkerThreads) -> dict[str, Any]:
    """Arguments for dask-jobqueue's cluster class: the user's, and defaults for others.

    Args:
        system: The batch system.
        options: The user's options.
        native_threads: Threads that libraries start in each worker.

    Raises:
        TypeError: An option has a type that it cannot have.
        ValueError: The batch system cannot hold the value of an option.
    """
    configured: dict[str, Any] = importlib.import_module("dask").config.get(f"jobqueue.{system.name}", {})

    def said(name: str) -> Any:
        value = options.get(name)
        return value if value is not None else configured.get(name.replace("_", "-"))

    check_options(system, options)
    found = dict(options)
    found.update({name: said(name) for name in QUOTED if said(name) is not None})
    name = options.get("job_name") or configured.get("name")
    found["job_name"] = system.syntax.name("job_name", "amlsched" if name in (None, "dask-worker") else name)
    found["log_directory"] = str(Path(said("log_directory") or LOGS).expanduser().absolute())
    for name in QUOTED:
        if name in found:
            system.syntax.value(name, found[name])
    system.syntax.log("log_directory", found["log_directory"], "")
    check_folder("log_directory", Path(found["log_directory"]))
    found["python"] = _python(said("python"))
    found["local_directory"] = shell_word(str(said("local_directory") or _TEMPORARY))
    found["processes"] = processes = said("processes") or 1
    cores, memory = said("cores"), said("memory")
    if cores is not None and processes > cores:
        remedy = f"each worker needs one; write cores={processes}, or processes={cores}"
        raise ValueError(f"processes={processes}: more than the job has cores, which are {cores}; {remedy}")
    if memory is not None:
        found.update(_memory(system, said, cores, importlib.import_module("dask.utils").parse_bytes(memory)))
    arguments: list[str] = list(said("worker_extra_args") or [])
    words = [one if one.startswith("-") else shell_word(one) for one in arguments]
    found["worker_extra_args"] = _worker_arguments(words, _seconds(system, said("walltime")))
    prologue = [f"cd {shlex.quote(str(Path.cwd()))}"] if system.starts_at_home else []
    prologue.append(f"export {HASH_SEED_VARIABLE}={shlex.quote(hash_seed())}")
    prologue += exports(native_threads, max(1, (cores or 1) // processes))  # dask keeps variables that are set
    prologue += said("job_script_prologue") or []
    if system.name == "htcondor":  # which joins them with the command to one line
        system.syntax.lines("job_script_prologue", prologue)
    found["job_script_prologue"] = prologue
    found["job_extra_directives"] = _directives(system, said("job_extra_directives"))
    scheduler: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", **(said("scheduler_options") or {})}
    if said("interface") is None and not {"host", "interface"} & scheduler.keys():
        scheduler["host"] = driver_host(system)
    found["scheduler_options"] = scheduler
    return found


def of_job(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of dask-jobqueue's cluster class that its class of a job takes."""
    return {key: value for key, value in arguments.items() if key not in _OF_CLUSTER and value is not None}


def _python(given: Any) -> str:
    """The Python of jobs, for their shell. If it is not a file here, it may be several words, to run a container."""
    path = sys.executable if given is None else str(given)
    return shlex.quote(path) if Path(path).is_file() else path


def shell_word(text: str) -> str:
    """One word for the shell of a job, which expands its variables; unchanged if it is one word already."""
    if re.fullmatch(r"""[\w@%+=:,./~${}-]*|"[^"]*"|'[^']*'""", text):
        return text
    home, rest = re.fullmatch(r"(~[\w.-]*/)?(.*)", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    return home + '"' + re.sub(r'(["\\`])', r"\\\1", rest) + '"'


def _memory(system: System, said: Callable[[str], Any], cores: Any, amount: int) -> dict[str, str]:
    """The option that asks for the memory, rounded up to a MiB: dask-jobqueue rounds 1.2 GB up to 2 GiB."""
    mebibytes = -(-amount // 2**20)
    if system.name == "slurm" and said("job_mem") is None:
        return {"job_mem": f"{mebibytes}M"}
    if system.name in ("pbs", "moab") and said("resource_spec") is None:
        return {"resource_spec": f"select=1:ncpus={cores}:mem={mebibytes}mb"}
    return {}


def _seconds(system: System, walltime: Any) -> float:
    """The walltime in seconds; infinity for none.

    Raises:
        ValueError: The batch system does not accept it.
    """
    if walltime is None or system.seconds is None:
        return math.inf
    seconds = system.seconds(str(walltime))
    if seconds is None:
        raise ValueError(f"walltime={walltime!r}: {system.title} reads {system.walltimes}")
    return seconds


def _worker_arguments(given: list[str], seconds: float) -> list[str]:
    """Arguments of workers: one call at a time, no public dashboard, and a lifetime shorter than the walltime."""
    found = list(given)
    if "--nthreads" not in given:
        found += ["--nthreads", "1"]
    if "--no-nanny" not in given:
        found += ["--preload-nanny", NANNY]
    if not {"--dashboard", "--no-dashboard"} & set(given):
        found.append("--no-dashboard")
    if "--lifetime" not in given and not math.isinf(seconds):
        lasts, stagger = lifetime(seconds)
        found += ["--lifetime", f"{lasts}s", "--lifetime-stagger", f"{stagger}s"]
    return found


def _directives(system: System, given: Any) -> dict[str, Any] | list[str]:
    """Our directives and the user's, which come last and take precedence; a mapping for HTCondor."""
    if isinstance(system.job_directives, Mapping):
        found: dict[str, Any] = {**system.job_directives, **(given or {})}
        system.syntax.lines("job_extra_directives", [f"{name} = {value}" for name, value in found.items()])
        return found
    given = system.syntax.lines("job_extra_directives", given or [])
    return [*(each for each in system.job_directives if each not in given), *given]


def lifetime(walltime: float) -> tuple[int, int]:
    """The seconds after which a worker exits, and by how many that varies, so that not all exit at once.

    Args:
        walltime: The walltime of its job, in seconds.
    """
    spare = min(max(_SHORTEST_S, 0.1 * walltime), 0.4 * walltime, 900.0)
    return int(walltime - spare), int(spare / 3)


def shortest_lifetime(arguments: Sequence[str]) -> float | None:
    """After how many seconds a worker with these arguments exits, or somewhat later; `None` if that is unknown."""
    given = dict(pairwise(arguments))
    seconds = [re.fullmatch(r"(\d+)s", given.get(name, "")) for name in ("--lifetime", "--lifetime-stagger")]
    lasts, stagger = (None if each is None else float(each[1]) for each in seconds)
    return None if lasts is None else lasts - (stagger or 0.0)


def driver_host(system: System) -> str:
    """The address of this machine that the nodes can reach, as a best guess.

    For Slurm, whose nodes have known addresses, that of the route to them; else that of the default route.
    """
    for node in _nodes(system):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((node, 9))  # sends nothing, only finds the route
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return str(importlib.import_module("distributed.utils").get_ip())


def _nodes(system: System) -> list[str]:
    if system.name != "slurm":
        return []
    try:
        text = commands.run(system, ["scontrol", "--oneliner", "show", "node"], limit_s=_ASK_S)
    except BatchSystemError:
        return []
    return re.findall(r"\bNodeAddr=(\S+)", text)[:3]
