"""Run the commands of a batch system, one at a time and each with a timeout; errors quote the command's output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from amlsched.batch_systems.system import Places, Stage, System
from amlsched.errors import BatchSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["again", "cancel", "ended", "largest", "query", "submit"]

ANSWER_S = 30.0
"""Seconds that a command of a batch system may take."""
SUBMIT_S = 120.0
_SHOWN = 2000
_AT_A_TIME = 500  # indices in one command, as the length of a command line is limited


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
    text = _call(system, [*system.submit, str(script)], SUBMIT_S)
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
                _call(system, words, ANSWER_S)
            except BatchSystemError as error:
                if not system.forgotten.search(error.words):  # they finished in the meantime
                    raise


def again(system: System) -> int:
    """Requeue the element that this process runs, so that it starts again after it has exited.

    Returns:
        The exit code that it has to exit with; 0 if any works.

    Raises:
        BatchSystemError: The batch system rejected that.
    """
    if system.again:
        _call(system, [os.path.expandvars(word) for word in system.again], ANSWER_S)
    return system.again_code


def largest(system: System) -> int | None:
    """How many elements an array may have; `None` if unknown.

    Raises:
        BatchSystemError: The query failed.
    """
    return None if system.largest is None else system.largest_of(_call(system, system.largest, ANSWER_S))


def _asked(system: System, words: Sequence[str], read: Callable[[str], Places], jobs: Sequence[str]) -> Places:
    try:
        found = read(_call(system, words, ANSWER_S))
    except BatchSystemError as error:
        if system.forgotten.search(error.words):
            return {}
        raise
    except (ValueError, KeyError, SyntaxError) as error:  # SyntaxError: of XML
        raise BatchSystemError(system.title, words[0], f"its output cannot be parsed: {error}") from error
    wanted = frozenset(jobs)
    return {place: element for place, element in found.items() if place[0] in wanted}


def _call(system: System, words: Sequence[str], limit_s: float) -> str:
    """The standard output of a command."""
    name = words[0]
    if shutil.which(name) is None:
        remedy = f"run this on a login node of the cluster; is {system.title} its batch system?"
        raise BatchSystemError(system.title, name, "there is no such command here", remedy)
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            env=system.environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BatchSystemError(system.title, name, f"did not answer within {limit_s:g} s", "try again later") from None
    except OSError as error:
        raise BatchSystemError(system.title, name, f"cannot be started: {error.strerror}") from error
    if done.returncode:
        output = re.sub(r"\n+", "\n", f"{done.stderr}\n{done.stdout}".strip())
        raise BatchSystemError(system.title, name, output[:_SHOWN] or f"exited with code {done.returncode}")
    return done.stdout
