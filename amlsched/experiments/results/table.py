"""Results as a pandas table. This module imports pandas, so it is imported only when it is needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy
import pandas

from amlsched._spelling import suggestion
from amlsched.errors import ExperimentError
from amlsched.experiments._config.document import key_text
from amlsched.experiments._config.values import as_float, identity, is_list, nested, plain
from amlsched.experiments._storage import layout
from amlsched.experiments._storage.record import State
from amlsched.experiments.results.frames import as_column, concatenated, logged, named, objects
from amlsched.experiments.results.survey import OWN, Found, about, leaves

logger = logging.getLogger(__name__)

__all__ = [
    "STATISTICS",
    "Results",
    "done_of",
    "half_interval",
    "has_numbers",
    "numbers_of",
    "table_of",
]

STATISTICS = ("n", "mean", "std", "median", "min", "max", "low", "high")
_BOOKKEEPING = ("ts", "rep", "iter")
_OF_REPETITION = ("name", "run", "r")
_DONE = [state.value for state in State if state.done]
_LEADING = OWN.index("state") + 1
"""How many of our own columns stand before parameters and metrics."""
_PLACE, _METRIC = "\0place", "\0metric"
_MANY = 1000


class _Facts(dict[str, Any]):
    """Facts about the columns of a table, shared by all its copies.

    pandas makes a deep copy of `attrs` each time that a column or a row is selected, which takes longer the more
    columns there are.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Facts:
        return self


