"""`amlsched results`: the parameters and last values of each repetition, or statistics over groups of them."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amlsched._spelling import listed, suggestion
from amlsched.cli._output import (
    OK,
    add_command,
    add_results,
    add_selection,
    print_stderr,
    print_stdout,
    table_text,
    write_file,
)
from amlsched.errors import ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import pandas as pd

    from amlsched.cli._output import Commands
    from amlsched.experiments.results.table import Results

    Frame = TypeVar("Frame", bound=pd.DataFrame)

__all__ = ["add_to", "only_metric", "selected"]

_OFFERED = 8
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    text = "show the parameters and last values of each repetition, or statistics over them"
    parser = add_command(commands, results, text)
    add_results(parser)
    add_selection(parser)
    add = parser.add_argument
    text = "group by this key, such as params.lr or run; shows mean, std, median, min, max and the 95%% interval"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    add("--metric", metavar="NAME", nargs="+", action="extend", default=[], help="only these metrics")
    add("--sort", metavar="COLUMN", help="sort the rows by this column, such as mean")
    add("--descending", action="store_true", help="sort the largest first")
    for kind, name in (("csv", "CSV"), ("json", "JSON"), ("markdown", "Markdown"), ("latex", "LaTeX")):
        add(f"--{kind}", metavar="FILE", help=f"write {name} to this file instead (- for standard output)")
    text = "with --by and --markdown or --latex: the lowest value of these metrics is bold (default: loss, error, …)"
    add("--min", metavar="NAME", nargs="+", action="extend", default=[], help=text)
    add("--max", metavar="NAME", nargs="+", action="extend", default=[], help="likewise, the highest")


def selected(arguments: argparse.Namespace) -> Results:
    """The results that the arguments of `add_selection` select.

    Raises:
        ExperimentError: They select none.
        ConfigError: A condition is not `KEY=VALUE`.
    """
    from amlsched.experiments.config import condition
    from amlsched.experiments.results import load

    where = f"results folder {arguments.results}"
    found = every = load(arguments.results)
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
        known = sorted(set(map(int, every.index.get_level_values("r"))))
        remedy = listed(map(str, known), "indices of repetitions")
        raise ExperimentError(where, "has no repetition that matches the arguments", remedy)
    return found


def only_metric(found: Results) -> str:
    """The metric, if there is only one.

    Raises:
        ExperimentError: There are none, or several.
    """
    if len(found.metrics) == 1:
        return found.metrics[0]
    problem = "name one of the metrics" if found.metrics else "no numbers have been logged yet"
    raise ExperimentError("--metric", problem, listed(found.metrics))


def _shown(value: Any) -> str:
    """A value as it is written for `--where`."""
    from amlsched.experiments.config import write

    return write([value]).removeprefix("--- ").removesuffix("\n").removesuffix("\n...")


def _offer(key: str, there: Iterable[str]) -> str:
    values = list(there)
    return f"values of {key} there: {', '.join(values[:_OFFERED])}{', …' if len(values) > _OFFERED else ''}"


def results(arguments: argparse.Namespace) -> int:
    """Show the parameters, the last value of each metric and the state of each repetition, or statistics (--by)."""
    from amlsched.experiments.results.table import STATISTICS, done_of

    found = selected(arguments)
    if not arguments.by:
        for option, names in (("--min", arguments.min), ("--max", arguments.max)):
            if names:
                problem = "says which value of a table of groups is bold"
                raise ExperimentError(option, problem, "add --by, such as --by run")
        for name in arguments.metric:
            found.column(name)
        dropped = [name for name in found.metrics if arguments.metric and not _is_asked(name, arguments.metric)]
        some = _sorted(found.drop(columns=dropped).copy().reset_index(), arguments)  # few blocks: see `table_of`
        columns = {str(name): some.exact(str(name)) for name in some}
    else:
        if left_out := len(found) - len(done_of(found)):
            print_stderr(f"Left out {counted(left_out, 'repetition')} that {'is' if left_out == 1 else 'are'} not done")
        table = _sorted(found.summary(arguments.by, arguments.metric or None), arguments)
        columns = {str(name): table[name].tolist() for name in table}
        for name in STATISTICS:  # NaN where a statistic needs more values
            columns[name] = [None if value != value else value for value in columns[name]]
    if not _exported(columns, found, arguments):
        print_stdout(table_text(*_cells(columns), hide_constant=True))
    return OK


def _is_asked(name: str, metrics: list[str]) -> bool:
    return name in metrics or name.removesuffix("_last") in metrics


def _sorted(table: Frame, arguments: argparse.Namespace) -> Frame:
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


def _exported(columns: dict[str, list[Any]], found: Results, arguments: argparse.Namespace) -> bool:
    """Write the files that the arguments ask for; whether there were any."""
    kinds = ("csv", "json", "markdown", "latex")
    places: dict[str, str] = {kind: getattr(arguments, kind) for kind in kinds if getattr(arguments, kind) is not None}
    for kind, place in places.items():
        if kind in ("csv", "json"):
            text = _csv(columns) if kind == "csv" else _json(columns)
        else:
            paper = _paper(found, columns, arguments) if arguments.by else (*_cells(columns), set[tuple[int, int]]())
            text = _markdown(*paper) if kind == "markdown" else _latex(*paper)
        if place == "-":
            sys.stdout.write(text)
        else:
            write_file(Path(place), text)
    return bool(places)


def _paper(
    found: Results, columns: dict[str, list[Any]], arguments: argparse.Namespace
) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """A table for a paper: a row for each group, with mean ± standard deviation of each metric.

    Returns:
        The names of the columns, the rows, and the place (row and column) of the best value of each metric. Groups with
        missing values are never best, and say how many there are.
    """
    from amlsched.display.table import text_of
    from amlsched.experiments.progress import lower_is_better
    from amlsched.experiments.results.table import done_of

    keys = list(columns)[: list(columns).index("metric")]
    metrics = list(dict.fromkeys(columns["metric"]))
    for option, names in (("--min", arguments.min), ("--max", arguments.max)):
        for name in names:
            if name not in metrics:
                raise ExperimentError(f"{option} {name}", "is not a metric of this table", suggestion(name, metrics))
    groups: dict[tuple[str, ...], dict[str, tuple[int, float | None, float | None]]] = {}
    for row in range(len(columns["metric"])):
        group = groups.setdefault(tuple(text_of(columns[key][row]) for key in keys), {})
        group[columns["metric"][row]] = (columns["n"][row], columns["mean"][row], columns["std"][row])
    done = done_of(found)
    _, places, groups_done = done.groups(arguments.by)
    sizes = Counter(tuple(map(text_of, groups_done[place])) for place in places)
    varying = _varying(found, list(groups)) if keys == ["run"] else {}
    labels = list(zip(*varying.values(), strict=True)) if varying else list(groups)
    bold: set[tuple[int, int]] = set()
    for number, metric in enumerate(metrics):
        lowest = metric in arguments.min or (metric not in arguments.max and lower_is_better(metric))
        means = [
            group[metric][1] if metric in group and group[metric][0] == sizes[label] else None
            for label, group in groups.items()
        ]
        known = [mean for mean in means if mean is not None and math.isfinite(mean)]
        if len(means) > 1 and known:
            best = (min if lowest else max)(known)
            bold |= {(row, number + len(labels[0])) for row, mean in enumerate(means) if mean == best}
    rows = [
        [*label, *(_of_paper(sizes[key], *group.get(metric, (0, None, None))) for metric in metrics)]
        for label, (key, group) in zip(labels, groups.items(), strict=True)
    ]
    return [*(list(varying) or keys), *metrics], rows, bold


def _of_paper(size: int, n: int, mean: float | None, deviation: float | None) -> str:
    from amlsched.display.table import mean_and_deviation_of

    text = mean_and_deviation_of(n, mean, deviation)
    return text if n in (0, size) else f"{text} ({n} of {size})"


def _varying(found: Results, runs: list[tuple[str, ...]]) -> dict[str, list[str]]:
    """The parameters that distinguish the runs, instead of their names; none if they do not."""
    from amlsched.display.table import text_of

    names = list(map(str, found["run"]))
    first = [names.index(run) for (run,) in runs]
    columns = {name: found.exact(name) for name in found.settings}
    texts = {name: [text_of(values[place]) for place in first] for name, values in columns.items()}
    varying = {name: values for name, values in texts.items() if len(set(values)) > 1}
    return varying if len(set(zip(*varying.values(), strict=True))) == len(runs) else {}


def _csv(columns: dict[str, list[Any]]) -> str:
    from amlsched.experiments.storage import cells

    return b"".join((cells.header(columns), *map(cells.line, _plain_rows(columns)))).decode()


def _json(columns: dict[str, list[Any]]) -> str:
    from amlsched.experiments.config import jsonable

    names = [dict(zip(columns, row, strict=True)) for row in _plain_rows(columns)]
    return json.dumps(jsonable(names, finite=False), indent=1) + "\n"


def _plain_rows(columns: dict[str, list[Any]]) -> list[list[Any]]:
    from amlsched.experiments.config import plain

    return [plain(list(row), "results") for row in zip(*columns.values(), strict=True)]


def _cells(columns: dict[str, list[Any]]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns and the rows as text, without the folder."""
    from amlsched.display.table import text_of

    shown = {name: values for name, values in columns.items() if name != "folder"}
    return list(map(text_of, shown)), [list(map(text_of, row)) for row in zip(*shown.values(), strict=True)]


def _markdown(names: list[str], body: list[list[str]], bold: set[tuple[int, int]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in body]
    for row, column in bold:
        cells[row][column] = f"**{cells[row][column]}**"
    rows = [[name.replace("|", "\\|") for name in names], ["---"] * len(names), *cells]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _latex(names: list[str], body: list[list[str]], bold: set[tuple[int, int]]) -> str:
    """A `tabular` with the rules of the package booktabs."""
    from amlsched.display.table import is_number

    cells = [[cell.translate(_LATEX) for cell in row] for row in body]
    for row, column in bold:
        cells[row][column] = f"\\textbf{{{cells[row][column]}}}"
    kinds = "".join("r" if all(is_number(row[column]) for row in body) else "l" for column in range(len(names)))
    lines = [" & ".join(row) + r" \\" for row in ([name.translate(_LATEX) for name in names], *cells)]
    rules = (rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule")
    return "\n".join((*rules, r"\end{tabular}", ""))
