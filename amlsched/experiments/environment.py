"""Environment variables in a config: `${env:NAME}` is replaced by the variable's value."""

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
"""A lone surrogate, which is how Python represents a byte that it cannot decode."""
_REMEDY = "write ${env:NAME} or ${env:NAME:default}; $${env: gives the text ${env:"


def filled(config: Any, place: Callable[..., str], report: Report = refuse) -> Any:
    """Fill in the values of the environment variables in a config.

    Args:
        config: Plain values; mappings and lists are changed in place.
        place: Formats the place of a key path.
        report: Called with an error for each variable that is missing and has no default.

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
    """The value of a scalar with its variables filled in; unless quoted, it may then be a number.

    Args:
        scalar: The scalar in the file.
        where: Its place, for messages.
        report: Called with an error; the scalar is then returned unchanged.
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
            raise ConfigError(where, f"{scalar[asked.start() :][:40]!r} names no environment variable", _REMEDY)
        value = variables.get(name, default)
        if value is None:
            remedy = f"export {name}=…, or give a default: ${{env:{name}:default}}"
            raise ConfigError(where, f"the environment variable {name} is not set", remedy)
        if not value.isascii() and _HALF.search(value):
            problem = f"the environment variable {name} is not valid UTF-8: {os.fsencode(value)!r}"
            raise ConfigError(where, problem, "set it to text in UTF-8")
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
    """A copy of a plain value, with text escaped so that it is read as it is after being written to a config."""
    if is_mapping(value):
        return {key: escaped(below) for key, below in value.items()}
    if is_list(value):
        return [escaped(item) for item in value]
    if is_tuple(value):
        return tuple(escaped(item) for item in value)
    if isinstance(value, str) and "${env:" in value:
        return re.sub(r"(\$+)\{env:", r"$\1{env:", value)
    return value
