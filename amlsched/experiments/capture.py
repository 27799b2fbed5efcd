"""What a repetition prints goes to its own files.

Where one repetition runs at a time in a process, it is caught at the file descriptors, so that child processes and C
code are caught too; if that process is the driver, what the driver itself has to say meanwhile goes by a copy of the
descriptors. Threads share their descriptors, so between them it is only caught by what stands in for `sys.stdout` and
`sys.stderr`, which knows the repetition of each thread: what C code or child processes print goes to the console.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from amlsched._context import contextmanager
from amlsched._surroundings import open_descriptors
from amlsched.experiments import layout

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["Capture", "captured", "children_ended", "console", "outside", "per_thread"]

Capture = Literal["process", "thread", "none"]
"""Where the output is caught: for the whole process, for this thread, or nowhere (it goes to the console)."""

_STREAMS = ("stdout", "stderr")
_saved: dict[int, int] = {}
"""Copies of the descriptors that point elsewhere now."""


class _PerThread:
    """Stands in for a standard stream: writes to what the calling thread chose, otherwise to the original stream.

    A thread started by a repetition writes where that repetition does as long as no other one runs in this process.
    """

    def __init__(self, original: TextIO) -> None:
        self._original = original
        self._chosen: dict[int, TextIO] = {}

    def choose(self, stream: TextIO) -> None:
        self._chosen[threading.get_ident()] = stream

    def forget(self) -> None:
        self._chosen.pop(threading.get_ident(), None)

    @property
    def _stream(self) -> TextIO:
        chosen = self._chosen
        stream = chosen.get(threading.get_ident())
        if stream is None and len(chosen) == 1 and threading.current_thread() is not threading.main_thread():
            stream = next(iter(chosen.values()), None)
        return stream or self._original

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def per_thread() -> Generator[None]:
    """While in here, threads of this process have output of their own. Enter it before the experiment is imported."""
    open_descriptors()
    originals = {name: getattr(sys, name) for name in _STREAMS}
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # for a stream that is closed
        for name, original in originals.items():
            setattr(sys, name, _PerThread(original or nowhere))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(sys, name, original)


@contextmanager
def captured(folder: Path, capture: Capture) -> Generator[TextIO]:
    """While in here, what is printed goes to `out.log` and `err.log` in the folder.

    Yields:
        `err.log`, for what is to be written there in any case.
    """
    # Line by line, so that the files can be watched, and appending, so that two writers do not overwrite each other.
    with (
        (folder / layout.OUT_LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as out,
        (folder / layout.ERR_LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as err,
    ):
        if capture == "process" and None not in (sys.__stdout__, sys.__stderr__):  # else others may have the numbers
            with _descriptors({1: out, 2: err}), _chosen(out, err):
                yield err
        elif capture != "none":
            with _chosen(out, err):
                yield err
        else:
            yield err


@contextmanager
def _replaced(out: TextIO, err: TextIO) -> Generator[None]:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextmanager
def _descriptors(streams: dict[int, TextIO]) -> Generator[None]:
    """Point the file descriptors at these files."""
    _flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in streams}
    before = _saved.copy()
    _saved.update(saved)
    try:
        for descriptor, stream in streams.items():
            os.dup2(stream.fileno(), descriptor)
        yield
    finally:
        _flush()
        _saved.clear()
        _saved.update(before)
        for descriptor, original in saved.items():
            os.dup2(original, descriptor)
            os.close(original)


def children_ended() -> int:
    """A number that grows when child processes of this one end."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def console(descriptor: int) -> int:
    """The descriptor that leads to where this one did before a repetition's output was caught: for signal handlers."""
    return _saved.get(descriptor, descriptor)


@contextmanager
def outside(stream: TextIO) -> Generator[TextIO]:
    """While in here, a stream to where this one leads now, also while output is caught at the descriptors.

    Yields:
        A stream of its own; the same one if it has no descriptor.
    """
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):
        yield stream
        return
    stream.flush()
    with os.fdopen(descriptor, "w", encoding=stream.encoding, errors=stream.errors) as own:
        yield own


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(Exception):  # closed, or somebody's own object
                stream.flush()


@contextmanager
def _chosen(out: TextIO, err: TextIO) -> Generator[None]:
    stand_ins = [cast("object", getattr(sys, name)) for name in _STREAMS]
    if not all(isinstance(stand_in, _PerThread) for stand_in in stand_ins):
        # Nobody entered `per_thread`: the process is not ours. One repetition at a time can be caught this way.
        with _replaced(out, err):
            yield
        return
    for stand_in, stream in zip(cast("list[_PerThread]", stand_ins), (out, err), strict=True):
        stand_in.choose(stream)
    try:
        yield
    finally:
        for stand_in in cast("list[_PerThread]", stand_ins):
            stand_in.forget()
