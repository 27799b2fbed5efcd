"""Documents to experiments: defaults and imports merged, selected by name, and checked as a whole."""

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.axes import Axis, axes_of
from amlsched.experiments.cluster import check_cluster, cluster_for
from amlsched.experiments.keys import check_keys, closest
from amlsched.experiments.load import Document, load
from amlsched.experiments.names import name_problem
from amlsched.experiments.plain import copied, merge
from amlsched.experiments.yaml12 import Key

__all__ = ["Experiment", "Resolved", "resolve"]

_ARCHIVES = {"import_path": "_import_path_archive", "import_exp": "_import_exp_archive"}
Merged = tuple[dict[str, Any], tuple[Document, ...]]

_SHOWN_NAMES = 20
_MOST_IMPORTS = 100


@dataclass(frozen=True, eq=False)
class Experiment:
    """An experiment with all that it inherits.

    Args:
        name: Its name, which is also the name of its folder.
        config: All of its keys, merged; not to be changed.
        layers: The documents that it was merged from; a later one wins over an earlier.
        axes: Its expansions; the runs are their product.
    """

    name: str
    config: dict[str, Any]
    layers: tuple[Document, ...]
    axes: tuple[Axis, ...] = field(repr=False, default=())

    @property
    def document(self) -> Document:
        """The document of the experiment itself."""
        return self.layers[-1]

    def origin(self, *keys: Key) -> Document:
        """The document that the value of this key path comes from (of a mapping: its last entry)."""
        return next((layer for layer in reversed(self.layers) if layer.has(*keys)), self.document)

    def place(self, *keys: Key) -> str:
        """Where a key path got its value, such as `digits.yml:12 (document 2, key params.lr)`."""
        known = keys
        while known and not any(layer.has(*known) for layer in self.layers):
            known = known[:-1]
        return self.origin(*known).place(*keys)


@dataclass(frozen=True)
class Resolved:
    """What an experiment file says for this host.

    Args:
        experiments: The selected experiments, in the order of the file; at least one.
        cluster: The section for the batch system of this host; `None` if the file has none for it.
        file: The file.
    """

    experiments: list[Experiment]
    cluster: dict[str, Any] | None
    file: Path


def resolve(path: str | Path, select: str | Sequence[str] = (), host: str | None = None, prefix: str = "") -> Resolved:
    """Reads an experiment file and the files that it imports from, and checks all that is selected.

    Args:
        path: The file.
        select: Name or names of the experiments wanted, exactly as written; none: all of them.
        host: Name of the host that a `SLURM_xxx` section has to fit; `None`: this one.
        prefix: Put before the name of each experiment, with a `_` between.

    Raises:
        ConfigError: The file, or a file that it imports from, is wrong at a place that the message names.
        MissingExtraError: PyYAML is not installed.
    """
    file = Path(path)
    select = (select,) if isinstance(select, str) else select
    files = _Files()
    documents = files.documents(file)
    for document in documents:
        if document.kind == "cluster":
            check_cluster(document)
    cluster = cluster_for(_of_kind(documents, "cluster"), socket.gethostname() if host is None else host)
    chosen = _selected(_of_kind(documents, "experiment"), select, file)
    experiments = [_experiment(document, files, prefix) for document in chosen]
    _refuse_shared_folders(experiments)
    return Resolved(experiments, cluster, file)


def _of_kind(documents: Iterable[Document], kind: str) -> list[Document]:
    return [document for document in documents if document.kind == kind]


def _selected(documents: list[Document], select: Sequence[str], file: Path) -> list[Document]:
    if not documents:
        raise ConfigError(str(file), "there is no experiment in this file", "add a document with a name of its own")
    known = list(dict.fromkeys(document.name for document in documents))
    for name in select:
        if name not in known:
            raise ConfigError(str(file), f"there is no experiment {name!r}", _known_names(name, known))
    wanted = set(select)
    seen: dict[tuple[str, object], Document] = {}
    chosen: list[Document] = []
    for document in documents:
        # A resolved config has one document a run, or, written by cw2, one a repetition.
        identity = (document.name, document.data.get("_experiment_name"))
        first = seen.setdefault(identity, document)
        if first is document:
            if not wanted or document.name in wanted:
                chosen.append(document)
        elif "_rep_idx" not in document.data:
            problem = f"a second experiment {document.name!r}; the first is {first.place('name')}"
            raise ConfigError(document.place("name"), problem, "rename one: they would share their folders")
    return chosen


def _known_names(name: str, known: Sequence[str]) -> str:
    guess = closest(name, known)
    listed = ", ".join(known[:_SHOWN_NAMES]) + (f" and {len(known) - _SHOWN_NAMES} more" * (len(known) > _SHOWN_NAMES))
    return (f"did you mean {guess}? " if guess else "") + f"the file has: {listed or 'none'}"


def _experiment(document: Document, files: "_Files", prefix: str) -> Experiment:
    config, layers = files.merged(document, ())
    name = f"{prefix}_{document.name}" if prefix else document.name
    config["name"] = name
    raw = Experiment(name, config, layers)
    if problem := name_problem(name):
        raise ConfigError(raw.place("name"), f"the name {name!r} {problem}", "choose another; folders belong into path")
    check_keys(config, raw.place)
    if "path" not in config:
        raise ConfigError(raw.place(), "there is no path for the results", "add path: results, here or in DEFAULT")
    given = config.get("_experiment_name")
    if given is not None and ("/" in given or given in (".", "..")):
        problem = f"_experiment_name is {given!r}, which is no name of a folder"
        raise ConfigError(raw.place("_experiment_name"), problem, "leave the key out")
    return Experiment(name, config, layers, axes_of(config, raw.place))


