"""The main module of this process, and whether workers that are not forked from it import it.

Functions of the main module travel by their name to workers that have imported it, and by value to others.
multiprocessing has every worker import it. That cannot be done where there is no file to import, as in a notebook, and
must not be done where the file has no main guard: a worker would do all that the program does.
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
    """Whether a worker that does not come from a fork of this process imports its main module."""
    name, path = location()
    if path is None or (name is not None and name.rpartition(".")[2] == "__main__"):  # multiprocessing leaves it out
        return False
    return _has_guard(path)


def location() -> tuple[str | None, str | None]:
    """Name and path under which multiprocessing has workers import the main module."""
    main: Any = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    if path is not None:
        path = os.path.normpath(Path(cast("Any", process).ORIGINAL_DIR or "", path))
    return getattr(getattr(main, "__spec__", None), "name", None), path


def search_path() -> list[str]:
    """What `sys.path` is wherever a process of another working folder reads it."""
    return [os.path.abspath(place) for place in sys.path]  # noqa: PTH100


def leave_out(name: str | None, path: str | None) -> None:
    """In a worker, before multiprocessing imports the main module: as in a forked process, it is there already.

    Args:
        name: As `location` has it in the driver.
        path: Likewise.
    """
    main: Any = sys.modules["__main__"]
    if name is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(name, None)
    if path is not None:
        main.__file__ = path


@contextmanager
def left_out() -> Generator[None]:
    """While in here, processes that multiprocessing spawns do not import the main module if workers should not.

    For those that others start. multiprocessing imports no module of this name, as that would run a package.
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
    except OSError:  # "<stdin>", or a cell of something that calls itself a file
        return False
    if path.endswith(".pyc"):
        return True
    try:
        tree = ast.parse(source) if b"__main__" in source else ast.Module([], [])
    except (SyntaxError, ValueError):  # no Python, whatever runs it
        return True
    return any(isinstance(node, ast.Compare) and _is_guard(node) for node in ast.walk(tree))


def _is_guard(test: ast.Compare) -> bool:
    """Whether it compares the name of the module, on either side."""
    sides = (test.left, *test.comparators)
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides) and any(
        isinstance(side, ast.Constant) and side.value == "__main__" for side in sides
    )
