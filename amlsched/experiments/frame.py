"""Results as a table of pandas. It imports pandas, so it is imported only by who needs it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy
import pandas

from amlsched.errors import ExperimentError
from amlsched.experiments import cells, layout
from amlsched.experiments.results import OWN, Found, about, columns, flattened
from amlsched.experiments.spelling import offered

__all__ = ["Results", "half_interval", "table_of"]

_BOOKKEEPING = ("ts", "rep", "iter")
_DONE = ("completed", "surrendered")


class Results(pandas.DataFrame):
    """The repetitions of a folder of results, one a row; a `pandas.DataFrame` with a few methods more.

    What is picked from it, by these methods or by those of pandas, keeps them.
    """

    @property
    def _constructor(self) -> Callable[..., Results]:
        return Results

    @property
    def settings(self) -> list[str]:
        """The columns that hold parameters."""
        return [name for name in self.attrs.get("settings", ()) if name in self.columns]

    @property
    def metrics(self) -> list[str]:
        """The columns that hold the last values of what was logged, those that are numbers, without the bookkeeping."""
        names = [name for name in self.attrs.get("metrics", ()) if name in self.columns]
        types: Any = self.dtypes
        return [name for name in names if name not in _BOOKKEEPING and types[name].kind in "iufb"]

    def column(self, key: str) -> str:
        """The column of a key: `opt_lr` for `params.opt.lr`, and for `opt.lr` or `opt_lr`.

        Raises:
            ExperimentError: There is no such column.
        """
        name = key.removeprefix("params.").replace(".", "_")
        found = [f"params_{name}", name] if key.startswith("params.") else [key, name]
        known = [*self.columns, "name", "r"]
        for one in found:
            if one in known:
                return one
        there = [*self.settings, *self.metrics, "name", "run", "state"]
        raise ExperimentError(key, "is no column of these results", offered(name, there))

    def with_params(self, params: Mapping[str, Any] | None = None, **more: Any) -> Results:
        """The repetitions with these parameters.

        Args:
            params: Values by name, nested as in the config or with the names of the columns.
            **more: The same, such as `opt_lr=0.1`.

        Raises:
            ExperimentError: There is no such parameter.
        """
        plain = pandas.DataFrame(self).reset_index()
        wanted = pandas.Series(True, index=plain.index)
        for key, value in flattened({**(params or {}), **more}):
            column = plain[self.column(f"params.{key}")]
            wanted &= column.isna() if value is None else column == value
        return self[wanted.to_numpy()]

    def repetition(self, *indices: int) -> Results:
        """The repetitions with these indices, of every run."""
        return self[self.index.get_level_values("r").isin(indices)]

    def experiment(self, *names: str) -> Results:
        """The repetitions of these experiments."""
        return self[self.index.get_level_values("name").isin(names)]

    def iterations(self) -> pandas.DataFrame:
        """All rows that these repetitions logged.

        Returns:
            Long form: a row for each logged row, with `name`, `run`, `r`, the parameters, then the columns that were
            logged (a parameter of the same name is called `params_…`). A line that was only half written is left out.

        Raises:
            ExperimentError: Nothing was logged.
        """
        kept = pandas.DataFrame(self.reset_index()[["name", "run", "r", "folder", *self.settings]])
        files = [Path(folder, layout.csv_name(r)) for folder, r in zip(kept.pop("folder"), kept["r"], strict=True)]
        parts: list[pandas.DataFrame] = []
        for numbers, lengths, part in logged(files):
            part.insert(len(part.columns), _PLACE, numpy.repeat(numpy.asarray(numbers), lengths))
            parts.append(part)
        if not parts:
            raise ExperimentError("results", "nothing was logged there yet")
        rows = _joined(parts).sort_values(_PLACE, kind="stable", ignore_index=True)
        known = kept.take(rows.pop(_PLACE).to_numpy()).reset_index(drop=True)
        rows = rows.rename(columns={name: f"{name}_logged" for name in ("name", "run", "r")})
        known = known.rename(columns={name: f"params_{name}" for name in self.settings if name in rows.columns})
        return pandas.concat([known, rows], axis=1)

    def summary(self, by: str | Sequence[str] = "run", metrics: Sequence[str] | None = None) -> pandas.DataFrame:
        """Statistics over repetitions that are done.

        Args:
            by: What is grouped by: `params.lr`, or a column; several make a group of each combination.
            metrics: The columns to look at; `None` for all.

        Returns:
            A row for each group and metric: the groups' columns (with `name` where `apart` adds it), `metric`, `n` (how
            many values), `mean`, `std` (of the sample: divided by n - 1), `median`, `min`, `max`, and `low` and `high`,
            the 95 % interval of the mean by Student's t. What needs two values is NaN for one.

        Raises:
            ExperimentError: There is no such column, or no metric.
        """
        columns = [self.column(key) for key in self.apart([by] if isinstance(by, str) else by)]
        names = self.metrics if metrics is None else [self._metric(name) for name in metrics]
        if not names:
            raise ExperimentError("results", "nothing was logged there yet that is a number")
        done = pandas.DataFrame(self[self["state"].isin(_DONE)]).reset_index()
        groups: Any = done.groupby(columns, sort=False, dropna=False)
        parts: list[Any] = []
        for number, name in enumerate(names):
            part = groups[name].agg(n="count", mean="mean", std="std", median="median", min="min", max="max")
            part.insert(0, "metric", name)
            half = [half_interval(n) for n in part["n"]] * part["std"] / numpy.sqrt(part["n"].clip(lower=1))
            part["low"], part["high"] = part["mean"] - half, part["mean"] + half
            part[_PLACE], part[_METRIC] = range(len(part)), number
            parts.append(part.reset_index())
        table: pandas.DataFrame = pandas.concat(parts, ignore_index=True).sort_values(
            [_PLACE, _METRIC], ignore_index=True
        )
        return table.drop(columns=[_PLACE, _METRIC])

    def apart(self, by: Sequence[str]) -> list[str]:
        """The keys to group by, with `name` before them where the folder of an experiment is there more than once.

        So a copy of a folder is never counted with the original.
        """
        origins: dict[str, str] = self.attrs.get("origins", {})
        names = set(self.index.get_level_values("name"))
        copied = len({origins.get(name, name) for name in names}) < len(names)
        return ["name", *by] if copied and not {"name", "run"} & set(by) else list(by)

    def _metric(self, name: str) -> str:
        for one in (f"{name}_last", name):
            if one in self.metrics:
                return one
        raise ExperimentError(name, "is no column of numbers that was logged", offered(name, self.metrics))


def table_of(found: Iterable[Found]) -> Results:
    """The table of these repetitions, one a row; see `amlsched.experiments.load`."""
    every = [(one, *columns(one)) for one in found]
    settings = dict.fromkeys(name for _, own, _ in every for name in own)
    rows: list[dict[str, Any]] = []
    metrics: dict[str, None] = {}
    for one, own, logged in every:
        last = {f"{name}_last" if name in settings else name: value for name, value in logged.items()}
        metrics |= dict.fromkeys(last)
        rows.append({**about(one), **own, **last})
    names = [*OWN[:4], *settings, *metrics, *OWN[4:]]
    table = Results(pandas.DataFrame(rows, columns=names).set_index(["name", "r"]))
    origins = {one.name: one.origin for one, *_ in every if one.origin}
    table.attrs |= {"settings": list(settings), "metrics": list(metrics), "origins": origins}
    return table


_PLACE, _METRIC = "\0place", "\0metric"
_MANY = 1000
_EXACT = 2**53
"""Floats hold whole numbers up to here."""
_INT64 = 2**63
_read_csv: Any = pandas.read_csv
_PANDAS = tuple(map(int, pandas.__version__.split(".")[:2]))
_VALUES = re.compile(rf"^(?:{cells.IS_VALUE})?$", re.MULTILINE)


def logged(files: Sequence[Path]) -> Iterable[tuple[list[int], list[int], pandas.DataFrame]]:
    """What the CSV files of repetitions hold: their numbers, how many rows each has, and the rows.

    Files with the same columns are read as one, which is some ten times faster than one by one.

    Raises:
        ExperimentError: A file is none that repetitions write.
    """
    alike: dict[bytes, list[tuple[int, bytes]]] = {}
    for number, file in enumerate(files):
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        header = next(cells.rows(io.BytesIO(content)), b"")
        body = content[len(header) : content.rfind(b"\n") + 1]
        if not body:
            continue
        if b'"' in body or header == b"\n":
            frame = _exactly(content, file)
            yield [number], [len(frame)], frame
        else:
            alike.setdefault(header, []).append((number, body))
    for header, bodies in alike.items():
        frame = _quickly(header, b"".join(body for _, body in bodies), files[bodies[0][0]].parent)
        yield [number for number, _ in bodies], [body.count(b"\n") for _, body in bodies], frame


def _exactly(content: bytes, file: Path) -> pandas.DataFrame:
    """The rows of a file, cell by cell."""
    header, *rows = cells.whole_rows(content)
    try:
        names = cells.names(header)
        found = [cells.values(row) if names else [] for row in rows]
    except UnicodeDecodeError as error:
        raise ExperimentError(str(file), f"its rows cannot be read: {error}") from error
    for number, row in enumerate(found, 1):
        if len(row) != len(names):
            problem = f"its rows cannot be read: row {number} has {len(row)} cells, and there are {len(names)} columns"
            raise ExperimentError(str(file), problem)
    columns: dict[int, Any] = {n: _column(list(column)) for n, column in enumerate(zip(*found, strict=True))}
    return _named(pandas.DataFrame(columns, index=range(len(found))), names)


def _quickly(header: bytes, body: bytes, place: Path) -> pandas.DataFrame:
    """The rows of files without quotes. pandas reads them; what it would take for something else is read anew."""
    options: dict[str, Any] = {"low_memory": False, "skip_blank_lines": False, "keep_default_na": False}
    if _PANDAS < (3, 1):  # since then, floats are exact without it
        options["float_precision"] = "round_trip"
    try:
        names = cells.names(header)
        source = b",".join(b"%d" % n for n in range(len(names))) + b"\n" + body
        frame: Any = _read_csv(io.BytesIO(source), na_values=["", "nan"], **options)
        frame.columns = range(len(names))
        unsure: list[int] = [n for n in range(len(names)) if not _is_sure(frame[n])]
        again = [str(n) for n in unsure if not isinstance(frame[n][0], str) or frame[n].isna().any()]
        texts: Any = _read_csv(io.BytesIO(source), dtype=str, na_filter=False, usecols=again, **options)
    except (pandas.errors.ParserError, ValueError) as error:
        raise ExperimentError(str(place), f"its rows cannot be read: {error}") from error
    for n in unsure:
        found: list[str] = (texts[str(n)] if str(n) in again else frame[n]).tolist()
        values: list[Any] = list(map(cells.value_of, found)) if _VALUES.search("\n".join(found)) else found
        frame[n] = _column(values)
    return _named(frame, names)


def _joined(parts: list[pandas.DataFrame]) -> pandas.DataFrame:
    """The rows of all, in one frame in which each value is equal to what it was."""
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


def _named(frame: pandas.DataFrame, names: Sequence[str]) -> pandas.DataFrame:
    columns: Any = numpy.empty(len(names), dtype=object)
    columns[:] = names
    frame.columns = columns
    return frame


def _is_sure(column: Any) -> bool:
    """Whether pandas has read a column as it was logged: no texts, and no whole numbers that became floats."""
    if column.dtype.kind != "f":
        return column.dtype.kind in "iub"
    numbers = column.to_numpy()
    return not (numpy.abs(numbers[numpy.isfinite(numbers)]) >= _EXACT).any()


def _column(values: list[Any]) -> Any:
    """Values as a column of numbers, if all are numbers, or missing, and stay equal; else as a column of objects."""
    kinds = set(map(type, values))
    if kinds == {bool}:
        return numpy.array(values, dtype=bool)
    if kinds == {int} and all(-_INT64 <= value < _INT64 for value in values):
        return numpy.array(values, dtype=numpy.int64)
    if kinds <= {int, float, type(None)} and all(type(value) is not int or abs(value) <= _EXACT for value in values):
        return numpy.array([math.nan if value is None else value for value in values], dtype=float)
    column = numpy.empty(len(values), dtype=object)
    column[:] = values
    return column


@cache
def half_interval(n: int, level: float = 0.95) -> float:
    """How many standard errors the interval of a mean reaches to each side; NaN for fewer than two values.

    Args:
        n: How many values the mean is of.
        level: The probability that the interval holds the true mean.

    Sources:
        Student's t with n - 1 degrees of freedom; its distribution for whole degrees as in Abramowitz and Stegun,
        26.7.3 and 26.7.4.
    """
    if n < 2:
        return math.nan
    if n > _MANY:
        return NormalDist().inv_cdf((1 + level) / 2)
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, n - 1) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t lies between -t and t."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
