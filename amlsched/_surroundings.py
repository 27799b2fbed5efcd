"""What a program has around it, and may lack: standard streams, a home folder, a name of the user, a working folder."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from amlsched.errors import ConfigError

__all__ = [
    "expanded",
    "open_descriptors",
    "open_streams",
    "printable",
    "restart_in_utf8_mode",
    "user_name",
    "working_folder_problem",
]


def open_descriptors() -> None:
    """Open the null device in place of standard streams that are closed, as under some daemons.

    Else the next file or socket that is opened gets such a number, and what a child process prints lands in it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # another thread was quicker
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)


def open_streams() -> None:
    """For a program of our own: standard streams that are there, and that replace what they cannot show."""
    open_descriptors()
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def restart_in_utf8_mode() -> None:
    """For a program of our own, at its start: begin again where file names that are no ASCII could not be opened."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")  # what the terminal can show
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def printable(text: str, stream: TextIO) -> str:
    """The text with `?` for what this stream cannot show."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def user_name() -> str:
    """The name of the user; the number where the system knows no name, as in many containers."""
    import getpass  # `import amlsched` shall not

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def expanded(path: str | Path, where: str) -> Path:
    """The path with `~` replaced by the home folder.

    Args:
        path: The path.
        where: What it is, for the message.

    Raises:
        ConfigError: It begins with `~`, and there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        lacks = "HOME is not set, and the system knows no home of this user" if home == "~" else "there is no such user"
        raise ConfigError(where, f"{home} stands for no folder here: {lacks}", "write the whole path") from None


def working_folder_problem() -> str:
    """Why nothing works in the working folder; empty if it is there."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the working folder was removed (change to a folder that is there)"
    except OSError as error:
        return f"the working folder cannot be read: {error.strerror}"
    return ""
