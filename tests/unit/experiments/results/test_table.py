"""What can be done with results: picked, grouped, drawn, exported."""

from __future__ import annotations

import csv
import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from amlsched.cli import main
from amlsched.errors import ExperimentError
from amlsched.experiments import ExperimentRun, load
from amlsched.experiments.results.plot import plot_curves
from amlsched.experiments.results.table import Results, half_interval

CONFIG = """
name: DEFAULT
path: out
repetitions: 4
---
name: first
params: {opt: {name: sgd}, text: "a b"}
grid: {opt: {lr: [0.1, 0.2]}, bs: [1, 2]}
---
name: second
params: {loss: mse, r: 5}
repetitions: 2
"""


def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
    if params.get("bs") == 2 and rep == 3:
        raise ValueError("not this one")
    for n in range(3):
        note = 'say "x",\nand y' if rep == 1 else "plain"
        log(iter=n, loss=params.get("opt", {}).get("lr", 1) * (n + rep), note=note)
    if rep == 2:
        log(iter=3, late=1.5)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("results")
    (folder / "config.yml").write_text(CONFIG.replace("path: out", f"path: {folder}/out"))
    ExperimentRun(experiment, folder / "config.yml", executor="sequential").run()
    return folder / "out"


def test_what_is_picked_keeps_its_methods(out: Path) -> None:
    found = load(out)
    assert found.settings == ["opt_name", "opt_lr", "text", "bs", "loss", "params_r"]
    assert found.metrics == ["loss_last", "late"]
    assert len(found) == 18
    some = found.with_params({"opt": {"lr": 0.1}}, bs=1)
    assert (len(some), type(some), some.settings) == (4, Results, found.settings)
    assert len(some[some["seed"].notna()].repetition(0, 2)) == 2
    assert len(found.experiment("second").with_params(opt_name=None)) == 2
    assert len(found.with_params({"r": 5})) == 2
    assert list(some.sort_values("r").repetition(0, 2).iterations()["loss"]) == pytest.approx(
        [0, 0.1, 0.2, 0.2, 0.3, 0.4, np.nan], nan_ok=True
    )


def test_what_is_known_of_the_columns_is_not_copied_with_each_that_is_picked(out: Path) -> None:
    table = load(out)
    assert table[table.settings[0]].attrs["facts"] is table.attrs["facts"]
    assert table[table["state"] == "completed"].attrs["facts"] is table.attrs["facts"]


def test_all_rows_of_what_is_picked_with_their_parameters(out: Path) -> None:
    rows = load(out).experiment("first").repetition(0, 1, 2).iterations()
    assert len(rows) == 4 * (3 + 3 + 4)
    assert list(rows.columns[:8]) == ["name", "run", "r", "opt_name", "opt_lr", "text", "bs", "params_loss"]
    one = rows[(rows["run"] == "first__opt.l0.2_b2") & (rows["r"] == 1)]
    assert list(one["loss"]) == pytest.approx([0.2, 0.4, 0.6])
    assert set(one["note"]) == {'say "x",\nand y'}
    assert list(one["iter"]) == [0, 1, 2]
    assert set(one["opt_lr"]) == {0.2}
    assert rows["late"].notna().sum() == 4


def test_a_line_that_is_half_written_is_left_out(out: Path) -> None:
    some = load(out).experiment("second").repetition(0)
    file = Path(some["folder"].iloc[0]) / "rep_0.csv"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-3])
        assert len(some.iterations()) == 2
        for damage in (lambda: file.write_bytes(b"a,b\n1,2\n1,2,3,4\n"), file.unlink):
            damage()
            with pytest.raises(ExperimentError, match="nothing has been logged yet"):
                some.iterations()
    finally:
        file.write_bytes(whole)


def test_statistics_over_groups_are_those_of_numpy_and_of_student(out: Path) -> None:
    from scipy import stats  # here, as it takes long to import

    table = load(out).experiment("first").summary(["params.opt.lr", "bs"], ["loss"])
    assert list(table.columns[:4]) == ["opt_lr", "bs", "metric", "n"]
    assert [tuple(row) for row in table[["opt_lr", "bs", "n"]].to_numpy()] == [
        (0.1, 1, 4),
        (0.1, 2, 3),  # one has failed
        (0.2, 1, 4),
        (0.2, 2, 3),
    ]
    values = np.array([0.4, 0.6, np.nan, 1.0])[[0, 1, 3]] / 2
    row = load(out).experiment("first").repetition(0, 1, 3).summary("run", ["loss"]).iloc[0]
    assert (row["run"], row["n"]) == ("first__opt.l0.1_b1", 3)
    assert [row[key] for key in ("mean", "std", "median", "min", "max")] == pytest.approx(
        [values.mean(), values.std(ddof=1), np.median(values), values.min(), values.max()]
    )
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=values.std(ddof=1) / math.sqrt(3))
    assert (row["low"], row["high"]) == pytest.approx((low, high))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 10, 11, 100, 1000, 1001, 5000])
