"""The documents of a config: read from a file or converted from mappings, and merged with what they inherit.

A document inherits from the DEFAULT of its file, from what it imports, and from the DEFAULT of that.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from amlsched._files import file_bytes
from amlsched._spelling import meant_file, suggestion
from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments._config.reporting import Report, raise_error
from amlsched.experiments._config.values import (
    LONE_SURROGATE,
    copied,
    is_list,
    is_mapping,
    is_tuple,
    merge,
    plain,
    read_unread,
)
from amlsched.experiments._config.yaml import (
    ASKS,
    MAX_DEPTH,
    Difference,
    Key,
    Places,
    Tree,
    Unread,
    read,
    resolve_scalar,
)

__all__ = [
    "ARCHIVES",
    "Document",
    "Files",
    "Layers",
    "NO_FILE",
    "Source",
    "as_config",
    "key_text",
    "load",
    "of_kind",
    "origin",
    "parse",
    "place",
    "trees",
]

Kind = Literal["default", "cluster", "experiment", "override"]
Source: TypeAlias = "str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]"
"""A config file, or one or several documents as mappings."""
NO_FILE = Path("<mapping>")
"""The file of documents that are not in a file; relative paths in them are relative to the working folder."""
_CLUSTER = re.compile(r"slurm(_.+)?", re.IGNORECASE)
ARCHIVES = {"import_path": "_import_path_archive", "import_exp": "_import_exp_archive"}
"""The keys in which a merged config keeps what it imported."""
_MOST_IMPORTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document of a config file.

    Args:
        kind: What it is: the defaults of others, the section for a batch system, an experiment, or a value from the
            command line that overrides those of the files.
        name: Its `name`, as written.
        data: Its content, in plain values; not to be changed.
        file: The file, as it was given; `NO_FILE` for a mapping.
        index: Its number in the file, from 1; empty documents count.
        line: The line on which it starts, from 1; 0 if there are no lines.
        lines: The line of each key and item, by its path.
        differences: Values that YAML 1.1 reads differently.
    """

    kind: Kind
    name: str
    data: dict[str, Any]
    file: Path
    index: int
    line: int = 1
    lines: Places = field(default_factory=dict[tuple[Key, ...], int], repr=False)
    differences: tuple[Difference, ...] = field(default=(), repr=False)

    def has(self, *keys: Key) -> bool:
        """Whether this key path is written in this document."""
        return not keys or keys in self.lines

    def place(self, *keys: Key) -> str:
        """The place of a key, such as `digits.yml:12 (document 2, key params.lr)`.

        Args:
            keys: The path of the key. If it is not in this document, the line is that of its nearest parent.
        """
        if self.kind == "override":
            return f"command line ({self.name})"
        known = keys
        while known and known not in self.lines:
            known = known[:-1]
        return _place(self.file, self.lines.get(known, self.line), self.index, keys)


Layers = tuple[Document, ...]
"""Merged documents; a later one overrides an earlier one."""
Merged = tuple[dict[str, Any], Layers]


def key_text(keys: tuple[Key, ...]) -> str:
    """A key path as text, such as `params.opt.lr`; a key that contains a dot is quoted."""
    return ".".join(f'"{key}"' if isinstance(key, str) and "." in key else str(key) for key in keys)


def _place(file: Path, line: int, index: int, keys: tuple[Key, ...] = ()) -> str:
    return f"{file}{f':{line}' if line else ''} (document {index}{f', key {key_text(keys)}' if keys else ''})"


# ---------------------------------------------------------------------------------------------------------------- files


