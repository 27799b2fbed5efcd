"""Learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlsched.errors import ExperimentError, MissingExtraError
from amlsched.experiments.results import iterations

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["plot_curves"]

LEGEND_FITS = 24


def plot_curves(results: str | Path, metric: str, out: str | Path, *, x: str = "iter") -> None:
    """Draw a metric over the iterations: for each run the mean of its repetitions, in a band of ± one deviation.

    Args:
        results: The folder for the results.
        metric: The column to draw.
        out: The picture; its ending says which kind. Its folder is made.
        x: The column of the x axis.

    Raises:
        ExperimentError: There is nothing to draw, there is no such column, or matplotlib does not write such pictures.
        MissingExtraError: pandas or matplotlib is not installed.
    """
    rows: Any = iterations(results)
    _check_column(rows, metric, results)
    _check_column(rows, x, results)
    rows = rows.dropna(subset=[metric, x])
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("plot", "matplotlib", "results") from error
    figure: Any = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    names: Iterable[Any] = rows["run"].unique()
    for run in names:
        curves: Any = rows[rows["run"] == run].groupby(x)[metric]
        mean, deviation = curves.mean(), curves.std().fillna(0.0)
        (line,) = axes.plot(mean.index, mean, label=run, marker="." if len(mean) == 1 else "")
        axes.fill_between(
            mean.index, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.15, linewidth=0
        )
    axes.set_xlabel("iteration" if x == "iter" else x)
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if 0 < len(axes.lines) <= LEGEND_FITS:
        axes.legend(fontsize="small")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=150)
    except ValueError as error:
        raise ExperimentError(f"--out {out}", str(error), "such as curves.png, curves.pdf or curves.svg") from error


def _check_column(rows: Any, name: str, results: str | Path) -> None:
    if name not in rows.columns or rows[name].dtype.kind not in "iufb":
        numbers = [str(column) for column in rows.columns if rows[column].dtype.kind in "iufb"]
        kept = ", ".join(column for column in numbers if column not in ("r", "rep", "iter")) or "none"
        raise ExperimentError(
            f"results folder {results}", f"{name!r} is no column of numbers there", f"there are: {kept}"
        )