def test_the_interval_is_that_of_student(n: int) -> None:
    from scipy import stats

    assert half_interval(n) == pytest.approx(stats.t.ppf(0.975, n - 1), rel=2e-3 if n > 1000 else 1e-9)
    assert half_interval(n, 0.5) == pytest.approx(stats.t.ppf(0.75, n - 1), rel=2e-3 if n > 1000 else 1e-9)


def test_one_value_has_no_spread(out: Path) -> None:
    row = load(out).experiment("second").repetition(0).summary().iloc[0]
    assert (row["n"], row["mean"]) == (1, 2.0)
    assert np.isnan([row["std"], row["low"], row["high"]]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda found: found.summary("params.opt.lrr"),
            "params.opt.lrr: is not a column of these results .did you mean",
        ),
        (lambda found: found.summary("nothing_like_it"), "opt_name, opt_lr, text, bs"),
        (lambda found: found.summary("run", ["note"]), "note: is not a logged column of numbers"),
        (lambda found: found.with_params(x=1), "params.x: is not a column"),
    ],
)
def test_a_column_that_is_not_there_is_named(out: Path, call: Any, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        call(load(out))


# ------------------------------------------------------------------------------------------------------- command line


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["results", *words]) == 0
    return capsys.readouterr().out


def test_results_by_a_parameter(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(out), "-e", "first", "--by", "params.opt.lr", "--metric", "loss", "--sort", "mean", "--descending"]
    assert main(["results", *words]) == 0
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["opt_lr", "metric", "n", "mean", "std", "median", "min", "max", "low", "high"]
    assert [line[:3] for line in lines[2:]] == [["0.2", "loss_last", "7"], ["0.1", "loss_last", "7"]]
    assert "Left out 2 repetitions that are not done" in shown.err


def test_results_are_exported(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = [str(out), "--where", "params.opt.lr=0.1", "--where", "params.bs=1", "--rep", "0", "1"]
    rows = list(csv.DictReader(io.StringIO(told(capsys, *where, "--csv", "-"))))
    assert [(row["name"], row["r"], float(row["loss_last"])) for row in rows] == [
        ("first", "0", 0.2),
        ("first", "1", pytest.approx(0.3)),
    ]
    parsed = json.loads(told(capsys, *where, "--json", "-"))
    assert [(row["run"], row["r"]) for row in parsed] == [("first__opt.l0.1_b1", 0), ("first__opt.l0.1_b1", 1)]
    for kind in ("csv", "json", "markdown"):
        assert told(capsys, *where, f"--{kind}", str(tmp_path / kind)) == ""
    header, rule, *body = (tmp_path / "markdown").read_text().splitlines()
    assert header.startswith("| name | r | run | state |")
    assert set(rule) <= set("| -")
    assert len(body) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "params.bs"], "command line (--where params.bs): this is not KEY=VALUE"),
        (["--where", "params.bs=[1"], "this is not YAML"),
        (["--where", "params.bs=77"], "has no repetition that matches"),
        (["--by", "params.bb"], "params.bb: is not a column"),
        (["--metric", "losss"], "losss: is not a column"),
        (["--sort", "lozz"], "--sort lozz: is not a column (there are:"),
    ],
)
def test_what_cannot_be_shown_is_an_error(
    out: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["results", str(out), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("name=second", 2),
        ("state=failed", 2),
        ("run=first__opt.l0.1_b1", 4),
        ("r=1", 5),
        ("params.r=5", 2),
        ("loss=mse", 2),
    ],
)
def test_other_columns_can_be_asked_for_too(
    out: Path, capsys: pytest.CaptureFixture[str], where: str, number: int
) -> None:
    rows = list(csv.DictReader(io.StringIO(told(capsys, str(out), "--where", where, "--csv", "-"))))
    assert len(rows) == number


def test_columns_of_several_kinds_are_sorted_too(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(told(capsys, str(out), "--sort", "loss", "--csv", "-"))))
    assert len(rows) == 18


# --------------------------------------------------------------------------------------------------------------- plots


def curves(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, list[float]]:
    """What is drawn, by its label."""
    from matplotlib.axes import Axes

    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def watched(self: Any, x: Any, y: Any, **options: Any) -> Any:
        drawn[options["label"]] = list(y)
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    assert main(["plot", *words]) == 0
    return drawn


