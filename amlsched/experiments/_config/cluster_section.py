"""The sections for batch systems: which one is for this host, and the rules for its values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amlsched._spelling import meant
from amlsched.batch_systems import SYSTEMS
from amlsched.errors import ConfigError
from amlsched.experiments._config.document import Document
from amlsched.experiments._config.keys import (
    EXPERIMENT_KEYS,
    SHARE,
    TEXTS,
    Rule,
    check_rules,
    count_rule,
    declared,
    expansion_kind,
    one_of,
    text_rule,
)
from amlsched.experiments._config.reporting import Note, Report, add_once, ignore_note
from amlsched.experiments._config.values import copied, filled, is_list, is_mapping
from amlsched.experiments._config.yaml import Unread
from amlsched.units import slurm_seconds

__all__ = ["MISSPELT", "OF_EXPERIMENTS", "OF_SECTIONS", "RULES", "Sections", "sections_for"]

SHORTEST_HINT = 3


def _is_time(value: Any) -> bool:
    if isinstance(value, str) and value.upper() in ("UNLIMITED", "INFINITE"):
        return True
    return type(value) in (int, str) and slurm_seconds(value) is not None


def _is_text_or_number(value: Any) -> bool:
    return type(value) in (str, int)


def _is_flat(value: Any) -> bool:
    return value is None or (is_mapping(value) and not any(is_mapping(one) or is_list(one) for one in value.values()))


_TEXT_OR_NUMBER = {"type": ["string", "integer"]}
_SCALAR = Rule(_is_text_or_number, "a text", "my-project", _TEXT_OR_NUMBER)
_PLAIN_VALUES = Rule(
    _is_flat,
    "a mapping of options of sbatch to single values",
    "{gres: gpu:1}",
    {"type": ["object", "null"], "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
)
RULES: dict[str, Rule] = {
    "name": text_rule("SLURM"),
    "partition": _SCALAR,
    "job-name": _SCALAR,
    "num_parallel_jobs": count_rule(10, least=0),
    "ntasks": count_rule(1),
    "cpus-per-task": count_rule(4),
    "time": Rule(
        _is_time, "a time as Slurm reads it (a whole number is minutes)", "1:30:00", _TEXT_OR_NUMBER | {"minLength": 1}
    ),
    "account": _SCALAR,
    "mem-per-cpu": Rule(_is_text_or_number, "an amount of memory as Slurm reads it", "2G", _TEXT_OR_NUMBER),
    "sbatch_args": _PLAIN_VALUES,
    "directives": TEXTS,
    "system": one_of(*SYSTEMS),
    "requeue": one_of(True, False),
    "warn_s": count_rule(60, least=0),
    "sh_lines": TEXTS,
    "venv": text_rule("my-environment", empty=True),
    "slurm_log": text_rule("results/slurmlog"),
    "slurm_output": text_rule("results/sbatch.sh"),
    "path_to_template": text_rule("sbatch_template.sh"),
    "experiment_copy_src": text_rule("."),
    "experiment_copy_dst": text_rule("/scratch/code"),
    "experiment_copy_auto_dst": text_rule("/scratch/code"),
    "gpus_per_rep": SHARE,
    "cpus_per_rep": count_rule(2),
    "scheduler": one_of("mp", "horeka", "kluster", "cpu_distribute"),
    "extra_keys": TEXTS,
}
MISSPELT = tuple(key for key in RULES if key not in ("name", "scheduler"))
"""The keys that are suggested for a misspelled key of a section."""
OF_EXPERIMENTS = ("params", "repetitions", "iterations")
"""Keys that show that a section is meant to be an experiment."""
OF_SECTIONS = frozenset(RULES) - EXPERIMENT_KEYS
"""Keys that show that an experiment is meant to be a section, with a misspelled name."""
_COUNTS = ("num_parallel_jobs", "ntasks", "cpus-per-task", "cpus_per_rep")
_MAY_BE_EMPTY = ("partition", "account", "job-name", "mem-per-cpu", "venv")


@dataclass(frozen=True)
class Sections:
    """The sections for batch systems of a file, and which of them is for this host.

    Errors in a section only matter to runs that use it; a run on this machine does not.

    Args:
        chosen: The section for this host; `None` if there is none.
        cluster: Its values, without invalid, empty and null ones; `None` if there is no section.
        faults: Its errors.
        other_faults: The errors in the sections of other hosts.
        notes: Notes on keys of it that have no effect.
    """

    chosen: Document | None = None
    cluster: dict[str, Any] | None = None
    faults: tuple[ConfigError, ...] = ()
    other_faults: tuple[ConfigError, ...] = ()
    notes: tuple[str, ...] = ()


def sections_for(sections: Sequence[Document], host: str) -> Sections:
    """Check all sections, and choose the one for a host: the one whose hint matches best, or the plain `SLURM`.

    The hint of `SLURM_xxx` is `xxx`; it matches a host whose name contains it, in upper or lower case. A hint of one or
    two letters has to be a whole part of the host's name (between dots, dashes, letters and digits), because `SLURM_a`
    would otherwise match nearly every host. Of several matches, the longest hint wins. As in cw2, the chosen section
    inherits nothing from the plain one.

    Args:
        sections: The file's sections for batch systems.
        host: Name of the host.
    """
    chosen = _chosen(sections, host)
    faults: list[ConfigError] = []
    others: list[ConfigError] = []
    notes: list[str] = []
    first: dict[str, Document] = {}
    for section in sections:
        report = faults.append if section is chosen else others.append
        if (same := first.setdefault(_hint(section), section)) is not section:
            problem = f"a second section {section.name}; the first is {same.place()}"
            (faults if same is chosen else others).append(
                ConfigError(section.place("name"), problem, "join the two, or rename one")
            )
        _check(section, report, notes.append if section is chosen else ignore_note)
    if chosen is None:
        return Sections(other_faults=tuple(others))
    data = _as_numbers(filled(copied(chosen.data), chosen.place, faults.append))
    wrong: list[str] = []
    for key, rule in RULES.items():
        if isinstance(data.get(key), Unread):
            wrong.append(key)
        elif _is_left_out(key, data.get(key)):
            data.pop(key, None)
        elif not rule.holds(data[key]):
            wrong.append(key)
    check_rules({key: data[key] for key in wrong}, RULES, (), chosen.place, partial(add_once, faults))
    usable = {key: value for key, value in data.items() if key not in wrong}
    return Sections(chosen, {**usable, "name": "SLURM"}, tuple(faults), tuple(others), tuple(notes))


def _as_numbers(data: dict[str, Any]) -> dict[str, Any]:
    """The same data, with quoted counts as numbers, as in cw2."""
    quoted = {key: int(data[key]) for key in _COUNTS if isinstance(data.get(key), str) and data[key].isdecimal()}
    return data | quoted


def _is_left_out(key: str, value: Any) -> bool:
    """Whether a value counts as not given, as in cw2."""
    return key != "name" and (value is None or (value == "" and key in _MAY_BE_EMPTY) or _is_no_limit(key, value))


def _is_no_limit(key: str, value: Any) -> bool:
    return key == "num_parallel_jobs" and value == 0 and type(value) is int


def _check(section: Document, report: Report, note: Note) -> None:
    """Report keys that are probably misspelled and values of the wrong type, and note keys that are not read.

    Missing keys are not reported: which ones are needed depends on how the section is used.
    """
    given = _as_numbers({key: value for key, value in section.data.items() if not _is_left_out(key, value)})
    check_rules(given, RULES, (), section.place, report)
    own = declared(section.data)
    for key, value in section.data.items():
        if key in RULES and value is not None and key not in given:
            meaning = "no limit" if key == "num_parallel_jobs" else "nothing"
            note(f"{section.place(key)}: {key} is {value!r}, which means {meaning}, and is left out")
        if key in RULES or key.startswith(("_", "x-")) or key in own:
            continue
        guess = meant(key, MISSPELT)
        if key in OF_EXPERIMENTS or expansion_kind(key):
            remedy = "a name that begins with SLURM_ makes it a section for a host; give the experiment another name"
        elif guess:
            remedy = f"did you mean {guess}? options of sbatch go below sbatch_args"
        else:
            text = "options of sbatch go below sbatch_args"
            note(f"{section.place(key)}: amlsched does not read the key {key} of a SLURM section; {text}")
            continue
        report(ConfigError(section.place(key), f"the key {key} is not known in a SLURM section", remedy))


def _hint(section: Document) -> str:
    return section.name.lower()[len("slurm_") :]


def _chosen(sections: Sequence[Document], host: str) -> Document | None:
    chosen: tuple[int, Document] | None = None
    for section in sections:
        hint = _hint(section)
        if hint and not _fits(hint, host.lower()):
            continue
        if chosen is None or len(hint) > chosen[0]:
            chosen = (len(hint), section)
    return chosen[1] if chosen else None


def _fits(hint: str, host: str) -> bool:
    if len(hint) >= SHORTEST_HINT:
        return hint in host
    return hint in re.findall(r"[a-z]+|[0-9]+", host) or hint in re.split(r"[-._]", host)
