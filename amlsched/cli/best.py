"""`amlsched best`: the run with the best values of a metric, its parameters, and the runs that may be as good."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from amlsched.cli.results import only_metric, selected
from amlsched.errors import ExperimentError
from amlsched.units import counted

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands
    from amlsched.experiments.results.table import Results

__all__ = ["add_to"]

_SHOWN = 10


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, best, "show the best run, its parameters as YAML, and which runs may be as good")
    add_results(parser)
    add = parser.add_argument
    text = "the column to compare, by its mean over the repetitions (needed if there are several metrics)"
    add("--metric", metavar="NAME", help=text)
    direction = parser.add_mutually_exclusive_group()
    text = "the lowest is best (the default for names such as loss, error, time)"
    direction.add_argument("--min", action="store_true", help=text)
    direction.add_argument("--max", action="store_true", help="the highest is best (the default for all other names)")
    text = "compare groups with equal values of this key, such as params.lr, or of several (default: run)"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    text = "write the config of the best run to this file, to run it again (- for only that, on standard output)"
    add("--config", metavar="FILE", help=text)
    add_selection(parser)


def best(arguments: argparse.Namespace) -> int:
    """Show the run with the best mean of a metric, its parameters as YAML, and which others are not clearly worse."""
    from amlsched.experiments.progress import lower_is_better
    from amlsched.experiments.results.table import done_of

    found = selected(arguments)
    arguments.metric = arguments.metric or only_metric(found)
    by: list[str] = arguments.by or ["run"]
    minimize = arguments.min or (not arguments.max and lower_is_better(arguments.metric))
    ranking = found.ranking(arguments.metric, by, minimize=minimize)
    first: dict[Any, Any] = ranking.iloc[0].to_dict()
    if math.isnan(first["mean"]):
        raise ExperimentError("results", f"every group has a value of {arguments.metric} that is missing or not finite")
    keys = [str(name) for name in ranking.columns[: list(ranking.columns).index("n")]]
    text = _config(found, by, int(ranking.index[0]), Path(arguments.results))
    if arguments.config == "-":
        sys.stdout.write(text)
        return OK
    order, flag = ("Lowest", "--max takes the highest") if minimize else ("Highest", "--min takes the lowest")
    guess = "" if arguments.min or arguments.max else f" ({flag})"
    print(f"{order} {arguments.metric}: {_label(keys, first)}{guess}")
    print(f"  {_value(first)}\n")
    if arguments.config is None:
        print(text)
    else:
        write_file(Path(arguments.config), text)
        print(f"Its config: {arguments.config}\n")
    _print_others(ranking, keys, arguments.metric)
    if undone := len(found) - len(done_of(found)):
        print_stderr(f"note: {counted(undone, 'repetition', 'are')} not done, and left out")
    return OK


def _label(keys: list[str], row: dict[str, Any]) -> str:
    from amlsched.display.table import text_of

    return ", ".join(text_of(row[key]) if key in ("run", "name") else f"{key} = {text_of(row[key])}" for key in keys)


def _value(row: dict[str, Any]) -> str:
    from amlsched.display.table import number

    n = int(row["n"])
    if n < 2:
        return f"{number(row['mean'])} (1 repetition, so no interval: run more, with other seeds)"
    half = (row["high"] - row["low"]) / 2
    interval = f"95 % interval of the mean: {number(row['low'])} to {number(row['high'])}"
    return f"{row['mean']:.4g} ± {half:.2g}  ({n} repetitions; {interval})"


def _print_others(ranking: Any, keys: list[str], metric: str) -> None:
    from amlsched.display.table import number, text_of

    rows: list[dict[str, Any]] = ranking.to_dict("records")[1:]
    broken = [row for row in rows if math.isnan(row["mean"])]
    rows = [row for row in rows if not math.isnan(row["mean"])]
    near = [row for row in rows if not row["clearly_worse"]]
    if broken:
        names = "; ".join(_label(keys, row) for row in broken[:_SHOWN])
        print_stderr(f"note: left out, as a value of {metric} is missing or not finite: {names}")
    if not rows:
        print("There is nothing to compare it with.")
        return
    if not near:
        print(f"{_all(len(rows), 'other')} clearly worse (the 95 % interval of the difference is below or above 0).")
        return
    print(f"Not clearly worse: {len(near)} of {counted(len(rows), 'other')}.")
    cells = [
        [
            *(text_of(row[key]) for key in keys),
            str(int(row["n"])),
            number(row["mean"]),
            f"{row['difference']:+.2g}",
            "one repetition"
            if math.isnan(row["difference_low"])
            else f"{row['difference_low']:+.2g} to {row['difference_high']:+.2g}",
        ]
        for row in near[:_SHOWN]
    ]
    columns = [*keys, "n", metric, "difference", "95 % interval"]
    print_stdout(table_text(columns, cells, hide_constant=True))
    if len(near) > _SHOWN:
        print(f"… and {len(near) - _SHOWN} more: amlsched results RESULTS --by {' '.join(keys)} --metric {metric}")


def _all(number: int, noun: str) -> str:
    return f"The {noun} one is" if number == 1 else f"All {number} {noun}s are"


def _config(found: Results, by: list[str], place: int, results: Path) -> str:
    """A config that runs the best again; if a group has several runs, that of its first one, with a comment."""
    from amlsched.experiments.config import write
    from amlsched.experiments.results.survey import run_config, survey
    from amlsched.experiments.results.table import done_of

    done = done_of(found)
    _, places, _ = done.groups(by)
    rows = done[[number == place for number in places]]
    runs = list(dict.fromkeys(map(str, rows["run"])))
    folder = rows["folder"].iloc[0]  # the rows are in the order of `survey`
    one = next(one for one in survey(results) if str(one.folder) == folder)
    name = f"best_{one.run.replace('/', '_')}"
    text = write([{"name": name, "path": str(results), **run_config(one.folder, one.params)}])
    some = f"# One of {len(runs)} runs of this group.\n" if len(runs) > 1 else ""
    return f"# The config of {one.run}. To run it again: amlsched run FILE.py:NAME best.yml\n{some}{text}"
