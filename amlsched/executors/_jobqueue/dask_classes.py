"""Subclasses of dask-jobqueue's classes: with their own commands, and jobs that a `JobMonitor` replaces."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import re
import shlex
import signal
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.commands import call, find, in_thread, submit_words
from amlsched.errors import BatchSystemError, MaybeSubmittedError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from amlsched.batch_systems import System

__all__ = ["Submissions", "cluster_class", "dask_jobqueue", "job_class"]

logger = logging.getLogger("amlsched.jobs")

QUOTED = ("job_name", "queue", "account", "project", "walltime")
"""Options whose values dask-jobqueue writes into directives unchanged."""


def dask_jobqueue() -> Any:
    """Import the module without the handler of Ctrl-C that it installs, with which a program exits silently.

    In a thread other than the main one, the import would fail, as this handler cannot be installed there.

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
    """Replaces `signal.signal`."""


class Submissions:
    """The submissions of one cluster. Each has a mark, by which it is found in the queue if its answer is lost.

    Attributes:
        run: The beginning of all marks.
        stop: Ends the submissions that the batch system has not answered yet.
        unclear: The marks of those that it may have accepted, by the names of jobs.
        left: Ids of jobs that are no longer needed, and could not be cancelled.
    """

    def __init__(self) -> None:
        self.run = f"{uuid.uuid4().hex[:8]}-"
        self.stop = threading.Event()
        self.unclear: dict[str, list[str]] = {}
        self.left: set[str] = set()
        self._numbers = itertools.count()

    def mark(self) -> str:
        """The mark of the next submission."""
        return f"{self.run}{next(self._numbers):04d}"


