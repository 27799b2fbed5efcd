"""DataFrames with exactly the values that were logged: their columns, and the files of rows."""

from __future__ import annotations

import io
import logging
import math
import re
from typing import TYPE_CHECKING, Any

import numpy
import pandas

from amlsched._files import file_bytes
from amlsched.experiments._storage import cells, record_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

__all__ = ["as_column", "concatenated", "logged", "named", "objects"]

_LEFT_OUT = "these rows cannot be read, and are left out"
_EXACT = 2**53
"""Floats represent all whole numbers up to this one."""
_INT64 = 2**63
_read_csv: Any = pandas.read_csv
_PANDAS = tuple(map(int, pandas.__version__.split(".")[:2]))
_VALUES = re.compile(rf"^(?:{cells.IS_VALUE})?$", re.MULTILINE)


def as_column(values: list[Any]) -> Any:
    """A column of numbers, if all values are numbers or missing and stay equal; otherwise a column of objects."""
    kinds = set(map(type, values))
    if kinds == {bool}:
        return numpy.array(values, dtype=bool)
    if kinds == {int} and all(-_INT64 <= value < _INT64 for value in values):
        return numpy.array(values, dtype=numpy.int64)
    if kinds <= {int, float, type(None)} and all(type(value) is not int or abs(value) <= _EXACT for value in values):
        return numpy.array([math.nan if value is None else value for value in values], dtype=float)
    return objects(values)


def objects(values: Sequence[Any]) -> Any:
    """A column of objects, even if numpy would take them for rows."""
    column = numpy.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        column[place] = value
    return column


def logged(files: Sequence[Path]) -> Iterable[tuple[list[int], list[int], pandas.DataFrame]]:
    """Read the CSV files of repetitions: the numbers of the files, how many rows each has, and the rows.

    Files with the same columns are read together, which is about ten times faster than one by one. A file that no
    repetition can have written is left out with a warning in the log, and so is one that no longer exists.
    """
    alike: dict[bytes, list[tuple[int, bytes]]] = {}
    for number, file in enumerate(files):
        try:
            content = file_bytes(file, wait_s=0)
        except (FileNotFoundError, NotADirectoryError):
            content = b""
        except OSError as error:
            logger.warning("%s: %s: %s", file, _LEFT_OUT, error.strerror)
            continue
        if not content and (lost := record_file.rows_lost(file.parent, record_file.read(file.parent))):
            logger.warning("%s", lost)
        header = next(cells.rows(io.BytesIO(content)), b"")
        body = content[len(header) : content.rfind(b"\n") + 1]
        if not body:
            continue
        is_even = body.count(b",") == body.count(b"\n") * header.count(b",")
        if b'"' in body or header == b"\n" or not is_even:
            yield from _alone(number, content, file)
        else:
            alike.setdefault(header, []).append((number, body))
    for header, bodies in alike.items():
        try:
            frame = _quickly(header, b"".join(body for _, body in bodies))
        except (pandas.errors.ParserError, ValueError):  # one of them is damaged
            for number, body in bodies:
                yield from _alone(number, header + body, files[number])
        else:
            yield [number for number, _ in bodies], [body.count(b"\n") for _, body in bodies], frame


def _alone(number: int, content: bytes, file: Path) -> Iterable[tuple[list[int], list[int], pandas.DataFrame]]:
    """Read one file; if it is damaged, log a warning and yield nothing."""
    try:
        frame = _exactly(content)
    except ValueError as error:
        logger.warning("%s:%s", file, error)
    else:
        yield [number], [len(frame)], frame


def _exactly(content: bytes) -> pandas.DataFrame:
    """Read a file cell by cell.

    Raises:
        ValueError: No repetition can have written it; the message starts with the line number.
    """
    header, *rows = cells.whole_rows(content) or [b""]
    names: list[str] = []
    found: list[list[Any]] = []
    line = 1
    try:
        names = cells.names(header)
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        for row in (header, *rows):
            values = cells.values(row) if names else []
            if len(values) != len(names):
                raise ValueError(f"there are {len(names)} columns, but {len(values)} cells")
            found.append(values)
            line += row.count(b"\n")
    except ValueError as error:
        raise ValueError(f"{line}: {_LEFT_OUT}: {error}") from error
    del found[0]
    columns: dict[int, Any] = {n: as_column(list(column)) for n, column in enumerate(zip(*found, strict=True))}
    return named(pandas.DataFrame(columns, index=range(len(found))), names)


def _quickly(header: bytes, body: bytes) -> pandas.DataFrame:
    """Read files without quotes, by pandas; columns that pandas may misread are parsed again.

    Raises:
        pandas.errors.ParserError: No repetition can have written them.
        ValueError: Two columns have the same name.
    """
    options: dict[str, Any] = {"low_memory": False, "skip_blank_lines": False, "keep_default_na": False}
    if _PANDAS < (3, 1):  # later versions read floats exactly by default
        options["float_precision"] = "round_trip"
    names = cells.names(header)
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    source = b",".join(b"%d" % n for n in range(len(names))) + b"\n" + body
    frame: Any = _read_csv(io.BytesIO(source), na_values=["", "nan"], **options)
    frame.columns = range(len(names))
    unsure: list[int] = [n for n in range(len(names)) if not _is_sure(frame[n])]
    again = [str(n) for n in unsure if not isinstance(frame[n][0], str) or frame[n].isna().any()]
    texts: Any = _read_csv(io.BytesIO(source), dtype=str, na_filter=False, usecols=again, **options)
    for n in unsure:
        found: list[str] = (texts[str(n)] if str(n) in again else frame[n]).tolist()
        values: list[Any] = list(map(cells.value_of, found)) if _VALUES.search("\n".join(found)) else found
        frame[n] = as_column(values)
    return named(frame, names)


def concatenated(parts: list[pandas.DataFrame]) -> pandas.DataFrame:
    """Concatenate frames without changing any value."""
    shared = set(parts[0].columns).intersection(*(part.columns for part in parts))
    large = {
        name
        for part in parts
        for name in part.columns
        if part[name].dtype.kind in "iu" and len(part) and max(-part[name].min(), part[name].max()) > _EXACT
    }
    mixed = {name for name in large if name not in shared or len({part[name].dtype for part in parts}) > 1}
    kept = [part.astype(dict.fromkeys(mixed.intersection(part.columns), object)) for part in parts] if mixed else parts
    return pandas.concat(kept, ignore_index=True)


def named(frame: pandas.DataFrame, names: Sequence[str]) -> pandas.DataFrame:
    """The frame with these names of columns, whatever they look like."""
    frame.columns = objects(names)
    return frame


def _is_sure(column: Any) -> bool:
    """Whether pandas has surely read a column as it was logged: no text, and no large whole numbers as floats."""
    if column.dtype.kind != "f":
        return column.dtype.kind in "iub"
    numbers = column.to_numpy()
    return not (numpy.abs(numbers[numpy.isfinite(numbers)]) >= _EXACT).any()
