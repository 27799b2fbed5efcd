"""Resolve documents to experiments: merge defaults and imports, select by name, apply overrides, and check."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amlsched._spelling import is_misspelling, suggestion
from amlsched.errors import ConfigError
from amlsched.experiments._config.axes import Axis, axes_of, name_problem
from amlsched.experiments._config.cluster_section import OF_SECTIONS, Sections, sections_for
from amlsched.experiments._config.document import Document, Files, Layers, Source, of_kind, origin, place
from amlsched.experiments._config.keys import VARIED, check_keys
from amlsched.experiments._config.overrides import Override, check_effective, check_new, parse_override
from amlsched.experiments._config.reporting import Note, Report, ignore_note, raise_error
from amlsched.experiments._config.values import filled, merge
from amlsched.experiments._config.yaml import Difference, Key

__all__ = ["ResolvedExperiment", "Resolved", "differences", "resolve"]

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class ResolvedExperiment:
    """An experiment with all that it inherits.

    Args:
        name: Its name, which is also the name of its folder.
        config: All keys, merged; not to be changed.
        layers: The documents that it was merged from; a later one overrides an earlier one.
        axes: Its expansions; the runs are their product.
    """

    name: str
    config: dict[str, Any]
    layers: Layers
    axes: tuple[Axis, ...] = field(repr=False, default=())

    @property
    def document(self) -> Document:
        """The document of the experiment itself."""
        return next(layer for layer in reversed(self.layers) if layer.kind != "override")

    def origin(self, *keys: Key) -> Document:
        """The document that the value of a key path comes from (for a mapping: its last entry)."""
        return origin(self.layers, *keys) or self.document

    def place(self, *keys: Key) -> str:
        """The place where a key path gets its value, such as `digits.yml:12 (document 2, key params.lr)`."""
        return place(self.layers, *keys)


@dataclass(frozen=True)
class Resolved:
    """A config, resolved for this host.

    Args:
        experiments: The selected experiments, in the order of the file; at least one.
        sections: The sections for batch systems.
        file: The file; `NO_FILE` if there is none.
        notes: Hints about what works but may not be intended, such as a key that amlsched does not read.
        differences: For each file, the values that YAML 1.1, and so cw2, reads differently.
    """

    experiments: list[ResolvedExperiment]
    sections: Sections
    file: Path
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def cluster(self) -> dict[str, Any] | None:
        """The section for the batch system of this host, without invalid values; `None` if there is none."""
        return self.sections.cluster

    @property
    def section(self) -> Document | None:
        """The document of `cluster`."""
        return self.sections.chosen

    def checked_cluster(self) -> dict[str, Any] | None:
        """The valid section for the batch system of this host; `None` if there is none.

        Raises:
            ConfigError: The section is invalid.
        """
        for fault in self.sections.faults:
            raise fault
        return self.sections.cluster


def resolve(
    source: Source,
    select: str | Sequence[str] = (),
    host: str | None = None,
    prefix: str = "",
    overrides: Sequence[str] = (),
    report: Report = raise_error,
) -> Resolved:
    """Read a config file and the files that it imports, and check everything that is selected.

    Args:
        source: The file; or its documents, as mappings.
        select: Name or names of experiments, exactly as written; none for all.
        host: Name of the host that a `SLURM_xxx` section has to match; `None` for this one.
        prefix: Prefix of the name of each experiment, joined by a `_`.
        overrides: Values that override those of the files in each experiment, such as `params.lr=0.1`.
        report: Called with each error. By default, the first error is raised. If it returns, experiments with errors
            are missing from the result.

    Raises:
        ConfigError: The file, or a file that it imports, is invalid; the message names the place.
        MissingExtraError: PyYAML is not installed.
    """
    select = (select,) if isinstance(select, str) else select
    files = Files(source, report)
    file = files.file
    documents = files.documents(file)
    _check_misspelled_kinds(documents, report)
    given = [one for text in overrides if (one := parse_override(text, report)) is not None]
    sections = sections_for(of_kind(documents, "cluster"), socket.gethostname() if host is None else host)
    groups = _selected(of_kind(documents, "experiment"), select, file, report)
    chosen = [group[0] for group in groups]
    notes: dict[str, None] = {}  # a note on a DEFAULT appears once

    def made(document: Document, note: Note) -> ResolvedExperiment | None:
        return _experiment(document, files, prefix, given, report, note)

    experiments: list[ResolvedExperiment] = []
    for group in groups:
        first = made(group[0], notes.setdefault)
        if first is not None:
            others = [made(document, ignore_note) for document in group[1:]]
            experiments.append(_varied(first, [other for other in others if other is not None]))
    if len(experiments) == len(chosen):
        check_effective(given, [(one.config, one.axes) for one in experiments], report)
        check_new(given, [files.merged(one)[0] for one in chosen], report, notes.setdefault)
    _check_shared_folders(experiments, report)
    used = [layer for one in experiments for layer in one.layers]
    if sections.chosen is not None:
        used.append(sections.chosen)
    return Resolved(experiments, sections, file, tuple(notes), tuple(differences(used)))


def _check_misspelled_kinds(documents: Sequence[Document], report: Report) -> None:
    """Report experiments that were probably meant to be `DEFAULT` or a section for a batch system."""
    has_default = any(document.kind == "default" for document in documents)
    for document in of_kind(documents, "experiment"):
        guess = ""
        if is_misspelling(document.name, "default") and not has_default and len(documents) > 1:
            guess = "DEFAULT"
        elif is_misspelling(document.name.partition("_")[0], "slurm") and not OF_SECTIONS.isdisjoint(document.data):
            guess = "SLURM"
        if guess:
            problem = f"the name {document.name!r} makes this an experiment"
            remedy = f"did you mean {guess}? If not, choose another name"
            report(ConfigError(document.place("name"), problem, remedy))


def _selected(documents: list[Document], select: Sequence[str], file: Path, report: Report) -> list[list[Document]]:
    """The documents of the selected experiments; several for an experiment with one for each repetition."""
    if not documents:
        fault = ConfigError(str(file), "there is no experiment in this config", "add a document with another name")
        report(fault)
    known = list(dict.fromkeys(document.name for document in documents))
    for name in select:
        if name not in known:
            report(ConfigError(str(file), f"there is no experiment {name!r}", suggestion(name, known, "the file has")))
    wanted = set(select)
    groups: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        # A resolved config has one document for each run or, if written by cw2, for each repetition.
        identity = (document.name, repr(document.data.get("_experiment_name")))
        group = groups.setdefault(identity, [document])
        if group[0] is document:
            continue
        index = document.data.get("_rep_idx")
        same = [one for one in group if index is None or one.data.get("_rep_idx") == index]
        if not same:
            group.append(document)
            continue
        what = "experiment" if index is None else "repetition of"
        problem = f"a second {what} {document.name!r}; the first is {same[0].place('name')}"
        report(ConfigError(document.place("name"), problem, "rename one: they would share their folders"))
    return [group for group in groups.values() if not wanted or group[0].name in wanted]


def _varied(first: ResolvedExperiment, others: Sequence[ResolvedExperiment]) -> ResolvedExperiment:
    """Combine the documents of single repetitions, whose keys may differ, to one experiment."""
    own = _own(first.config)
    if all(_own(one.config) == own for one in others):
        return first
    run = first.config.get("_experiment_name") or first.name
    varied = {one.config.get("_rep_idx", 0): one.config for one in (first, *others)}
    return replace(first, config=first.config | {VARIED: {run: varied}})


def _own(config: dict[str, Any]) -> str:
    return repr([(key, value) for key, value in config.items() if not key.startswith("_") and key != "log_path"])


def _experiment(
    document: Document, files: Files, prefix: str, overrides: Sequence[Override], report: Report, tell: Note
) -> ResolvedExperiment | None:
    """The experiment of a document; `None` if it has errors."""
    faults: list[ConfigError] = []

    def note(fault: ConfigError) -> None:
        report(fault)
        faults.append(fault)

    try:
        config, layers = files.merged(document)
    except ConfigError as fault:
        report(fault)
        return None
    for override in overrides:
        over = override.document(config, note)
        if over is not None:
            config, layers = merge(config, over.data), (*layers, over)
    name = f"{prefix}_{document.name}" if prefix else document.name
    config["name"] = name
    raw = ResolvedExperiment(name, filled(config, lambda *keys: place(layers, *keys), note), layers)
    _check(raw, note, tell)
    axes = axes_of(config, raw.place, note, tell)
    return None if faults else ResolvedExperiment(name, config, layers, axes)


def _check(raw: ResolvedExperiment, report: Report, note: Note) -> None:
    if problem := name_problem(raw.name):
        remedy = "choose another; folders belong in path"
        report(ConfigError(raw.place("name"), f"the name {raw.name!r} {problem}", remedy))
    check_keys(raw.config, raw.place, report, note)
    if "path" not in raw.config:
        report(ConfigError(raw.place(), "there is no path for the results", "add path: results, here or in DEFAULT"))
    given = raw.config.get("_experiment_name")
    if isinstance(given, str) and ("/" in given or given in (".", "..")):
        problem = f"_experiment_name is {given!r}, which is not a valid name of a folder"
        report(ConfigError(raw.place("_experiment_name"), problem, "leave the key out"))


def _check_shared_folders(experiments: Sequence[ResolvedExperiment], report: Report) -> None:
    """Report an experiment whose folder is where another one puts its runs; that needs several paths."""
    folders: dict[str, ResolvedExperiment] = {}
    for experiment in experiments:
        base = str(experiment.config.get("_basic_path") or experiment.config["path"])
        folders.setdefault(os.path.normpath(f"{base}/{experiment.name}"), experiment)
    for folder, experiment in folders.items():
        below, parent = os.path.basename(folder), os.path.dirname(folder)  # noqa: PTH119, PTH120
        while parent not in ("", "/"):
            other = folders.get(parent)
            if other is not None and (below == "log" or below.startswith(f"{other.name}_")):
                problem = f"runs of {other.name!r} may need the same folder, {folder}"
                report(ConfigError(experiment.place("path"), problem, "choose another path"))
            below, parent = os.path.basename(parent), os.path.dirname(parent)  # noqa: PTH119, PTH120


# ------------------------------------------------------------------------------------------------------------- YAML 1.1


def differences(documents: Iterable[Document]) -> Iterator[str]:
    """A text for each file with such values, with their lines and both readings.

    Args:
        documents: The documents whose values are used; they may be repeated.
    """
    by_file: dict[str, dict[tuple[int, str], str]] = {}
    for document in documents:
        for one in document.differences:
            if document.kind != "override" and not _is_time_of_slurm(document, one):
                shown = f"line {one.line}: {_name(one)} is {_shown(one.value)} (YAML 1.1: {_shown(one.other)})"
                by_file.setdefault(str(document.file), {}).setdefault((one.line, _shown(one.value)), shown)
    for file, found in by_file.items():
        lines = [shown for _, shown in sorted(found.items())]
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        count = f"{len(lines)} value is" if len(lines) == 1 else f"{len(lines)} values are"
        yield f"{file}: {count} read differently by YAML 1.1, as in cw2: {'; '.join(lines[:_SHOWN])}{more}"


def _is_time_of_slurm(document: Document, one: Difference) -> bool:
    return document.kind == "cluster" and one.path in (("time",), ("sbatch_args", "time"))


def _name(one: Difference) -> str:
    return ".".join(map(str, one.path))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda other: f"{type(other).__name__} {other}")
