"""Draw learning curves."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from amlsched._spelling import suggestion
from amlsched._surroundings import expanded, import_extra
from amlsched.display.table import number
from amlsched.errors import ExperimentError
from amlsched.experiments._running.summary import lower_is_better
from amlsched.experiments.results import load
from amlsched.units import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from amlsched.experiments.results.table import Results

logger = logging.getLogger(__name__)

__all__ = ["Band", "plot_curves"]

Band = Literal["std", "interval", "range", "none"]
"""What a band shows: ± one standard deviation, the 95 % interval of the mean, or the range of the values."""
FEW = 10
"""Up to this many curves, each has a colour of its own."""
TOP = 8
"""Of more curves, this many have a colour, by default."""
MOST_COLOURED = 40
MOST_PANELS = 12
_STYLES = ("-", "--", ":", "-.")
_GROUP, _PANEL = "\0group", "\0panel"
_GAP = 0.045
"""The distance of two names at the ends of curves, as a part of the height."""
_PLAIN_TEXT = {"text.usetex": False, "text.parse_math": False, "axes.formatter.use_mathtext": False}
"""Show names and values unchanged, even if the user's style file gives `$` and `_` a meaning."""


def plot_curves(
    results: str | Path | Results,
    metric: str | Sequence[str],
    out: str | Path,
    *,
    x: str = "iter",
    by: str | Sequence[str] = "run",
    band: Band = "std",
    facet: str | None = None,
    top: int | None = None,
    smooth: int = 1,
    logx: bool = False,
    logy: bool = False,
    title: str | None = None,
) -> Path:
    """Draw metrics over the iterations: the mean over the repetitions of each run or group, with a band.

    With more than ten curves, the best eight have a colour and a label each, and the others are grey. Curves without
    finite values are left out with a warning.

    Args:
        results: The folder for the results, or results from `load`.
        metric: The column to draw; several have a row of panels each.
        out: The image file. Its suffix gives the format, by default `.png`; its folder is created.
        x: The column of the x axis.
        by: What has a curve each: `run`, or a parameter such as `params.lr`; or each combination of several.
        band: What the bands show.
        facet: What has a panel each: a parameter, or another column.
        top: How many curves have a colour: those with the best last mean. `None` for all of up to ten, and for eight of
            more. The lowest is best if `lower_is_better` says so.
        smooth: Over how many points along x the curves and bands are averaged.
        logx: Whether the x axis is logarithmic.
        logy: Whether the y axes are logarithmic.
        title: The title of the picture.

    Returns:
        The image file.

    Raises:
        ExperimentError: There is nothing to draw, there is no such column, or matplotlib does not write this format.
        MissingExtraError: pandas or matplotlib is not installed.
        ValueError: There is no such band, or a number is below 1.
    """
    if band not in get_args(Band):
        raise ValueError(f"band={band!r}: must be one of {', '.join(get_args(Band))}")
    for name, value in (("top", top), ("smooth", smooth)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value!r}: must be at least 1")
    out = expanded(out, f"--out {out}")
    if out.name in ("", ".."):
        raise ExperimentError(f"--out {out}", "is not the name of a file", "such as --out curves.png")
    out = out if out.suffix else out.with_name(f"{out.name}.png")
    matplotlib = _matplotlib(out)
    found = load(results) if isinstance(results, str | Path) else results
    metrics = list(dict.fromkeys([metric] if isinstance(metric, str) else metric))
    keys = found.apart([by] if isinstance(by, str) else by)
    _, groups, labels = found.groups(by)
    panels = _panels(found, facet)
    logged, places = found.placed()
    rows: Any = found.with_settings(logged, places)
    curves = {name: _numbers(rows, name) for name in dict.fromkeys((*metrics, x))}
    grouped: dict[str, list[int]] = {
        _GROUP: [groups[place] for place in places],
        _PANEL: [panels[place][0] for place in places],
    }
    rows = rows.assign(**curves, **grouped)
    names = [", ".join(_named(key, value) for key, value in zip(keys, label, strict=True)) for label in labels]
    every: list[list[_Curve]] = []
    for one in metrics:
        kept = rows[_are_positive_or_finite(rows, one, x, logx=logx, logy=logy)]
        if not len(kept):
            what = "positive" if (logy or logx) and len(rows[_are_positive_or_finite(rows, one, x)]) else "finite"
            raise ExperimentError("results", f"{one} has no {what} values, so there is nothing to draw")
        every.append(_curves(kept, names, one, x, band, smooth))
    absent = [name for number, name in enumerate(names) if not any(number == one.group for one in chain(*every))]
    if absent:
        some = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
        logger.warning("no curve, as there are no finite values: %s", some)
    with matplotlib.rc_context(_PLAIN_TEXT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box is drawn instead
        figure = _figure(every, metrics, dict(panels), x, top)
        for axes in figure.axes:
            if logx:
                axes.set_xscale("log")
                _name_ticks(axes.xaxis)
            if logy:
                axes.set_yscale("log")
                _name_ticks(axes.yaxis)
            if not logx and _are_whole(rows[x]):
                axes.xaxis.get_major_locator().set_params(integer=True)
        if smooth > 1:
            figure.text(0.01, 0.005, f"averaged over {smooth} points", fontsize="x-small", color="gray")
        if title is not None:
            figure.suptitle(title)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150, bbox_inches="tight")
    return out


