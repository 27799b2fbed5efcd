"""What users can rely on: names, light import, errors that cross processes, a reference that is complete."""

import ast
import copy
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import amlsched
from amlsched import batch_systems, errors
from tests.modules import MODULES, ROOT

REFERENCE = ROOT / "docs" / "reference"

HEAVY = {"dask", "distributed", "loky", "matplotlib", "numpy", "pandas", "ray", "rich", "ruamel", "sklearn", "yaml"}


def declared_names(path: Path) -> list[str] | None:
    """`__all__` of a file, without importing it."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


#: What is imported from where, as documented; any other module is private by its place.
PUBLIC = {
    name: declared_names(path) or []
    for name, path in MODULES.items()
    if (path.name == "__init__.py" or path.name in ("errors.py", "monitor.py")) and path.parent.name != "cli"
}


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_of_a_module_are_sorted_and_unique(module: str) -> None:
    assert PUBLIC[module] == sorted(set(PUBLIC[module]))


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_exists(module: str) -> None:
    missing = [name for name in PUBLIC[module] if not hasattr(importlib.import_module(module), name)]
    assert missing == []


def test_the_old_name_of_batch_systems_has_the_same_objects_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "amlsched.arrays", raising=False)
    with pytest.warns(DeprecationWarning, match=r"amlsched\.batch_systems"):
        old = importlib.import_module("amlsched.arrays")
    assert old.__all__ == ["ArrayJob", "Element", "SYSTEMS", "Stage", "System"]
    assert [name for name in old.__all__ if getattr(old, name) is not getattr(batch_systems, name)] == []


def test_the_version_is_the_one_that_is_installed() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", amlsched.__version__)


# ---------------------------------------------------------------------------------------------------- light import


@pytest.mark.parametrize("module", [*PUBLIC, "amlsched.cli"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY.intersection(done.stdout.split()) == set()


# ---------------------------------------------------------------------------------------------------------- errors

SAMPLES: dict[object, object] = {
    str: "some text",
    int: 9,
    float: 1.5,
    dict: {"a": 1},
    tuple: ("a", "b"),
    Path: Path("p"),
    Any: {"a": 1},
}


def error_classes() -> list[type[BaseException]]:
    values = vars(errors).values()
    return [
        v for v in values if isinstance(v, type) and issubclass(v, BaseException) and v.__module__ == errors.__name__
    ]


def sample(annotation: object) -> object:
    """Some value of the type of a parameter."""
    if annotation is inspect.Parameter.empty:
        return "some text"
    for kind in (annotation, *getattr(annotation, "__args__", ()), getattr(annotation, "__origin__", None)):
        kind = getattr(kind, "__origin__", kind)
        if kind in SAMPLES:
            return SAMPLES[kind]
    raise AssertionError(f"add a sample of {annotation} to SAMPLES")


def as_tblib_loads_it(error: BaseException) -> BaseException:
    """Once distributed is imported, tblib pickles exceptions: without their constructor."""
    arrived = type(error).__new__(type(error), *error.args)
    arrived.args = error.args
    vars(arrived).update(vars(error))
    return arrived


def instances() -> Iterator[BaseException]:
    for kind in error_classes():
        if inspect.isfunction(kind.__init__):
            parameters = list(inspect.signature(kind).parameters.values())
            yield kind(*(sample(p.annotation) for p in parameters))
            yield kind(*(sample(p.annotation) for p in parameters if p.default is inspect.Parameter.empty))
        else:  # the constructor of Exception takes anything
            yield kind("some text")


@pytest.mark.parametrize("error", list(instances()), ids=repr)
@pytest.mark.parametrize(
    "travel",
    [
        copy.copy,
        lambda e: pickle.loads(pickle.dumps(e)),
        lambda e: pickle.loads(cloudpickle.dumps(e)),
        as_tblib_loads_it,
    ],
)
def test_an_error_crosses_processes_with_its_text_facts_and_notes(error: BaseException, travel) -> None:
    error.add_note("in call 3")
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)


def test_every_error_is_listed_and_stands_in_the_drawn_tree() -> None:
    public = [kind.__name__ for kind in error_classes() if not kind.__name__.startswith("_")]
    assert sorted(public) == errors.__all__
    assert [name for name in public if not re.search(rf"\b{name}\b", errors.__doc__ or "")] == []


# ---------------------------------------------------------------------------------------------------------- extras


def test_an_error_about_a_missing_package_names_an_extra_that_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError" and node.args:
                if isinstance(node.args[-1], ast.Constant):
                    named.add(node.args[-1].value)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.update(re.findall(r"amlsched\[([a-z]+)\]", node.value))
    assert named - set(extras) == set()


# ------------------------------------------------------------------------------------------------------- reference


def shown() -> list[object]:
    """What the pages of the reference show: single names, or all public names of a module."""
    found: list[object] = []
    for page in REFERENCE.glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)", page.read_text("utf-8"), flags=re.MULTILINE):
            value = pkgutil.resolve_name(path)
            found += [getattr(value, name) for name in value.__all__] if inspect.ismodule(value) else [value]
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_shows_every_public_name(module: str) -> None:
    in_reference = shown()
    public = {name: getattr(importlib.import_module(module), name) for name in PUBLIC[module]}
    assert [name for name, value in public.items() if not any(value is other for other in in_reference)] == []
