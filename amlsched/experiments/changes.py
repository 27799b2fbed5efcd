"""The settings that the results of a run depend on, and how they changed since it ran."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import ExperimentError
from amlsched.experiments import layout, records
from amlsched.experiments.atomic import file_bytes
from amlsched.experiments.plain import jsonable
from amlsched.experiments.record import Record, State
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from amlsched.experiments.expand import Run
    from amlsched.experiments.plan import Plan

__all__ = ["check_unchanged", "config_hash", "differences", "hashes", "settings"]

# Configs that only differ in these keys give the same repetitions.
_NO_MATTER = frozenset(
    {
        *("path", "repetitions", "reps_per_job", "reps_in_parallel", "extra_keys"),
        *("gpus_per_rep", "cpus_per_rep", "scheduler"),
    }
)
_SHOWN = 5
_SHOWN_DIFFERENCES = 20


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


def check_unchanged(plan: Plan) -> None:
    """Check that no repetition was run with other settings under the same name.

    Repetitions that will run again anyway are not checked.

    Raises:
        ExperimentError: Some were; the message shows what differs.
    """
    runs: dict[tuple[str, ...], list[str]] = {}
    count = 0
    for path, run in plan.runs():
        for known in _changed(plan, path, run):
            count += 1
            names = runs.setdefault(tuple(differences(known, run.at(known.rep))), [])
            if run.name not in names[-1:]:
                names.append(run.name)
    if not runs:
        return
    lines = [f"{counted(count, 'repetition', 'were')} run with other settings under the same name"]
    for changes, names in list(runs.items())[:_SHOWN]:
        lines.append(f"  {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}:")
        lines += [f"    {line}" for line in changes[:_SHOWN_DIFFERENCES]]
    if len(runs) > _SHOWN:
        lines.append(f"  … and {sum(map(len, list(runs.values())[_SHOWN:]))} more runs")
    remedy = "-o runs them again, --keep-changed leaves them as they are, another name keeps both"
    raise ExperimentError(str(plan.config), "\n".join(lines) + "\n", remedy)


def _changed(plan: Plan, path: Path, run: Run) -> Iterator[Record]:
    if not layout.run_folder(path, run).is_dir():
        return
    hash_at = hashes(run)
    for index in plan.indices(run):
        folder = layout.repetition_folder(path, run, index)
        try:
            if hash_at(index).encode() in file_bytes(folder / layout.RECORD, wait_s=0):
                continue  # without parsing the record: for 100,000 of them that takes seconds
        except OSError:
            continue
        known = records.read(folder)
        if (
            known.state is not State.UNKNOWN
            and known.config_hash != hash_at(index)
            and not plan.asks_for(run, known.state)
        ):
            yield known


def differences(known: Record, run: Run) -> Iterator[str]:
    """The differences between the settings that a repetition was run with and the current ones: `key: old → new`."""
    old = dict(_leaves(jsonable(known.config | {"params": known.params})))
    new = dict(_leaves(settings(run)))
    if not known.config:  # written by an earlier version, which kept only the params
        new = {key: value for key, value in new.items() if key.startswith("params.")}
    same = True
    for key in dict.fromkeys((*old, *new)):
        before, after = (json.dumps(side[key]) if key in side else "nothing" for side in (old, new))
        if before != after:
            same = False
            yield f"{key}: {before} → {after}"
    if same:
        yield "something that is not in its record"


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, item in cast("dict[str, Any]", value).items():
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
