"""What the commands print at their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from amlsched.cli._output import print_failures
from amlsched.experiments.progress import Summary, lower_is_better


def test_failures_that_are_alike_are_one_with_the_shortest_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = Summary()
    for n in range(6):
        folder = tmp_path / f"rep_{n}"
        folder.mkdir()
        (folder / "err.log").write_text("x" * abs(n - 3))
        reason = f"RuntimeError: out of memory at 0x{n}f: {n} MiB" if n < 4 else "ValueError: no"
        summary.failed.append((f"a rep {n}", folder, reason))
    print_failures(summary)
    assert capsys.readouterr().err.splitlines() == [
        "failed: a rep 4: ValueError: no",
        "        rep_4/err.log",
        "failed: a rep 5: ValueError: no",
        "        rep_5/err.log",
        "failed: 4 repetitions, such as a rep 3: RuntimeError: out of memory at 0x3f: 3 MiB",
        "        rep_3/err.log",
    ]


@pytest.mark.parametrize(
    ("metric", "lower"),
    [("loss", True), ("val_loss", True), ("trainLoss", True), ("rmse", True), ("accuracy", False), ("lossless", False)],
)
def test_the_name_of_a_metric_says_whether_lower_is_better(metric: str, lower: bool) -> None:
    assert lower_is_better(metric) is lower