def _refuse_shared_folders(experiments: Sequence[Experiment]) -> None:
    """No experiment may lie where another one puts its runs; with one common path none can."""
    folders: dict[str, Experiment] = {}
    for experiment in experiments:
        base = str(experiment.config.get("_basic_path") or experiment.config["path"])
        folders.setdefault(os.path.normpath(f"{base}/{experiment.name}"), experiment)
    for folder, experiment in folders.items():
        below, parent = os.path.basename(folder), os.path.dirname(folder)  # noqa: PTH119, PTH120
        while parent not in ("", "/"):
            other = folders.get(parent)
            if other is not None and (below == "log" or below.startswith(f"{other.name}_")):
                problem = f"the folder {folder} is one that the runs of {other.name!r} may take"
                raise ConfigError(experiment.place("path"), problem, "choose another path")
            below, parent = os.path.basename(parent), os.path.dirname(parent)  # noqa: PTH119, PTH120


class _Files:
    """The files of one resolution, each read once, and the documents that others import, each merged once."""

    def __init__(self) -> None:
        self._documents: dict[str, list[Document]] = {}
        self._merged: dict[tuple[str, int], Merged] = {}

    def documents(self, file: Path) -> list[Document]:
        real = os.path.realpath(file)
        if real not in self._documents:
            documents = load(file)
            defaults = _of_kind(documents, "default")
            if len(defaults) > 1:
                problem = f"a second DEFAULT; the first is {defaults[0].place()}"
                raise ConfigError(defaults[1].place("name"), problem, "join the two")
            self._documents[real] = documents
        return self._documents[real]

    def merged(self, document: Document, importers: tuple[Document, ...]) -> Merged:
        """A document over its file's DEFAULT, over what it imports; and the documents of that, the strongest last.

        Args:
            document: A DEFAULT or an experiment.
            importers: The documents that led here, each importing the next.
        """
        identity = (os.path.realpath(document.file), document.index)
        if identity not in self._merged:
            self._merged[identity] = self._merge(document, importers)
        config, layers = self._merged[identity]
        return copied(config), layers

    def _merge(self, document: Document, importers: tuple[Document, ...]) -> Merged:
        _refuse_cycle(document, importers)
        config = copied(document.data)
        layers: tuple[Document, ...] = (document,)
        if document.kind == "experiment":
            for default in _of_kind(self.documents(document.file), "default"):
                config, layers = merge(default.data, config), (default, document)
        if config.get("import_path") is None and config.get("import_exp") is None:
            for key in _ARCHIVES:
                config.pop(key, None)
            return config, layers
        parent = self._parent(Experiment(document.name, config, layers))
        above, parents = self.merged(parent, (*importers, document))
        config = merge(above, config)
        for key, archive in _ARCHIVES.items():
            value = config.pop(key, None)
            if value is not None:
                config[archive] = value
        return config, (*parents, *layers)

    def _parent(self, child: Experiment) -> Document:
        """The document that this one imports."""
        check_import(child)
        file = child.document.file
        if child.config.get("import_path") is not None:
            # Relative to the file that the key is written in, which may be that of a DEFAULT.
            file = child.origin("import_path").file.parent / child.config["import_path"]
            file = Path(os.path.normpath(file))
            if not file.exists():
                problem = f"there is no file {file} to import from"
                raise ConfigError(child.place("import_path"), problem, "a relative path starts at this file's folder")
        name = child.config.get("import_exp") or "DEFAULT"
        documents = self.documents(file)
        if name.lower() == "default":
            found = _of_kind(documents, "default")
        else:
            found = [one for one in _of_kind(documents, "experiment") if one.name == name]
        if not found:
            key = "import_exp" if child.config.get("import_exp") is not None else "import_path"
            known = [one.name for one in documents if one.kind != "cluster"]
            raise ConfigError(child.place(key), f"there is no {name} in {file} to import", _known_names(name, known))
        return found[0]


def check_import(child: Experiment) -> None:
    """Refuses import keys that are no texts, before they are used."""
    for key in _ARCHIVES:
        value = child.config.get(key)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise ConfigError(child.place(key), f"{key} is {value!r}, and must be a text", f"{key}: base.yml or a name")


def _refuse_cycle(document: Document, importers: tuple[Document, ...]) -> None:
    if len(importers) > _MOST_IMPORTS:
        raise ConfigError(
            importers[0].place(), f"it imports through more than {_MOST_IMPORTS} others", "shorten the chain"
        )
    same = [i for i, one in enumerate(importers) if one is document]
    if not same:
        return
    chain = " → ".join(f"{one.name} ({one.file})" for one in (*importers[same[0] :], document))
    keys = [key for key in _ARCHIVES if importers[-1].has(key)]
    raise ConfigError(
        importers[-1].place(*keys[:1]), f"these import each other in a circle: {chain}", "break the circle"
    )
