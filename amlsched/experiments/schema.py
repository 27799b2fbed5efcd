"""A JSON schema of configs, for editors."""

from collections.abc import Mapping
from typing import Any

from amlsched.experiments import cluster, keys
from amlsched.experiments.spelling import misspellings

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ASKS = {"type": "string", "pattern": r"\$\{env:"}


def json_schema() -> dict[str, Any]:
    """The schema of one document of a config: a DEFAULT, a section for a batch system, or an experiment.

    An editor checks each document separately, so the schema omits rules about the whole file: whether there is a
    `path`, and which keys the `extra_keys` of a DEFAULT allow. It recognizes misspelled keys with one wrong letter.

    Sources:
        JSON Schema, draft 2020-12. The keywords used here mean the same in draft 7, which editors also support.
    """
    section = {"type": "string", "pattern": "^[Ss][Ll][Uu][Rr][Mm](_.+)?$"}
    nested = {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/lists"}}
    lists = {"anyOf": [{"type": "array", "minItems": 1}, nested]}
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
        "then": _section(),
        "else": _experiment(),
        "$defs": {"lists": lists, "expansion": expansion},
    }


def _experiment() -> dict[str, Any]:
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
        **_closed(keys.RULES),
    }


def _section() -> dict[str, Any]:
    rules = cluster.RULES
    wrong = {"^(grid|list|ablative)": False, misspellings(cluster.MISSPELT): False}
    return {
        "properties": _properties(rules, frozenset(rules) - {"name"}) | dict.fromkeys(cluster.OF_EXPERIMENTS, False),
        "if": {"required": ["extra_keys"]},
        "else": {"patternProperties": wrong},
    }


def _closed(rules: Mapping[str, keys.Rule]) -> dict[str, Any]:
    """Other keys are the user's own, except misspelled ones and mappings of lists, unless the document names them."""
    known = {
        "properties": dict.fromkeys(rules, True),
        "patternProperties": {"^(grid|list|ablative|_|x-)": True, misspellings(keys.MISSPELT): False},
    }
    own = {"description": "A key of your own, such as the section of a logger.", "not": {"$ref": "#/$defs/expansion"}}
    claims = {"anyOf": [{"required": ["extra_keys"]}, {"required": ["loggers"]}]}
    return {"if": claims, "then": True, "else": known | {"additionalProperties": own}}


def _properties(rules: Mapping[str, keys.Rule], nullable: frozenset[str]) -> dict[str, Any]:
    return {key: _value(rule, null=key in nullable) for key, rule in rules.items()}


def _value(rule: keys.Rule, *, null: bool) -> dict[str, Any]:
    choices: list[Any] = [dict(rule.schema), _ASKS, *([{"type": "null"}] if null else [])]
    return {"description": f"{rule.words[0].upper()}{rule.words[1:]}.", "examples": [rule.example], "anyOf": choices}
