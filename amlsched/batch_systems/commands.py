"""Run the commands of batch systems: one way for arrays, jobs of workers and the doctor, with one timeout and error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from amlsched.batch_systems.system import Places, System
from amlsched.errors import BatchSystemError, MaybeSubmittedError

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
    "find",
    "first_column",
    "how_to_find",
    "largest",
    "output",
    "query",
    "recorded",
    "run",
    "submit",
]

ANSWER_S = 60.0
"""Seconds that a command of a batch system may take."""
SUBMIT_S = 300.0
"""The same for the submission of an array: `sbatch` itself retries for two minutes while the queue is full."""
_SLOW_S = 10.0
"""After so many seconds without an answer to a submission, the user is notified."""
_LOOK_AFTER_S = (0.0, 2.0, 5.0)
"""Pauses before the queue is searched for an array whose submission failed: it may enter the queue late."""
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
    slow: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command until it exits, with whatever code.

    Args:
        title: The name of the batch system in messages.
        words: The command and its arguments.
        environment: Its variables; `None` for those of this process.
        limit_s: Its timeout; `None` for `ANSWER_S`.
        text: Its standard input.
        slow: Called once if it has not exited after ten seconds.

    Raises:
        BatchSystemError: There is no such command here, it cannot be started, or it did not exit in time.
    """
    check_command(title, words[0])
    limit_s = ANSWER_S if limit_s is None else limit_s
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C does not interrupt it
        )
    except OSError as error:
        raise BatchSystemError(title, words[0], f"cannot be started: {error.strerror}") from error
    with process:
        try:
            out, err = _communicated(process, text, limit_s, slow)
        except subprocess.TimeoutExpired as error:
            _kill_group(process)
            printed = "\n".join(filter(None, (_decoded(error.stderr), _decoded(error.output))))[-_SHOWN:]
            problem = f"did not answer within {limit_s:g} s" + (f", but printed: {printed}" if printed else "")
            raise BatchSystemError(title, words[0], problem, "try again later") from None
        except BaseException:
            _kill_group(process)
            raise
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)


def _communicated(
    process: subprocess.Popen[str], text: str, limit_s: float, slow: Callable[[], None] | None
) -> tuple[str, str]:
    if slow is not None and limit_s > _SLOW_S:
        try:
            return process.communicate(text, timeout=_SLOW_S)
        except subprocess.TimeoutExpired:
            slow()
        return process.communicate(timeout=limit_s - _SLOW_S)
    return process.communicate(text, timeout=limit_s)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a command with its children, which would hold its pipes open, and might still do what it was to do."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _decoded(output: str | bytes | None) -> str:
    return (output.decode(errors="replace") if isinstance(output, bytes) else output or "").strip()


def run(
    system: System,
    words: Sequence[str],
    limit_s: float | None = None,
    text: str = "",
    *,
    lists_jobs: bool = False,
    slow: Callable[[], None] | None = None,
) -> str:
    """The standard output of a command of a batch system.

    Args:
        system: The batch system.
        words: The command and its arguments.
        limit_s: As for `completed`.
        text: As for `completed`.
        lists_jobs: Whether it lists jobs. If the batch system has forgotten some of them, such a command may fail, but
            lists the others.
        slow: As for `completed`.

    Raises:
        BatchSystemError: As `completed`; or it failed, with its output.
    """
    done = completed(system.title, words, system.environment(), limit_s=limit_s, text=text, slow=slow)
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


def submit(system: System, script: Path, mark: str, notify: Callable[[str], None] = lambda text: None) -> list[str]:
    """Submit an array. If the answer is lost, the queue is searched for it.

    Args:
        system: The batch system.
        script: The script, or the submit description, whichever `System.submit` takes.
        mark: The mark of the array; see `ArrayJob`.
        notify: Called with text for the user: the command is slow, or failed although the array is in the queue.

    Returns:
        Its id; more than one if something between this command and the batch system submitted it again.

    Raises:
        MaybeSubmittedError: There was no answer, or one that cannot be read, and no such array is in the queue, or the
            queue cannot be queried. It may still have been accepted.
        BatchSystemError: There is no such command here, or it rejected the array.
    """
    command = system.submit[0]
    check_command(system.title, command)

    def slow() -> None:
        notify(f"{command} has not answered for {_SLOW_S:g} s; some wait by themselves while the queue is full")

    begun = time.monotonic()
    try:
        text = run(system, [*system.submit, str(script)], SUBMIT_S, slow=slow)
    except BatchSystemError as error:
        problem = error
        unclear = time.monotonic() - begun >= SUBMIT_S or system.unclear.search(error.words) is not None
    else:
        if found := list(system.submitted.finditer(text)):
            return [found[-1][1]]
        problem = BatchSystemError(system.title, command, f"printed no job id, but {text.strip()[:_SHOWN]!r}")
        unclear = True
    jobs: list[str] = []
    try:
        for pause_s in _LOOK_AFTER_S if unclear else _LOOK_AFTER_S[:1]:
            time.sleep(pause_s)
            if jobs := find(system, mark):
                break
    except BatchSystemError as error:
        raise MaybeSubmittedError(
            system.title,
            command,
            f"{problem.words}\nThe array may have been accepted: {error}",
            how_to_find(system, mark),
        ) from error
    if jobs:
        notify(f"{problem}\nBut the array is in the queue: {jobs[0]}")
        return jobs
    if unclear and not system.too_many.search(problem.words):
        words = f"{problem.words}\nThe array may have been accepted, but is not in the queue so far"
        raise MaybeSubmittedError(system.title, command, words, how_to_find(system, mark))
    raise problem


def find(system: System, mark: str) -> list[str]:
    """The ids of the arrays in the queue with this mark.

    Raises:
        BatchSystemError: The queue cannot be queried, or its description does not say how to search it.
    """
    words = system.find(mark)
    if not words:
        raise BatchSystemError(system.title, system.submit[0], "the queue cannot be searched for it")
    text = run(system, words)
    try:
        return list(dict.fromkeys(system.found(text, mark)))
    except (ValueError, KeyError, SyntaxError) as error:  # SyntaxError: of XML
        raise BatchSystemError(system.title, words[0], f"its output cannot be parsed: {error}") from error


def how_to_find(system: System, mark: str) -> str:
    """How a user finds an array by its mark."""
    words = system.find(mark)
    return f"look with: {shlex.join(words)} | grep {mark}" if words else f"look for {mark} in the queue"


def query(system: System, jobs: Sequence[str]) -> Places:
    """The elements of these arrays by the batch system's queue, without those that it has forgotten.

    Raises:
        BatchSystemError: The query failed.
    """
    return _asked(system, system.query(jobs), system.states, jobs) if jobs else {}


def recorded(system: System, jobs: Sequence[str]) -> Places | None:
    """The elements by the batch system's accounting records; `None` if it keeps none, or they cannot be queried."""
    if system.past is None or not jobs:
        return None
    try:
        return _asked(system, system.past(jobs), system.past_states, jobs)
    except BatchSystemError:  # not every site keeps records
        return None


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
