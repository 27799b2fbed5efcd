"""The keys that an experiment's document may have, and what their values must be."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.faults import Report, refuse
from amlsched.experiments.plain import is_list, is_mapping
from amlsched.experiments.yaml12 import Unread

__all__ = [
    "EXPANSIONS",
    "EXPERIMENT_KEYS",
    "NULLABLE",
    "RULES",
    "Rule",
    "WRITTEN_KEYS",
    "check_keys",
    "closest",
    "expansion_kind",
    "shown",
]

EXPANSIONS = ("grid", "list", "ablative")

Place = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be: a test, the words for it, an example, and the test as a JSON schema."""

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
    """A whole number, of at least 1 or what is given."""

    def holds(value: Any) -> bool:
        return type(value) is int and value >= least

    return Rule(holds, f"a whole number of at least {least}", str(example), {"type": "integer", "minimum": least})


def text_rule(example: str, *, empty: bool = False) -> Rule:
    """A text that can be handed to the operating system."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and "\0" not in value and (empty or value != "")

    return Rule(holds, "a text", example, {"type": "string", "minLength": 0 if empty else 1})


def one_of(*choices: object) -> Rule:
    """One of these values."""
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

RULES: dict[str, Rule] = {
    "name": text_rule("digits"),
    "path": text_rule("results"),
    "repetitions": count_rule(5),
    "iterations": count_rule(10),
    "params": MAPPING,
    "seed": count_rule(1, least=0),
    "seed_globals": one_of(True, False),
    "reps_per_job": count_rule(4),
    "reps_in_parallel": count_rule(2),
    "gpus_per_rep": SHARE,
    "cpus_per_rep": count_rule(2),
    "scheduler": text_rule("mp"),
    "ablative_baseline": one_of(True, False),
    "import_path": text_rule("base.yml"),
    "import_exp": text_rule("DEFAULT"),
    "extra_keys": TEXTS,
    "wandb": MAPPING,
    # what cw2 and amlsched themselves write into a resolved config
    "log_path": text_rule("results/digits/log"),
    "_experiment_name": text_rule("digits__lr0.1"),
    "_basic_path": text_rule("results"),
    "_nested_dir": text_rule("digits", empty=True),
    "_rep_idx": count_rule(0, least=0),
    "_rep_log_path": text_rule("results/digits/log/rep_00"),
    "_debug": one_of(True, False, "debug", "debugall"),
    "_path_relative_to": one_of("file", "cwd"),
}

EXPERIMENT_KEYS = frozenset(RULES)
WRITTEN_KEYS = frozenset(key for key in RULES if key.startswith("_"))
"""Keys that only cw2 and amlsched write."""
_PUBLIC = tuple(key for key in RULES if not key.startswith("_"))

# Words that other tools use; too far from ours for a comparison of letters.
_SYNONYMS = {
    "reps": "repetitions",
    "repeats": "repetitions",
    "runs": "repetitions",
    "epochs": "iterations",
    "parameters": "params",
    "hyperparameters": "params",
    "output": "path",
    "ablation": "ablative",
    "random_seed": "seed",
}
NULLABLE = frozenset(RULES) - {"name", "path", "repetitions"}
"""Values of these may be null: nothing is said then, so that a document can take back what its DEFAULT says."""


def expansion_kind(key: str) -> str | None:
    """Which expansion a top-level key asks for: `grid`, `list` or `ablative`; `None` for any other key."""
    if key == "ablative_baseline":
        return None
    return next((kind for kind in EXPANSIONS if key.startswith(kind)), None)


def check_keys(config: Mapping[str, Any], place: Place, report: Report = refuse) -> None:
    """Refuses keys that nobody reads, and values of the wrong kind.

    A key is known if it is in cw2's or in amlsched's list, begins with `grid`, `list`, `ablative`, `_` or `x-`, or is
    named by `extra_keys`. A mapping of any other name is taken for the section of a logger (as `wandb` is for cw2),
    unless its name looks like a misspelling.

    Args:
        config: A merged experiment.
        place: Gives the place of a key path as text.
        report: Told of each.
    """
    check_rules(config, RULES, NULLABLE, place, report)
    extra: Any = config.get("extra_keys")
    extra = extra if is_list(extra) else []
    for key, value in config.items():
        known = key in RULES or expansion_kind(key) or key.startswith(("_", "x-")) or key in extra
        if known:
            continue
        guess = _SYNONYMS.get(key.lower()) or closest(key, (*_PUBLIC, *EXPANSIONS))
        misspelt = guess is not None and (key.lower() in _SYNONYMS or looks_like(key, guess))
        if isinstance(value, dict) and not misspelt:
            continue
        remedy = f"move it below params, or, if your code reads it here, allow it with extra_keys: [{key}]"
        if guess:
            remedy = f"did you mean {guess}? If not, {remedy}"
        report(ConfigError(place(key), f"the key {key} is not known", remedy))


def check_rules(
    config: Mapping[str, Any], rules: Mapping[str, Rule], nullable: Iterable[str], place: Place, report: Report
) -> None:
    """Refuses the values that their rule does not hold for; one that asks for an environment variable may be any."""
    for key, rule in rules.items():
        if key not in config or (config[key] is None and key in nullable) or rule.holds(config[key]):
            continue
        if isinstance(config[key], Unread):
            continue
        problem = f"{key} is {shown(config[key])}, and must be {rule.words}"
        report(ConfigError(place(key), problem, f"for example {key}: {rule.example}"))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one was probably meant to be; `None` if none comes near."""
    names = list(known)
    if found := difflib.get_close_matches(word, names, n=1, cutoff=0.65):
        return found[0]
    in_lower_case = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word.lower(), in_lower_case, n=1, cutoff=0.65)
    return in_lower_case[found[0]] if found else None


def looks_like(word: str, known: str) -> bool:
    """Whether one word is so near to the other that it is taken for a misspelling of it."""
    return difflib.SequenceMatcher(None, word.lower(), known.lower()).ratio() >= 0.8


def shown(value: Any, limit: int = 60) -> str:
    """A value as a short text for a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
