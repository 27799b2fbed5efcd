"""Checks of the options of workers in jobs, before anything is submitted.

dask-jobqueue would raise without the name of an option, or write it to the script whatever it is.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched._checks import check_flag, check_number, check_text, check_texts, check_whole
from amlsched._spelling import most_similar
from amlsched.executors._dask.clusters import check_memory

if TYPE_CHECKING:
    from amlsched.batch_systems import System

__all__ = ["check_adaptive", "check_command_line", "check_folder", "check_host", "check_options", "check_security"]

_MIB = 2**20
_TEXTS = {
    "queue": "main",
    "account": "group",
    "project": "group",
    "walltime": "01:00:00",
    "job_name": "training",
    "interface": "ib0",
    "python": "python3",
    "resource_spec": "nodes=1:ppn=4",
    "shebang": "#!/bin/bash",
}
_LISTS = {
    "job_script_prologue": "module load python",
    "worker_extra_args": "--no-dashboard",
    "job_directives_skip": "--mem",
    "submit_command_extra": "-verbose",
    "cancel_command_extra": "-verbose",
}
_RENAMED = {
    "env_extra": "job_script_prologue",
    "extra": "worker_extra_args",
    "header_skip": "job_directives_skip",
    "job_extra": "job_extra_directives",
}
_WHOLE = ("cores", "processes", "job_cpu", "ncpus")
_ADAPTIVE = ("minimum", "maximum", "minimum_jobs", "maximum_jobs")
_ADAPTIVE_MORE = (
    *("interval", "wait_count", "target_duration", "worker_key"),
    *("minimum_cores", "maximum_cores", "minimum_memory", "maximum_memory"),
)


def check_options(system: System, options: Mapping[str, Any]) -> None:
    """Check the user's options.

    Raises:
        TypeError: An option has a type that it cannot have.
        ValueError: An option has a value that it cannot have.
    """
    for old, new in _RENAMED.items():
        if options.get(old) is not None:
            raise ValueError(f"{old}={options[old]!r}: dask-jobqueue has renamed it; write {new}=…")
    for name in _WHOLE:
        if options.get(name) is not None:
            check_whole(name, options[name], 1)
    _check_memory(options)
    for name, example in _TEXTS.items():
        value = options.get(name)
        if not isinstance(value, int) or isinstance(value, bool):  # a number is taken like text
            check_text(name, value, example)
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{name}={value!r}: must not be empty; write a value such as {example!r}, or leave it out")
    if "\n" in (shebang := str(options.get("shebang") or "#!")) or not shebang.startswith("#!"):
        raise ValueError(f"shebang={shebang!r}: must be one line that begins with #!, such as '#!/bin/bash'")
    for name, example in _LISTS.items():
        check_texts(name, options.get(name), example)
    for name in ("log_directory", "local_directory"):
        if not isinstance(options.get(name), str | os.PathLike | None):
            raise TypeError(f"{name}={options[name]!r}: must be a path, such as '/scratch/me'")
    for name in ("nanny", "use_stdin"):
        if options.get(name) is not None:
            check_flag(name, options[name])
    if not isinstance(timeout := options.get("death_timeout"), str):
        check_number("death_timeout", 0 if timeout is None else timeout, "a number of seconds")
    _check_directives(system, options.get("job_extra_directives"))
    _check_scheduler(options.get("scheduler_options"))


def _check_memory(options: Mapping[str, Any]) -> None:
    parse_bytes = importlib.import_module("dask.utils").parse_bytes
    for name in ("memory", "disk"):
        check_memory(name, options.get(name))
        if options.get(name) is not None and parse_bytes(options[name]) < _MIB:
            raise ValueError(f"{name}={options[name]!r}: must be at least 1 MiB, as a worker needs much more")


def _check_directives(system: System, given: Any) -> None:
    if not isinstance(system.job_directives, Mapping):
        check_texts("job_extra_directives", given, "--gres=gpu:1")
    elif not isinstance(given, Mapping | None):
        problem = f"job_extra_directives={given!r}: must be a mapping for {system.name}"
        raise TypeError(f"{problem}, such as {{'requirements': '…'}}")


def _check_scheduler(given: Any) -> None:
    if given is not None and not _is_mapping(given):
        raise TypeError(f"scheduler_options={given!r}: must be a mapping, such as {{'port': 8786}}")
    options: Mapping[str, Any] = given or {}
    if (port := options.get("port")) is not None:
        check_whole("scheduler_options: port", port, 0)
        if port > 65535:
            raise ValueError(f"scheduler_options: port={port!r}: must be at most 65535")
    check_text("scheduler_options: host", options.get("host"), "192.168.0.1")


def _is_mapping(given: object) -> bool:
    return isinstance(given, Mapping)


def check_adaptive(given: Any, n_workers: int, processes: int) -> None:
    """Check `adaptive`.

    Args:
        given: Its value.
        n_workers: The maximum number of workers.
        processes: The number of workers of a job.

    Raises:
        TypeError: It is neither a flag nor a mapping, or an option is no whole number.
        ValueError: An option is unknown, or contradicts `n_workers`.
    """
    if isinstance(given, bool):
        return
    if not _is_mapping(given):
        raise TypeError(f"adaptive={given!r}: must be True, False or options of dask's Adaptive")
    for name, value in given.items():
        if name not in (*_ADAPTIVE, *_ADAPTIVE_MORE):
            near = most_similar(str(name), (*_ADAPTIVE, *_ADAPTIVE_MORE), 0.6)
            hint = f" (did you mean {near}?)" if near else ""
            raise ValueError(f"adaptive={dict(given)!r}: dask's Adaptive has no option {name}{hint}")
        if name in _ADAPTIVE:
            check_whole(f"adaptive: {name}", value, 0)
            workers = value * processes if name.endswith("_jobs") else value
            if workers > n_workers:
                remedy = f"write n_workers={workers}, or a smaller {name}"
                raise ValueError(f"adaptive: {name}={value!r}: more than n_workers={n_workers}; {remedy}")


def check_security(given: Any) -> None:
    """Raise TypeError if `security` is neither a flag nor a `distributed.Security`."""
    if not isinstance(given, bool) and not hasattr(given, "get_tls_config_for_role"):
        raise TypeError(f"security={given!r}: must be True, False or a distributed.Security")


def check_command_line(name: str, given: Any, example: str) -> None:
    """Check a command with its options.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, or a quote in it is not closed.
    """
    check_text(name, given, example)
    if given is None:
        return
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise ValueError(f"{name}={given!r}: {str(error).lower()}; quote it as for a shell") from error
    if not words:
        raise ValueError(f"{name}={given!r}: must not be empty; write a command such as {example!r}, or leave it out")


def check_folder(name: str, path: Path) -> None:
    """Create a folder, and check that files can be created in it.

    Raises:
        ValueError: That is not possible.
    """
    remedy = "choose a folder that you can write, and that the nodes can read"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = "a file has this name" if error.errno == errno.EEXIST else os.strerror(error.errno or 0)
        raise ValueError(f"{name}={str(path)!r}: this folder cannot be created ({words}); {remedy}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{name}={str(path)!r}: you cannot write this folder; {remedy}")


def check_host(options: Mapping[str, Any]) -> None:
    """Check that this machine has the interface and the address that workers should connect to.

    Args:
        options: The options, of which `interface` and `scheduler_options` say that.

    Raises:
        ValueError: It does not.
    """
    psutil: Any = importlib.import_module("psutil")  # a dependency of dask

    scheduler: Mapping[str, Any] = options.get("scheduler_options") or {}
    known = psutil.net_if_addrs()
    here = ", ".join(
        f"{name} ({one.address})" for name, all_ in known.items() for one in all_ if one.family == socket.AF_INET
    )
    for where, interface in (("", options.get("interface")), ("scheduler_options: ", scheduler.get("interface"))):
        if interface is not None and interface not in known:
            raise ValueError(f"{where}interface={interface!r}: this machine has no such interface, but {here}")
    if (host := scheduler.get("host")) and not _is_own(str(host)):
        remedy = "leave it out, or write an address that the nodes can reach"
        problem = f"scheduler_options: host={host!r}: is no address of this machine, which has {here}"
        raise ValueError(f"{problem}; {remedy}")


def _is_own(host: str) -> bool:
    """Whether a server can listen on this address, given by its name or its number."""
    host = host.rpartition("://")[2]
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
        except OSError:
            continue
    return False
