"""Merge documents with what they inherit: the DEFAULT of their file, what they import, and the DEFAULT of that."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.environment import read_unread
from amlsched.experiments.faults import Report, refuse
from amlsched.experiments.load import Document, load
from amlsched.experiments.mappings import NO_FILE, Source
from amlsched.experiments.plain import copied, merge
from amlsched.experiments.spelling import offered
from amlsched.experiments.yaml12 import Key, Unread

__all__ = ["Files", "Layers", "of_kind", "origin", "place"]

Layers = tuple[Document, ...]
"""Merged documents; a later one overrides an earlier one."""
Merged = tuple[dict[str, Any], Layers]

_ARCHIVES = {"import_path": "_import_path_archive", "import_exp": "_import_exp_archive"}
_MOST_IMPORTS = 100


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

    def __init__(self, source: Source, report: Report = refuse) -> None:
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
        _refuse_cycle(document, importers)
        config = copied(document.data)
        layers: Layers = (document,)
        if document.kind == "experiment":
            for default in of_kind(self.documents(document.file), "default"):
                config, layers = merge(default.data, config), (default, document)
        if config.get("import_path") is None and config.get("import_exp") is None:
            for key in _ARCHIVES:
                config.pop(key, None)
            return config, layers
        parent = self._parent(config, layers)
        above, parents = self.merged(parent, (*importers, document))
        config = merge(above, config)
        for key, archive in _ARCHIVES.items():
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
            raise ConfigError(place(layers, key), problem, offered(name, known, "the file has"))
        return found[0]


def _check_import(config: dict[str, Any], layers: Layers) -> None:
    """Raise if an import key is not text."""
    for key in _ARCHIVES:
        value = config.get(key)
        if isinstance(value, Unread):
            value = config[key] = read_unread(value, place(layers, key))
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise ConfigError(
                place(layers, key), f"{key} is {value!r}, and must be a text", f"{key}: base.yml or a name"
            )


def _refuse_cycle(document: Document, importers: Layers) -> None:
    if len(importers) > _MOST_IMPORTS:
        raise ConfigError(
            importers[0].place(), f"its chain of imports is longer than {_MOST_IMPORTS}", "shorten the chain"
        )
    same = [i for i, one in enumerate(importers) if one is document]
    if not same:
        return
    chain = " → ".join(f"{one.name} ({one.file})" for one in (*importers[same[0] :], document))
    keys = [key for key in _ARCHIVES if importers[-1].has(key)]
    raise ConfigError(importers[-1].place(*keys[:1]), f"these import each other in a cycle: {chain}", "break the cycle")
