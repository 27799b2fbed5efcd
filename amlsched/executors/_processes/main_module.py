"""The main module of this process, and whether workers that are not forked from it import it.

Functions of the main module are sent by name to workers that have imported it, and by value to others. multiprocessing
has every worker import it. That is impossible if there is no file to import, as in a notebook, and wrong if the file
has no main guard: each worker would run the whole program.
"""

import ast
import importlib.machinery
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import process
from pathlib import Path
from typing import Any, cast

__all__ = ["imported_by_workers", "leave_out", "left_out", "location", "search_path"]


def imported_by_workers() -> bool:
    """Whether a worker that is not a fork of this process imports its main module."""
    name, path = location()
    if path is None or (name is not None and name.rpartition(".")[2] == "__main__"):  # multiprocessing leaves it out
        return False
    return _has_guard(path)


def location() -> tuple[str | None, str | None]:
    """The name and the path by which multiprocessing has workers import the main module."""
    main: Any = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    if path is not None:
        path = os.path.normpath(Path(cast("Any", process).ORIGINAL_DIR or "", path))
    return getattr(getattr(main, "__spec__", None), "name", None), path


def search_path() -> list[str]:
    """`sys.path` with absolute paths, for processes with another working folder."""
    return [os.path.abspath(place) for place in sys.path]  # noqa: PTH100


def leave_out(name: str | None, path: str | None) -> None:
    """In a worker: prevent multiprocessing from importing the main module, as if it were already imported.

    Args:
        name: Name of the driver's main module, from `location`.
        path: Its path.
    """
    main: Any = sys.modules["__main__"]
    if name is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(name, None)
    if path is not None:
        main.__file__ = path


@contextmanager
def left_out() -> Generator[None]:
    """In this context, processes spawned by multiprocessing do not import the main module if workers should not.

    For processes started by other libraries. Sets the module's name to `….__main__`, which multiprocessing never
    imports, as that would run a package.
    """
    main: Any = sys.modules["__main__"]
    before = getattr(main, "__spec__", None)
    if imported_by_workers() or getattr(before, "name", "").endswith("__main__"):
        yield
        return
    parent = getattr(before, "parent", None)
    main.__spec__ = importlib.machinery.ModuleSpec(f"{parent}.__main__" if parent else "__main__", None)
    try:
        yield
    finally:
        main.__spec__ = before


@lru_cache(maxsize=8)
def _has_guard(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError:  # "<stdin>", or a notebook cell with a file name
        return False
    if path.endswith(".pyc"):
        return True
    try:
        tree = ast.parse(source) if b"__main__" in source else ast.Module([], [])
    except (SyntaxError, ValueError):  # not Python
        return True
    return any(isinstance(node, ast.Compare) and _is_guard(node) for node in ast.walk(tree))


def _is_guard(test: ast.Compare) -> bool:
    """Whether it compares `__name__` with `"__main__"`, on either side."""
    sides = (test.left, *test.comparators)
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides) and any(
        isinstance(side, ast.Constant) and side.value == "__main__" for side in sides
    )
