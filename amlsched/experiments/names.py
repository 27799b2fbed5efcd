"""Names of runs: the short forms of settings, as in cw2, and folder names that are safe and distinct."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from amlsched.experiments.yaml12 import Key

__all__ = [
    "ARRAYS_FOLDER",
    "DEBUG_FOLDER",
    "WORKERS_FOLDER",
    "Settings",
    "digest",
    "distinct_name",
    "name_problem",
    "names_are_safe",
    "setting_label",
]

Settings = Iterable[tuple[tuple[Key, ...], Any]]


class HasSettings(Protocol):
    """One choice of a run."""

    @property
    def settings(self) -> Settings:
        """Paths and values, in order."""
        ...


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


def setting_label(path: tuple[Key, ...], value: Any) -> str:
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


def distinct_name(name: str, choices: Sequence[HasSettings], taken: set[str]) -> str:
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


def _settings(choices: Sequence[HasSettings]) -> Settings:
    return (setting for choice in choices for setting in choice.settings)


def _is_safe(name: str) -> bool:
    return not _UNSAFE.search(name) and len(name.encode()) <= MAX_NAME_BYTES and not name.startswith(".")


def _suffixed(name: str, suffix: str) -> str:
    safe = _UNSAFE.sub("_", name)
    if safe.startswith("."):
        safe = "_" + safe[1:]
    room = MAX_NAME_BYTES - len(suffix) - 1
    return f"{safe.encode()[:room].decode(errors='ignore')}-{suffix}"