def load(path: Source, report: Report = raise_error) -> list[Document]:
    """The documents of a config file, in order, without empty ones.

    Args:
        path: A YAML file in UTF-8; or the documents themselves, as mappings.
        report: Called with each error; if it returns, reading continues if possible.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has a document without a valid name.
        MissingExtraError: PyYAML is not installed.
    """
    if not isinstance(path, str | Path):
        return _documents(trees(path), NO_FILE, report)
    file = Path(path)
    try:
        text = file_bytes(file).decode("utf-8-sig")
    except FileNotFoundError:
        remedy = meant_file(file, ".yml", ".yaml") or "check the path of the experiment file"
        raise ConfigError(str(file), "there is no such file", remedy) from None
    except IsADirectoryError:
        raise ConfigError(str(file), "this is a folder", "name the experiment file in it") from None
    except UnicodeDecodeError as error:
        where = f"{file}:{error.object[: error.start].count(10) + 1}"
        raise ConfigError(where, "the text is not UTF-8", "save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(str(file), f"the file cannot be read: {problem}") from None
    return parse(text, file, report)


def parse(text: str, file: str | Path, report: Report = raise_error) -> list[Document]:
    """The documents in the text of a config file; see `load`.

    Args:
        text: The content of the file.
        file: Its path, for messages and for relative paths.
        report: Called with each error.
    """
    return _documents(read(text, str(file), report), Path(file), report)


def _documents(trees: Iterable[Tree], file: Path, report: Report) -> list[Document]:
    documents: list[Document] = []
    for index, tree in enumerate(trees, 1):
        try:
            if tree.value is not None:
                documents.append(_document(tree, file, index))
        except ConfigError as fault:
            report(fault)
    return documents


def _document(tree: Tree, file: Path, index: int) -> Document:
    where = _place(file, tree.line, index)
    content: Any = tree.value
    if not is_mapping(content):
        raise ConfigError(where, "a document must be a mapping of keys to values", "begin it with name: NAME")
    data: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(
                _place(file, tree.places[(key,)], index, (key,)),
                f"the key {key!r} is not text",
                "put it in quotes, or move it below params",
            )
        data[key] = value
    if data.get("name") is None:
        raise ConfigError(where, "this document has no name", "add name: NAME; a missing --- joins two documents")
    name, line = data["name"], _place(file, tree.places[("name",)], index, ("name",))
    if isinstance(name, Unread):
        name = data["name"] = read_unread(name, line)
    if not isinstance(name, str):
        raise ConfigError(line, f"the name is {name!r}, which is not text", f'put it in quotes: name: "{name}"')
    return Document(_kind(name), name, data, file, index, tree.line, tree.places, tree.differences)


def _kind(name: str) -> Literal["default", "cluster", "experiment"]:
    if name.lower() == "default":
        return "default"
    return "cluster" if _CLUSTER.fullmatch(name) else "experiment"


# ------------------------------------------------------------------------------------------------------------- mappings


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
        if isinstance(made, str) and (half := LONE_SURROGATE.search(made)):
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


# ---------------------------------------------------------------------------------------------------- what they inherit


def origin(layers: Layers, *keys: Key) -> Document | None:
    """The document that the value of a key path comes from (for a mapping: its last entry); `None` if there is none."""
    return next((layer for layer in reversed(layers) if layer.has(*keys)), None)


def place(layers: Layers, *keys: Key) -> str:
    """The place where a key path gets its value, such as `digits.yml:12 (document 2, key params.lr)`."""
    known = keys
    while known and origin(layers, *known) is None:
        known = known[:-1]
    if not known:
        own = next(layer for layer in reversed(layers) if layer.kind != "override")
        return own.place(*keys)
    return (origin(layers, *known) or layers[-1]).place(*keys)


def of_kind(documents: Iterable[Document], kind: str) -> list[Document]:
    """The documents of a kind."""
    return [document for document in documents if document.kind == kind]


class Files:
    """The files of a config, each read once, and their documents, each merged once.

    Args:
        source: The config.
        report: Called with each error in the files themselves.

    Attributes:
        file: The file of the config; `NO_FILE` if it was given as mappings.
    """

    def __init__(self, source: Source, report: Report = raise_error) -> None:
        self.file = Path(source) if isinstance(source, str | Path) else NO_FILE
        self._source = source
        self._report = report
        self._documents: dict[str, list[Document]] = {}
        self._merged: dict[tuple[str, int], Merged] = {}

    def documents(self, file: Path) -> list[Document]:
        """The documents of a file, with at most one DEFAULT."""
        real = os.path.realpath(file)
        if real not in self._documents:
            documents = load(self._source if file is self.file else file, self._report)
            for second in of_kind(documents, "default")[1:]:
                problem = f"a second DEFAULT; the first is {of_kind(documents, 'default')[0].place()}"
                self._report(ConfigError(second.place("name"), problem, "merge the two"))
                documents.remove(second)
            self._documents[real] = documents
        return self._documents[real]

    def merged(self, document: Document, importers: Layers = ()) -> Merged:
        """Merge a document over its file's DEFAULT, over what it imports.

        Args:
            document: A DEFAULT or an experiment.
            importers: The chain of documents that import this one, each importing the next.

        Returns:
            The merged config, and the merged documents in order of increasing precedence.
        """
        identity = (os.path.realpath(document.file), document.index)
        if identity not in self._merged:
            self._merged[identity] = self._merge(document, importers)
        config, layers = self._merged[identity]
        return copied(config), layers

    def _merge(self, document: Document, importers: Layers) -> Merged:
        _check_cycle(document, importers)
        config = copied(document.data)
        layers: Layers = (document,)
        if document.kind == "experiment":
            for default in of_kind(self.documents(document.file), "default"):
                config, layers = merge(default.data, config), (default, document)
        if config.get("import_path") is None and config.get("import_exp") is None:
            for key in ARCHIVES:
                config.pop(key, None)
            return config, layers
        parent = self._parent(config, layers)
        above, parents = self.merged(parent, (*importers, document))
        config = merge(above, config)
        for key, archive in ARCHIVES.items():
            value = config.pop(key, None)
            if value is not None:
                config[archive] = value
        return config, (*parents, *layers)

    def _parent(self, config: dict[str, Any], layers: Layers) -> Document:
        """The document that this one imports."""
        _check_import(config, layers)
        file = layers[-1].file
        if config.get("import_path") is not None:
            # Relative to the file in which the key is written, which may be that of a DEFAULT.
            file = (origin(layers, "import_path") or layers[-1]).file.parent / config["import_path"]
            file = Path(os.path.normpath(file))
            if not file.exists():
                problem = f"there is no file {file} to import from"
                raise ConfigError(place(layers, "import_path"), problem, "a relative path is relative to this file")
        name = config.get("import_exp") or "DEFAULT"
        documents = self.documents(file)
        if name.lower() == "default":
            found = of_kind(documents, "default")
        else:
            found = [one for one in of_kind(documents, "experiment") if one.name == name]
        if not found:
            key = "import_exp" if config.get("import_exp") is not None else "import_path"
            known = [one.name for one in documents if one.kind != "cluster"]
            problem = f"there is no {name} in {file} to import"
            raise ConfigError(place(layers, key), problem, suggestion(name, known, "the file has"))
        return found[0]


def _check_import(config: dict[str, Any], layers: Layers) -> None:
    """Raise if an import key is not text."""
    for key in ARCHIVES:
        value = config.get(key)
        if isinstance(value, Unread):
            value = config[key] = read_unread(value, place(layers, key))
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise ConfigError(
                place(layers, key), f"{key} is {value!r}, and must be a text", f"{key}: base.yml or a name"
            )


def _check_cycle(document: Document, importers: Layers) -> None:
    if len(importers) > _MOST_IMPORTS:
        raise ConfigError(
            importers[0].place(), f"its chain of imports is longer than {_MOST_IMPORTS}", "shorten the chain"
        )
    same = [i for i, one in enumerate(importers) if one is document]
    if not same:
        return
    chain = " → ".join(f"{one.name} ({one.file})" for one in (*importers[same[0] :], document))
    keys = [key for key in ARCHIVES if importers[-1].has(key)]
    raise ConfigError(importers[-1].place(*keys[:1]), f"these import each other in a cycle: {chain}", "break the cycle")
