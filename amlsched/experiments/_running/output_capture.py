"""Redirect what a repetition prints to its own files.

In a process that runs one repetition at a time, the file descriptors are redirected, so that output of child processes
and C code is captured too; if that process is the driver, the driver itself prints to copies of the original
descriptors meanwhile. Threads share their descriptors. For repetitions in threads, `sys.stdout` and `sys.stderr` are
replaced by streams that know the repetition of each thread; what C code and child processes print goes to the console.
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
from amlsched.experiments._storage import layout

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["Capture", "captured", "children_ended", "console", "outside", "per_thread"]

Capture = Literal["process", "thread", "none"]
"""Whose output is captured: that of the whole process, that of this thread, or none (it goes to the console)."""

_STREAMS = ("stdout", "stderr")
_saved: dict[int, int] = {}
"""Copies of the redirected descriptors, by their numbers."""


class _PerThread:
    """Replaces a standard stream: writes to the stream of the calling thread, or by default to the original.

    A thread that a repetition started writes to the stream of that repetition if no other one runs in this process.
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
    """Within this context, each thread may have its own output. Enter it before the experiment is imported."""
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
    """Within this context, what is printed goes to `out.log` and `err.log` in the folder.

    Yields:
        `err.log`, which is open even if nothing is captured.
    """
    # Line-buffered, so that the files can be followed, and in append mode, so that writers do not overwrite each other.
    with (
        (folder / layout.OUT_LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as out,
        (folder / layout.ERR_LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as err,
    ):
        if capture == "process" and None not in (sys.__stdout__, sys.__stderr__):  # closed ones may be reused
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
    """Redirect these file descriptors to these files."""
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
    """A number that grows when child processes of this one exit."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def console(descriptor: int) -> int:
    """The descriptor that leads to where this one did before output was captured; safe to use in signal handlers."""
    return _saved.get(descriptor, descriptor)


@contextmanager
def outside(stream: TextIO) -> Generator[TextIO]:
    """Open a stream that keeps writing to where this one leads now, even while descriptors are redirected.

    Yields:
        A new stream; the given one if it has no descriptor.
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
            with contextlib.suppress(Exception):  # closed, or a user's own object
                stream.flush()


@contextmanager
def _chosen(out: TextIO, err: TextIO) -> Generator[None]:
    stand_ins = [cast("object", getattr(sys, name)) for name in _STREAMS]
    if not all(isinstance(stand_in, _PerThread) for stand_in in stand_ins):
        # Outside of `per_thread` the process is not ours. The output of one repetition at a time can be captured.
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