class _OwnJob:
    """A mixin for dask-jobqueue's class of a job. Submitting it never raises: the error is an attribute.

    Attributes:
        commands: The commands that submit and cancel, for this cluster only.
        submissions: Those of this cluster.
        more_options: Of the command that submits, for all jobs from now on.
        error: Why it was not submitted; `None` if it was.
    """

    system: System
    commands: tuple[str, str]
    submissions: Submissions
    error: Exception | None = None
    more_options: Sequence[str] = ()

    def __init__(self: Any, *args: Any, security: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, security=None if security is None else _ForShell(security), **kwargs)  # type: ignore[call-arg]
        self.submit_command, self.cancel_command = self._own_commands()
        self.submit_command = shlex.join([*shlex.split(self.submit_command), *self.more_options])
        if self.system.name == "htcondor":
            held = self.system.syntax.value("log_directory", self.log_directory)
            name = self.system.syntax.value("job_name", self.job_name)
            ours = {"LogDirectory": held} | ({} if "batch_name" in self.job_extra_directives else {"batch_name": name})
            self.job_header_dict = {**self.job_header_dict, **ours}
        else:
            self.job_header = self._quoted_header({str(kwargs[name]): name for name in QUOTED if name in kwargs})
        # dask-jobqueue's own number of threads stands before ours, which counts.
        command = re.sub(r" --nthreads \d+(?=.* --nthreads )", "", self._command_template, count=1, flags=re.DOTALL)
        self.set_command(command, with_prologue=True)

    def set_prologue(self: Any, lines: Sequence[str]) -> None:
        """Set the lines that run before the command; a command that is set before lacks them."""
        self._job_script_prologue = list(lines)

    def set_command(self: Any, command: str, with_prologue: bool = False) -> None:
        """Set the command that the job runs.

        Args:
            command: A command for its shell.
            with_prologue: Whether it includes the prologue already, where that is joined to one line with it.
        """
        if self.system.name == "htcondor" and not with_prologue:
            command = "; ".join([*self._job_script_prologue, command])
        self._command_template = self.system.syntax.escape(command)

    def _quoted_header(self: Any, values: Mapping[str, str]) -> str:
        """The directives, with values quoted that dask-jobqueue does not quote; those of the user are unchanged."""
        lines: list[str] = []
        for line in self.job_header.splitlines():
            marker, option, value = [*line.split(" ", 2), "", ""][:3]
            given = line.removeprefix(f"{marker} ") in self.job_extra_directives
            lines.append(line if given else f"{marker} {option} {self._quoted(value, values)}".rstrip())
        return "\n".join(lines)

    def _quoted(self: Any, value: str, values: Mapping[str, str]) -> str:
        syntax, folder = self.system.syntax, f"{self.log_directory}/"
        if value.startswith(folder):
            stem, dash, suffix = value.removeprefix(folder).rpartition("-%J")
            name = syntax.escape_path(re.sub(r"[/\\]", "_", stem))  # of a file
            return str(syntax.log("log_directory", self.log_directory, name + dash + suffix))
        return str(syntax.value(values[value], value)) if value in values else value

    def _own_commands(self: Any) -> tuple[str, str]:
        """Our commands, with the user's options that dask-jobqueue adds to its own for HTCondor."""
        ours, theirs = self.commands, (self.__class__.submit_command, self.__class__.cancel_command)
        set_by_it = (str(self.submit_command), str(self.cancel_command))
        submit, cancel = (
            mine + its.removeprefix(plain) for mine, its, plain in zip(ours, set_by_it, theirs, strict=True)
        )
        return submit.strip(), cancel.strip()

    async def start(self: Any) -> None:
        try:
            await super().start()  # type: ignore[misc]
        except Exception as error:  # else it is only logged by the loop
            self.error = error
            self.status = importlib.import_module("distributed").Status.running

    @contextlib.contextmanager
    def job_file(self: Any) -> Generator[str]:
        """The script in a file whose name has the mark of the submission."""
        with tempfile.TemporaryDirectory(prefix="amlsched-") as folder:
            path = Path(folder, f"amlsched.{self.submissions.mark()}.sh")
            path.write_text(self.job_script(), encoding="utf-8")
            yield str(path)

    async def _submit_job(self: Any, script_filename: str) -> Any:
        """Submit the job and return its id."""
        mark = Path(script_filename).name.split(".")[1]
        if getattr(self, "use_stdin", False):  # LSF; dask-jobqueue discards its standard error
            words, text = shlex.split(self.submit_command), Path(script_filename).read_text(encoding="utf-8")
            return await self._submitted([*words, *self.system.marking(self.job_name, mark)], mark, text)

        async def own_call(words: Sequence[str]) -> Any:
            return await self._submitted([*words[:-1], *self.system.marking(self.job_name, mark), words[-1]], mark)

        self._call = own_call  # in place of the class's, for the command that dask-jobqueue makes
        return await super()._submit_job(script_filename)  # type: ignore[misc]

    async def _submitted(self: Any, words: Sequence[str], mark: str, text: str = "") -> str:
        submissions: Submissions = self.submissions
        system: System = self.system

        def submit() -> list[str]:
            for former in submissions.unclear.get(str(self.name), ()):  # it may have come by now
                with contextlib.suppress(BatchSystemError):
                    if jobs := find(system, former):
                        return jobs
            return submit_words(system, words, mark, logger.warning, text=text, stop=submissions.stop)

        marks = submissions.unclear.setdefault(str(self.name), [])
        try:
            jobs = await in_thread(submit, words[0])
        except MaybeSubmittedError:
            marks.append(mark)
            raise
        marks.clear()
        submissions.left.update(map(system.job_id, jobs[1:]))  # a site's command may submit twice
        return system.job_id(jobs[0])

    def _job_id_from_submit_output(self, out: str) -> str:
        return out

    async def close(self: Any) -> None:
        if self.job_id:
            try:
                await call(self.system, [*shlex.split(self.cancel_command), self.job_id])
            except BatchSystemError as error:
                if not self.system.forgotten.search(error.words):
                    self.submissions.left.add(self.job_id)
        self.status = importlib.import_module("distributed").Status.closed


class _ForShell:
    """A `distributed.Security` whose paths are quoted for the shell of a job."""

    def __init__(self, security: Any) -> None:
        self._security = security

    def get_tls_config_for_role(self, role: str) -> dict[str, str]:
        found = self._security.get_tls_config_for_role(role)
        return {key: shlex.quote(value) for key, value in found.items() if value is not None}


class _OwnCluster:
    """A mixin for dask-jobqueue's class of a cluster."""

    def _update_worker_status(self: Any, op: str, msg: Any) -> None:
        """Update the status only: the `JobMonitor` replaces a job whose worker left."""
        importlib.import_module("distributed.deploy").Cluster._update_worker_status(self, op, msg)


def job_class(system: System, submit: str, cancel: str, submissions: Submissions | None = None) -> Any:
    """A class of jobs with these commands; dask-jobqueue's own class is unchanged."""
    base: Any = getattr(dask_jobqueue(), system.dask_class).job_cls

    async def own_call(words: Sequence[str]) -> str:
        return await call(system, words)

    names = {
        "system": system,
        "commands": (submit, cancel),
        "submissions": submissions or Submissions(),
        "submit_command": base.submit_command,
        "cancel_command": base.cancel_command,
        "_call": staticmethod(own_call),
    }
    return type(base.__name__, (_OwnJob, base), names)


def cluster_class(system: System, job: Any) -> Any:
    """A subclass of dask-jobqueue's cluster class with jobs of this class."""
    base: Any = getattr(dask_jobqueue(), system.dask_class)
    return type(base.__name__, (_OwnCluster, base), {"job_cls": job})
