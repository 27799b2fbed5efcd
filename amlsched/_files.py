"""Read files whole, and replace them atomically."""

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

__all__ = ["create_file", "file_bytes", "link_file", "replace_file", "sync"]

PIPE_S = 10.0
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_LARGEST = 2**26
"""The most bytes to read from what is not a regular file, such as `/dev/zero`."""


def file_bytes(path: Path, wait_s: float | None = None) -> bytes:
    """The content of a file, or of a pipe that is being written to, such as `<(command)` of a shell.

    Args:
        path: The file.
        wait_s: How long to wait for data from a pipe; `None` for ten seconds.

    Raises:
        OSError: It cannot be read, is a folder, or is a pipe without a writer.
    """
    wait_s = PIPE_S if wait_s is None else wait_s
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # otherwise a named pipe blocks here
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
                raise OSError(errno.EAGAIN, f"it is no file, and no data came from it for {wait_s:g} s", str(path))
            part = file.read(2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        raise OSError(errno.EFBIG, "it is no file, and does not end", str(path))


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: at any time, a reader finds either the old content or the new one.

    Raises:
        OSError: The folder cannot be written; the old file is unchanged.
    """
    temporary = _temporary(path)
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
    sync(path.parent)


def create_file(path: Path, content: str) -> bool:
    """Create a file with its content, unless there is one; of several processes, one creates it.

    Returns:
        Whether it was created here.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = _temporary(path)
    try:
        temporary.write_text(content, "utf-8")
        return link_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(temporary: Path, path: Path) -> bool:
    """Give a file another name, unless that is taken; of several processes, one succeeds.

    Returns:
        Whether this process did. If so, a reader never finds the file empty, except where there are no hard links.

    Raises:
        OSError: The folder cannot be written.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if temporary.stat().st_nlink > 1:  # NFS: the link was made, but the reply was lost
            return True
        if error.errno not in _NO_LINKS:
            if isinstance(error, FileExistsError):
                return False
            raise
        try:  # a file system without links
            with path.open("xb") as file:
                file.write(temporary.read_bytes())
        except FileExistsError:
            return False
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")


def sync(path: Path) -> None:
    """Flush a file, or the renames in a folder, to disk; some network file systems cannot, and need it less."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
