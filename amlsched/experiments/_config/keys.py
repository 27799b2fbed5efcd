"""The keys of an experiment, and the rules for their values."""

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amlsched._spelling import closest, meant
from amlsched.errors import ConfigError
from amlsched.experiments._config.reporting import Note, Report, ignore_note, raise_error
from amlsched.experiments._config.values import is_list, is_mapping
from amlsched.experiments._config.yaml import Unread

__all__ = [
    "ALL_CPUS",
    "EXPANSIONS",
    "EXPERIMENT_KEYS",
    "MISSPELT",
    "NULLABLE",
    "RULES",
    "Rule",
    "VARIED",
    "WRITTEN_KEYS",
    "check_keys",
    "declared",
    "expansion_kind",
    "misspelt_expansion",
    "shown",
]

EXPANSIONS = ("grid", "list", "ablative")
_TOO_MANY = 2**31
ALL_CPUS = -1
"""Value of `reps_in_parallel` for one per CPU."""

Place = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for a value: a test, its description, an example, and the test as a JSON schema."""

    holds: Callable[[Any], bool]
    words: str
    example: str
    schema: Mapping[str, Any]


def _is_share(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return 0 < value < 1 or (value >= 1 and value == int(value))


def _is_texts(value: Any) -> bool:
    return is_list(value) and all(isinstance(item, str) for item in value)


def count_rule(example: int, least: int = 1) -> Rule:
    """A whole number of at least `least` that counts something; below 2**31, as nothing has more."""

    def holds(value: Any) -> bool:
        return type(value) is int and least <= value < _TOO_MANY

    schema = {"type": "integer", "minimum": least, "maximum": _TOO_MANY - 1}
    return Rule(holds, f"a whole number of at least {least}, below 2**31", str(example), schema)


def text_rule(example: str, *, empty: bool = False) -> Rule:
    """Text that can be passed to the operating system."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and "\0" not in value and (empty or value != "")

    return Rule(holds, "a text", example, {"type": "string", "minLength": 0 if empty else 1})


def one_of(*choices: object) -> Rule:
    """One of a few values."""
    words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]

    def holds(value: Any) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in choices)

    return Rule(holds, f"{', '.join(words[:-1])} or {words[-1]}", words[0], {"enum": list(choices)})


MAPPING = Rule(is_mapping, "a mapping of keys to values", "{lr: 0.1}", {"type": "object"})
SHARE = Rule(
    _is_share,
    "a share of one between 0 and 1, or a whole number",
    "0.5",
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "integer", "minimum": 1}]},
)
TEXTS = Rule(_is_texts, "a list of texts", "[verbosity]", {"type": "array", "items": {"type": "string"}})

ANY = Rule(lambda _: True, "anything", "mp", {})
# Text is for the user's own use, as in cw2, where the key has no meaning.
_SEED = Rule(
    lambda value: isinstance(value, str) or (type(value) is int and value >= 0),
    "a whole number of at least 0",
    "1",
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
)
_PARALLEL = Rule(
    lambda value: type(value) is int and (value >= 1 or value == ALL_CPUS),
    f"a whole number of at least 1, or {ALL_CPUS} for one per CPU",
    "2",
    {"anyOf": [{"type": "integer", "minimum": 1}, {"const": ALL_CPUS}]},
)

VARIED = "_repetitions"
"""Key of a resolved config: configs of single repetitions that replace the experiment's, by run and index."""


def _is_varied(value: Any) -> bool:
    """Whether it maps names of runs to mappings from indices to configs."""
    return is_mapping(value) and all(
        isinstance(run, str)
        and is_mapping(configs)
        and all(type(index) is int and is_mapping(one) for index, one in configs.items())
        for run, configs in value.items()
    )


RULES: dict[str, Rule] = {
    "name": text_rule("digits"),
    "path": text_rule("results"),
    "repetitions": count_rule(5),
    "iterations": count_rule(10),
    "params": MAPPING,
    "seed": _SEED,
    "seed_globals": one_of(True, False),
    "reps_per_job": count_rule(4),
    "reps_in_parallel": _PARALLEL,
    "gpus_per_rep": SHARE,
    "cpus_per_rep": count_rule(2),
    "scheduler": ANY,
    "ablative_baseline": one_of(True, False),
    "import_path": text_rule("base.yml"),
    "import_exp": text_rule("DEFAULT"),
    "extra_keys": TEXTS,
    "wandb": MAPPING,
    # keys that cw2 and amlsched write into a resolved config
    "log_path": text_rule("results/digits/log"),
    "_experiment_name": text_rule("digits__lr0.1"),
    "_basic_path": text_rule("results"),
    "_nested_dir": text_rule("digits", empty=True),
    "_rep_idx": count_rule(0, least=0),
    "_rep_log_path": text_rule("results/digits/log/rep_00"),
    "_debug": one_of(True, False, "debug", "debugall"),
    "_path_relative_to": one_of("file", "cwd"),
    VARIED: Rule(_is_varied, "a mapping from runs and indices to configs", "{e: {0: {}}}", {"type": "object"}),
}

EXPERIMENT_KEYS = frozenset(RULES)
WRITTEN_KEYS = frozenset(key for key in RULES if key.startswith("_"))
"""Keys that are only written by cw2 and amlsched."""
_PUBLIC = tuple(key for key in RULES if not key.startswith("_"))