class Results(pandas.DataFrame):
    """The repetitions of a folder of results, one per row: a `pandas.DataFrame` with more methods.

    Selections from it, by these methods or by those of pandas, have the same methods.
    """

    @property
    def _constructor(self) -> Callable[..., Results]:
        return Results

    @property
    def _facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.attrs.get("facts", {})
        return facts

    @property
    def settings(self) -> list[str]:
        """The columns with parameters."""
        return [name for name in self._facts.get("settings", ()) if name in self.columns]

    @property
    def metrics(self) -> list[str]:
        """The columns with last logged values that contain numbers, without `ts`, `rep` and `iter`."""
        names = [name for name in self._facts.get("metrics", ()) if name in self.columns]
        return [name for name in names if name not in _BOOKKEEPING and has_numbers(self[name])]

    def column(self, key: str) -> str:
        """The column of a key: `opt_lr` for `params.opt.lr`, and for `opt.lr` or `opt_lr`.

        Raises:
            ExperimentError: There is no such column.
        """
        known = {*self.columns, "name", "r"}
        path = key.removeprefix("params.")
        name = path.replace(".", "_")
        paths: dict[str, list[str]] = self._facts.get("paths", {})
        exactly = next((column for column, one in paths.items() if key_text(tuple(one)) == path), "")
        for one in [exactly, path, f"params_{name}", name] if path != key else [key, exactly, name]:
            if one in known:
                return one
        there = [*self.settings, *self.metrics, "name", "run", "state"]
        raise ExperimentError(key, "is not a column of these results", suggestion(name, there))

    def with_params(self, params: Mapping[str, Any] | None = None, **more: Any) -> Results:
        """The repetitions with these parameters.

        1 and 1.0 are equal; 1, `True` and "1" are three different values. `None` matches null and missing values, NaN
        only NaN. A list has to be equal as a whole.

        Args:
            params: Values by name, nested as in the config or with the names of the columns.
            **more: The same, as keywords, such as `opt_lr=0.1`.

        Raises:
            ExperimentError: There is no such parameter.
        """
        wanted = [True] * len(self)
        given: dict[str, Any] = plain({**(params or {}), **more}, "with_params")
        for keys, value in nested(given):
            path = tuple(map(str, keys))
            for column, expected in self._expected(path, value):
                same = identity(expected)
                wanted = [
                    so_far and identity(one) == same for so_far, one in zip(wanted, self.exact(column), strict=True)
                ]
        return self[numpy.array(wanted, dtype=bool)]

    def matching(self, key: str, value: Any) -> Results:
        """The repetitions with this value, as `--where` of the command line selects them.

        Args:
            key: One of our own columns, such as `state`, or a parameter. A parameter that has the name of such a column
                is `params.NAME`, as in `summary`.
            value: What is equal is as for `with_params`.

        Raises:
            ExperimentError: There is no such column or parameter.
        """
        if key not in ("name", "r") and (key not in self.columns or key in self.settings):
            return self.with_params({key.removeprefix("params."): value})
        wanted = identity(value)
        return self[numpy.array([identity(one) == wanted for one in self.exact(key)], dtype=bool)]

    def _expected(self, path: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any]]:
        """The columns of a condition, and the values that they have to have."""
        paths = {column: tuple(path) for column, path in self._facts.get("paths", {}).items()}
        begin = next((one for one in (path, tuple(".".join(path).split("."))) if one not in paths.values()), path)
        below = {column: one for column, one in paths.items() if one[: len(begin)] == begin}
        if below and (value is None or is_list(value)):
            items = dict(leaves(value, begin))
            yield from ((column, items.pop(one, None)) for column, one in below.items())
            if value is not None:
                yield from (("folder", False) for _ in items)  # no repetition has such an item
        else:
            yield self.column(f"params.{key_text(path) if len(path) > 1 else ''.join(path)}"), value

    def exact(self, column: str) -> list[Any]:
        """The values of a column as they were set or logged: `None` if missing, NaN only for NaN."""
        held: Any = self[column] if column in self.columns else self.index.get_level_values(column)
        values: list[Any] = held.tolist()
        if any(map(_is_nan, values)) and "folder" in self.columns:
            nans = set(self._facts.get("nans", {}).get(column, ()))
            known = zip(values, self["folder"], strict=True)
            values = [None if _is_nan(value) and folder not in nans else value for value, folder in known]
        if column in self._facts.get("whole", ()) and all(value is None or value == int(value) for value in values):
            return [None if value is None else int(value) for value in values]
        return values

    def repetition(self, *indices: int) -> Results:
        """The repetitions with these indices, of every run."""
        return self[self.index.get_level_values("r").isin(indices)]

    def experiment(self, *names: str) -> Results:
        """The repetitions of these experiments."""
        return self[self.index.get_level_values("name").isin(names)]

    def iterations(self) -> pandas.DataFrame:
        """All rows that these repetitions logged.

        Returns:
            Long form: a row for each logged row, with `name`, `run`, `r`, the parameters, then the logged columns (a
            parameter of the same name is called `params_…`). An incomplete last line is left out.

        Raises:
            ExperimentError: Nothing was logged.
        """
        return self.with_settings(*self.placed())

    def with_settings(self, rows: pandas.DataFrame, places: Any) -> pandas.DataFrame:
        """The result of `placed` in long form, as `iterations` returns it."""
        kept = pandas.DataFrame(self.reset_index()[[*_OF_REPETITION, *self.settings]])
        names = list(rows.columns)
        rows.columns = objects([_free(name, "{}_logged", names) if name in _OF_REPETITION else name for name in names])
        names = [*_OF_REPETITION, *rows.columns]
        settings = [_free(name, "params_{}", names) for name in self.settings]
        known = kept.take(places).reset_index(drop=True)
        known.columns = objects([*_OF_REPETITION, *settings])
        return pandas.concat([known, rows], axis=1)

    def placed(self) -> tuple[pandas.DataFrame, Any]:
        """All rows that these repetitions logged, and the position of the repetition that each belongs to.

        Raises:
            ExperimentError: Nothing was logged.
        """
        files = [
            Path(folder, layout.csv_name(r))
            for folder, r in zip(self["folder"], self.index.get_level_values("r"), strict=True)
        ]
        parts: list[pandas.DataFrame] = []
        for numbers, lengths, found in logged(files):
            part = found.copy()  # one block for each type, as in `table_of`
            part.insert(len(part.columns), _PLACE, numpy.repeat(numpy.asarray(numbers), lengths))
            parts.append(part)
        if not parts:
            raise ExperimentError("results", "nothing has been logged yet")
        rows = concatenated(parts).sort_values(_PLACE, kind="stable", ignore_index=True)
        return rows, rows.pop(_PLACE).to_numpy()

    def groups(self, by: str | Sequence[str]) -> tuple[list[str], list[int], list[tuple[Any, ...]]]:
        """Group the repetitions by equal values; for what is equal, see `with_params`.

        Args:
            by: `params.lr`, or a column; several give a group for each combination.

        Returns:
            The columns (with `name` if `apart` adds it), the number of each repetition's group, and the values of each
            group.

        Raises:
            ExperimentError: There is no such column.
        """
        columns = [self.column(key) for key in self.apart([by] if isinstance(by, str) else by)]
        numbers: dict[Any, int] = {}
        labels: list[tuple[Any, ...]] = []
        places: list[int] = []
        for values in zip(*map(self.exact, columns), strict=True):
            number = numbers.setdefault(tuple(map(identity, values)), len(numbers))
            if number == len(labels):
                labels.append(values)
            places.append(number)
        return columns, places, labels

    def summary(self, by: str | Sequence[str] = "run", metrics: Sequence[str] | None = None) -> pandas.DataFrame:
        """Statistics over repetitions that are done.

        Args:
            by: What to group by: `params.lr`, or a column; several give a group for each combination.
            metrics: The columns to summarize; `None` for all.

        Returns:
            A row for each group and metric: the columns of the group (with `name` if `apart` adds it), `metric`, `n`
            (how many values), `mean`, `std` (of the sample: divided by n - 1), `median`, `min`, `max`, and `low` and
            `high`, the 95 % interval of the mean by Student's t. Statistics that need two values are NaN for one.

        Raises:
            ExperimentError: There is no such column, or no metric.
        """
        done = done_of(self)
        columns, places, labels = done.groups(by)
        names = self.metrics if metrics is None else [self._metric(name) for name in metrics]
        if not names:
            raise ExperimentError("results", "no numbers have been logged yet")
        parts: list[Any] = []
        for number, name in enumerate(names):
            groups: Any = (
                numbers_of(done[name]).reset_index(drop=True).groupby(numpy.array(places, dtype=int), sort=False)
            )
            part: Any = groups.agg(n="count", mean="mean", std="std", median="median", min="min", max="max")
            half = [half_interval(n) for n in part["n"]] * part["std"] / numpy.sqrt(part["n"].clip(lower=1))
            part["low"], part["high"] = part["mean"] - half, part["mean"] + half
            part.insert(0, "metric", name)
            for position, column in enumerate(columns):
                values: list[Any] = [labels[place][position] for place in part.index]
                exact = objects(values) if None in values else as_column(values)  # distinguishes null from NaN
                part.insert(position, _free(column, "params_{}", set(part.columns)), exact)
            part[_PLACE], part[_METRIC] = range(len(part)), number
            parts.append(part)
        table: pandas.DataFrame = pandas.concat(parts, ignore_index=True).sort_values(
            [_PLACE, _METRIC], ignore_index=True
        )
        return table.drop(columns=[_PLACE, _METRIC])

    def ranking(self, metric: str, by: str | Sequence[str] = "run", *, minimize: bool = False) -> pandas.DataFrame:
        """Groups of repetitions that are done, the best first, each compared to the best.

        Args:
            metric: The column to compare, by its mean.
            by: What to group by: `params.lr`, or a column; several give a group for each combination.
            minimize: Whether lower is better.

        Returns:
            A row for each group: the columns of the group, `n`, `mean`, `std`, `low` and `high` as in `summary`, then
            `difference` of the mean to that of the best, `difference_low` and `difference_high`, its 95 % interval by
            Welch's t-test (NaN if one of the two has a single value), and `clearly_worse`: whether that interval
            excludes 0. Groups with a value that is missing or not finite come last: their `mean` is NaN. The index is
            the number of the group, as in `groups` over the repetitions that are done.

        Raises:
            ExperimentError: There is no such column, no such metric, or no repetition that is done.
        """
        done = done_of(self)
        if not len(done):
            raise ExperimentError("results", "no repetition is done")
        table = done.summary(by, [metric]).drop(columns=["metric", "median", "min", "max"])
        _, places, _ = done.groups(by)
        finite = numpy.isfinite(numbers_of(done[self._metric(metric)]).to_numpy(dtype=float))
        broken = numpy.bincount(numpy.array(places)[~finite], minlength=len(table)) > 0
        table.loc[broken, ["mean", "std", "low", "high"]] = math.nan
        table = table.sort_values("mean", ascending=minimize, kind="stable")
        best = table.iloc[0]
        error: Any = (table["std"] ** 2 / table["n"] + best["std"] ** 2 / best["n"]) ** 0.5
        widths = [
            _half_difference(n, std, int(best["n"]), float(best["std"]))
            for n, std in zip(table["n"].tolist(), table["std"].tolist(), strict=True)
        ]
        half: Any = error * widths
        table["difference"] = table["mean"] - best["mean"]
        table["difference_low"], table["difference_high"] = table["difference"] - half, table["difference"] + half
        table["clearly_worse"] = (table["difference_low"] > 0) if minimize else (table["difference_high"] < 0)
        return table

    def apart(self, by: Sequence[str]) -> list[str]:
        """The keys to group by, preceded by `name` if there are copies of an experiment's folder.

        So a copy of a folder is never grouped with the original.
        """
        origins: dict[str, str] = self._facts.get("origins", {})
        names = set(self.index.get_level_values("name"))
        copied = len({origins.get(name, name) for name in names}) < len(names)
        return ["name", *by] if copied and not {"name", "run"} & set(by) else list(by)

    def _metric(self, name: str) -> str:
        there = self.metrics
        logged_as: dict[str, str] = self._facts.get("logged", {})
        of_name = [column for column, metric in logged_as.items() if metric == name]
        for one in (*of_name, name):
            if one in there:
                return one
        raise ExperimentError(name, "is not a logged column of numbers", suggestion(name, there))


