"""Plain values, as in rows, records and configs: copy and merge them, convert other values to them, and as JSON.

In the values of a config, `${env:NAME}` is replaced by the value of an environment variable.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, TypeGuard, TypeVar, cast

from amlsched.errors import ConfigError, ExperimentError
from amlsched.experiments._config.reporting import Report, raise_error
from amlsched.experiments._config.yaml import ASKS, MAX_DEPTH, Key, Unread

__all__ = [
    "LONE_SURROGATE",
    "copied",
    "escaped",
    "filled",
    "identity",
    "is_list",
    "is_mapping",
    "is_tuple",
    "jsonable",
    "merge",
    "nested",
    "plain",
    "read_unread",
    "restored",
    "set_at",
]

T = TypeVar("T")
_MAX_BITS = 14_000  # Python does not convert whole numbers with more than 4300 digits to text
_REMEDIES: dict[type, str] = {
    complex: "give its real and its imaginary part",
    Decimal: "give float(value), or str(value)",
    Fraction: "give float(value), or str(value)",
    Enum: "give its name or its value",
    timedelta: "give its total_seconds()",
    bytes: "give value.decode()",
    bytearray: "give value.decode()",
    set: "give sorted(value)",
    frozenset: "give sorted(value)",
}
_ANY_REMEDY = "give a number, text, a list or a mapping, such as str(value)"
_FLOAT = "$float"  # JSON has no infinity and no NaN
_MAP = "$map"  # and only mappings whose keys are text
_TUPLE = "$tuple"
_OURS = (_FLOAT, _MAP, _TUPLE)
_ASKED = re.compile(r"(\$+)\{env:(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\})?")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which is how Python represents a byte that it cannot decode."""
_REMEDY = "write ${env:NAME} or ${env:NAME:default}; $${env: gives the text ${env:"


def is_mapping(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether a value is a mapping."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a value is a list."""
    return isinstance(value, list)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """Whether a value is a tuple, as from `!!python/tuple`."""
    return isinstance(value, tuple)


def nested(mapping: Mapping[Any, Any], above: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Any]]:
    """The values in nested mappings, each with its path; an empty mapping and a list are values."""
    for key, value in mapping.items():
        if is_mapping(value) and value:
            yield from nested(value, (*above, key))
        else:
            yield (*above, key), value


def copied(value: T) -> T:
    """A copy of a plain value that shares no list and no mapping with it."""
    if is_mapping(value):
        return cast("T", {key: copied(below) for key, below in value.items()})
    if is_list(value):
        return cast("T", [copied(item) for item in value])
    if is_tuple(value):
        return cast("T", tuple(copied(item) for item in value))
    return value


