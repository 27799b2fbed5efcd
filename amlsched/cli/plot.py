"""`amlsched plot`: draw learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amlsched.cli.told import OK

if TYPE_CHECKING:
    import argparse

    from amlsched.cli.told import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Tell argparse of the command."""
    parser = commands.add_parser("plot", help="draw learning curves", description=plot.__doc__)
    parser.set_defaults(command=plot)
    parser.add_argument("results", metavar="RESULTS", help="the folder for the results")
    parser.add_argument("--metric", metavar="NAME", required=True, help="the column to draw")
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="the picture; its ending says which kind, such as .png"
    )
    parser.add_argument("--x", metavar="NAME", default="iter", help="the column of the x axis (default: iter)")


def plot(arguments: argparse.Namespace) -> int:
    """Draw a metric over the iterations: for each run the mean of its repetitions, in a band of ± one deviation."""
    from amlsched.experiments.plot import plot_curves

    plot_curves(arguments.results, arguments.metric, arguments.out, x=arguments.x)
    print(f"Learning curves: {arguments.out}")
    return OK
