"""Parts of the environment that may be missing: optional packages, standard streams, home folder, working folder."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import io
import os
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from amlsched.errors import ConfigError, ImportFailedError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "expanded",
    "hidden",
    "import_extra",
    "is_installed",
    "is_terminal",
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


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can be redrawn, and not the log of a CI system (`CI` is set)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


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


def import_extra(module: str, what: str, package: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Name of the module.
        what: What needs it.
        package: Name of the package for pip.
        extra: The extra of amlsched that installs it.

    Raises:
        MissingExtraError: The package is not installed.
        ImportFailedError: It is installed, but its import raises, or a file of the user shadows it.
    """
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        shadow = _shadow(module)
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}.")
        if missing and not shadow:
            raise MissingExtraError(what, package, extra) from error
        raise ImportFailedError(what, package, f"{type(error).__name__}: {error}", shadow or hidden(error)) from error
    if shadow := _shadow(module):
        raise ImportFailedError(what, package, f"{module} is another module here", shadow)
    return imported


def _shadow(module: str) -> str:
    """The file of the user that was imported instead of an installed package; empty if there is none.

    A package is none: it may be another version, in a folder of `PYTHONPATH`.
    """
    name = module.partition(".")[0]
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if not isinstance(file, str) or hasattr(loaded, "__path__") or is_installed(file):
        return ""
    spec = importlib.machinery.PathFinder.find_spec(name, [entry for entry in sys.path if is_installed(entry or ".")])
    return _hides(file, name) if spec is not None and spec.submodule_search_locations is not None else ""


def _hides(file: str | Path, name: str) -> str:
    return f"{file} hides the module {name}: rename it"


def hidden(error: BaseException) -> str:
    """Which file of the user shadows a module that the failed import needed; empty if there is none."""
    words = set(re.findall(r"\w+", f"{error} {getattr(error, 'name', None) or ''}"))
    words |= {Path(frame.filename).stem for frame in traceback.extract_tb(error.__traceback__)}
    hiding = list(_hiding())
    found = [(name, file) for name, file in hiding if name in words]
    # An error from C code does not say where the import failed.
    found = found or [
        (name, file) for name, file in hiding if name in sys.stdlib_module_names and _is_loaded(name, file)
    ]
    return "; ".join(_hides(file, name) for name, file in found)


def _is_loaded(name: str, file: Path) -> bool:
    loaded = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(loaded, str) and Path(loaded).resolve() == file


def _hiding() -> Iterator[tuple[str, Path]]:
    """Modules of Python or of installed packages that a file of the user shadows."""
    own = [entry for entry in sys.path if not is_installed(entry or ".")]
    others = [entry for entry in sys.path if is_installed(entry or ".")]
    for entry in dict.fromkeys(own):
        folder = Path(entry or ".").resolve()
        try:
            files = sorted(folder.glob("*.py")) + sorted(folder.glob("*/__init__.py"))
        except OSError:
            continue
        for file in files:
            name = file.parent.name if file.name == "__init__.py" else file.stem
            if name in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(name, others) is not None:
                yield name, file


def is_installed(place: str) -> bool:
    """Whether a file or folder belongs to Python or to an installed package."""
    path = str(Path(place).resolve())
    return place.startswith("<") or any(path == one or path.startswith(f"{one}/") for one in _installed_folders())


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """The folders of Python and of installed packages."""
    places = {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(entry for entry in sys.path if entry.endswith((".zip", "lib-dynload", "site-packages", "dist-packages"))),
        str(Path(__file__).parent.parent),
    }
    return tuple(str(Path(place).resolve()) for place in places)
