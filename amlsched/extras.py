"""Imports of optional packages, with helpful errors."""

from __future__ import annotations

import importlib
import importlib.machinery
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ImportFailedError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["hidden", "import_extra", "is_installed"]


def import_extra(module: str, what: str, package: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Name of the module.
        what: What needs it.
        package: Name of the package for pip.
        extra: The extra of amlsched that installs it.

    Raises:
        MissingExtraError: The package is not installed.
        ImportFailedError: It is installed, but its import raises.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise MissingExtraError(what, package, extra) from error
        raise ImportFailedError(what, package, f"{type(error).__name__}: {error}", hidden(error)) from error


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
    return "; ".join(f"{file} hides the module {name}: rename it" for name, file in found)


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


_PLACES = tuple(
    str(Path(place).resolve())
    for place in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(entry for entry in sys.path if entry.endswith((".zip", "lib-dynload", "site-packages", "dist-packages"))),
        str(Path(__file__).parent.parent),
    }
)


def is_installed(place: str) -> bool:
    """Whether a file or folder belongs to Python or to an installed package."""
    path = str(Path(place).resolve())
    return place.startswith("<") or any(path == one or path.startswith(f"{one}/") for one in _PLACES)
