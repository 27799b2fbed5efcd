"""Checks of arguments. The message of each error names the argument, its value and the valid values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

__all__ = [
    "check_flag",
    "check_number",
    "check_seconds",
    "check_text",
    "check_texts",
    "check_whole",
    "is_number",
    "parsed",
    "whole_number",
]

T = TypeVar("T")


def is_number(value: object) -> bool:
    """Whether it is a real number, including numpy's types, but not a bool."""
    from numbers import Real  # not at the top, where a user's file numbers.py would break `import amlsched`

    return not isinstance(value, bool) and isinstance(value, Real)


def check_whole(name: str, value: object, least: int, also: str = "") -> None:
    """Check that a value is a whole number and large enough.

    Args:
        name: Name of the argument.
        value: Its value.
        least: The smallest valid number.
        also: Other valid values, such as `, or None`; appended to the message.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is too small, or a bool.
    """
    from numbers import Integral

    if isinstance(value, bool) or not isinstance(value, Integral):
        kind = ValueError if isinstance(value, bool) else TypeError
        raise kind(f"{name}={value!r}: must be a whole number of at least {least}{also}")
    if int(value) < least:
        raise ValueError(f"{name}={value!r}: must be at least {least}{also}")


def whole_number(name: str, value: object, least: int = 1, also: str = ", or None") -> int:
    """The value as an `int`; as `check_whole`."""
    check_whole(name, value, least, also)
    return int(cast("int", value))


def check_number(name: str, value: object, what: str = "a number", also: str = "") -> None:
    """Check that a value is a finite number of at least 0.

    Args:
        name: Name of the argument.
        value: Its value.
        what: What it should be, for the message.
        also: Other valid values, likewise.

    Raises:
        TypeError: It is not a number.
        ValueError: It is below 0, or not finite.
    """
    message = f"{name}={value!r}: must be {what} of at least 0{also}"
    if not is_number(value):
        raise TypeError(message)
    if not 0 <= float(cast("float", value)) < math.inf:
        raise ValueError(message)


def check_seconds(name: str, value: object, also: str = "") -> None:
    """Check that a value is a duration in seconds; as `check_number`."""
    check_number(name, value, "a number of seconds", also)


def check_flag(name: str, value: object, also: str = "") -> None:
    """Raise TypeError if a value is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be True or False{also}")


def check_text(name: str, value: object, example: str) -> None:
    """Raise TypeError if a value is neither a string nor `None`.

    Args:
        name: Name of the argument.
        value: Its value.
        example: A valid value, for the message.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: must be a string, such as {example!r}")


def check_texts(name: str, value: object, example: str) -> None:
    """Raise TypeError if a value is neither a list of strings nor `None`; a single string is not a list."""
    if value is None:
        return
    several = isinstance(value, Iterable) and not isinstance(value, str)
    if not several or not all(isinstance(one, str) for one in cast("Iterable[Any]", value)):
        raise TypeError(f"{name}={value!r}: must be a list of strings, such as [{example!r}]")


def parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    """What a text means.

    Args:
        name: Name of the argument.
        text: Its value.
        parse: Parses it, such as `parse_memory`.

    Raises:
        ValueError: It cannot be parsed; the message begins with the name.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
