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
from typing import TYPE_CHECKING, Any, TypeVar

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
    "in_thread",
    "largest",
    "output",
    "query",
    "recorded",
    "run",
    "submit",
    "submit_words",
]

T = TypeVar("T")

ANSWER_S = 60.0
"""Seconds that a command of a batch system may take."""
SUBMIT_S = 300.0
"""The same for the submission of an array: `sbatch` itself retries for two minutes while the queue is full."""
_SLOW_S = 10.0
"""After so many seconds without an answer to a submission, the user is notified."""
_STOP_S = 0.2
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
    stop: threading.Event | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command until it exits, with whatever code.

    Args:
        title: The name of the batch system in messages.
        words: The command and its arguments.
        environment: Its variables; `None` for those of this process.
        limit_s: Its timeout; `None` for `ANSWER_S`.
        text: Its standard input.
        slow: Called once if it has not exited after ten seconds.
        stop: Once it is set, the command is killed.

    Raises:
        BatchSystemError: There is no such command here, it cannot be started, it did not exit in time, or it was
            stopped.
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
            out, err = _communicated(process, text, limit_s, slow, stop)
        except subprocess.TimeoutExpired as error:
            _kill_group(process)
            printed = "\n".join(filter(None, (_decoded(error.stderr), _decoded(error.output))))[-_SHOWN:]
            how = f"did not answer within {limit_s:g} s" if stop is None or not stop.is_set() else "was stopped"
            problem = how + (f", but printed: {printed}" if printed else "")
            raise BatchSystemError(title, words[0], problem, "try again later") from None
        except BaseException:
            _kill_group(process)
            raise
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)


