"""Environment variables in a config: read where the file asks for them by `${env:NAME}`, and nowhere else."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from amlsched.errors import ConfigError
from amlsched.experiments.faults import Report, refuse
from amlsched.experiments.plain import is_list, is_mapping, is_tuple
from amlsched.experiments.yaml12 import Key, Unread

__all__ = ["escaped", "filled", "read_unread"]

_ASKED = re.compile(r"(\$+)\{env:(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\})?")
_HALF = re.compile("[\ud800-\udfff]")
"""Of a surrogate: how Python passes on bytes that it cannot decode."""
_REMEDY = "write ${env:NAME} or ${env:NAME:default}; $${env: stands for the text ${env:"


def filled(config: Any, place: Callable[..., str], report: Report = refuse) -> Any:
    """A config with the values of the environment variables that it asks for.

    Args:
        config: Plain values; mappings and lists are changed in place.
        place: Gives the place of a key path as text.
        report: Told of a variable that is missing and has no default.

    Returns:
        The config.
    """

    def fill(value: Any, path: tuple[Key, ...]) -> Any:
        if isinstance(value, Unread):
            return read_unread(value, place(*path), report)
        if is_mapping(value):
            for key, below in value.items():
                value[key] = fill(below, (*path, key))
        elif is_list(value):
            value[:] = [fill(item, (*path, index)) for index, item in enumerate(value)]
        elif is_tuple(value):
            value = tuple(fill(item, (*path, index)) for index, item in enumerate(value))
        return value

    return fill(config, ())


def read_unread(scalar: Unread, where: str, report: Report = refuse, environ: Mapping[str, str] | None = None) -> Any:
    """What a scalar says once the variables stand in it: an unquoted one may be a number then, a quoted one is a text.

    Args:
        scalar: As the file has it.
        where: Its place, for messages.
        report: Told what is wrong; the scalar is returned as it is then.
        environ: The variables; `None` for those of this process.
    """
    variables = os.environ if environ is None else environ

    def value_of(asked: re.Match[str]) -> str:
        dollars = asked[1]
        name: str | None = asked["name"]
        default: str | None = asked["default"]
        value: str | None
        if len(dollars) > 1:
            return asked[0][1:]
        if name is None:
            raise ConfigError(where, f"{scalar[asked.start() :][:40]!r} asks for no environment variable", _REMEDY)
        value = variables.get(name, default)
        if value is None:
            remedy = f"export {name}=…, or give a default: ${{env:{name}:default}}"
            raise ConfigError(where, f"the environment variable {name} is not set", remedy)
        if not value.isascii() and _HALF.search(value):
            problem = f"the environment variable {name} holds bytes that are no text: {os.fsencode(value)!r}"
            raise ConfigError(where, problem, "set it to a text in UTF-8")
        return value

    try:
        text = _ASKED.sub(value_of, scalar)
    except ConfigError as fault:
        report(fault)
        return scalar
    try:
        return scalar.read(text)
    except ValueError as error:
        report(
            ConfigError(where, f"{scalar} is {text[:40]!r}, which cannot be read: {error}", "set it to another value")
        )
        return scalar


def escaped(value: Any) -> Any:
    """A copy of a plain value in which no text asks for a variable when it is written and read again."""
    if is_mapping(value):
        return {key: escaped(below) for key, below in value.items()}
    if is_list(value):
        return [escaped(item) for item in value]
    if is_tuple(value):
        return tuple(escaped(item) for item in value)
    if isinstance(value, str) and "${env:" in value:
        return re.sub(r"(\$+)\{env:", r"$\1{env:", value)
    return value
