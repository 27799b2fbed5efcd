"""Draw learning curves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from amlsched._spelling import suggestion
from amlsched._surroundings import expanded, import_extra
from amlsched.display.table import number
from amlsched.errors import ExperimentError
from amlsched.experiments.results import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amlsched.experiments.results.table import Results

__all__ = ["Band", "plot_curves"]

Band = Literal["std", "interval", "range", "none"]
"""What a band shows: ± one standard deviation, the 95 % interval of the mean, or the range of the values."""
LEGEND_FITS = 24
"""Up to this many curves, the legend is inside the axes; then beside them."""
_STYLES = ("-", "--", ":", "-.")
_GROUP = "\0group"
_PLAIN_TEXT = {"text.usetex": False, "text.parse_math": False, "axes.formatter.use_mathtext": False}
"""Show names and values unchanged, even if the user's style file gives `$` and `_` a meaning."""


def plot_curves(
    results: str | Path | Results,
    metric: str,
    out: str | Path,
    *,
    x: str = "iter",
    by: str | Sequence[str] = "run",
    band: Band = "std",
) -> Path:
    """Draw a metric over the iterations: the mean over the repetitions of each run or group, with a band.

    Args:
        results: The folder for the results, or results from `load`.
        metric: The column to draw.
        out: The image file. Its suffix gives the format, by default `.png`; its folder is created.
        x: The column of the x axis.
        by: What has a curve each: `run`, or a parameter such as `params.lr`; or each combination of several.
        band: What the bands show.

    Returns:
        The image file.

    Raises:
        ExperimentError: There is nothing to draw, there is no such column, or matplotlib does not write this format.
        MissingExtraError: pandas or matplotlib is not installed.
        ValueError: There is no such band.
    """
    if band not in get_args(Band):
        raise ValueError(f"band={band!r}: must be one of {', '.join(get_args(Band))}")
    out = expanded(out, f"--out {out}")
    if out.name in ("", ".."):
        raise ExperimentError(f"--out {out}", "is not the name of a file", "such as --out curves.png")
    out = out if out.suffix else out.with_name(f"{out.name}.png")
    matplotlib = _matplotlib(out)
    found = load(results) if isinstance(results, str | Path) else results
    keys = found.apart([by] if isinstance(by, str) else by)
    _, groups, labels = found.groups(by)
    logged, places = found.placed()
    rows: Any = found.with_settings(logged, places)
    curves = {name: _numbers(rows, name) for name in dict.fromkeys((metric, x))}
    rows = rows.assign(**curves, **{_GROUP: [groups[place] for place in places]})
    rows = rows[_are_finite(rows[[metric, x]])]
    if not len(rows):
        raise ExperimentError("results", f"{metric} has no finite values, so there is nothing to draw")
    with matplotlib.rc_context(_PLAIN_TEXT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box is drawn instead
        figure = _figure(rows, keys, labels, metric, x, band)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    return out


def _matplotlib(out: Path) -> Any:
    """Import matplotlib, without a display, and check that it can write this format."""
    matplotlib = import_extra("matplotlib", "plot", "matplotlib", "results")
    agg = import_extra("matplotlib.backends.backend_agg", "plot", "matplotlib", "results")
    kinds = agg.FigureCanvasAgg.get_supported_filetypes()
    if out.suffix[1:].lower() not in kinds:
        problem = f"matplotlib cannot write {out.suffix} files"
        raise ExperimentError(f"--out {out}", problem, f"use one of .{', .'.join(sorted(kinds))}")
    return matplotlib


def _are_finite(columns: Any) -> Any:
    import numpy

    return numpy.isfinite(columns.to_numpy(dtype=float)).all(axis=1)


def _figure(rows: Any, keys: Sequence[str], labels: Sequence[tuple[Any, ...]], metric: str, x: str, band: Band) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    styles = _distinct_styles()
    axes.set_prop_cycle(styles)
    for number_of_group, group in rows.groupby(_GROUP, sort=False):
        label = ", ".join(_named(key, value) for key, value in zip(keys, labels[number_of_group], strict=True))
        _draw(axes, group.groupby(x)[metric], label, band)
    axes.set_xlabel("iteration" if x == "iter" else x)
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    count = len(axes.lines)
    if count > len(styles):
        axes.set_title(f"{count} curves, too many for a legend: draw fewer, with --by or --where", fontsize="small")
    elif count > LEGEND_FITS:
        figure.legend(loc="outside right upper", fontsize="x-small")
    elif count:
        axes.legend(fontsize="small")
    return figure


def _distinct_styles() -> Any:
    """The colours, then the same ones with another style of line: no two of the first forty curves are alike."""
    from cycler import cycler  # a dependency of matplotlib
    from matplotlib import rcParams

    colors: Any = rcParams["axes.prop_cycle"].by_key().get("color", ["black"])  # of the user's style file
    return cycler(linestyle=_STYLES) * cycler(color=list(dict.fromkeys(colors)))


def _named(key: str, value: Any) -> str:
    text = "null" if value is None else str(value)
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else text
    return text if key in ("run", "name") else f"{key.removeprefix('params.')} = {text}"


def _draw(axes: Any, curves: Any, label: str, band: Band) -> None:
    from amlsched.experiments.results.table import half_interval

    mean = curves.mean()
    label = f" {label}" if label.startswith("_") else label  # matplotlib omits labels with a leading _
    (line,) = axes.plot(mean.index, mean, label=label, marker="." if len(mean) == 1 else "")
    if band == "none":
        return
    if band == "range":
        low, high = curves.min(), curves.max()
    else:
        spread: Any = curves.std()
        if band == "interval":
            count: Any = curves.count()
            spread = spread / count**0.5 * count.map(half_interval)
        low, high = mean - spread.fillna(0.0), mean + spread.fillna(0.0)
    axes.fill_between(mean.index, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _numbers(rows: Any, name: str) -> Any:
    """The numbers of a column, with NaN for other values."""
    from amlsched.experiments.results.table import has_numbers, numbers_of

    if name not in rows.columns or not has_numbers(rows[name]):
        numbers = [str(column) for column in rows.columns if has_numbers(rows[column])]
        kept = [column for column in numbers if column not in ("r", "rep", "iter")]
        raise ExperimentError("results", f"{name!r} is not a column of numbers there", suggestion(name, kept))
    return numbers_of(rows[name])
