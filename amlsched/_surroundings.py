"""Parts of the environment that may be missing: standard streams, home folder, user name, working folder."""

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
    """Open the null device for standard streams that are closed, as under some daemons.

    Otherwise the next opened file or socket would get such a descriptor, and receive the output of child processes.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # another thread opened a file meanwhile
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)


def open_streams() -> None:
    """For our own programs: open closed standard streams, and have all of them replace unencodable characters."""
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
    """For our own programs, at their start: restart in UTF-8 mode if non-ASCII file names could not be opened."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")  # keep the terminal's encoding
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def printable(text: str, stream: TextIO) -> str:
    """The text, with `?` for characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def user_name() -> str:
    """The user's name; the user id if the system has no name for it, as in many containers."""
    import getpass  # here, to keep `import amlsched` light

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
        ConfigError: It begins with `~`, but there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
        lacks = "HOME is not set, and this user has no home folder" if home == "~" else "there is no such user"
        raise ConfigError(where, f"{home} cannot be expanded: {lacks}", "write the full path") from None


def working_folder_problem() -> str:
    """Why the working folder cannot be used; empty if it can."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the working folder was removed (change to a folder that exists)"
    except OSError as error:
        return f"the working folder cannot be read: {error.strerror}"
    return ""
