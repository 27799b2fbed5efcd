"""`amlsched results`: parameters and last values of each repetition, or statistics over groups of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.cli.told import OK, folder, say
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse

    import pandas as pd

    from amlsched.cli.told import Commands
    from amlsched.experiments.frame import Results

__all__ = ["add_picking", "add_to", "picked"]


def add_to(commands: Commands) -> None:
    """Tell argparse of the command."""
    text = "parameters and last values of each repetition, or statistics over them"
    parser = commands.add_parser("results", help=text, description=results.__doc__)
    parser.set_defaults(command=results)
    parser.add_argument(
        "results", metavar="RESULTS", type=folder, help="the folder for the results: the config's `path`"
    )
    add_picking(parser)
    add = parser.add_argument
    text = "group by this, such as params.lr or run, and show mean, std, median, min, max and the 95%% interval"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    text = "only this metric; may be given several times"
    add("--metric", metavar="NAME", action="append", default=[], help=text)
    add("--sort", metavar="COLUMN", help="sort the rows by this column, such as mean")
    add("--descending", action="store_true", help="the largest first")
    for kind in ("csv", "json", "markdown"):
        add(f"--{kind}", metavar="FILE", help=f"write {kind.upper()} to this file instead (- for the console)")


def add_picking(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that pick repetitions."""
    add = parser.add_argument
    add("-e", "--experiments", metavar="NAME", nargs="+", action="extend", default=[], help="only these experiments")
    text = "only with this parameter, such as params.lr=0.1; may be given several times"
    add("--where", metavar="KEY=VALUE", action="append", default=[], help=text)
    add("--rep", metavar="N", type=int, nargs="+", action="extend", default=[], help="only these repetitions")


def picked(arguments: argparse.Namespace) -> Results:
    """The results that the arguments of `add_picking` pick.

    Raises:
        ExperimentError: There are none.
        ConfigError: A condition is not `KEY=VALUE`.
    """
    from amlsched.errors import ExperimentError
    from amlsched.experiments.overrides import condition
    from amlsched.experiments.results import load
    from amlsched.experiments.spelling import offered

    found = load(arguments.results)
    names = dict.fromkeys(found.index.get_level_values("name"))
    for name in arguments.experiments:
        if name not in names:
            raise ExperimentError(f"-e {name}", "there is no such experiment", offered(name, names))
    if arguments.experiments:
        found = found.experiment(*arguments.experiments)
    if arguments.rep:
        found = found.repetition(*arguments.rep)
    for text in arguments.where:
        key, value = condition(text)
        found = found.with_params({key.removeprefix("params."): value})
    if not len(found):
        raise ExperimentError(f"results folder {arguments.results}", "has no repetition that is asked for")
    return found


def results(arguments: argparse.Namespace) -> int:
    """Show the parameters, the last value of each metric and the state of each repetition, or statistics (--by)."""
    found = picked(arguments)
    if arguments.by:
        table = found.summary(arguments.by, arguments.metric or None)
        left_out = int((~found["state"].isin(["completed", "surrendered"])).sum())
        if left_out:
            say(f"{counted(left_out, 'repetition')} that {'is' if left_out == 1 else 'are'} not done: left out")
    else:
        for name in arguments.metric:
            found.column(name)
        dropped = [name for name in found.metrics if arguments.metric and not _is_asked(name, arguments.metric)]
        table = found.drop(columns=dropped).reset_index()
    table = _sorted(table, arguments)
    if not _exported(table, arguments):
        print(_text(table.drop(columns="folder", errors="ignore")))
    return OK


def _is_asked(name: str, metrics: list[str]) -> bool:
    return name in metrics or name.removesuffix("_last") in metrics


def _sorted(table: pd.DataFrame, arguments: argparse.Namespace) -> pd.DataFrame:
    from amlsched.errors import ExperimentError
    from amlsched.experiments.spelling import offered

    if arguments.sort is None:
        return table
    name = arguments.sort.removeprefix("params.").replace(".", "_")
    column = arguments.sort if arguments.sort in table.columns else name
    if column not in table.columns:
        raise ExperimentError(f"--sort {arguments.sort}", "is no column", offered(name, map(str, table.columns)))
    try:
        return table.sort_values(column, ascending=not arguments.descending, kind="stable", ignore_index=True)
    except TypeError:  # values of several kinds
        return table.sort_values(
            column, ascending=not arguments.descending, kind="stable", ignore_index=True, key=lambda it: it.map(str)
        )


def _exported(table: pd.DataFrame, arguments: argparse.Namespace) -> bool:
    """Writes what was asked for; whether anything was."""
    for place, kind in ((arguments.csv, "csv"), (arguments.json, "json"), (arguments.markdown, "markdown")):
        if place == "-":
            sys.stdout.write(_as(kind, table))
        elif place is not None:
            Path(place).write_text(_as(kind, table), encoding="utf-8")
    return any(place is not None for place in (arguments.csv, arguments.json, arguments.markdown))


def _as(kind: str, table: pd.DataFrame) -> str:
    if kind == "csv":
        return str(table.to_csv(index=False))
    if kind == "json":
        return str(table.to_json(orient="records", indent=1, default_handler=str)) + "\n"
    return _markdown(table.drop(columns="folder", errors="ignore"))


def _cells(table: pd.DataFrame) -> list[list[str]]:
    from amlsched.display.table import number

    def cell(value: Any) -> str:
        if value is None or value != value:
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return number(value)
        return str(value).replace("\n", " ")

    return [[cell(value) for value in row] for row in table.itertuples(index=False, name=None)]


def _text(frame: pd.DataFrame) -> str:
    from amlsched.display.table import table

    return table([str(name) for name in frame.columns], _cells(frame))


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns), *_cells(frame)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