@pytest.mark.parametrize("band", ["std", "interval", "range", "none"])
def test_curves_are_drawn_by_any_parameter(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: str
) -> None:
    picture = tmp_path / "pictures/curves.png"
    words = [str(out), "--metric", "loss", "--out", str(picture), "-e", "first", "--rep", "0", "1", "--band", band]
    drawn = curves(monkeypatch, *words, "--by", "params.opt.lr")
    assert {label: pytest.approx(values) for label, values in drawn.items()} == {
        "opt.lr = 0.1": [0.05, 0.15, 0.25],
        "opt.lr = 0.2": [0.1, 0.3, 0.5],
    }
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(curves(monkeypatch, *words)) == 4
    assert "opt.lr = 0.1, bs = 2" in curves(monkeypatch, *words, "--by", "params.opt.lr", "bs")


def test_a_parameter_of_the_name_of_a_metric_can_be_drawn_by(out: Path, tmp_path: Path) -> None:
    plot_curves(load(out), "loss", tmp_path / "x.png", by="params.loss")


def test_a_band_that_is_not_known_is_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="band='wide': must be one of std, interval, range, none"):
        plot_curves(out, "loss", tmp_path / "x.png", band="wide")  # type: ignore[arg-type]


def drawn_with(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int, **options: Any) -> Any:
    """The figure of so many curves, of which the first is the best."""
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    config = {"name": "many", "path": str(folder / "out"), "grid": {"b": [1, 2], "a": [*range(count // 2)]}}

    def experiment(params: dict[str, Any], rep: int, log: Any) -> None:
        for n in range(3):
            log(iter=n, loss=10 ** params["a"] + n + params["b"] / 10, accuracy=-params["a"])

    ExperimentRun(experiment, config, executor="sequential").run()
    plot_curves(folder / "out", **{"metric": "loss", "out": folder / "x.png", **options})
    return figures[0]


@pytest.mark.parametrize(
    ("count", "options", "coloured"),
    [(10, {}, 10), (12, {}, 8), (12, {"top": 3}, 3), (50, {"top": 99}, 40)],
)
def test_no_two_curves_look_alike_and_each_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, options: dict[str, Any], coloured: int
) -> None:
    figure = drawn_with(monkeypatch, tmp_path, count, **options)
    axes = figure.axes[0]
    assert len(axes.lines) == count
    of_colour = [line for line in axes.lines if line.get_color() != "0.75"]
    named = {line.get_label(): (line.get_color(), line.get_linestyle(), line.get_linewidth()) for line in of_colour}
    assert len(set(named.values())) == len(named) == coloured
    legends = [one for one in (axes.get_legend(), *figure.legends) if one is not None]
    texts = [one.get_text() for one in axes.texts] + [text.get_text() for one in legends for text in one.get_texts()]
    others = [f"{count - coloured} others, not as good at the end"] if count > coloured else []
    assert sorted(texts) == sorted([*named, *others])
    assert "many__b1_a0" in named


def test_names_at_the_ends_of_curves_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heights = sorted(text.xy[1] for text in drawn_with(monkeypatch, tmp_path, 14).axes[0].texts)
    assert len(heights) == 8
    assert all(after - before >= 0.0449 for before, after in pairwise(heights))


def test_panels_axes_and_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"metric": ["loss", "accuracy"], "facet": "params.b", "by": "params.a", "title": "$5_a", "logx": True}
    figure = drawn_with(monkeypatch, tmp_path, 6, **options)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "loss", "accuracy", "accuracy"]
    assert [axes.get_title() for axes in figure.axes] == ["b = 1", "b = 2"] * 2
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert figure.get_suptitle() == "$5_a"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a = 0", "a = 1", "a = 2"]


def test_iterations_are_whole_numbers_and_a_smooth_curve_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn_with(monkeypatch, tmp_path, 2, smooth=3)
    [one, _] = figure.axes[0].lines
    assert list(one.get_ydata()) == pytest.approx([1.6, 2.1, 2.6])
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())
    assert [text.get_text() for text in figure.texts] == ["averaged over 3 points"]


def test_a_logarithmic_axis_needs_positive_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExperimentError, match="accuracy has no positive values, so there is nothing to draw"):
        drawn_with(monkeypatch, tmp_path, 4, metric="accuracy", logy=True)


def test_a_curve_of_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn_with(monkeypatch, tmp_path, 4)
    config = {"name": "empty", "path": str(tmp_path / "out")}
    ExperimentRun(lambda params, rep, log: log(iter=0, loss=math.nan), config, executor="sequential").run()
    plot_curves(tmp_path / "out", "loss", tmp_path / "x.png")
    assert "no curve, as there are no finite values: empty" in caplog.text


def test_too_many_panels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExperimentError, match="a has 13 values, and at most 12 panels fit"):
        drawn_with(monkeypatch, tmp_path, 26, facet="a")
