"""Numbers, tables, and lines that are coloured on a terminal."""

from __future__ import annotations

import contextlib
import math
import os
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TextIO

from amlsched._surroundings import is_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

__all__ = [
    "STATE_STYLES",
    "coloured",
    "duration",
    "fitted",
    "is_number",
    "mean_and_deviation",
    "mean_and_deviation_of",
    "number",
    "table",
    "text_of",
    "write",
]

STATE_STYLES = {
    "completed": "green",
    "surrendered": "green",
    "running": "cyan",
    "pending": "dim",
    "failed": "bold red",
    "lost": "bold red",
    "unknown": "magenta",
    "cancelled": "yellow",
    "preempted": "yellow",
}
"""The style of each state, as rich names it."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with text aligned to the left and numbers to the right."""
    body = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *body, strict=True)]
    right = [all(is_number(cell) for cell in column) for column in zip(*body, strict=True)] or [False] * len(columns)

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join((line(columns), line(["-" * width for width in widths]), *map(line, body)))


def is_number(cell: str) -> bool:
    """Whether the text of a cell is a number, or empty."""
    return not cell or cell[0].isdigit() or (cell[0] in "-+" and cell[1:2].isdigit()) or cell in ("nan", "inf", "-inf")


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, hide_constant: bool = False) -> str:
    """A table of at most this width, if possible; no cell is ever broken.

    If it is too wide, columns with the same value in all rows are named once, below it. If it still is, it is turned,
    so that each row is a column; if that is too wide, too, it is split into several, which repeat the first columns.

    Args:
        columns: The names of the columns.
        rows: The cells.
        width: The width of the terminal.
        hide_constant: Name such columns once even if the table is not too wide.
    """
    text = table(columns, rows)
    if not rows or (_width(text) <= width and not hide_constant):
        return text
    by_column = list(zip(*rows, strict=True))
    every = range(len(columns))
    kept = [number for number in every if len(rows) > 1 and len(set(by_column[number])) > 1] or list(every)
    names, shown = [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]
    text = table(names, shown)
    if _width(text) > width:
        text = _turned(names, shown)
    if _width(text) > width:
        text = _split(names, shown, width)
    hidden = [number for number in every if number not in kept and by_column[number][0]]
    if not hidden:
        return text
    words = f"the same in all rows: {', '.join(f'{columns[number]} = {by_column[number][0]}' for number in hidden)}"
    lines = wrap(words, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join((text, "", *lines))


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _turned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = zip(columns, *rows, strict=True)
    return table(first, others)


def _split(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Several tables, one below the other; each begins with the columns that tell the rows apart."""
    n_keys = next((n for n in range(1, len(columns)) if len({tuple(row[:n]) for row in rows}) == len(rows)), 1)
    widths = [max(map(len, cells)) + 2 for cells in zip(columns, *rows, strict=True)]
    parts: list[list[int]] = [[]]
    for number in range(n_keys, len(columns)):
        part = [*range(n_keys), *parts[-1], number]
        if parts[-1] and sum(widths[one] for one in part) - 2 > width:
            parts.append([])
        parts[-1].append(number)
    return "\n\n".join(
        table([columns[one] for one in part], [[row[one] for one in part] for row in rows])
        for part in ([*range(n_keys), *part] for part in parts)
    )


def text_of(value: Any) -> str:
    """A value as the cell of a table; empty for `None`."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return " ".join(str(value).splitlines())


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
    # Not at the top: it imports `numbers`, and a file of the user's may have that name.
    from statistics import fmean, stdev

    return mean_and_deviation_of(len(values), fmean(values), stdev(values))


def mean_and_deviation_of(n: int, mean: float | None, deviation: float | None) -> str:
    """The same, of statistics that are known."""
    if not n or mean is None:
        return ""
    return number(mean) if n == 1 or deviation is None or not math.isfinite(mean) else f"{mean:.4g} ± {deviation:.2g}"


def duration(seconds: float | None) -> str:
    """A duration in hours, minutes and seconds."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def coloured(text: str) -> Text:
    """Text in which numbers of repetitions have the colour of their state, and headings stand out."""
    from rich.text import Text

    shown = Text(text)
    for state, style in STATE_STYLES.items():
        shown.highlight_regex(rf"\b\d+ {state}\b", style)
        shown.highlight_regex(rf"(?m)^{state}\b(?=  |:)", style)
    shown.highlight_regex(r"(?m)^.*(?=\n-[- ]*$)", "bold")
    shown.highlight_regex(r"(?m)^-[- ]*$", "dim")
    return shown


def write(text: str, stream: TextIO) -> None:
    """Write a line, or several; coloured if it goes to a terminal, unless `NO_COLOR` is set."""
    if is_terminal(stream) and not os.environ.get("NO_COLOR"):
        with contextlib.suppress(ModuleNotFoundError):  # rich is in an extra
            from rich.console import Console

            # Lines are wrapped between words. Longer words, such as paths, are left to the terminal, so that they can
            # be copied.
            Console(file=stream, highlight=False).print(coloured(text), overflow="ignore", crop=False)
            return
    stream.write(f"{text}\n")
    stream.flush()