# Names in other tools, too different from ours to be found by their letters. An error if ours is missing.
_SYNONYMS = {
    "reps": "repetitions",
    "repeats": "repetitions",
    "parameters": "params",
    "hyperparameters": "params",
}
# The same, but a project may well use them for something else.
_HINTS = {
    "runs": "repetitions",
    "epochs": "iterations",
    "output": "path",
    "random_seed": "seed",
}
MISSPELT = (*(key for key in _PUBLIC if key not in ("name", "log_path", "scheduler")), *EXPANSIONS)
"""The keys that are suggested for a misspelled one; not `name`, which is never missing, nor the unused `scheduler`."""
NULLABLE = frozenset(RULES) - {"name", "path", "repetitions"}
"""Keys whose value may be null, which counts as not given; so a document can remove a value of its DEFAULT."""


def expansion_kind(key: str) -> str | None:
    """The expansion of a top-level key: `grid`, `list` or `ablative`; `None` for any other key."""
    if key == "ablative_baseline":
        return None
    return next((kind for kind in EXPANSIONS if key.startswith(kind)), None)


def misspelt_expansion(key: str) -> str | None:
    """The expansion that a key was probably meant to be, with or without a number at its end; `None` for none."""
    return None if _head(key) in EXPANSIONS else meant(_head(key), EXPANSIONS)


def _head(key: object) -> str:
    """A key without the number at its end."""
    return re.sub(r"[-_ ]*[0-9]*$", "", str(key))


def declared(config: Mapping[str, Any]) -> set[str]:
    """The keys that a document declares as read by the user's code, in `extra_keys` and `loggers`."""
    named: list[Any] = [config.get(key) for key in ("extra_keys", "loggers")]
    return {key for keys in named if _is_texts(keys) for key in keys}


def check_keys(config: Mapping[str, Any], place: Place, report: Report = raise_error, note: Note = ignore_note) -> None:
    """Report keys that are probably misspelled and values of the wrong type; note keys that amlsched does not read.

    A key is known if cw2 or amlsched reads it, or if it starts with `grid`, `list`, `ablative`, `_` or `x-`. Unless
    `extra_keys` or `loggers` name it, a key that resembles a known one, or has a mapping that looks like an expansion,
    is an error. Any other key is kept for the user's code.

    Args:
        config: A merged experiment.
        place: Formats the place of a key path.
        report: Called with each error.
        note: Called with a note for each key that is kept without being declared.
    """
    check_rules(config, RULES, NULLABLE, place, report)
    own = declared(config)
    for key, value in config.items():
        if key in RULES or expansion_kind(key) or key.startswith(("_", "x-")) or key in own:
            continue
        if key == "loggers" and _is_texts(value):
            continue
        synonym = _SYNONYMS.get(key.lower()) or _SYNONYMS.get(meant(key, _SYNONYMS) or "")
        guess = meant(key, MISSPELT) or misspelt_expansion(key) or (synonym if synonym not in config else None)
        allow = f"if your code reads {key} here, allow it with extra_keys: [{key}]"
        if guess:
            remedy = f"did you mean {guess}? If not, move it below params, or, {allow}"
            report(ConfigError(place(key), f"the key {key} is not known", remedy))
        elif _is_mapping_of_lists(value):
            problem = f"the key {key} is not known, and it looks like an expansion: all of its values are lists"
            report(ConfigError(place(key), problem, f"did you mean grid or list? If not, {allow}"))
        else:
            hint = synonym or _HINTS.get(key.lower()) or closest(key, MISSPELT)
            hint = f" (did you mean {hint}?)" if hint else ""
            note(f"{place(key)}: amlsched does not read the key {key}{hint}; it is kept for your code")
    if isinstance(config.get("seed"), str) and not isinstance(config["seed"], Unread):
        seed = f"seed is {shown(config['seed'])}, which is not a whole number"
        note(f"{place('seed')}: {seed}: it is kept for your code, and repetitions are seeded as with seed 0")
    _check_nested_expansions(config.get("params"), own, place, report)


def _check_nested_expansions(params: Any, own: Container[str], place: Place, report: Report) -> None:
    """Report a `grid` below `params`, where it would be an ordinary parameter."""

    def look(mapping: Any, path: tuple[Any, ...]) -> None:
        for key, value in mapping.items():
            if not is_mapping(value):
                continue
            here = (*path, key)
            kind = _head(key) if _head(key) in EXPANSIONS else meant(_head(key), EXPANSIONS)
            dotted = ".".join(map(str, here))
            if kind is None or not _is_mapping_of_lists(value) or dotted in own:
                look(value, here)
                continue
            problem = f"{dotted} looks like an expansion: all of its values are lists"
            remedy = f"did you mean a top-level {kind}? If it is a parameter, allow it with extra_keys: [{dotted}]"
            report(ConfigError(place(*here), problem, remedy))

    if is_mapping(params):
        look(params, ("params",))


def _is_mapping_of_lists(value: Any) -> bool:
    """Whether this is a non-empty mapping, nested or not, whose leaves are all lists."""
    if not is_mapping(value) or not value:
        return False
    return all(is_list(below) or _is_mapping_of_lists(below) for below in value.values())


def check_rules(
    config: Mapping[str, Any], rules: Mapping[str, Rule], nullable: Iterable[str], place: Place, report: Report
) -> None:
    """Report values that break their rule, except for those that contain environment variables."""
    for key, rule in rules.items():
        if key not in config or (config[key] is None and key in nullable) or rule.holds(config[key]):
            continue
        if isinstance(config[key], Unread):
            continue
        problem = f"{key} is {shown(config[key])}, and must be {rule.words}"
        report(ConfigError(place(key), problem, f"for example {key}: {rule.example}"))


def shown(value: Any, limit: int = 60) -> str:
    """A value as short text for a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
