"""`amlsched results`: the parameters and last values of each repetition, or statistics over groups of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amlsched.cli._output import OK, add_command, add_results, print_stderr
from amlsched.errors import ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import pandas as pd

    from amlsched.cli._output import Commands
    from amlsched.experiments.results.table import Results

    Frame = TypeVar("Frame", bound=pd.DataFrame)

__all__ = ["add_selection", "add_to", "selected"]

_OFFERED = 8


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    text = "show the parameters and last values of each repetition, or statistics over them"
    parser = add_command(commands, results, text)
    add_results(parser)
    add_selection(parser)
    add = parser.add_argument
    text = "group by this key, such as params.lr or run; shows mean, std, median, min, max and the 95%% interval"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    text = "only this metric; may be repeated"
    add("--metric", metavar="NAME", action="append", default=[], help=text)
    add("--sort", metavar="COLUMN", help="sort the rows by this column, such as mean")
    add("--descending", action="store_true", help="sort the largest first")
    for kind in ("csv", "json", "markdown"):
        add(f"--{kind}", metavar="FILE", help=f"write {kind.upper()} to this file instead (- for standard output)")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select repetitions."""
    add = parser.add_argument
    add("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help="only these experiments")
    text = "only repetitions with this parameter, such as params.lr=0.1; may be repeated"
    add("--where", metavar="KEY=VALUE", action="append", default=[], help=text)
    add("--rep", metavar="N", type=int, nargs="+", action="extend", default=[], help="only these repetitions")


def selected(arguments: argparse.Namespace) -> Results:
    """The results that the arguments of `add_selection` select.

    Raises:
        ExperimentError: They select none.
        ConfigError: A condition is not `KEY=VALUE`.
    """
    from amlsched._spelling import suggestion
    from amlsched.experiments.config import condition
    from amlsched.experiments.results import load

    where = f"results folder {arguments.results}"
    found = load(arguments.results)
    names = dict.fromkeys(found.index.get_level_values("name"))
    for name in arguments.experiments:
        if name not in names:
            raise ExperimentError(f"-e {name}", "there is no such experiment", suggestion(name, names))
    if arguments.experiments:
        found = found.experiment(*arguments.experiments)
    if arguments.rep:
        found = found.repetition(*arguments.rep)
    for text in arguments.where:
        key, value = condition(text)
        some = found.matching(key, value)
        if len(found) and not len(some):
            there = dict.fromkeys(map(_shown, found.exact(found.column(key))))
            raise ExperimentError(where, f"has no repetition that matches --where {text}", _offer(key, there))
        found = some
    if not len(found):
        raise ExperimentError(where, "has no repetition that matches the arguments")
    return found


def _shown(value: Any) -> str:
    """A value as it is written for `--where`."""
    from amlsched.experiments.config import write

    return write([value]).removeprefix("--- ").removesuffix("\n").removesuffix("\n...")


def _offer(key: str, there: Iterable[str]) -> str:
    values = list(there)
    return f"values of {key} there: {', '.join(values[:_OFFERED])}{', …' if len(values) > _OFFERED else ''}"


def results(arguments: argparse.Namespace) -> int:
    """Show the parameters, the last value of each metric and the state of each repetition, or statistics (--by)."""
    from amlsched.experiments.results.table import STATISTICS

    found = selected(arguments)
    if arguments.by:
        table = _sorted(found.summary(arguments.by, arguments.metric or None), arguments)
        columns = {str(name): table[name].tolist() for name in table}
        for name in STATISTICS:  # NaN where a statistic needs more values
            columns[name] = [None if value != value else value for value in columns[name]]
        left_out = int((~found["state"].isin(["completed", "surrendered"])).sum())
        if left_out:
            print_stderr(f"Left out {counted(left_out, 'repetition')} that {'is' if left_out == 1 else 'are'} not done")
    else:
        for name in arguments.metric:
            found.column(name)
        dropped = [name for name in found.metrics if arguments.metric and not _is_asked(name, arguments.metric)]
        some = _sorted(found.drop(columns=dropped).copy().reset_index(), arguments)  # few blocks: see `table_of`
        columns = {str(name): some.exact(str(name)) for name in some}
    if not _exported(columns, arguments):
        print(_text(columns))
    return OK


def _is_asked(name: str, metrics: list[str]) -> bool:
    return name in metrics or name.removesuffix("_last") in metrics


def _sorted(table: Frame, arguments: argparse.Namespace) -> Frame:
    from amlsched._spelling import suggestion

    if arguments.sort is None:
        return table
    name = arguments.sort.removeprefix("params.").replace(".", "_")
    column = arguments.sort if arguments.sort in table.columns else name
    if column not in table.columns:
        raise ExperimentError(f"--sort {arguments.sort}", "is not a column", suggestion(name, map(str, table.columns)))
    try:
        return table.sort_values(column, ascending=not arguments.descending, kind="stable", ignore_index=True)
    except TypeError:  # values of several kinds
        return table.sort_values(
            column, ascending=not arguments.descending, kind="stable", ignore_index=True, key=lambda it: it.map(str)
        )


def _exported(columns: dict[str, list[Any]], arguments: argparse.Namespace) -> bool:
    """Write the files that the arguments ask for; whether there were any."""
    for place, kind in ((arguments.csv, "csv"), (arguments.json, "json"), (arguments.markdown, "markdown")):
        if place == "-":
            sys.stdout.write(_as(kind, columns))
        elif place is not None:
            Path(place).write_text(_as(kind, columns), encoding="utf-8", errors="backslashreplace")
    return any(place is not None for place in (arguments.csv, arguments.json, arguments.markdown))


def _as(kind: str, columns: dict[str, list[Any]]) -> str:
    from amlsched.experiments.config import jsonable, plain
    from amlsched.experiments.storage import cells

    rows = [plain(list(row), "results") for row in zip(*columns.values(), strict=True)]
    if kind == "csv":
        return b"".join((cells.header(columns), *map(cells.line, rows))).decode()
    if kind == "json":
        names = [dict(zip(columns, row, strict=True)) for row in rows]
        return json.dumps(jsonable(names, finite=False), indent=1) + "\n"
    return _markdown(columns)


def _cells(columns: dict[str, list[Any]]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns and the rows as text, without the folder."""
    from amlsched.display.table import number

    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number(value)
        return " ".join(str(value).splitlines())

    shown = {name: values for name, values in columns.items() if name != "folder"}
    return list(map(cell, shown)), [list(map(cell, row)) for row in zip(*shown.values(), strict=True)]


def _text(columns: dict[str, list[Any]]) -> str:
    from amlsched.display.table import table

    return table(*_cells(columns))


def _markdown(columns: dict[str, list[Any]]) -> str:
    names, body = _cells(columns)
    rows = [names, ["---"] * len(names), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
