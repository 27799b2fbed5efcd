"""Write and read the rows of a CSV file, so that values are read as they were logged.

Numbers are written as by Python's `repr`, `True` and `False` as words, `None` as an empty cell, lists and mappings as
JSON. Text is written as it is, in CSV quotes where it could be mistaken for a number or a word. Text that would be read
as JSON, or that a CSV file cannot hold (a NUL, half of a surrogate pair), is written as a JSON string.

What an experiment returns is converted to a row.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from amlsched.errors import ExperimentError
from amlsched.experiments._config.values import jsonable, plain, restored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["IS_VALUE", "header", "line", "names", "payload_row", "row_of", "rows", "value_of", "values", "whole_rows"]

_INT = r"-?(?:0|[1-9][0-9]*)"
_FLOAT = rf"{_INT}(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|-?inf|nan"
IS_VALUE = rf"True|False|{_FLOAT}"
"""Regular expression for a cell that, without quotes, is a number or a word instead of text."""
_is_value, _is_int = re.compile(IS_VALUE), re.compile(_INT)
_MISTAKABLE = re.compile(  # for a number or a word, by us, by pandas or by a spreadsheet
    r"(?:[-+]?(?:[0-9][0-9_.]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|0x.*|true|false|[-+]?(?:inf|infinity|nan))?", re.IGNORECASE
)
_OF_JSON = ("[", "{", '"')
_SPECIAL = re.compile(r'[,"\r\n]')
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^,]*))(,|\Z)')
_ROW = "a mapping such as {'loss': 0.5}, or a number"


def line(values: Iterable[Any]) -> bytes:
    """A row of a CSV file with these values."""
    return (",".join(map(_cell, values)) + "\n").encode()


def header(names: Iterable[str]) -> bytes:
    """The first row of a CSV file, with the names of the columns."""
    return (",".join(_text(name, in_quotes=not name) for name in names) + "\n").encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _text(value, in_quotes=_MISTAKABLE.fullmatch(value.strip()) is not None)
    if isinstance(value, list | dict):
        return _quoted(json.dumps(jsonable(value, finite=False)))
    return repr(value)


def _text(value: str, in_quotes: bool) -> str:
    if _UNFIT.search(value):
        return _quoted(json.dumps(value))
    if not in_quotes and not _SPECIAL.search(value):
        return value
    looks_like_json = value.startswith(_OF_JSON) and _from_json(value) is not value
    return _quoted(json.dumps(value) if looks_like_json else value)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _from_json(text: str) -> Any:
    """The value of a JSON string, list or mapping; the text itself if it is not JSON."""
    try:
        return json.loads(text, object_hook=restored)
    except (ValueError, RecursionError):
        return text


def rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The rows of a file, each with its line ending; quoted text may span several lines."""
    begun: list[bytes] = []
    within = False
    for one in lines:
        within ^= one.count(b'"') % 2 == 1
        if within or begun:
            begun.append(one)
        if not within:
            yield b"".join(begun) if begun else one
            begun.clear()
    if begun:
        yield b"".join(begun)


def whole_rows(content: bytes) -> list[bytes]:
    """The rows of a file, the header first, without an incomplete last one."""
    found = list(rows(io.BytesIO(content)))
    if found and (not found[-1].endswith(b"\n") or found[-1].count(b'"') % 2):
        found.pop()
    return found


def value_of(cell: str, quoted: bool = False) -> Any:
    """The value of a cell, by its text and whether it was quoted."""
    if quoted:
        return _from_json(cell) if cell.startswith(_OF_JSON) else cell
    if not cell:
        return None
    if _is_value.fullmatch(cell) is None:
        return cell
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return int(cell) if _is_int.fullmatch(cell) else float(cell)
    except ValueError:  # more digits than Python reads
        return cell


def values(row: bytes) -> list[Any]:
    """The values of a row.

    Raises:
        UnicodeDecodeError: The row is not UTF-8.
    """
    return [value_of(cell, quoted) for cell, quoted in _split(row)]


def names(header: bytes) -> list[str]:
    """The names of the columns in the header of a file.

    Raises:
        UnicodeDecodeError: The header is not UTF-8.
    """
    if header in (b"", b"\n"):
        return []
    found = ((cell, value_of(cell, quoted)) for cell, quoted in _split(header))
    return [value if isinstance(value, str) else cell for cell, value in found]


def _split(row: bytes) -> Iterator[tuple[str, bool]]:
    """The text of each cell, and whether it was quoted."""
    text = row.decode().removesuffix("\n").removesuffix("\r")
    if '"' not in text:
        yield from ((cell, False) for cell in text.split(","))
        return
    place, more = 0, True
    while more and (match := _CELL.match(text, place)) is not None:
        quoted: str | None = match[1]
        yield (match[2], False) if quoted is None else (quoted.replace('""', '"'), True)
        place, more = match.end(), bool(match[3])


# ------------------------------------------------------------------------------------------------------ results as rows


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