def table_of(found: Iterable[Found]) -> Results:
    """The table of these repetitions, one per row; see `amlsched.experiments.load`."""
    every = [(one, dict(leaves(one.params))) for one in found]
    known = [about(one) for one, _ in every]
    table: dict[str, list[Any]] = {name: [one[name] for one in known] for name in OWN[:_LEADING]}
    taken = set(OWN)
    paths: dict[str, list[str]] = {}
    for path in dict.fromkeys(path for _, own in every for path in own):
        joined, dotted = "_".join(path), key_text(path)
        joined = f"params_{joined}" if joined in OWN else joined
        name = joined if joined not in taken else _free(dotted, "params_{}", taken)
        taken.add(name)
        paths[name] = list(path)
        table[name] = [own.get(path) for _, own in every]
    logged_as: dict[str, str] = {}
    for metric in dict.fromkeys(metric for one, _ in every for metric in one.record.last):
        name = _free(metric, "{}_last", taken)
        taken.add(name)
        logged_as[name] = metric
        table[name] = [one.record.last.get(metric) for one, _ in every]
    table |= {name: [one[name] for one in known] for name in OWN[_LEADING:]}
    frame = pandas.DataFrame({number: as_column(values) for number, values in enumerate(table.values())})
    # The copy has a few blocks instead of one for each column; pandas warns of many when a column is added.
    made = Results(named(frame, list(table)).set_index(["name", "r"]).copy())
    nans = {
        name: [folder for folder, value in zip(table["folder"], values, strict=True) if _is_nan(value)]
        for name, values in table.items()
    }
    made.attrs["facts"] = _Facts(
        settings=list(paths),
        paths=paths,
        metrics=list(logged_as),
        logged=logged_as,
        origins={one.name: one.origin for one, _ in every if one.origin},
        whole=[name for name, values in table.items() if set(map(type, values)) == {int, type(None)}],
        nans={name: folders for name, folders in nans.items() if folders},
    )
    return made


