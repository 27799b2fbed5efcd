"""The description of a batch system, of an array of jobs, and scripts from a user's template.

An array is many jobs under one id: its elements, each with an index. Everything that differs between batch systems is
in a `System`; there is one for each.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import JobLostError, WorkerOutOfMemoryError
from amlsched.units import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from amlsched.errors import WorkerLostError

__all__ = [
    "ArrayJob",
    "Element",
    "JobEnd",
    "JobStates",
    "Kind",
    "Places",
    "Stage",
    "Syntax",
    "System",
    "filled",
    "ranges",
]


@dataclass(frozen=True, slots=True)
class ArrayJob:
    """An array to submit.

    Attributes:
        name: Its name in the queue.
        command: The command that an element runs; the index is appended as the last argument.
        count: Number of elements.
        folder: The working folder of the elements.
        logs: The folder for their logs: a file of standard output and one of standard error for each.
        at_once: How many may run at a time; `None` for no limit.
        partition: The partition or queue; `None` for the system's default.
        account: The account that is charged; `None` for the user's default.
        time_s: Time limit of an element; infinity for none, `None` for the system's default.
        memory_bytes: Memory for each CPU; `None` for the system's default.
        tasks: Processes that are allocated for an element.
        cpus: CPUs of each of these processes.
        requeue: Whether an element that the system stops early is started again.
        warn_s: How long before its time limit an element is sent a signal.
        options: Options of the submit command and their values; `None` or true for an option without a value.
        directives: More directives, as written in a script.
        lines: Shell lines that run before the command.
        after: Ids of arrays that have to finish before this one starts.
        mark: Text that no other submission has, by which the queue is searched for this one if the answer to its
            submission is lost. It is in the name of the script's file, or added to the name in the queue.
    """

    name: str
    command: tuple[str, ...]
    count: int
    folder: Path
    logs: Path
    at_once: int | None = None
    partition: str | None = None
    account: str | None = None
    time_s: float | None = None
    memory_bytes: int | None = None
    tasks: int = 1
    cpus: int = 1
    requeue: bool = True
    warn_s: int = 60
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    directives: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    mark: str = ""

    @property
    def clock(self) -> str:
        """The time limit in hours, minutes and seconds; empty for none or the system's default."""
        return "" if self.time_s is None or math.isinf(self.time_s) else clock(self.time_s)

    @property
    def slots(self) -> int:
        """All CPUs of an element."""
        return self.tasks * self.cpus

    def mebibytes(self, cpus: int = 1) -> int:
        """The memory of so many CPUs, rounded up to a MiB; 0 for the system's default."""
        return 0 if self.memory_bytes is None else max(1, -(-self.memory_bytes * cpus // 2**20))


class Stage(StrEnum):
    """The state of an element."""

    PENDING = "pending"
    RUNNING = "running"
    STUCK = "stuck"
    """Held: it does not start unless a user or an administrator intervenes."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Element:
    """An element as a batch system reports it.

    Attributes:
        stage: Its state.
        reason: Why it is pending or held, or how it ended, in the system's words; empty if there is no reason.
        host: The host it runs on; empty if unknown.
    """

    stage: Stage
    reason: str = ""
    host: str = ""


Places = dict[tuple[str, int], Element]
"""Elements, by the id of their array and their index."""
JobStates = dict[str, Element]
"""Jobs, by their ids, without those that the batch system has forgotten."""


def _in_double_quotes(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./~-]+", text) else '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a batch system parses the values of its directives, and which values it does not support.

    Attributes:
        title: Name of the batch system in messages.
        quote: Quotes a value as one word.
        rejected: Characters that are not supported in any value, even if quoted.
        rejected_at_end: Characters that are not supported as the last one of a value.
        escape: Escapes text, so that the batch system takes each character literally; it is quoted after that.
        escape_path: Additionally escapes the path of log files.
        rejected_in_paths: Characters that are not supported in such a path.
        names: Matches the valid names of a job.
        names_rule: The rule for these names, in words.
        directive: Converts a directive of the user.
    """

    title: str = "the batch system"
    quote: Callable[[str], str] = _in_double_quotes
    rejected: str = ""
    rejected_at_end: str = ""
    escape: Callable[[str], str] = str
    escape_path: Callable[[str], str] = str
    rejected_in_paths: str = ""
    names: re.Pattern[str] = re.compile(".+", re.DOTALL)
    names_rule: str = "text that is not empty"
    directive: Callable[[str], str] = str

    def value(self, argument: str, value: object) -> str:
        """A value, quoted if necessary.

        Args:
            argument: The argument that sets it, for messages.
            value: The value.

        Raises:
            ValueError: The batch system does not support it.
        """
        return self.quote(self.escape(self._holds(argument, str(value), self.rejected)))

    def log(self, argument: str, folder: object, file: str) -> str:
        """The path of log files, quoted if necessary.

        Args:
            argument: The argument that sets the folder, for messages.
            folder: The folder.
            file: The rest of the path, in which symbols of the batch system are expanded.

        Raises:
            ValueError: The batch system does not support the path of the folder.
        """
        held = self._holds(argument, str(folder), self.rejected + self.rejected_in_paths)
        return self.quote(f"{self.escape_path(self.escape(held))}/{file}")

    def name(self, argument: str, name: object) -> str:
        """The name of a job, unquoted.

        Raises:
            ValueError: The batch system does not accept this name.
        """
        text = self._holds(argument, str(name), "")
        if not self.names.fullmatch(text):
            remedy = f"write {argument}={self.fitting_name(text)!r}"
            raise ValueError(
                f"{argument}={text!r}: {self.title} takes {self.names_rule} as the name of a job; {remedy}"
            )
        return text

    def fitting_name(self, text: str) -> str:
        """The closest valid name of a job."""
        if self.names.fullmatch(text) and not _LINES.search(text):
            return text
        plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", text) or "amlsched"
        plain = plain if self.names.match(plain) else f"j{plain}"
        found = self.names.match(plain)
        return found[0] if found else "amlsched"

    def marked_name(self, argument: str, name: object, mark: str) -> str:
        """The name of a job followed by a mark, unquoted; shortened if that is too long.

        Raises:
            ValueError: The batch system does not accept this name.
        """
        text = self.name(argument, name)
        while mark and text and not self.names.fullmatch(f"{text}.{mark}"):
            text = text[:-1]
        return f"{text}.{mark}" if mark else text

    def lines(self, argument: str, directives: Iterable[str]) -> list[str]:
        """The user's own directives, which are written to the script unchanged.

        Raises:
            ValueError: One of them has more than one line.
        """
        return [self.directive(self._holds(argument, one, "")) for one in directives]

    def _holds(self, argument: str, text: str, rejected: str) -> str:
        if _LINES.search(text):
            raise ValueError(f"{argument}={text!r}: a directive of {self.title} is one line; leave out the line break")
        found = sorted({character for character in text if character in rejected})
        if found:
            remedy = f"{self.title} cannot hold {' '.join(found)} here; choose another name or folder without it"
            raise ValueError(f"{argument}={text!r}: {remedy}")
        if text.endswith(tuple(self.rejected_at_end)):
            remedy = f"{self.title} cannot hold {text[-1]} at the end of a value; choose another name or folder"
            raise ValueError(f"{argument}={text!r}: {remedy}")
        return text


_LINES = re.compile(r"[\n\r\0]")


Kind = type[JobLostError] | type[WorkerOutOfMemoryError]


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job.

    Attributes:
        kind: The type of error of a call that was lost with it.
        state: Final state in the batch system's terms, such as `NODE_FAIL`.
        reason: Further details, if any.
    """

    kind: Kind
    state: str
    reason: str = ""

    def error(self, call: str, system: str, job: str, host: str | None = None) -> WorkerLostError:
        """The exception of a call that was lost with the job.

        Args:
            call: Name of the call.
            system: Name of the batch system.
            job: Id of the job.
            host: Host of the worker, if known.
        """
        if issubclass(self.kind, WorkerOutOfMemoryError):
            words = f"{self.state}: {self.reason}" if self.reason else self.state
            return WorkerOutOfMemoryError(call, f"{system} job {job}: {words}", host=host)
        return self.kind(call, job, self.state, self.reason, host)


_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A batch system: its commands, how it reads directives, and what its output means.

    Attributes:
        name: Its name in a config, and of the executor whose workers run in its jobs.
        title: Its name in messages.
        syntax: How it reads the values of directives.
        submit: The command that submits a script, or a submit description.
        cancel_all: The command that cancels a job or a whole array.
        forgotten: Matches an error message: there is no such job any more.
        inside: The variable with the id of the job that a process is part of.
        inherited: Prefixes of variables that a job sets; they would change the jobs that it submits.
        kept: Variables with these prefixes that are settings of the site.

        index: Arrays: the index of an element, in its shell.
        first: The index of the first element.
        directives: The directives of an array.
        marker: The prefix of a directive in a script; empty if directives stand in a submit description.
        submitted: Matches the output of `submit`; group 1 is the id of the job or array.
        unclear: Matches an error message of `submit` after which the array may have been accepted nevertheless.
        find: The command that lists the user's jobs, or those with a mark; see `ArrayJob`. Empty if the queue shows
            no marks.
        found: Parses its output, given the mark or its beginning: the ids of the jobs and arrays with this mark.
        own_array: The id of the array that a process is part of, by its environment variables; empty if unknown.
        query: The command that lists all elements of arrays.
        states: Parses its output.
        preempted: Matches how an element ended that was preempted and is not requeued by the batch system.
        cancel: The command that cancels elements of an array.
        too_many: Matches an error message: an array has too many elements, or the user too many jobs.
        past: The command that shows how elements ended that the queue has forgotten; `None` if there is none.
        past_states: Parses its output.
        largest: The command that shows how many elements an array may have; `None` if there is none.
        largest_of: Parses its output.
        logs: Names of the files with standard output and standard error of an element.
        own_logs: The id of the array in an element's shell, if the script has to open these files itself; else empty.
        requeue_command: The command with which an element requeues itself; empty if there is none.
        requeue_code: The exit code with which it does; 0 if there is none.

        dask_class: Workers: dask-jobqueue's class of a cluster; empty if it has none.
        seconds: Reads a walltime: infinity for no limit, `None` if the batch system does not accept it. It is `None`
            itself if jobs have no walltime.
        walltimes: What it reads, in words.
        marking: Options of `submit`, for the name and the mark of a job, with which the queue shows the mark, if it
            does not show the file name of the script.
        job_id: The id of a job, made of that of an array.
        job_query: The command that lists these jobs.
        job_states: Parses its output.
        job_directives: The directives that pass the environment on, if the system does not do that by default; and
            that keep a job from being requeued, as it is replaced, and how it ended would be lost.
        starts_at_home: Whether a job starts in the user's home instead of the folder in which it was submitted.
        leave_out: Options of `submit` with which a job does not run on these hosts, nor on those that the user's
            directives leave out; none if there are no such options.
        end_listed: How a job ended, by the queue; `None` if the queue does not say. Of a running job: how it is being
            stopped.
        end_query: The command that shows the accounting records of a job; `None` if there is none.
        end_recorded: Parses its output; `None` if the end is not recorded yet.
        not_recorded: Matches an error message of that command: the job is not recorded yet.

        needed: Doctor: the commands that have to exist, besides those that submit and cancel.
        version: The command that prints the version.
        quiet: Options of `submit` with which a job writes no log files.
        queues: The queues, each with a description; `None` if there are none.
        accounts: The accounts that this user may charge; `None` if there is no list.
        limits: Limits on jobs, by their names.
        preemption: What happens to jobs in a queue (`None` for the default one) that are preempted; empty if unknown.
    """

    name: str
    title: str
    syntax: Syntax = Syntax()
    submit: tuple[str, ...]
    cancel_all: Callable[[str], Sequence[str]]
    forgotten: re.Pattern[str] = _NEVER
    inside: str = ""
    inherited: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    index: str = ""
    first: int = 0
    directives: Callable[[ArrayJob], Iterable[str]] = lambda job: ()
    marker: str = ""
    submitted: re.Pattern[str] = _NEVER
    unclear: re.Pattern[str] = re.compile(
        r"timed? ?out|time-out|connect|communicat|contact|not responding|try again|did not answer|socket|lost",
        re.IGNORECASE,
    )
    find: Callable[[str], Sequence[str]] = lambda mark: ()
    found: Callable[[str, str], Iterable[str]] = lambda text, mark: ()
    own_array: Callable[[Mapping[str, str]], str] = lambda variables: ""
    query: Callable[[Sequence[str]], Sequence[str]] = tuple
    states: Callable[[str], Places] = lambda text: {}
    preempted: re.Pattern[str] = _NEVER
    cancel: Callable[[str, Sequence[int]], Sequence[str]] = lambda job, indices: ()
    too_many: re.Pattern[str] = _NEVER
    past: Callable[[Sequence[str]], Sequence[str]] | None = None
    past_states: Callable[[str], Places] = lambda text: {}
    largest: tuple[str, ...] | None = None
    largest_of: Callable[[str], int | None] = lambda text: None
    logs: tuple[str, str] = ("out_{job}_{index}.log", "err_{job}_{index}.log")
    own_logs: str = ""
    requeue_command: tuple[str, ...] = ()
    requeue_code: int = 0

    dask_class: str = ""
    seconds: Callable[[str], float | None] | None = None
    walltimes: str = ""
    marking: Callable[[str, str], Sequence[str]] = lambda name, mark: ()
    job_id: Callable[[str], str] = str
    job_query: Callable[[Sequence[str]], Sequence[str]] = tuple
    job_states: Callable[[str], JobStates] = lambda text: {}
    job_directives: Sequence[str] | Mapping[str, str] = ()
    starts_at_home: bool = False
    leave_out: Callable[[Sequence[str], Sequence[str]], Sequence[str]] = lambda hosts, directives: ()
    end_listed: Callable[[Element], JobEnd | None] = lambda element: None
    end_query: Callable[[str], Sequence[str]] | None = None
    end_recorded: Callable[[str], JobEnd | None] = lambda text: None
    not_recorded: re.Pattern[str] = _NEVER

    needed: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ("-o /dev/null", "-e /dev/null")
    queues: Callable[[], dict[str, str]] | None = None
    accounts: Callable[[], list[str] | None] = lambda: None
    limits: Callable[[], dict[str, str]] = dict
    preemption: Callable[[str | None], str] = lambda queue: ""

    def __str__(self) -> str:
        return self.title

    @property
    def cancel_command(self) -> str:
        """The name of the command that cancels jobs."""
        return self.cancel_all("")[0]

    def log(self, folder: Path, job: str, index: int) -> tuple[Path, Path]:
        """The files with standard output and standard error of an element."""
        out, err = (folder / name.format(job=job, index=index) for name in self.logs)
        return out, err

    def script(self, job: ArrayJob) -> str:
        """The script of an array's elements.

        Raises:
            ValueError: The batch system does not support the value of a directive.
        """
        directives, body = self.parts(job)
        return "\n".join(["#!/bin/bash", *directives, "", *body, ""])

    def parts(self, job: ArrayJob) -> tuple[list[str], list[str]]:
        """The lines of a script: the directives, and the body, with the element's command last."""
        directives = [f"{self.marker} {line}" for line in job_lines(self, job)] if self.marker else []
        body = [f"cd {shlex.quote(str(job.folder))} || exit", *job.lines]
        if job.time_s and job.clock:
            body.insert(0, f"export AMLSCHED_END_TIME=$(($(date +%s) + {int(job.time_s)}))")
        if self.own_logs:
            names = [name.format(job=self.own_logs, index=self.index) for name in self.logs]
            out, err = (f'{shlex.quote(str(job.logs))}/"{name}"' for name in names)
            body.insert(0, f"exec >>{out} 2>>{err}")
        words = " ".join(map(shlex.quote, job.command))
        return directives, [*body, f'exec {words} "{self.index}"']

    def description(self, job: ArrayJob, script: Path) -> str:
        """The submit description of an array; empty if its directives are in the script."""
        if self.marker:
            return ""
        executable = f"executable = {self.syntax.value('the script', script)}"
        return "\n".join([executable, *job_lines(self, job), f"queue {job.count}", ""])

    def environment(self) -> dict[str, str]:
        """The environment variables of this process that a submitted job may inherit."""
        if self.own_job is None:
            return dict(os.environ)
        dropped = (*self.inherited, "PMI_", "PMIX_", "PMI2_")
        return {key: value for key, value in os.environ.items() if key in self.kept or not key.startswith(dropped)}

    @property
    def own_job(self) -> str | None:
        """The id of the job of this system that this process is part of; `None` outside of a job."""
        return os.environ.get(self.inside) if self.inside else None


def job_lines(system: System, job: ArrayJob) -> list[str]:
    """The directives of an array.

    Raises:
        ValueError: The batch system does not support the value of one of them.
    """
    return [*system.directives(job), *system.syntax.lines("directives", job.directives)]


def ranges(indices: Iterable[int]) -> list[str]:
    """`["0-2", "5"]` for 0, 1, 2, 5."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return [str(low) if low == high else f"{low}-{high}" for low, high in spans]


_COMMAND = "%%python_script%%"
_TEXTS = ("partition", "account", "job-name", "experiment_execution_dir", "slurm_log")
"""Placeholders whose values may have to be quoted."""
_ADDED = ("--open-mode", "--requeue", "--no-requeue", "--signal", "--dependency")
"""Options that templates of cw2 lack and elements rely on."""


def filled(template: str, system: System, job: ArrayJob) -> str:
    """The script of an array, made from a template.

    Args:
        template: The template: `%%partition%%`, `%%time%%` and so on are replaced by the values of the config, and
            the line with `%%python_script%%` by the command of an element.
        system: The batch system.
        job: The array.

    Raises:
        ValueError: There is no line for the command, a placeholder is unknown, or the batch system does not support a
            value.
    """
    directives, body = system.parts(job)
    values: dict[str, object] = {
        "last_job_idx": job.count - 1,
        "num_parallel_jobs": job.at_once or job.count,
        "partition": job.partition or "",
        "account": job.account or "",
        "job-name": job.name,
        "experiment_execution_dir": job.folder,
        "slurm_log": job.logs,
        "ntasks": job.tasks,
        "cpus-per-task": job.cpus,
        "time": job.clock or "UNLIMITED",
        "sbatch_args": "\n".join(line for line in directives if _option(line) in {*job.options, "mem-per-cpu"}),
        "venv": "",  # its activation is in `sh_lines`
        "pythonpath": "",
        "sh_lines": "\n".join(body[:-1]),
    }
    text = template
    for name, value in values.items():
        text, *rest = text.split(f"%%{name}%%")
        for part in rest:
            line = text.rpartition("\n")[2]
            text += (_written(line, system, name, str(value)) if name in _TEXTS and value else str(value)) + part
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if _COMMAND in line and not line.lstrip().startswith("#")]
    if not places:
        raise ValueError(f"the template has no line with {_COMMAND}")
    lines[places[-1]] = body[-1]
    if unknown := re.search(r"%%[\w-]+%%", "\n".join(line for line in lines if not line.startswith("# "))):
        raise ValueError(f"the template has an unknown placeholder: {unknown[0]}")
    added = [line for line in directives if line.startswith(tuple(f"{system.marker} {name}" for name in _ADDED))]
    return "\n".join([*lines[:1], *added, *lines[1:], ""])


def _written(line: str, system: System, name: str, text: str) -> str:
    """The value of a placeholder, quoted as required by the line before it."""
    inside = next((quote for quote in "\"'" if line.count(quote) % 2), "")
    if line.startswith(system.marker):
        path = system.syntax.escape_path(text) if name == "slurm_log" else text
        word = system.syntax.value(name, path)  # raises if the value is not supported
        return re.sub(r"""(["'\\])""", r"\\\1", path) if inside else word
    if inside == '"':
        return re.sub(r'(["\\$`])', r"\\\1", text)
    return text.replace("'", "'\"'\"'") if inside else shlex.quote(text)


def _option(line: str) -> str:
    """The name of the option in a directive: `gres` in `#SBATCH --gres=gpu:1`."""
    found = re.search(r" --([\w-]+)", line)
    return found[1] if found else ""
