"""Commands of `amlsched`, each in a process of its own that is forked from one that has imported the package.

It is what `python -m amlsched` is, without the third of a second that its imports take. Tests of how a program starts
or is stopped start a real one, and so do those of the docs.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

__all__ = ["import_all", "run_command"]

_ROOT = Path(__file__).parents[1]
_TABLES = ("results", "plot")
"""Commands for which pandas and matplotlib are imported too."""
_THREADS = "OPENBLAS_NUM_THREADS"


def run_command(
    words: tuple[str, ...], folder: Path, started: list[int], timeout: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of `amlsched` to its end, in a process group of its own.

    Args:
        words: The command line without the program.
        folder: Where it runs.
        started: The group's id is added here at the start: the caller ends what the command leaves behind.
        timeout: In seconds; afterwards `subprocess.TimeoutExpired`, and the command goes on.
        variables: Of its environment, besides those of this process.
    """
    environment = {**os.environ, **variables}
    # What Python reads as it starts.
    first = {key: value for key, value in environment.items() if key.startswith(("PYTHON", "LC_", "LANG"))}
    parent = _parent(os.getpid(), words[:1] in [(name,) for name in _TABLES], tuple(sorted(first.items())))
    ends = [os.pipe(), os.pipe()]
    socket.send_fds(parent, [json.dumps([words, str(folder), environment]).encode()], [theirs for _, theirs in ends])
    for _, theirs in ends:
        os.close(theirs)
    started.append(int(parent.recv(64)))
    out, err = _read([ours for ours, _ in ends], time.monotonic() + timeout, words)
    return subprocess.CompletedProcess(words, int(parent.recv(64)), out, err)


def _read(ends: list[int], deadline: float, words: tuple[str, ...]) -> list[str]:
    found = dict.fromkeys(ends, b"")
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(words, 0, b"".join(found.values()))
            for key, _ in selector.select(1):
                if data := os.read(key.fd, 1 << 16):
                    found[key.fd] += data
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [data.decode().replace("\r\n", "\n").replace("\r", "\n") for data in found.values()]


@functools.cache
def _parent(pid: int, tables: bool, first: tuple[tuple[str, str], ...]) -> socket.socket:
    """The socket of a process that forks commands; it exits when the socket is closed, at the latest with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    out = os.pipe()  # that the streams of commands are made for one
    code = f"import sys; sys.path[0] = {str(_ROOT)!r}; from tests.commands import serve; serve({tables})"
    with theirs:
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **dict(first), _THREADS: "1"},
            stdin=theirs.fileno(),
            stdout=out[1],
            stderr=out[1],
            start_new_session=True,
        ).returncode = 0  # nobody waits for it
    os.close(out[1])
    if not ours.recv(1):
        raise RuntimeError(os.read(out[0], 1 << 16).decode())
    os.close(out[0])
    return ours


def import_all(skip: type[Exception] | tuple[()] = ()) -> None:
    """Import what commands import when they are called, but for modules whose import raises `skip`."""
    for package in ("cli", "experiments", "executors.sequential", "executors._processes", "_run"):
        module = importlib.import_module(f"amlsched.{package}")
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
            with contextlib.suppress(skip):
                importlib.import_module(found.name)
    importlib.import_module("yaml")


def serve(tables: bool) -> None:
    """Fork a process for each request, and send its id, then its exit code."""
    requests = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
    if tables:
        importlib.import_module("matplotlib.pyplot")
        import_all()
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pandas", None)
            import_all(skip=ImportError)
    importlib.import_module("numpy.random")
    del os.environ[_THREADS]
    assert len(os.listdir("/proc/self/task")) == 1  # a fork has only this one
    gc.collect()
    gc.freeze()
    requests.send(b"r")
    while True:
        request, fds, _, _ = socket.recv_fds(requests, 1 << 20, 2)
        if not request:
            return
        if pid := os.fork():
            for fd in fds:
                os.close(fd)
            requests.send(str(pid).encode())
            requests.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        else:
            requests.close()
            _be(fds, *json.loads(request))


def _be(fds: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.modules["numpy.random"].seed()  # type: ignore[attr-defined]  # forks would draw the same numbers
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[0] = folder
    sys.argv[1:] = words
    sys.orig_argv = [sys.executable, "-m", "amlsched", *words]
    runpy._run_module_as_main("amlsched")  # type: ignore[attr-defined]  # as `python -m` does
