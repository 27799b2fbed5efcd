"""Configs that a program passes as mappings, such as those of OmegaConf, instead of a file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments.plain import is_list, is_tuple, plain
from amlsched.experiments.yaml12 import ASKS, MAX_DEPTH, Key, Places, Tree, Unread, resolve_scalar

__all__ = ["NO_FILE", "Source", "as_config", "trees"]

Source: TypeAlias = "str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]"
"""A config file, or one or several documents as mappings."""

_HALF = re.compile("[\ud800-\udfff]")
NO_FILE = Path("<mapping>")
"""The file of documents that are not in a file; relative paths in them are relative to the working folder."""


def trees(given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Tree]:
    """The documents of a config that is not in a file, in plain values; their places have no lines.

    Args:
        given: One or several documents: mappings, lists, tuples, strings, numbers, booleans and `None`; numpy scalars
            and arrays; paths; OmegaConf containers, whose interpolations are resolved.

    Raises:
        TypeError: It is neither a mapping nor a list.
        ConfigError: It contains another value, an interpolation that cannot be resolved, or is nested too deeply.
    """
    documents: Any = [given] if isinstance(given, Mapping) else _resolved(given, (), f"{NO_FILE}{{}}")
    if not isinstance(documents, list | tuple):
        raise TypeError(f"config must be a file, a mapping or a list of mappings, not {type(given).__name__}")
    found: list[Tree] = []
    for index, document in enumerate(cast("Sequence[Any]", documents), 1):
        places: Places = {}
        found.append(Tree(_Plain(f"{NO_FILE} (document {index}{{}})", places).value(document, ()), places, 0))
    return found


def as_config(given: Any, name: str) -> Any:
    """A value from a user's program in plain values, in which environment variables are not filled in.

    Args:
        given: As for `trees`.
        name: What it is, for messages.

    Raises:
        ConfigError: As for `trees`.
    """
    return _Plain(name + "{}", {}, asks=False).value(given, ())


class _Plain:
    """Converts one document to plain values, and records the paths of its keys."""

    def __init__(self, where: str, places: Places, *, asks: bool = True) -> None:
        self._where = where
        self._places = places
        self._asks = asks

    def value(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > MAX_DEPTH:
            raise self._error(path[:3], f"values are nested deeper than {MAX_DEPTH} levels", "")
        value = _resolved(value, path, self._where)
        if isinstance(value, Mapping):
            return self._mapping(value, path)  # pyright: ignore[reportUnknownArgumentType]
        if is_list(value) or is_tuple(value):
            items: list[Any] = []
            for index, item in enumerate(value):
                self._places[(*path, index)] = 0
                items.append(self.value(item, (*path, index)))
            return items if is_list(value) else tuple(items)
        return self._scalar(value, path)

    def _mapping(self, given: Mapping[Any, Any], path: tuple[Any, ...]) -> dict[Key, Any]:
        mapping: dict[Key, Any] = {}
        texts: set[str] = set()
        for written, below in given.items():
            key = self._scalar(written, (*path, written))
            if key is None or isinstance(key, Unread):
                raise self._error((*path, written), f"{written!r} cannot be a key", "use text")
            if str(key) in texts:
                raise self._error((*path, key), f"the key {key!s} is given twice, as text and as a number", "keep one")
            texts.add(str(key))
            self._places[(*path, key)] = 0
            mapping[key] = self.value(below, (*path, key))
        return mapping

    def _scalar(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value).__name__
        try:
            made = plain(os.fspath(value) if hasattr(value, "__fspath__") else value, "")
        except ExperimentError as error:
            problem = f"a config cannot hold a value of the type {kind}: {error.problem}"
            raise self._error(path, problem, error.remedy) from None
        if is_list(made):  # an array
            return self.value(made, path)
        if isinstance(made, str) and (half := _HALF.search(made)):
            problem = f"the text has half of a surrogate pair, {half[0]!r}, which a config cannot hold"
            raise self._error(path, problem, "pass it to the experiment in another way")
        return Unread(made, resolve_scalar) if self._asks and isinstance(made, str) and ASKS in made else made

    def _error(self, path: tuple[Any, ...], problem: str, remedy: str) -> ConfigError:
        return _error(path, self._where, problem, remedy)


def _error(path: tuple[Any, ...], where: str, problem: str, remedy: str = "") -> ConfigError:
    key = f", key {'.'.join(map(str, path))}" if path else ""
    return ConfigError(where.format(key), problem, remedy)


def _resolved(value: Any, path: tuple[Any, ...], where: str) -> Any:
    """An OmegaConf container as dicts and lists; anything else unchanged."""
    omegaconf: Any = sys.modules.get("omegaconf")  # there are values of it only if it has been imported
    if omegaconf is None or not isinstance(value, omegaconf.DictConfig | omegaconf.ListConfig):
        return value
    try:
        return omegaconf.OmegaConf.to_container(value, resolve=True, throw_on_missing=True, enum_to_str=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        problem = f"{str(error).splitlines()[0]} ({type(error).__name__} of OmegaConf)"
        path = (*path, error.full_key) if error.full_key else path
        raise _error(path, where, problem, "give it a value, or leave the key out") from error
