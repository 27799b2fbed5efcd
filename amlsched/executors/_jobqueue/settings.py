"""Arguments for dask-jobqueue: the user's, and defaults that work on a cluster."""

from __future__ import annotations

import importlib
import re
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_text, check_texts, check_whole
from amlsched.batch_systems import commands
from amlsched.errors import BatchSystemError
from amlsched.executors._dask.clusters import NANNY, check_memory
from amlsched.executors._jobqueue.dask_classes import QUOTED
from amlsched.executors.worker_setup import HASH_SEED_VARIABLE, hash_seed
from amlsched.resources.binding import exports
from amlsched.units import slurm_seconds

if TYPE_CHECKING:
    from amlsched.batch_systems import System
    from amlsched.resources.binding import WorkerThreads

__all__ = ["LOGS", "driver_host", "lifetime", "of_job", "settings"]

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
_TEXTS = {
    "queue": "main",
    "account": "group",
    "project": "group",
    "walltime": "01:00:00",
    "job_name": "training",
    "interface": "ib0",
    "python": "python3",
}
_LISTS = {
    "job_script_prologue": "module load python",
    "worker_extra_args": "--no-dashboard",
    "job_directives_skip": "--mem",
}


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

    _check(system, options)
    found = dict(options)
    found.update({name: said(name) for name in QUOTED if said(name) is not None})
    name = options.get("job_name") or configured.get("name")
    found["job_name"] = system.syntax.name("job_name", "amlsched" if name in (None, "dask-worker") else name)
    found["log_directory"] = str(Path(said("log_directory") or LOGS).absolute())
    for name in QUOTED:
        if name in found:
            system.syntax.value(name, found[name])
    system.syntax.log("log_directory", found["log_directory"], "")
    found["python"] = _python(said("python"))
    found["local_directory"] = shell_word(str(said("local_directory") or _TEMPORARY))
    found["processes"] = processes = said("processes") or 1
    cores = said("cores")
    walltime = said("walltime")
    if system.name == "lsf" and walltime is not None:  # hours and minutes
        walltime = f"{walltime}:00"
    arguments: list[str] = list(said("worker_extra_args") or [])
    words = [one if one.startswith("-") else shell_word(one) for one in arguments]
    found["worker_extra_args"] = _worker_arguments(words, walltime)
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


def _check(system: System, options: Mapping[str, Any]) -> None:
    """Raise for options of a wrong type, for which dask-jobqueue would raise without their name, or not at all."""
    for name in ("cores", "processes"):
        if options.get(name) is not None:
            check_whole(name, options[name], 1)
    check_memory("memory", options.get("memory"))
    for name, example in _TEXTS.items():
        value = options.get(name)
        if not isinstance(value, int) or isinstance(value, bool):  # a number is taken like text
            check_text(name, value, example)
    for name, example in _LISTS.items():
        check_texts(name, options.get(name), example)
    directives = options.get("job_extra_directives")
    if not isinstance(system.job_directives, Mapping):
        check_texts("job_extra_directives", directives, "--gres=gpu:1")
    elif not isinstance(directives, Mapping | None):
        problem = f"job_extra_directives={directives!r}: must be a mapping for {system.name}"
        raise TypeError(f"{problem}, such as {{'requirements': '…'}}")


def _worker_arguments(given: list[str], walltime: Any) -> list[str]:
    """Arguments of workers: one call at a time, no public dashboard, and a lifetime shorter than the walltime."""
    found = list(given)
    if "--nthreads" not in given:
        found += ["--nthreads", "1"]
    if "--no-nanny" not in given:
        found += ["--preload-nanny", NANNY]
    if not {"--dashboard", "--no-dashboard"} & set(given):
        found.append("--no-dashboard")
    seconds = slurm_seconds(str(walltime).strip())
    if "--lifetime" not in given and seconds is not None:
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
