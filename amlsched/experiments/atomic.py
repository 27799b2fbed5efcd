"""Files that are read and replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["file_bytes", "replace_file"]

PIPE_S = 10.0
_LARGEST = 2**26
"""Of what is no regular file, such as `/dev/zero`."""


def file_bytes(path: Path, wait_s: float | None = None) -> bytes:
    """What a file holds. A pipe is read too, such as `<(command)` of a shell, if somebody writes to it.

    Args:
        path: The file.
        wait_s: How long to wait for a pipe; `None` for ten seconds.

    Raises:
        OSError: It cannot be read, is a folder, or a pipe to which nobody writes.
    """
    wait_s = PIPE_S if wait_s is None else wait_s
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # else a named pipe blocks here
    with open(descriptor, "rb", buffering=0) as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return file.readall()
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        parts: list[bytes] = []
        size = 0
        while size <= _LARGEST:
            if not select.select([file], [], [], wait_s)[0]:
                raise OSError(errno.EAGAIN, f"it is no file, and nothing came from it for {wait_s:g} s", str(path))
            part = file.read(2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        raise OSError(errno.EFBIG, "it is no file, and does not end", str(path))


def replace_file(path: Path, content: str | bytes) -> None:
    """Put this in place of the file, so that whoever reads it, whenever, finds the old file or the new one.

    Raises:
        OSError: The folder cannot be written; the earlier file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder last; some network file systems do not know this, and need it less."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