def merge(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    """A new mapping with the entries of both: mappings are merged recursively, other values of `over` replace.

    The keys of `base` come first, in their order. A mapping replaces other values, including null; and null replaces a
    mapping.
    """
    result = copied(base)
    for key, value in over.items():
        if is_mapping(value):
            below = base.get(key)
            result[key] = merge(below if is_mapping(below) else {}, value)
        else:
            result[key] = copied(value)
    return result


def set_at(mapping: dict[Any, Any], path: tuple[Key, ...], value: Any) -> None:
    """Set the value at a path, and create missing mappings on the way."""
    for key in path[:-1]:
        below = mapping.get(key)
        if not is_mapping(below):
            below = mapping[key] = {}
        mapping = below
    mapping[path[-1]] = value


def as_float(number: float) -> float:
    """The number as a float; infinity for a whole number larger than the largest float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def identity(value: Any) -> Any:
    """A hashable value that is equal for equal plain values: for 1 and 1.0, but not for 1, True and "1"."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, float) and math.isnan(value):
        return ("nan",)
    if is_mapping(value):
        return ("mapping", frozenset((identity(key), identity(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(identity, cast("list[Any]", value)))
    return value


# ---------------------------------------------------------------------------------------------------- from other values


def plain(value: Any, where: str) -> Any:
    """Convert a value to `None`, `bool`, `int`, `float`, `str`, lists and mappings.

    Scalars of numpy, torch and similar libraries become equal numbers (a `longdouble` the nearest float), arrays become
    lists, members of an `IntEnum` or `StrEnum` their number or text, and dates, times and paths become text.

    Args:
        value: Any value.
        where: What it is, for messages, such as `column loss`.

    Raises:
        ExperimentError: It is, or contains, a value that cannot be converted.
    """
    if value is None or type(value) in (bool, float, str) or (type(value) is int and value.bit_length() <= _MAX_BITS):
        return value
    return _Plain(where).of(value, "", 0)


class _Plain:
    def __init__(self, where: str) -> None:
        self._where = where

    def of(self, value: Any, path: str, depth: int) -> Any:
        if value is None or type(value) in (bool, float, str):
            return value
        if depth > MAX_DEPTH:
            raise self._fault(path[:80], f"values are nested deeper than {MAX_DEPTH} levels", "")
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            if value.bit_length() > _MAX_BITS:
                raise self._fault(path, "a whole number of more than 4200 digits", "give float(value), or hex(value)")
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, Mapping):
            mapping: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
            return self._mapping(mapping, path, depth)
        if isinstance(value, list | tuple):
            items: list[Any] = [
                self.of(item, f"{path}[{n}]", depth + 1) for n, item in enumerate(cast("list[Any]", value))
            ]
            return items
        if isinstance(value, datetime | date | time):
            return value.isoformat()
        if isinstance(value, PurePath):
            return str(value)
        return self._foreign(value, path, depth)

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, item in value.items():
            name = self.of(key, f"{path}, a key", depth + 1)
            if not isinstance(name, Key):
                raise self._fault(path, f"{name!r} cannot be a key", "use text or numbers as keys")
            if name in made:
                raise self._fault(path, f"two keys are {name!r}", "keep one of the two")
            made[name] = self.of(item, f"{path}[{name!r}]", depth + 1)
        return made

    def _foreign(self, value: Any, path: str, depth: int) -> Any:
        """Convert a value of an array library; raise for other types."""
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if kind == "M":  # tolist would convert nanoseconds to whole numbers
            return self.of(value.astype(str).tolist(), path, depth + 1)
        if kind == "f" and not value.shape and value.dtype.itemsize > 8:
            number = float(value)
            if math.isfinite(number) or number == value or value != value:
                return number
        for name in ("tolist", "item", "numpy") if kind != "m" and not isinstance(value, type) else ():
            method: Callable[[], Any] | None = getattr(value, name, None)
            if callable(method):
                made = method()
                if type(made) is not type(value):
                    return self.of(made, path, depth + 1)
        try:
            shown = " ".join(repr(value).split())  # a table has several lines
        except (Exception, SystemExit):
            shown = "a value without a repr"
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        remedy = next((text for base, text in _REMEDIES.items() if isinstance(value, base)), _ANY_REMEDY)
        raise self._fault(path, f"{shown}, of type {type(value).__name__}, cannot be kept", remedy)

    def _fault(self, path: str, problem: str, remedy: str) -> ExperimentError:
        return ExperimentError(self._where + path, problem, remedy)


# -------------------------------------------------------------------------------------------------------------- as JSON


def jsonable(value: Any, *, finite: bool = True) -> Any:
    """The value as JSON, without loss: `restored` is the inverse. Values that are not plain become text.

    Args:
        value: A plain value.
        finite: Represent infinity and NaN in standard JSON; otherwise they stay floats.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {_FLOAT: repr(float(value))} if finite and not math.isfinite(value) else value
    if is_mapping(value):
        if all(isinstance(key, str) for key in value) and not (len(value) == 1 and next(iter(value)) in _OURS):
            return {key: jsonable(item, finite=finite) for key, item in value.items()}
        pairs = [[jsonable(key, finite=finite), jsonable(item, finite=finite)] for key, item in value.items()]
        return {_MAP: sorted(pairs, key=repr)}  # so that the order of keys does not matter
    if isinstance(value, list | tuple):
        items = [jsonable(item, finite=finite) for item in cast("list[Any]", value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    return str(value)


def restored(raw: dict[str, Any]) -> Any:
    """The inverse of `jsonable`; an `object_hook` for `json.loads`."""
    if len(raw) != 1:
        return raw
    ((key, value),) = raw.items()
    try:
        if key == _FLOAT:
            return float(value)
        if key == _MAP:
            return dict(value)
    except (TypeError, ValueError):  # a user's mapping, written by an earlier version that did not escape it
        return raw
    return tuple(value) if key == _TUPLE else raw


# ------------------------------------------------------------------------------------------------ environment variables


def filled(config: Any, place: Callable[..., str], report: Report = raise_error) -> Any:
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


def read_unread(
    scalar: Unread, where: str, report: Report = raise_error, environ: Mapping[str, str] | None = None
) -> Any:
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
        if not value.isascii() and LONE_SURROGATE.search(value):
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
    if isinstance(value, str) and ASKS in value:
        return re.sub(r"(\$+)\{env:", r"$\1{env:", value)
    return value
