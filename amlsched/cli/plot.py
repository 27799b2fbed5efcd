"""`amlsched plot`: draw learning curves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from amlsched.cli._output import OK, add_command, add_results
from amlsched.cli.results import add_selection, selected

if TYPE_CHECKING:
    import argparse

    from amlsched.cli._output import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command's parser."""
    parser = add_command(commands, plot, "draw learning curves")
    add_results(parser)
    add = parser.add_argument
    add("--metric", metavar="NAME", required=True, help="the column to draw")
    add("--out", metavar="FILE", required=True, help="the image file; its suffix gives the format, such as .png")
    add("--x", metavar="NAME", default="iter", help="the column of the x axis (default: iter)")
    text = "a curve for each value of this key, such as params.lr, or for each combination of several (default: run)"
    add("--by", metavar="KEY", nargs="+", action="extend", default=[], help=text)
    text = "what the bands show: std (standard deviation, the default), interval (95%% of the mean), range or none"
    add("--band", choices=("std", "interval", "range", "none"), default="std", help=text)
    add_selection(parser)


def plot(arguments: argparse.Namespace) -> int:
    """Draw a metric over the iterations: the mean over repetitions of each run, or of each value of a parameter."""
    os.environ["MPLBACKEND"] = "agg"  # the backend of a notebook may not be installed here, and no window is needed
    from amlsched.experiments.results.plot import plot_curves

    out = plot_curves(
        selected(arguments),
        arguments.metric,
        arguments.out,
        x=arguments.x,
        by=arguments.by or ["run"],
        band=arguments.band,
    )
    print(f"Learning curves: {out}")
    return OK
