"""Checks of arguments: a wrong one is named with its value, and with what it may be, before any work is done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

__all__ = [
    "check_flag",
    "check_number",
    "check_seconds",
    "check_text",
    "check_texts",
    "check_whole",
    "is_number",
    "whole_number",
]


def is_number(value: object) -> bool:
    """Whether it is a real number, of numpy's types too; a truth value is none."""
    from numbers import Real  # not at the top: a file numbers.py beside the program would be the first error

    return not isinstance(value, bool) and isinstance(value, Real)


def check_whole(name: str, value: object, least: int, also: str = "") -> None:
    """Raise for what is no whole number, or too small a one.

    Args:
        name: Of the argument.
        value: What was given.
        least: The smallest that may be given.
        also: What may be given instead, such as `, or None`; ends the message.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is too small, or a truth value.
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
    """Raise for what is no finite number of at least 0.

    Args:
        name: Of the argument.
        value: What was given.
        what: What it should be, for the message.
        also: What may be given instead, likewise.

    Raises:
        TypeError: It is no number.
        ValueError: It is below 0, or not finite.
    """
    message = f"{name}={value!r}: must be {what} of at least 0{also}"
    if not is_number(value):
        raise TypeError(message)
    if not 0 <= float(cast("float", value)) < math.inf:
        raise ValueError(message)


def check_seconds(name: str, value: object, also: str = "") -> None:
    """Raise for what is no length of time in seconds; as `check_number`."""
    check_number(name, value, "a number of seconds", also)


def check_flag(name: str, value: object, also: str = "") -> None:
    """Raise TypeError for what is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be True or False{also}")


def check_text(name: str, value: object, example: str) -> None:
    """Raise TypeError for what is no text, unless it is `None`.

    Args:
        name: Of the argument.
        value: What was given.
        example: Of what is right, for the message.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: must be a text, such as {example!r}")


def check_texts(name: str, value: object, example: str) -> None:
    """Raise TypeError for what is no list of texts, unless it is `None`; a text alone is none."""
    if value is None:
        return
    several = isinstance(value, Iterable) and not isinstance(value, str)
    if not several or not all(isinstance(one, str) for one in cast("Iterable[Any]", value)):
        raise TypeError(f"{name}={value!r}: must be a list of texts, such as [{example!r}]")
