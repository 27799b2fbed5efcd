"""The sections for a batch system: which one is for this host, and what its values must be."""

import math
import re
from collections.abc import Sequence
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.environment import filled
from amlsched.experiments.faults import Report, refuse
from amlsched.experiments.keys import (
    EXPERIMENT_KEYS,
    SHARE,
    TEXTS,
    Rule,
    check_rules,
    closest,
    count_rule,
    expansion_kind,
    one_of,
    text_rule,
)
from amlsched.experiments.load import Document
from amlsched.experiments.plain import copied, is_list, is_mapping

__all__ = ["RULES", "check_cluster", "cluster_for", "section_for", "slurm_seconds"]

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")
SHORTEST_HINT = 3


def slurm_seconds(value: int | str) -> int | None:
    """Seconds of a time limit as Slurm reads it; `None` if it is none, and for no limit (`UNLIMITED`).

    Args:
        value: A whole number is minutes, as is a bare number in a text; else `minutes:seconds`,
            `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or `days-hours:minutes:seconds`.

    Sources:
        sbatch, `--time`.
    """
    if isinstance(value, int):
        return value * 60 if value > 0 and not isinstance(value, bool) else None
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    days, first, second, third = (int(part) if part else 0 for part in match.group("days", "a", "b", "c"))
    if match["days"] is not None or match["c"] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None


def _is_time(value: Any) -> bool:
    if isinstance(value, str) and value.upper() in ("UNLIMITED", "INFINITE"):
        return True
    return type(value) in (int, str) and slurm_seconds(value) is not None


def _is_text_or_number(value: Any) -> bool:
    return value != "" and type(value) in (str, int)


def _is_flat(value: Any) -> bool:
    return value is None or (is_mapping(value) and not any(is_mapping(one) or is_list(one) for one in value.values()))


_TEXT_OR_NUMBER = {"type": ["string", "integer"], "minLength": 1}
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
    "num_parallel_jobs": count_rule(10),
    "ntasks": count_rule(1),
    "cpus-per-task": count_rule(4),
    "time": Rule(_is_time, "a time as Slurm reads it (a whole number is minutes)", "1:30:00", _TEXT_OR_NUMBER),
    "account": _SCALAR,
    "mem-per-cpu": Rule(_is_text_or_number, "an amount of memory as Slurm reads it", "2G", _TEXT_OR_NUMBER),
    "sbatch_args": _PLAIN_VALUES,
    "directives": TEXTS,
    "system": one_of("slurm", "sge", "pbs", "torque", "htcondor"),
    "requeue": one_of(True, False),
    "warn_s": count_rule(60, least=0),
    "sh_lines": TEXTS,
    "venv": text_rule("my-environment"),
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


def check_cluster(section: Document, report: Report = refuse) -> None:
    """Refuses a batch system's section with unknown keys or values of the wrong kind.

    A key may be left out here: what is needed depends on what is done with the section.

    Args:
        section: The section.
        report: Told of each.
    """
    check_rules(section.data, RULES, frozenset(RULES) - {"name"}, section.place, report)
    extra: Any = section.data.get("extra_keys")
    extra = extra if is_list(extra) else []
    for key in section.data:
        if key in RULES or key.startswith(("_", "x-")) or key in extra:
            continue
        guess = closest(key, RULES)
        remedy = f"did you mean {guess}? " if guess else ""
        remedy += "options of sbatch stand below sbatch_args"
        if key in EXPERIMENT_KEYS or expansion_kind(key):
            remedy = "a name that begins with SLURM_ makes it a section for a host; give the experiment another name"
        report(ConfigError(section.place(key), f"the key {key} is not known in a SLURM section", remedy))


def cluster_for(sections: Sequence[Document], host: str, report: Report = refuse) -> dict[str, Any] | None:
    """The section for a host: the one whose hint fits best, else the plain `SLURM`, else `None`.

    The hint of `SLURM_xxx` is `xxx`; it fits a host whose name contains it, in any case. A hint of one or two letters
    has to be a whole part of the host's name (between dots, dashes, letters and digits), or else `SLURM_a` would fit
    nearly every host. Of several that fit, the longest hint counts. As in cw2, the chosen section stands alone:
    nothing of the plain one is mixed into it.

    Args:
        sections: The file's sections for batch systems.
        host: Name of the host.
        report: Told of two sections for the same hosts, and of what is wrong with the environment variables that the
            chosen one asks for.
    """
    section = section_for(sections, host, report)
    if section is None:
        return None
    data: dict[str, Any] = filled(copied(section.data), section.place, report)
    check_rules(data, RULES, frozenset(RULES) - {"name"}, section.place, report)
    return {**data, "name": "SLURM"}


def section_for(sections: Sequence[Document], host: str, report: Report = refuse) -> Document | None:
    """The document that `cluster_for` takes."""
    chosen: tuple[float, Document] | None = None
    names: dict[str, Document] = {}
    for section in sections:
        hint = section.name.lower()[len("slurm_") :]
        if hint in names:
            problem = f"a second section {section.name}; the first is {names[hint].place()}"
            report(ConfigError(section.place("name"), problem, "join the two, or rename one"))
        names[hint] = section
        rank = len(hint) if not hint or _fits(hint, host.lower()) else -math.inf
        if rank >= 0 and (chosen is None or rank > chosen[0]):
            chosen = (rank, section)
    return chosen[1] if chosen else None


def _fits(hint: str, host: str) -> bool:
    if len(hint) >= SHORTEST_HINT:
        return hint in host
    return hint in re.findall(r"[a-z]+|[0-9]+", host) or hint in re.split(r"[-._]", host)