@dataclass
class _Curve:
    """A curve: the mean of a group over x, and its band."""

    group: int
    panel: int
    label: str
    mean: Any
    low: Any
    high: Any


def _panels(found: Results, facet: str | None) -> list[tuple[int, str]]:
    """The panel of each repetition: its number and its title."""
    if facet is None:
        return [(0, "")] * len(found)
    _, places, labels = found.groups(facet)
    if len(labels) > MOST_PANELS:
        problem = f"{facet} has {len(labels)} values, and at most {MOST_PANELS} panels fit"
        raise ExperimentError(f"--facet {facet}", problem, "draw fewer, with --where, or use --by")
    return [(place, _named(facet, labels[place][-1])) for place in places]


def _curves(rows: Any, names: Sequence[str], metric: str, x: str, band: Band, smooth: int) -> list[_Curve]:
    from amlsched.experiments.results.table import half_interval

    curves: list[_Curve] = []
    for (panel, group), some in rows.groupby([_PANEL, _GROUP], sort=False):
        by_x = some.groupby(x)[metric]
        mean = low = high = by_x.mean()
        if band == "range":
            low, high = by_x.min(), by_x.max()
        elif band != "none":
            spread: Any = by_x.std()
            if band == "interval":
                count: Any = by_x.count()
                spread = spread / count**0.5 * count.map(half_interval)
            low, high = mean - spread.fillna(0.0), mean + spread.fillna(0.0)
        mean, low, high = (one.rolling(smooth, min_periods=1, center=True).mean() for one in (mean, low, high))
        curves.append(_Curve(int(group), int(panel), names[int(group)], mean, low, high))
    return curves


def _matplotlib(out: Path) -> Any:
    """Import matplotlib, without a display, and check that it can write this format."""
    matplotlib = import_extra("matplotlib", "plot", "matplotlib", "results")
    agg = import_extra("matplotlib.backends.backend_agg", "plot", "matplotlib", "results")
    kinds = agg.FigureCanvasAgg.get_supported_filetypes()
    if out.suffix[1:].lower() not in kinds:
        problem = f"matplotlib cannot write {out.suffix} files"
        raise ExperimentError(f"--out {out}", problem, f"use one of .{', .'.join(sorted(kinds))}")
    return matplotlib


def _are_positive_or_finite(rows: Any, metric: str, x: str, *, logx: bool = False, logy: bool = False) -> Any:
    """The rows that can be drawn: with finite values, on a logarithmic axis positive ones."""
    import numpy

    y_values, x_values = rows[metric].to_numpy(dtype=float), rows[x].to_numpy(dtype=float)
    found: Any = numpy.isfinite(y_values) & numpy.isfinite(x_values)
    if logy:
        found &= y_values > 0
    return found & (x_values > 0) if logx else found


def _tick(value: float, _: object) -> str:
    return number(value)


def _name_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())
    if high / low < 30:  # with so few powers of ten, name some numbers between them
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5) if high / low < 4 else (2, 5)))
        axis.set_minor_formatter(FuncFormatter(_tick))


def _are_whole(values: Any) -> bool:
    import numpy

    numbers = values.to_numpy(dtype=float)
    numbers = numbers[numpy.isfinite(numbers)]
    return bool((numbers == numpy.floor(numbers)).all())


