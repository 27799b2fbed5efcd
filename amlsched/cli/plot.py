"""`amlsched plot`: draw learning curves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, add_command, add_results, add_selection
from amlsched.cli.parser import at_least_one
from amlsched.cli.results import only_metric, selected

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, plot, "draw learning curves")
    add_results(parser)
    add = parser.add_argument
    text = "the column to draw; several have a row of panels each (needed if there are several metrics)"
    add("--metric", metavar="NAME", nargs="+", action="extend", default=[], help=text)
    add("--out", metavar="FILE", required=True, help="the image file; its suffix gives the format, such as .png")
    add("--x", metavar="NAME", default="iter", help="the column of the x axis (default: iter)")
    text = "a curve for each value of this key, such as params.lr, or for each combination of several (default: run)"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    text = "what the bands show: std (standard deviation, the default), interval (95%% of the mean), range or none"
    add("--band", choices=("std", "interval", "range", "none"), default="std", help=text)
    add("--facet", metavar="KEY", help="a panel for each value of this key")
    text = "of more than ten curves, colour the best N by their last value, and draw the others in grey (default: 8)"
    add("--top", metavar="N", type=at_least_one, help=text)
    add("--smooth", metavar="N", type=at_least_one, default=1, help="average over N points along x")
    add("--logx", action="store_true", help="a logarithmic x axis")
    add("--logy", action="store_true", help="a logarithmic y axis")
    add("--title", metavar="TEXT", help="the title of the picture")
    add_selection(parser)


def plot(arguments: argparse.Namespace) -> int:
    """Draw a metric over the iterations: the mean over repetitions of each run, or of each value of a parameter."""
    os.environ["MPLBACKEND"] = "agg"  # the backend of a notebook may not be installed here, and no window is needed
    from amlsched.experiments.results.plot import plot_curves

    found = selected(arguments)
    out = plot_curves(
        found,
        arguments.metric or only_metric(found),
        arguments.out,
        x=arguments.x,
        by=arguments.by or ["run"],
        band=arguments.band,
        **{name: getattr(arguments, name) for name in ("facet", "top", "smooth", "logx", "logy", "title")},
    )
    print(f"Learning curves: {out}")
    return OK