def done_of(results: Results) -> Results:
    """The repetitions that are done."""
    return results[results["state"].isin(_DONE)]


def _free(name: str, pattern: str, taken: Collection[str]) -> str:
    """A name that is not taken, derived from this one."""
    while name in taken:
        name = pattern.format(name)
    return name


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def has_numbers(column: Any) -> bool:
    """Whether a column contains a number."""
    return column.dtype.kind in "iufb" or any(
        isinstance(value, bool | int | float) and not _is_nan(value) for value in column.tolist()
    )


def numbers_of(column: Any) -> Any:
    """The numbers of a column, with NaN for other values."""
    if column.dtype.kind in "iufb":
        return column
    return pandas.Series([_number(value) for value in column.tolist()], index=column.index, dtype=float)


def _number(value: Any) -> float:
    return as_float(value) if isinstance(value, bool | int | float) else math.nan


# ----------------------------------------------------------------------------------------------------------- statistics


@cache
def half_interval(n: int, level: float = 0.95) -> float:
    """Half the width of the confidence interval of a mean, in standard errors; NaN for fewer than two values.

    Args:
        n: The number of values.
        level: The probability that the interval contains the true mean.

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


def _half_difference(n: int, std: float, other_n: int, other_std: float) -> float:
    """Half the width of the 95 % interval of a difference of two means, in standard errors; NaN for single values.

    Sources:
        Welch's t-test, with the degrees of freedom of Welch and Satterthwaite rounded down.
    """
    if n < 2 or other_n < 2 or _is_nan(std) or _is_nan(other_std):
        return math.nan
    one, other = std**2 / n, other_std**2 / other_n
    if not one + other:
        return 0.0
    degrees = (one + other) ** 2 / (one**2 / (n - 1) + other**2 / (other_n - 1))
    return half_interval(int(degrees) + 1)


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t is between -t and t."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