def _figure(
    every: Sequence[list[_Curve]], metrics: Sequence[str], panels: Mapping[int, str], x: str, top: int | None
) -> Any:
    """A row of panels for each metric, with a panel for each facet; one metric fills several rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = min(len(panels), 3 if len(metrics) == 1 else len(panels))
    n_rows = len(metrics) * -(-len(panels) // n_columns)
    size = (9, 5.5) if n_rows * n_columns == 1 else (max(7, 4.5 * n_columns), 3.6 * n_rows)
    figure: Any = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    coloured = _coloured(every[0], metrics[0], top)
    styles = _distinct_styles(grey=len(coloured) == len({one.group for one in every[0]}))
    look = {group: styles[number] for number, group in enumerate(coloured)}
    place = 0
    for metric, curves in zip(metrics, every, strict=True):
        first: Any = None
        for panel, title in panels.items():
            place += 1
            axes: Any = figure.add_subplot(n_rows, n_columns, place, sharex=first, sharey=first)
            first = first or axes
            _draw([one for one in curves if one.panel == panel], look, axes)
            axes.set_xlabel("iteration" if x == "iter" else x)
            axes.set_ylabel(metric)
            axes.set_title(title, fontsize="medium")
            axes.grid(alpha=0.3)
    _add_key(figure, every, look, len(panels) * len(metrics))
    return figure


def _coloured(curves: Sequence[_Curve], metric: str, top: int | None) -> list[int]:
    """The groups that have a colour, in their order: all, or those with the best last mean."""
    groups = list(dict.fromkeys(one.group for one in curves))
    top = min(top or (TOP if len(groups) > FEW else len(groups)), MOST_COLOURED)
    if len(groups) <= top:
        return groups
    lower = lower_is_better(metric)
    last = {one.group: float(one.mean.iloc[-1]) for one in curves}
    return sorted(groups, key=lambda group: last[group] if lower else -last[group])[:top]


def _draw(curves: Sequence[_Curve], look: Mapping[int, Mapping[str, Any]], axes: Any) -> None:
    """Draw the bands below all lines, and the grey curves below the others."""
    alpha = 0.15 if len(look) <= 4 else 0.07
    for one in curves:
        style = look.get(one.group)
        if style is not None and not one.low.equals(one.high):
            axes.fill_between(
                one.mean.index, one.low, one.high, color=style["color"], alpha=alpha, linewidth=0, zorder=1
            )
    for one in curves:
        style = look.get(one.group, {"color": "0.75", "linewidth": 0.8, "zorder": 1.5})
        label = _for_legend(one.label) if one.group in look else "_other"
        axes.plot(one.mean.index, one.mean, label=label, marker="." if len(one.mean) == 1 else "", **style)


def _add_key(figure: Any, every: Sequence[list[_Curve]], look: Mapping[int, Mapping[str, Any]], n_panels: int) -> None:
    """Name the curves: at their ends in a single panel with grey curves, otherwise in a legend."""
    from matplotlib.lines import Line2D

    groups = {one.group: one.label for curves in every for one in curves}
    n_others = len(groups) - len(look)
    lines = [Line2D([], [], **style) for style in look.values()]
    labels = [_for_legend(groups[group]) for group in look]
    if n_others:
        lines.append(Line2D([], [], color="0.75", linewidth=0.8))
        labels.append(f"{counted(n_others, 'other')}, not as good at the end")
    axes = figure.axes[0]
    if n_panels == 1 and n_others and len(look) <= FEW:
        _label_ends([one for one in every[0] if one.group in look], look, axes)
        axes.legend(lines[-1:], labels[-1:], fontsize="small")
    elif n_panels == 1 and len(lines) <= FEW:
        axes.legend(lines, labels, fontsize="small")
    else:
        figure.legend(lines, labels, loc="outside right upper", fontsize="small" if len(lines) <= 24 else "x-small")


def _for_legend(label: str) -> str:
    return f" {label}" if label.startswith("_") else label  # matplotlib omits labels with a leading _


def _label_ends(curves: Sequence[_Curve], look: Mapping[int, Mapping[str, Any]], axes: Any) -> None:
    """Write the name of each curve at the height of its end, moved apart where names would overlap."""
    axes.figure.canvas.draw()  # so that the limits of the axes are known
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(
        ((float(to_axes.transform((one.mean.index[-1], one.mean.iloc[-1]))[1]), one.group, one) for one in curves),
        key=lambda end: end[:2],
    )
    below = -1.0
    places: list[float] = []
    for height, _, _ in ends:
        below = max(height, below + _GAP)
        places.append(below)
    over = max(0.0, places[-1] - 1.0)
    for place, (_, group, one) in zip(places, ends, strict=True):
        axes.annotate(
            one.label,
            (1.01, place - over),
            xycoords="axes fraction",
            color=look[group]["color"],
            fontsize="small",
            verticalalignment="center",
            annotation_clip=False,
        )


def _distinct_styles(*, grey: bool) -> list[dict[str, Any]]:
    """The colours, then the same ones with another style of line: no two of the first forty curves are alike.

    Args:
        grey: Whether grey is one of them.
    """
    from matplotlib import rcParams
    from matplotlib.colors import to_rgb

    colors: Any = rcParams["axes.prop_cycle"].by_key().get("color", ["black"])  # of the user's style file
    different = list(dict.fromkeys(colors))
    shades = {color: to_rgb(color) for color in different}
    different = [color for color in different if grey or max(shades[color]) - min(shades[color]) > 0.1] or ["black"]
    styles = [{"color": color, "linestyle": style} for style in _STYLES for color in different]
    widths = range(2, 2 + MOST_COLOURED // len(styles))
    return styles + [{**one, "linewidth": 1.5 * width} for width in widths for one in styles]


def _named(key: str, value: Any) -> str:
    text = "null" if value is None else str(value)
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else text
    return text if key in ("run", "name") else f"{key.removeprefix('params.')} = {text}"


def _numbers(rows: Any, name: str) -> Any:
    """The numbers of a column, with NaN for other values."""
    from amlsched.experiments.results.table import has_numbers, numbers_of

    if name not in rows.columns or not has_numbers(rows[name]):
        numbers = [str(column) for column in rows.columns if has_numbers(rows[column])]
        kept = [column for column in numbers if column not in ("r", "rep", "iter")]
        raise ExperimentError("results", f"{name!r} is not a column of numbers there", suggestion(name, kept))
    return numbers_of(rows[name])
