"""dask-jobqueue's clusters, with commands and an environment of their own, and jobs that are kept up by us."""

from __future__ import annotations

import asyncio
import importlib
import re
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any

from amlsched.errors import BatchSystemError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from amlsched.batch_systems.queues import Queue

__all__ = ["call", "cluster_class", "dask_jobqueue", "job_class"]

QUOTED = ("job_name", "queue", "account", "project", "walltime")
"""Options whose values dask-jobqueue writes into directives as they are."""
ANSWER_S = 60.0
"""Seconds that a batch system may take for an answer."""
_SHOWN = 2000


def dask_jobqueue() -> Any:
    """The module, without the handler of Ctrl-C that it installs when imported, which would end a program silently.

    In a thread that is not the main one, the import would fail for this handler.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if "dask_jobqueue" in sys.modules:
        return sys.modules["dask_jobqueue"]
    module: Any = signal
    original = module.signal
    module.signal = _no_signal
    try:
        return importlib.import_module("dask_jobqueue")
    finally:
        module.signal = original


def _no_signal(*_: object) -> None:
    """In the place of `signal.signal`."""


async def call(title: str, words: Sequence[str], environment: Mapping[str, str], script: Path | None = None) -> str:
    """What a command says to its standard output.

    Args:
        title: The batch system.
        words: The command.
        environment: Its variables.
        script: A file for its standard input; `None` for none.

    Raises:
        BatchSystemError: It cannot be started, fails, or does not answer.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE if script else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C must not end it half-way
        )
    except OSError as error:
        raise BatchSystemError(title, words[0], f"cannot be started: {error.strerror}") from error
    try:
        said = await asyncio.wait_for(process.communicate(script.read_bytes() if script else None), ANSWER_S)
    except TimeoutError:
        process.kill()
        raise BatchSystemError(title, words[0], f"did not answer within {ANSWER_S:g} s") from None
    out, errors = (part.decode(errors="replace") for part in said)
    if process.returncode:
        told = "\n".join(part.strip() for part in (errors, out) if part.strip())
        raise BatchSystemError(title, words[0], told[:_SHOWN] or f"ended with exit code {process.returncode}")
    return out


class _OwnJob:
    """Mixed into dask-jobqueue's class of a job. Never raises when it is submitted: it says what went wrong.

    Attributes:
        commands: To submit and to cancel: of this cluster alone.
        error: Why it was not submitted.
    """

    queue: Queue
    commands: tuple[str, str]
    environment: Mapping[str, str]
    error: Exception | None = None

    def __init__(self: Any, *args: Any, security: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, security=None if security is None else _ForShell(security), **kwargs)  # type: ignore[call-arg]
        self.submit_command, self.cancel_command = self._own_commands()
        if self.queue.name == "htcondor":
            held = self.queue.syntax.value("log_directory", self.log_directory)
            self.job_header_dict = {**self.job_header_dict, "LogDirectory": held}
        else:
            self.job_header = self._quoted_header({str(kwargs[name]): name for name in QUOTED if name in kwargs})
        self.set_command(self._command_template, with_prologue=True)

    def set_command(self: Any, command: str, with_prologue: bool = False) -> None:
        """Have the job run this.

        Args:
            command: A command for its shell.
            with_prologue: Whether the lines before it are part of it already, where they stand in one line with it.
        """
        if self.queue.name == "htcondor" and not with_prologue:
            command = "; ".join([*self._job_script_prologue, command])
        self._command_template = self.queue.syntax.escape(command)

    def _quoted_header(self: Any, values: Mapping[str, str]) -> str:
        """The directives, with values quoted that dask-jobqueue writes as they are; the user's own are left alone."""
        lines: list[str] = []
        for line in self.job_header.splitlines():
            marker, option, value = [*line.split(" ", 2), "", ""][:3]
            given = line.removeprefix(f"{marker} ") in self.job_extra_directives
            lines.append(line if given else f"{marker} {option} {self._quoted(value, values)}".rstrip())
        return "\n".join(lines)

    def _quoted(self: Any, value: str, values: Mapping[str, str]) -> str:
        syntax, folder = self.queue.syntax, f"{self.log_directory}/"
        if value.startswith(folder):
            stem, dash, suffix = value.removeprefix(folder).rpartition("-%J")
            name = syntax.escape_path(re.sub(r"[/\\]", "_", stem))  # of a file
            return str(syntax.log("log_directory", self.log_directory, name + dash + suffix))
        return str(syntax.value(values[value], value)) if value in values else value

    def _own_commands(self: Any) -> tuple[str, str]:
        """Also HTCondor's, which takes those of dask-jobqueue's class, and adds the user's options."""
        ours, theirs = self.commands, (self.queue.submit, self.queue.cancel)
        set_by_it = (str(self.submit_command), str(self.cancel_command))
        submit, cancel = (
            mine + its.removeprefix(plain) for mine, its, plain in zip(ours, set_by_it, theirs, strict=True)
        )
        return submit.strip(), cancel.strip()

    async def start(self: Any) -> None:
        try:
            await super().start()  # type: ignore[misc]
        except Exception as error:  # it would be lost in the loop's log
            self.error = error
            self.status = importlib.import_module("distributed").Status.running

    async def _submit_job(self: Any, script_filename: str) -> Any:
        if getattr(self, "use_stdin", False):  # LSF; dask-jobqueue's own way hides what it says
            from pathlib import Path

            words = shlex.split(self.submit_command)
            return await call(self.queue.title, words, self.environment, Path(script_filename))
        return await super()._submit_job(script_filename)  # type: ignore[misc]

    async def close(self: Any) -> None:
        await super().close()  # type: ignore[misc]
        self.status = importlib.import_module("distributed").Status.closed


class _ForShell:
    """A `distributed.Security` whose files are named as the shell of a job wants them."""

    def __init__(self, security: Any) -> None:
        self._security = security

    def get_tls_config_for_role(self, role: str) -> dict[str, str]:
        found = self._security.get_tls_config_for_role(role)
        return {key: shlex.quote(value) for key, value in found.items() if value is not None}


class _OwnCluster:
    """Mixed into dask-jobqueue's class of a cluster."""

    def _update_worker_status(self: Any, op: str, msg: Any) -> None:
        """Only take note: what becomes of a job whose worker is gone is decided elsewhere."""
        importlib.import_module("distributed.deploy").Cluster._update_worker_status(self, op, msg)


def job_class(queue: Queue, submit: str, cancel: str) -> Any:
    """A class of jobs with these commands; dask-jobqueue's own is left as it is."""
    base: Any = getattr(dask_jobqueue(), queue.cluster).job_cls
    environment = queue.environment()

    async def own_call(words: Sequence[str], *, shell: bool = False, **_: Any) -> str:
        return await call(queue.title, ["/bin/sh", "-c", *words] if shell else words, environment)

    names = {
        "queue": queue,
        "commands": (submit, cancel),
        "submit_command": base.submit_command,
        "cancel_command": base.cancel_command,
        "environment": environment,
        "_call": staticmethod(own_call),
    }
    return type(base.__name__, (_OwnJob, base), names)


def cluster_class(queue: Queue, job: Any) -> Any:
    """A class of clusters with jobs of this class."""
    base: Any = getattr(dask_jobqueue(), queue.cluster)
    return type(base.__name__, (_OwnCluster, base), {"job_cls": job})
