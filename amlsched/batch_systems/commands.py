"""Run the commands of batch systems: one way for arrays, jobs of workers and the doctor, with one timeout and error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.system import Places, Stage, System
from amlsched.errors import BatchSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "requeue",
    "call",
    "cancel",
    "check_command",
    "columns",
    "completed",
    "ended",
    "first_column",
    "largest",
    "output",
    "query",
    "run",
    "submit",
]

ANSWER_S = 60.0
"""Seconds that a command of a batch system may take."""
SUBMIT_S = 120.0
"""The same for the submission of an array: `sbatch` itself retries for long while the queue is full."""
_SHOWN = 2000
_AT_A_TIME = 500  # indices in one command, as the length of a command line is limited


def check_command(title: str, name: str) -> None:
    """Raise BatchSystemError if this machine does not have a command.

    Args:
        title: The name of the batch system in messages.
        name: The command.
    """
    if shutil.which(name) is None:
        remedy = f"run this on a login node of the cluster; is {title} its batch system?"
        raise BatchSystemError(title, name, "there is no such command here", remedy)


def completed(
    title: str,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    limit_s: float | None = None,
    text: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command until it exits, with whatever code.

    Args:
        title: The name of the batch system in messages.
        words: The command and its arguments.
        environment: Its variables; `None` for those of this process.
        limit_s: Its timeout; `None` for `ANSWER_S`.
        text: Its standard input.

    Raises:
        BatchSystemError: There is no such command here, it cannot be started, or it did not exit in time.
    """
    check_command(title, words[0])
    limit_s = ANSWER_S if limit_s is None else limit_s
    try:
        return subprocess.run(
            list(words),
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            env=environment,
            check=False,
            start_new_session=True,  # Ctrl-C does not interrupt it
        )
    except subprocess.TimeoutExpired:
        raise BatchSystemError(title, words[0], f"did not answer within {limit_s:g} s", "try again later") from None
    except OSError as error:
        raise BatchSystemError(title, words[0], f"cannot be started: {error.strerror}") from error


def run(
    system: System, words: Sequence[str], limit_s: float | None = None, text: str = "", *, lists_jobs: bool = False
) -> str:
    """The standard output of a command of a batch system.

    Args:
        system: The batch system.
        words: The command and its arguments.
        limit_s: As for `completed`.
        text: As for `completed`.
        lists_jobs: Whether it lists jobs. If the batch system has forgotten some of them, such a command may fail, but
            lists the others.

    Raises:
        BatchSystemError: As `completed`; or it failed, with its output.
    """
    done = completed(system.title, words, system.environment(), limit_s=limit_s, text=text)
    if done.returncode:
        output = re.sub(r"\n+", "\n", f"{done.stderr}\n{done.stdout}".strip())[:_SHOWN]
        if not (lists_jobs and system.forgotten.search(output)):
            raise BatchSystemError(system.title, words[0], output or f"exited with code {done.returncode}")
    return done.stdout


def output(*words: str) -> str:
    """The standard output of a command; empty if it fails in any way."""
    try:
        done = completed("", words)
    except BatchSystemError:
        return ""
    return "" if done.returncode else done.stdout


def columns(text: str, separator: str | None = None) -> list[list[str]]:
    """The cells of a table, row by row."""
    return [row for line in text.splitlines() if (row := [part.strip() for part in line.split(separator)])]


def first_column(*words: str, header: int = 0) -> dict[str, str]:
    """The names in the first column of a table that a command prints below lines of header, without descriptions."""
    return {row[0]: "" for row in columns(output(*words))[header:] if not row[0].startswith("-")}


async def call(
    system: System, words: Sequence[str], limit_s: float | None = None, text: str = "", *, lists_jobs: bool = False
) -> str:
    """As `run`, without blocking the event loop; a caller that is cancelled does not wait for the command."""
    loop = asyncio.get_running_loop()
    output: asyncio.Future[str] = loop.create_future()

    def deliver(method: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if output.done() else method(value))

    def work() -> None:
        try:
            deliver(output.set_result, run(system, words, limit_s, text, lists_jobs=lists_jobs))
        except Exception as error:
            deliver(output.set_exception, error)

    threading.Thread(target=work, name=f"amlsched-{words[0]}", daemon=True).start()
    return await output


def submit(system: System, script: Path) -> str:
    """Submit an array.

    Args:
        system: The batch system.
        script: The script, or the submit description, whichever `System.submit` takes.

    Returns:
        Its id.

    Raises:
        BatchSystemError: There is no such command here, or it rejected the array.
    """
    text = run(system, [*system.submit, str(script)], SUBMIT_S)
    found = list(system.submitted.finditer(text))
    if not found:
        raise BatchSystemError(system.title, system.submit[0], f"printed no job id, but {text.strip()[:_SHOWN]!r}")
    return found[-1][1]


def query(system: System, jobs: Sequence[str]) -> Places:
    """The elements of these arrays by the batch system's queue, without those that it has forgotten.

    Raises:
        BatchSystemError: The query failed.
    """
    return _asked(system, system.query(jobs), system.states, jobs) if jobs else {}


def ended(system: System, jobs: Sequence[str]) -> Places:
    """How elements ended that the queue has forgotten, if the batch system keeps accounting records."""
    if system.past is None or not jobs:
        return {}
    try:
        found = _asked(system, system.past(jobs), system.past_states, jobs)
    except BatchSystemError:  # not every site keeps records
        return {}
    return {place: element for place, element in found.items() if element.stage is Stage.ENDED}


def cancel(system: System, elements: Mapping[str, Iterable[int] | None]) -> None:
    """Cancel elements.

    Args:
        system: The batch system.
        elements: The indices in each array; `None` for the whole array.

    Raises:
        BatchSystemError: The command failed.
    """
    for job, wanted in elements.items():
        indices = sorted(wanted or ())
        asked = [system.cancel(job, indices[n : n + _AT_A_TIME]) for n in range(0, len(indices), _AT_A_TIME)]
        for words in [system.cancel_all(job)] if wanted is None else asked:
            try:
                run(system, words)
            except BatchSystemError as error:
                if not system.forgotten.search(error.words):  # they finished in the meantime
                    raise


def requeue(system: System) -> int:
    """Requeue the element that this process runs, so that it starts again after it has exited.

    Returns:
        The exit code that it has to exit with; 0 if any works.

    Raises:
        BatchSystemError: The batch system rejected that.
    """
    if system.requeue_command:
        run(system, [os.path.expandvars(word) for word in system.requeue_command])
    return system.requeue_code


def largest(system: System) -> int | None:
    """How many elements an array may have; `None` if unknown.

    Raises:
        BatchSystemError: The query failed.
    """
    return None if system.largest is None else system.largest_of(run(system, system.largest))


def _asked(system: System, words: Sequence[str], read: Callable[[str], Places], jobs: Sequence[str]) -> Places:
    try:
        found = read(run(system, words, lists_jobs=True))
    except (ValueError, KeyError, SyntaxError) as error:  # SyntaxError: of XML
        raise BatchSystemError(system.title, words[0], f"its output cannot be parsed: {error}") from error
    wanted = frozenset(jobs)
    return {place: element for place, element in found.items() if place[0] in wanted}