def _communicated(
    process: subprocess.Popen[str],
    text: str,
    limit_s: float,
    slow: Callable[[], None] | None,
    stop: threading.Event | None,
) -> tuple[str, str]:
    begun = time.monotonic()
    given: str | None = text
    while True:
        left = limit_s - (time.monotonic() - begun)
        wait_s = min(left, _STOP_S if stop is not None else _SLOW_S if slow is not None else left)
        try:
            return process.communicate(given, timeout=max(0.0, wait_s))
        except subprocess.TimeoutExpired:
            given = None  # it has been written, or will be
            if wait_s >= left or (stop is not None and stop.is_set()):
                raise
        if slow is not None and time.monotonic() - begun >= _SLOW_S:
            slow()
            slow = None


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
    stop: threading.Event | None = None,
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
        stop: As for `completed`.

    Raises:
        BatchSystemError: As `completed`; or it failed, with its output.
    """
    done = completed(system.title, words, system.environment(), limit_s=limit_s, text=text, slow=slow, stop=stop)
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
    """As `run`, without blocking the event loop; if the caller is cancelled, the command is killed."""
    stop = threading.Event()
    return await in_thread(lambda: run(system, words, limit_s, text, lists_jobs=lists_jobs, stop=stop), words[0], stop)


async def in_thread(work: Callable[[], T], name: str, stop: threading.Event | None = None) -> T:
    """What a function returns or raises in a daemon thread.

    Args:
        work: The function.
        name: Of the thread.
        stop: Is set if the caller is cancelled, who does not wait for the function.
    """
    loop = asyncio.get_running_loop()
    output: asyncio.Future[T] = loop.create_future()

    def deliver(method: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if output.done() else method(value))

    def target() -> None:
        try:
            deliver(output.set_result, work())
        except Exception as error:
            deliver(output.set_exception, error)

    threading.Thread(target=target, name=f"amlsched-{name}", daemon=True).start()
    try:
        return await output
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        raise


def submit(system: System, script: Path, mark: str, notify: Callable[[str], None] = lambda text: None) -> list[str]:
    """Submit an array. If the answer is lost, the queue is searched for it.

    Args:
        system: The batch system.
        script: The script, or the submit description, whichever `System.submit` takes.
        mark: The mark of the array; see `ArrayJob`.
        notify: As for `submit_words`.

    Returns:
        As `submit_words`.

    Raises:
        MaybeSubmittedError: As `submit_words`.
        BatchSystemError: There is no such command here, or it rejected the array.
    """
    jobs = submit_words(system, [*system.submit, str(script)], mark, notify, what="array")
    with contextlib.suppress(BatchSystemError):  # a site's wrapper of the command may try twice
        jobs += (job for job in find(system, mark) if job not in jobs)
    return jobs


def submit_words(
    system: System,
    words: Sequence[str],
    mark: str,
    notify: Callable[[str], None] = lambda text: None,
    *,
    what: str = "job",
    text: str = "",
    stop: threading.Event | None = None,
) -> list[str]:
    """Submit a job or an array by a command. If the answer is lost, the queue is searched for it.

    Args:
        system: The batch system.
        words: The command.
        mark: The mark by which the queue is searched; see `ArrayJob`.
        notify: Called with text for the user: the command is slow, or failed although the job is in the queue.
        what: What it is, in messages.
        text: Its standard input.
        stop: Once it is set, the command is killed, and the queue is searched once.

    Returns:
        Its id; more than one if something between this command and the batch system submitted it again.

    Raises:
        MaybeSubmittedError: There was no answer, or one that cannot be read, and no such job is in the queue, or the
            queue cannot be queried. It may still have been accepted.
        BatchSystemError: There is no such command here, or it rejected the job.
    """
    command = words[0]
    check_command(system.title, command)

    def slow() -> None:
        notify(f"{command} has not answered for {_SLOW_S:g} s; some wait by themselves while the queue is full")

    begun = time.monotonic()
    try:
        answer = run(system, words, SUBMIT_S, text, slow=slow, stop=stop)
    except BatchSystemError as error:
        problem = error
        unclear = time.monotonic() - begun >= SUBMIT_S or system.unclear.search(error.words) is not None
        unclear = unclear or (stop is not None and stop.is_set())
    else:
        if found := list(system.submitted.finditer(answer)):
            return [found[-1][1]]
        problem = BatchSystemError(system.title, command, f"printed no job id, but {answer.strip()[:_SHOWN]!r}")
        unclear = True
    if not (unclear or system.find("")):
        raise problem
    try:
        jobs = _searched(system, mark, unclear, stop)
    except BatchSystemError as error:
        lines = f"{problem.words}\nThe {what} may have been accepted: {error}"
        raise MaybeSubmittedError(system.title, command, lines, how_to_find(system, mark)) from error
    if jobs:
        notify(f"{problem}\nBut the {what} is in the queue: {jobs[0]}")
        return jobs
    if unclear and not system.too_many.search(problem.words):
        lines = f"{problem.words}\nThe {what} may have been accepted, but is not in the queue so far"
        raise MaybeSubmittedError(system.title, command, lines, how_to_find(system, mark))
    raise problem


def _searched(system: System, mark: str, unclear: bool, stop: threading.Event | None) -> list[str]:
    """The jobs with this mark after a submission that had a problem; for a while, if it may have been accepted."""
    jobs: list[str] = []
    for pause_s in _LOOK_AFTER_S if unclear else _LOOK_AFTER_S[:1]:
        if stop is None:
            time.sleep(pause_s)
        else:
            stop.wait(pause_s)
        jobs = find(system, mark)
        if jobs or (stop is not None and stop.is_set()):
            break
    return jobs


def find(system: System, mark: str) -> list[str]:
    """The ids of the jobs and arrays in the queue with this mark.

    Raises:
        BatchSystemError: The queue cannot be queried, or its description does not say how to search it.
    """
    words = system.find(mark) if mark else ()
    if not words:
        raise BatchSystemError(system.title, system.submit[0], "the queue cannot be searched for it")
    text = run(system, words, lists_jobs=True)
    try:
        return list(dict.fromkeys(system.found(text, mark)))
    except (ValueError, KeyError, SyntaxError) as error:  # SyntaxError: of XML
        raise BatchSystemError(system.title, words[0], f"its output cannot be parsed: {error}") from error


def how_to_find(system: System, mark: str) -> str:
    """How a user finds a job or an array by its mark."""
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
