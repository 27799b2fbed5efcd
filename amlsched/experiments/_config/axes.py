"""The expanding keys of an experiment as axes: the runs are the product of the axes, the first varying slowest.

Names of runs consist of the short forms of their settings, as in cw2, and are safe and distinct as names of folders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from amlsched._spelling import meant
from amlsched.errors import ConfigError
from amlsched.experiments._config.document import key_text
from amlsched.experiments._config.keys import Place, expansion_kind, shown
from amlsched.experiments._config.reporting import Note, Report, ignore_note, raise_error
from amlsched.experiments._config.values import is_list, is_mapping, nested
from amlsched.experiments._config.yaml import Key

__all__ = [
    "ARRAYS_FOLDER",
    "Alternative",
    "Axis",
    "DEBUG_FOLDER",
    "KeyPath",
    "Settings",
    "WORKERS_FOLDER",
    "axes_of",
    "digest",
    "distinct_name",
    "name_problem",
    "names_are_safe",
    "set_in_every_run",
    "setting_label",
]

KeyPath = tuple[Key, ...]
Settings = Iterable[tuple[KeyPath, Any]]
ARRAYS_FOLDER = "_arrays"
DEBUG_FOLDER = "_debug"
WORKERS_FOLDER = "_workers"
"""The folder for logs of batch jobs whose workers run repetitions."""
MAX_NAME_BYTES = 255  # of one folder, on every Linux file system in use
MAX_EXPERIMENT_BYTES = 180  # leaves room for the settings, and for files named after the experiment
_DROPPED = dict.fromkeys(map(ord, "'\" )]"))
_UNDERSCORED = dict.fromkeys(map(ord, "([,"), "_")
_CLEAN = {**_DROPPED, **_UNDERSCORED}
_UNSAFE = re.compile("[/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One choice on an axis: the parameters that it sets, and their short form."""

    settings: tuple[tuple[KeyPath, Any], ...]
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Alternatives of which each run takes exactly one.

    Args:
        key: The top-level key that the axis comes from, such as `grid` or `list2`.
        alternatives: At least one; all different, in order.
    """

    key: str
    alternatives: tuple[Alternative, ...]


def axes_of(
    config: Mapping[str, Any], place: Place, report: Report = raise_error, note: Note = ignore_note
) -> tuple[Axis, ...]:
    """The axes of an experiment, in the order in which cw2 expands them.

    Each path of a `grid` is an axis; a `list` is one axis, which sets value i of all its paths together; an `ablative`
    is one axis, which sets one value of one path at a time. A key that is null expands nothing, so that an experiment
    can remove the grid of its DEFAULT. So does an empty mapping, but an empty `grid` still changes the names of the
    runs, as in cw2.

    Args:
        config: A merged experiment.
        place: Formats the place of a key path.
        report: Called with each error: an expansion that is not a mapping, a value that is not a list, an empty list, a
            duplicate value, a `list` of unequal lengths, a path through a value that is not a mapping, a parameter that
            two expansions set, or a name with dots that is probably a path.
        note: Called with a note for each name that is probably a misspelled parameter.
    """
    axes: list[Axis] = []
    for key, value in config.items():
        kind = expansion_kind(key)
        if kind is None or value is None:
            continue
        paths = _paths(key, value, place, report)
        if not paths:
            if kind == "grid" and value == {}:
                axes.append(Axis(key, (Alternative((), ""),)))
            continue
        if kind == "grid":
            axes += [Axis(key, _choices(path, values)) for path, values in paths.items()]
        elif kind == "list":
            axes.append(Axis(key, _rows(key, paths, place, report)))
        else:
            single = [choice for path, values in paths.items() for choice in _choices(path, values)]
            baseline = [Alternative((), "baseline")] if config.get("ablative_baseline") else []
            axes.append(Axis(key, (*baseline, *single)))
    for axis in axes:
        _check_duplicates(axis, place, report)
    _check_blocked_paths(config.get("params"), axes, place, report)
    _check_overwritten(axes, place, report)
    params = config.get("params")
    if is_mapping(params):
        _check_dots(params, axes, place, report)
        _note_misspelled(params, axes, place, note)
    else:
        _check_dots({}, axes, place, report)
    return tuple(axes)


def set_in_every_run(axes: Iterable[Axis], path: KeyPath) -> str:
    """The expansion that sets a parameter in every run, such as `grid.lr`; empty if there is none."""
    for axis in axes:
        for setting, _ in axis.alternatives[0].settings if expansion_kind(axis.key) != "ablative" else ():
            if path[: len(setting)] == setting:
                return key_text((axis.key, *setting))
    return ""


def _paths(key: str, section: Any, place: Place, report: Report) -> dict[KeyPath, list[Any]]:
    """The lists of an expansion by their path, in order."""
    if not is_mapping(section):
        remedy = f"write {key}: {{lr: [0.1, 0.2]}}; a key that begins with grid, list or ablative expands"
        if key != expansion_kind(key):
            remedy += "; if it is a setting of yours, move it below params"
        report(ConfigError(place(key), f"{key} is {shown(section)}, not a mapping of names to lists", remedy))
        return {}
    found: dict[KeyPath, list[Any]] = {}
    for path, value in nested(section):
        if not is_list(value):
            remedy = f"write a list: {path[-1]}: [{shown(value)}]" if value is not None else "write a list of values"
            report(ConfigError(place(key, *path), f"{shown(value)} in a {key} is not a list", remedy))
        elif not value:
            problem = "the list is empty, so there is nothing to run"
            report(ConfigError(place(key, *path), problem, "add a value"))
        else:
            found[path] = value
    return found


def _choices(path: KeyPath, values: Sequence[Any]) -> tuple[Alternative, ...]:
    return tuple(Alternative(((path, value),), setting_label(path, value)) for value in values)


def _rows(key: str, paths: Mapping[KeyPath, list[Any]], place: Place, report: Report) -> tuple[Alternative, ...]:
    lengths = {".".join(map(str, path)): len(values) for path, values in paths.items()}
    if len(set(lengths.values())) > 1:
        problem = f"the lists of {key} have unequal lengths: {', '.join(f'{n} has {c}' for n, c in lengths.items())}"
        report(ConfigError(place(key), problem, "give all the same length, or use grid for all combinations"))
    rows = zip(*(_choices(path, values) for path, values in paths.items()), strict=False)
    return tuple(
        Alternative(tuple(setting for one in row for setting in one.settings), "_".join(one.label for one in row))
        for row in rows
    )


def _check_duplicates(axis: Axis, place: Place, report: Report) -> None:
    seen: dict[str, int] = {}
    for number, alternative in enumerate(axis.alternatives, 1):
        first = seen.setdefault(digest(alternative.settings, 32), number)
        if first != number:
            settings = ", ".join(f"{'.'.join(map(str, path))} = {shown(value)}" for path, value in alternative.settings)
            path = alternative.settings[0][0] if len(alternative.settings) == 1 else ()
            remedy = "remove one; to run it several times, use repetitions"
            problem = f"{settings} is given twice: as value {first} and as value {number}"
            report(ConfigError(place(axis.key, *path), problem, remedy))


def _check_blocked_paths(params: Any, axes: Sequence[Axis], place: Place, report: Report) -> None:
    """Report paths of an axis through values that are not mappings, in `params` or set by an earlier axis."""
    set_before: dict[KeyPath, tuple[str, Any]] = {}
    for axis in axes:
        settings = [setting for alternative in axis.alternatives for setting in alternative.settings]
        for path in dict.fromkeys(path for path, _ in settings):
            for depth in range(1, len(path)):
                origin, value = set_before.get(path[:depth]) or ("params", _found(params, path[:depth]))
                if value is None or isinstance(value, dict):
                    continue
                name = ".".join(map(str, path[:depth]))
                problem = f"{origin} sets {name} to {shown(value)}, so no key can be set below it"
                remedy = f"make {name} a mapping, or expand {name} itself"
                report(ConfigError(place(axis.key, *path), problem, remedy))
        for path, value in settings:
            if path not in set_before or isinstance(set_before[path][1], dict):
                set_before[path] = (axis.key, value)


def _check_overwritten(axes: Sequence[Axis], place: Place, report: Report) -> None:
    """Report parameters that two expansions set: the later one would silently overwrite the earlier one."""
    before: list[tuple[str, KeyPath, list[Any]]] = []
    for key, group in groupby(axes, key=lambda axis: axis.key):
        values: dict[KeyPath, list[Any]] = {}
        for path, value in (setting for axis in group for one in axis.alternatives for setting in one.settings):
            values.setdefault(path, []).append(value)
        for path in values:
            for earlier, other, set_there in before:
                if other[: len(path)] != path and not (
                    path[: len(other)] == other and any(_has(value, path[len(other) :]) for value in set_there)
                ):
                    continue
                name, first = (".".join(map(str, one)) for one in (path, other))
                same = "" if path == other else f" ({first} by {earlier}, {name} by {key})"
                problem = f"{name} is set by {earlier} and by {key}{same}, and the later would overwrite the earlier"
                remedy = f"set it in only one of them; the other place is {place(earlier, *other)}"
                report(ConfigError(place(key, *path), problem, remedy))
        before += [(key, path, found) for path, found in values.items()]


def _check_dots(params: Mapping[Any, Any], axes: Sequence[Axis], place: Place, report: Report) -> None:
    """Report names such as `opt.lr` and `params.lr` beside a parameter of that path, which would keep its value."""
    expanded = {path: axis.key for axis in axes for one in axis.alternatives for path, _ in one.settings}
    set_here = [setting for axis in axes for one in axis.alternatives for setting in one.settings]
    named: dict[KeyPath, str] = {(name,): "params" for name in params if "." in str(name)}
    for path, key in (named | expanded).items():
        dotted = tuple(".".join(map(str, path)).split("."))
        for other in (dotted, dotted[1:] if dotted[0] == "params" and key != "params" else ()):
            if not other or other == path:
                continue
            if _has(params, other) or any(
                other[: len(one)] == one and _has(value, other[len(one) :]) for one, value in set_here
            ):
                problem = f"this is a parameter of its own, and the parameter {'.'.join(other)} would keep its value"
                remedy = f"write {key}: {_nested_text(other)}, or rename one of the two"
                report(ConfigError(place(key, *path), problem, remedy))
                break


def _nested_text(path: Sequence[str]) -> str:
    return "{" + ": {".join(path) + ": …" + "}" * len(path)


def _note_misspelled(params: Mapping[Any, Any], axes: Sequence[Axis], place: Place, note: Note) -> None:
    """Note names that resemble a parameter, which would have the same value in every run."""
    paths = {path: axis.key for axis in axes for one in axis.alternatives for path, _ in one.settings}
    for path, key in paths.items():
        beside = _found(params, path[:-1])
        if not is_mapping(beside) or path[-1] in beside:
            continue
        others = [str(name) for name in beside if (*path[:-1], name) not in paths]
        if guess := meant(str(path[-1]), others):
            name, other = (".".join(map(str, (*path[:-1], last))) for last in (path[-1], guess))
            note(f"{place(key, *path)}: params does not have {name} (did you mean {other}?)")


def _has(value: Any, path: KeyPath) -> bool:
    """Whether a value has an entry at a path."""
    for key in path:
        if not is_mapping(value) or key not in value:
            return False
        value = value[key]
    return True


def _found(mapping: Any, path: KeyPath) -> Any:
    value = mapping
    for key in path:
        if not is_mapping(value):
            return None  # a prefix of the path has been reported, or is null
        value = value.get(key)
    return value


# -------------------------------------------------------------------------------------------------------- names of runs


def setting_label(path: KeyPath, value: Any) -> str:
    """The short form of a setting, such as `opt.lr0.1` for `optimizer.learning_rate = 0.1`.

    As in cw2, parents are shortened to three letters, and the leaf to the first letters of its `_`-separated parts. In
    key and value, quotes, spaces, `)` and `]` are dropped, and `(`, `[` and `,` become `_`. A dot within a key also
    separates parents.
    """
    *parents, leaf = ".".join(map(str, path)).split(".")
    key = ".".join([*(parent[:3] for parent in parents), "".join(part[:1] for part in leaf.split("_"))])
    return f"{key}{value}".translate(_CLEAN)


def digest(settings: Settings, length: int) -> str:
    """A hash of these settings alone.

    Values of different types differ: 1, 1.0, true and "1" are four values.

    Args:
        settings: Paths and values, in order.
        length: Hexadecimal digits, at most 64.
    """
    text = repr([(path, value) for path, value in settings])
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=32).hexdigest()[:length]


def distinct_name(name: str, choices: Sequence[Alternative], taken: set[str]) -> str:
    """A folder name for a run: the given name, if it is safe and not taken.

    Otherwise, a suffix is added that depends on the run's own settings alone: to a name that is not valid for a folder
    (a `/`, a control character, too long), and to a name that an earlier run has. The first run of a name keeps it
    unchanged, since nearly all names of cw2 drop characters (`[1, 2]` is `_1_2`). So adding values at the end of a list
    does not rename existing runs, because their order stays the same. If values change their order, the record of a
    run, which contains its config, shows that the folder belongs to another run.

    Args:
        name: The name as in cw2.
        choices: The settings of the run; only used for a suffix.
        taken: The names of the earlier runs; the new name is added.
    """
    distinct = name if _is_safe(name) else _suffixed(name, digest(_settings(choices), 8))
    for length in (8, 16, 32, 64):
        if distinct not in taken:
            break
        distinct = _suffixed(name, digest(_settings(choices), length))
    taken.add(distinct)
    return distinct


def names_are_safe(start: str, labels: Iterable[Iterable[str]]) -> bool:
    """Whether all names of this start and one label of each group, joined by `_`, are valid for folders."""
    groups = [list(group) for group in labels]
    longest = len(start.encode()) + sum(1 + max(len(label.encode(errors="replace")) for label in g) for g in groups)
    return (
        longest <= MAX_NAME_BYTES and _is_safe(start) and not any(_UNSAFE.search(label) for g in groups for label in g)
    )


def name_problem(name: str) -> str:
    """Why this name of an experiment is not valid for a folder in its output folder; empty if it is."""
    if name in (".", "..") or name.startswith("."):
        return "starts with a dot"
    if "/" in name:
        return "contains a /"
    if _UNSAFE.search(name):
        return "contains a character that a file name cannot have"
    if name == DEBUG_FOLDER:
        return "is reserved for the folder of debug runs"
    if name == ARRAYS_FOLDER:
        return "is reserved for the folder of submitted arrays"
    if name == WORKERS_FOLDER:
        return "is reserved for the folder of workers' logs"
    if len(name.encode()) > MAX_EXPERIMENT_BYTES:
        return f"is longer than {MAX_EXPERIMENT_BYTES} bytes"
    return ""


def _settings(choices: Sequence[Alternative]) -> Settings:
    return (setting for choice in choices for setting in choice.settings)


def _is_safe(name: str) -> bool:
    return not _UNSAFE.search(name) and len(name.encode()) <= MAX_NAME_BYTES and not name.startswith(".")


def _suffixed(name: str, suffix: str) -> str:
    safe = _UNSAFE.sub("_", name)
    if safe.startswith("."):
        safe = "_" + safe[1:]
    room = MAX_NAME_BYTES - len(suffix) - 1
    return f"{safe.encode()[:room].decode(errors='ignore')}-{suffix}"
