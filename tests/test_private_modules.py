"""Private modules are imported by their own package only, no import is circular, and no folder is too full."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.modules import MODULES, ROOT, modules_in

FOLDERS = sorted({path.parent for path in MODULES.values()})
MOST = 24


def imported(source: str, *, for_types: bool = True) -> Iterator[str]:
    """The modules that a source imports, also in functions and, if `for_types`, for type checkers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in below)


def check_not_circular(sources: dict[str, str]) -> None:
    graph = {module: {*imported(source, for_types=False)} for module, source in sources.items()}
    TopologicalSorter({module: names & graph.keys() for module, names in graph.items()}).prepare()


def owner(module: str) -> str | None:
    """The package that a private module belongs to; `None` for a module that is not private, or private to all."""
    parts = module.split(".")
    first = next((place for place, part in enumerate(parts) if part.startswith("_") and not part.endswith("__")), 0)
    return ".".join(parts[:first]) if first > 1 else None


def intruders(module: str, source: str) -> list[str]:
    """The private modules of other packages that a module imports."""
    owners = [(name, owner(name)) for name in imported(source) if name.startswith("amlsched.")]
    return [name for name, home in owners if home and module != home and not module.startswith(f"{home}.")]


@pytest.mark.parametrize("module", MODULES)
def test_a_private_module_is_imported_by_its_own_package_only(module: str) -> None:
    assert intruders(module, MODULES[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from amlsched.experiments._config import keys", ["amlsched.experiments._config.keys"]),
        ("from amlsched.experiments._config.keys import RULES", ["amlsched.experiments._config.keys"]),
        ("import amlsched.plugins._comm.wire", ["amlsched.plugins._comm.wire"]),
        ("def f():\n    from amlsched.executors import _loky", ["amlsched.executors._loky"]),
        ("from amlsched.cli._output import say", []),
        ("from amlsched._checks import check_text", []),
        ("from amlsched.experiments import config", []),
    ],
)
def test_an_import_from_outside_is_found(line: str, found: list[str]) -> None:
    assert intruders("amlsched.cli.run", line) == found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_can_be_looked_through(folder: Path) -> None:
    names = modules_in(folder)
    assert len(names) <= MOST
    if any(part.startswith("_") for part in folder.relative_to(ROOT).parts):
        assert [name for name in names if name.startswith("_") and name != "__init__"] == [], "its folder says it"


def test_no_import_is_circular_not_even_through_one_in_a_function() -> None:
    check_not_circular({module: path.read_text("utf-8") for module, path in MODULES.items()})


def test_a_circular_import_is_found() -> None:
    first, second = "amlsched.units", "amlsched.errors"
    for_types = f"if TYPE_CHECKING:\n    import {first}"
    check_not_circular({first: f"import {second}", second: for_types})
    with pytest.raises(CycleError):
        check_not_circular({first: f"import {second}", second: f"def f():\n    import {first}"})
