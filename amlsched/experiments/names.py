"""Names of runs: the short form of a setting, as cw2 forms it, and folder names that are safe and distinct."""

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
"""Logs of jobs whose workers run repetitions."""
MAX_NAME_BYTES = 255  # of one folder, on every Linux file system in use
MAX_EXPERIMENT_BYTES = 180  # leaves room for the settings and for files that are named after the experiment

_DROPPED = dict.fromkeys(map(ord, "'\" )]"))
_UNDERSCORED = dict.fromkeys(map(ord, "([,"), "_")
_CLEAN = {**_DROPPED, **_UNDERSCORED}
_UNSAFE = re.compile("[/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def setting_label(path: tuple[Key, ...], value: Any) -> str:
    """The short form of one setting, such as `opt.lr0.1` for `optimizer.learning_rate = 0.1`.

    Parents are cut to three letters, the leaf to the first letters of its `_`-parts; of key and value, quotes, spaces,
    `)` and `]` are dropped, and `(`, `[` and `,` become `_`. A dot within a key separates parents too. All as in cw2.
    """
    *parents, leaf = ".".join(map(str, path)).split(".")
    key = ".".join([*(parent[:3] for parent in parents), "".join(part[:1] for part in leaf.split("_"))])
    return f"{key}{value}".translate(_CLEAN)


def digest(settings: Settings, length: int) -> str:
    """A short name of these settings that changes with nothing else.

    Values of different types differ: 1, 1.0, true and "1" are four.

    Args:
        settings: Paths and values, in order.
        length: Hexadecimal digits, at most 64.
    """
    text = repr([(path, value) for path, value in settings])
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=32).hexdigest()[:length]


def distinct_name(name: str, choices: Sequence[HasSettings], taken: set[str]) -> str:
    """A folder name for a run: the name itself if that is safe and free, and then noted as taken.

    A name that cannot be a folder's (a `/`, a control character, too long) is made safe, and a name that another run
    has is told apart: both by a suffix that is made of the run's own settings alone. Of runs that share a name, the
    first in the order of expansion keeps it, as nearly all names of cw2 drop something (`[1, 2]` is `_1_2`) and
    should stay as they are. So values added at the end of a list do not rename the runs that were there, because
    these keep their order among themselves. If values change places, the record of a run (it knows its config)
    tells that the folder is another run's.

    Args:
        name: The name as cw2 forms it.
        choices: What the run sets; looked at only where a suffix is needed.
        taken: The names of the runs before this one; the new name is added.
    """
    distinct = name if _is_safe(name) else _suffixed(name, digest(_settings(choices), 8))
    for length in (8, 16, 32, 64):
        if distinct not in taken:
            break
        distinct = _suffixed(name, digest(_settings(choices), length))
    taken.add(distinct)
    return distinct


def names_are_safe(start: str, labels: Iterable[Iterable[str]]) -> bool:
    """Whether each name made of this start and one label of each group, joined by `_`, can be that of a folder."""
    groups = [list(group) for group in labels]
    longest = len(start.encode()) + sum(1 + max(len(label.encode(errors="replace")) for label in g) for g in groups)
    return (
        longest <= MAX_NAME_BYTES and _is_safe(start) and not any(_UNSAFE.search(label) for g in groups for label in g)
    )


def name_problem(name: str) -> str:
    """Why this name of an experiment cannot be that of a folder in its output folder; empty if it can."""
    if name in (".", "..") or name.startswith("."):
        return "begins with a dot"
    if "/" in name:
        return "contains a /"
    if _UNSAFE.search(name):
        return "contains a character that a file name cannot have"
    if name == DEBUG_FOLDER:
        return "is the folder of debug runs"
    if name == ARRAYS_FOLDER:
        return "is the folder of submitted arrays"
    if name == WORKERS_FOLDER:
        return "is the folder for logs of workers"
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
