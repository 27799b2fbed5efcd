"""What an experiment returns, as a row."""

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
    """The row that a result stands for: a mapping or a dataclass as it is, a number as `value`, `None` for no row.

    Args:
        result: What was returned.
        name: Gives the name of what returned it.
        needed: Whether it has to be a row.

    Raises:
        ExperimentError: No row can hold it.
    """
    row = _as_row(result)
    if row is not None or (result is None and not needed):
        return row
    what = "None" if result is None else f"a {type(result).__name__}"
    raise ExperimentError(f"{name()} returned {what}, and must return a row", _ROW + ("" if needed else ", or nothing"))


def payload_row(payload: Any) -> Mapping[str, Any] | None:
    """The row that the payload of a surrender stands for; `None` if it is no row, which is said in `err.log`."""
    row = _as_row(payload)
    if row is None and payload is not None:
        print(f"surrendered with a {type(payload).__name__}, which is no row: it is not logged", file=sys.stderr)  # noqa: T201
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
