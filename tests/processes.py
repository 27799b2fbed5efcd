"""Looking at processes, and waiting for what they do and write."""

import multiprocessing
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
METHODS = ("default", "fork", "spawn")  # that of "forkserver" is the default


def context_of(method: str) -> BaseContext | None:
    """How workers are started, as an argument of `ProcessPool`."""
    return None if method == "default" else multiprocessing.get_context(method)


def until(condition: Callable[[], Any], limit_s: float = 45.0) -> Any:
    """What the condition gives once that is true; an assertion fails where it does not come true in time."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come true within {limit_s} s"
        time.sleep(0.005)
    return value


def serves_this_process(pid: int) -> bool:
    """Whether it is the server that workers are forked from, or Python's tracker of resources: they end with it."""
    try:
        return (
            Path(f"/proc/{pid}/comm").read_text() == "amlsched-server\n"
            or "_tracker" in Path(f"/proc/{pid}/cmdline").read_text()
        )
    except OSError:  # it has ended
        return True


def state_of(pid: int) -> str:
    """The state of a process, as in proc(5); `X` if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    return state_of(pid) not in "ZX"


def read_until(descriptor: int, words: str, limit_s: float = 45.0) -> str:
    """What comes from a terminal, up to these words; an assertion fails where they do not come in time."""
    seen = ""
    end = time.monotonic() + limit_s
    while words not in seen:
        assert time.monotonic() < end, f"not within {limit_s:g} s: {words!r} in {seen!r}"
        if select.select([descriptor], [], [], 0.1)[0]:
            seen += os.read(descriptor, 4096).decode(errors="replace")
    return seen


def run_python(
    *arguments: str, folder: Path, given: str = "", limit_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """What a program of Python does in a folder, with amlsched within its reach.

    Args:
        arguments: Of its command line.
        folder: Where it runs.
        given: Its standard input.
        limit_s: Seconds that it may take.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
