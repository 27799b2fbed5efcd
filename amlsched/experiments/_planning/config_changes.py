"""The settings that the results of a run depend on, and how they changed since it ran."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from amlsched.experiments._config.values import jsonable, nested
from amlsched.experiments._storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from amlsched.experiments._config.expand import Run

__all__ = ["changes", "config_hash", "differences", "hashes", "settings"]

# Configs that only differ in these keys give the same repetitions.
_NO_MATTER = frozenset(
    {
        *("path", "repetitions", "reps_per_job", "reps_in_parallel", "extra_keys"),
        *("gpus_per_rep", "cpus_per_rep", "scheduler"),
    }
)


def settings(run: Run) -> dict[str, Any]:
    """The keys of a run's config that its results may depend on, as JSON values."""
    return {
        key: jsonable(value)
        for key, value in run.config.items()
        if key not in _NO_MATTER and not key.startswith("_") and (key != "seed_globals" or value is False)
    }


def config_hash(made_of: dict[str, Any]) -> str:
    """The hash of these settings."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def hashes(run: Run) -> Callable[[int], str]:
    """A function from the index of a repetition of a run to its hash; nearly always, all repetitions have the same."""
    of_run: list[str] = []

    def of_repetition(index: int) -> str:
        one = run.at(index)
        if one is not run:
            return config_hash(settings(one))
        if not of_run:
            of_run.append(config_hash(settings(run)))
        return of_run[0]

    return of_repetition


def differences(known: Record, run: Run) -> Iterator[str]:
    """The differences between the settings that a repetition was run with and the current ones: `key: old → new`."""
    old = _by_key(jsonable(known.config | {"params": known.params}))
    new = _by_key(settings(run))
    if not known.config:  # written by an earlier version, which kept only the params
        new = {key: value for key, value in new.items() if key.startswith("params.")}
    yield from list(_differing(old, new)) or ["something that is not in its record"]


def changes(old: Run, new: Run) -> Iterator[str]:
    """The differences between the settings of two runs: `key: old → new`."""
    return _differing(_by_key(settings(old)), _by_key(settings(new)))


def _differing(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        before, after = (json.dumps(side[key]) if key in side else "nothing" for side in (old, new))
        if before != after:
            yield f"{key}: {before} → {after}"


def _by_key(config: dict[str, Any]) -> dict[str, Any]:
    """The values in nested mappings, by their keys, joined by dots."""
    return {".".join(map(str, path)): value for path, value in nested(config) if value != {}}
