"""What a config says: the origin of each value, and a JSON schema of configs, for editors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amlsched._spelling import misspellings
from amlsched.experiments._config import cluster_section, keys
from amlsched.experiments._config.axes import set_in_every_run
from amlsched.experiments._config.document import ARCHIVES, Document, Layers, key_text, origin
from amlsched.experiments._config.expand import ONE_IN_DEBUG, Debug, Run, debug_mode
from amlsched.experiments._config.keys import expansion_kind
from amlsched.experiments._config.resolve import ResolvedExperiment
from amlsched.experiments._config.values import is_list, is_tuple, nested
from amlsched.experiments._config.yaml import Key, Unread

__all__ = ["Explained", "explained", "explained_section", "json_schema", "settings"]

_BUILT_IN = {"repetitions": 1, "seed": 0, "reps_per_job": 1, "reps_in_parallel": 1}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{env:"}


@dataclass(frozen=True, slots=True)
class Explained:
    """A value of a config.

    Attributes:
        key: Its path, such as `params.opt.lr`.
        value: The value: anything but a mapping with keys of its own.
        origin: File and line, and the relation of the document to the experiment; `command line`; or `built in`.
    """

    key: str
    value: Any
    origin: str


def explained(experiment: ResolvedExperiment, debug: Debug = "") -> Iterator[Explained]:
    """Each value of an experiment with its origin, in the order of the merged config, followed by the defaults.

    Args:
        experiment: A resolved experiment.
        debug: The debug mode; if it replaces a value, the origin says so.
    """
    debug = debug_mode(experiment.config, debug)
    config = {key: value for key, value in experiment.config.items() if key != "name"}
    for path, value in nested(config):
        text = _origin(experiment.layers, path)
        if path[0] == "params" and (by := set_in_every_run(experiment.axes, path[1:])):
            text += f"; replaced by {by}"
        elif debug and path[0] in ONE_IN_DEBUG and value not in (1, None):
            text += f"; 1 with --{debug}"
        elif debug == "debug" and expansion_kind(str(path[0])) is not None:
            text += "; only the first combination with --debug"
        yield Explained(key_text(path), value, text)
    for key, value in _BUILT_IN.items():
        if config.get(key) is None:
            yield Explained(key, value, "built in")


def explained_section(section: Document, data: Mapping[str, Any]) -> Iterator[Explained]:
    """Each value of a section for a batch system."""
    config = {key: value for key, value in data.items() if key != "name"}
    for path, value in nested(config):
        yield Explained(key_text(path), value, _origin((section,), path))


def settings(run: Run) -> dict[str, Any]:
    """What the expansions of a run set, by the path of the expansion: `{"grid.lr": 0.1}`."""
    chosen = zip(run.experiment.axes, run.choices, strict=True)
    return {key_text((axis.key, *path)): value for axis, choice in chosen for path, value in choice.settings}


def _origin(layers: Layers, path: tuple[Key, ...]) -> str:
    imported = next((key for key, archive in ARCHIVES.items() if archive == path[0]), None)
    path = (imported,) if imported else path
    document = origin(layers, *path)
    if document is None:
        return "amlsched"
    if document.kind == "override":
        return f"command line, {document.name}"
    text = f"{document.file}:{document.lines[path]}"
    own = next(layer for layer in reversed(layers) if layer.kind != "override")
    if document.file != own.file or (document is not own and document.kind != "default"):
        text += f", imported from {document.name}"
    elif document is not own:
        text += f", {document.name}"
    return text + (", with environment variables" if _asks(document.data, path) else "")


def _asks(data: Any, path: tuple[Key, ...]) -> bool:
    for key in path:
        data = data[key]
    return isinstance(data, Unread) or ((is_list(data) or is_tuple(data)) and any(_asks(item, ()) for item in data))


# --------------------------------------------------------------------------------------------------------------- schema


def json_schema() -> dict[str, Any]:
    """The schema of one document of a config: a DEFAULT, a section for a batch system, or an experiment.

    An editor checks each document separately, so the schema omits rules about the whole file: whether there is a
    `path`, and which keys the `extra_keys` of a DEFAULT allow. It recognizes misspelled keys with one wrong letter.

    Sources:
        JSON Schema, draft 2020-12. The keywords used here mean the same in draft 7, which editors also support.
    """
    section = {"type": "string", "pattern": "^[Ss][Ll][Uu][Rr][Mm](_.+)?$"}
    mapping = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/lists"}}
    lists = {"anyOf": [{"type": "array", "minItems": 1}, mapping]}
    expansion = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"anyOf": [{"type": "array"}, {"$ref": "#/$defs/expansion"}]},
    }
    return {
        "$schema": _DIALECT,
        "title": "A document of an experiment file of amlsched",
        "type": ["object", "null"],
        "required": ["name"],
        "if": {"properties": {"name": section}},
        "then": _section_schema(),
        "else": _experiment_schema(),
        "$defs": {"lists": lists, "expansion": expansion},
    }


def _experiment_schema() -> dict[str, Any]:
    expansion = {
        "description": "An expansion: names of parameters, nested as params are, each with a list of values.",
        "type": ["object", "null"],
        "additionalProperties": {"$ref": "#/$defs/lists"},
    }
    return {
        "properties": _properties(keys.RULES, keys.NULLABLE),
        "patternProperties": {
            "^grid": expansion,
            "^list": expansion,
            "^ablative(?!_baseline$)": expansion,
            "^(_|x-)": True,
        },
        **_other_keys(),
    }


def _section_schema() -> dict[str, Any]:
    rules = cluster_section.RULES
    wrong = {"^(grid|list|ablative)": False, misspellings(cluster_section.MISSPELT): False}
    return {
        "properties": _properties(rules, frozenset(rules) - {"name"})
        | dict.fromkeys(cluster_section.OF_EXPERIMENTS, False),
        "if": {"required": ["extra_keys"]},
        "else": {"patternProperties": wrong},
    }


def _other_keys() -> dict[str, Any]:
    """Other keys are the user's own, except misspelled ones and mappings of lists, unless the document names them."""
    known = {
        "properties": dict.fromkeys(keys.RULES, True),
        "patternProperties": {"^(grid|list|ablative|_|x-)": True, misspellings(keys.MISSPELT): False},
    }
    own = {"description": "A key of your own, such as the section of a logger.", "not": {"$ref": "#/$defs/expansion"}}
    claims = {"anyOf": [{"required": ["extra_keys"]}, {"required": ["loggers"]}]}
    return {"if": claims, "then": True, "else": known | {"additionalProperties": own}}


def _properties(rules: Mapping[str, keys.Rule], nullable: frozenset[str]) -> dict[str, Any]:
    return {key: _value_schema(rule, null=key in nullable) for key, rule in rules.items()}


def _value_schema(rule: keys.Rule, *, null: bool) -> dict[str, Any]:
    choices: list[Any] = [dict(rule.schema), _VARIABLE, *([{"type": "null"}] if null else [])]
    return {"description": f"{rule.words[0].upper()}{rule.words[1:]}.", "examples": [rule.example], "anyOf": choices}
