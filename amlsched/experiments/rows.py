"""Convert what an experiment returns to a row."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import ExperimentError
from amlsched.experiments.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["payload_row", "row_of"]

_ROW = "a mapping such as {'loss': 0.5}, or a number"


def row_of(result: Any, name: Callable[[], str], *, needed: bool = False) -> Mapping[str, Any] | None:
    """The row for a result: the entries of a mapping or dataclass, a number as `value`, `None` for no row.

    Args:
        result: The returned value.
        name: Returns the name of the function, for messages.
        needed: Whether `None` is an error.

    Raises:
        ExperimentError: The result cannot be a row.
    """
    row = _as_row(result)
    if row is not None or (result is None and not needed):
        return row
    what = "None" if result is None else f"a {type(result).__name__}"
    raise ExperimentError(f"{name()} returned {what}, but must return a row", _ROW + ("" if needed else ", or nothing"))


def payload_row(payload: Any) -> Mapping[str, Any] | None:
    """The row for the payload of a surrender; `None` if it cannot be a row, with a message in `err.log`."""
    row = _as_row(payload)
    if row is None and payload is not None:
        print(f"surrendered with a {type(payload).__name__}, which cannot be a row: it is not logged", file=sys.stderr)  # noqa: T201
    return row


def _as_row(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    try:
        number = plain(value, "value")
    except ExperimentError:
        return None
    return {"value": number} if isinstance(number, bool | int | float) else None
