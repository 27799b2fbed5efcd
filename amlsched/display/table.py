"""Numbers and tables in plain text."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["duration", "mean_and_deviation", "number", "table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with text aligned to the left and numbers to the right."""
    body = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *body, strict=True)]
    right = [all(_is_number(cell) for cell in column) for column in zip(*body, strict=True)] or [False] * len(columns)

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join((line(columns), line(["-" * width for width in widths]), *map(line, body)))


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or (cell[0] in "-+" and cell[1:2].isdigit()) or cell in ("nan", "inf", "-inf")


def number(value: float) -> str:
    """A whole number in full, unless it has more than 20 digits; any other number with four significant digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
        digits = text.lstrip("-")
        return text if len(digits) <= 20 else f"{'-' * (value < 0)}{digits[0]}.{digits[1:4]}e+{len(digits) - 1}"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± standard deviation (of the sample, divided by n - 1); the number itself if there is only one."""
    if not values:
        return ""
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return number(values[0]) if len(values) == 1 else number(sum(values) / len(values))
    return f"{fmean(values):.4g} ± {stdev(values):.2g}"


def duration(seconds: float | None) -> str:
    """A duration in hours, minutes and seconds."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
