"""What was seen by group and by equal arguments, and the file that keeps it."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest

from amlsched.estimates import Learned
from amlsched.estimates.lognormal import of_group
from amlsched.estimates.store import Store, equal_arguments

GROUP = "module.train"


def filled(path: Path | None, count: int = 20, seconds: float = 8.0) -> Store:
    store = Store(path)
    for number in range(count):
        store.add(GROUP, 0.0, math.log(seconds), f"key {number % 5}", cpus=1.5, peak=1000 + number)
    return store


# --------------------------------------------------------------------------------------------------- what was seen


def test_what_was_seen_of_a_group_is_known() -> None:
    times = pytest.approx(8.0), pytest.approx(0.16, abs=0.01)
    known = Learned(20, *times, 1019, 1.5, next_cpus=2, next_memory_bytes=1092)  # type: ignore[arg-type]
    assert filled(None).learned() == {GROUP: known}
    assert Store(None).learned() == {}


def test_a_call_without_measurements_of_memory_and_cpus_leaves_them_unknown() -> None:
    store = Store(None)
    store.add(GROUP, 0.0, 1.0, None)
    assert (store.learned()[GROUP].peak_memory_bytes, store.learned()[GROUP].cpus) == (None, None)


def test_equal_arguments_have_times_of_their_own() -> None:
    store = Store(None)
    for n in range(40):
        store.add(GROUP, 0.0, 1.0 + 4 * (n % 2), "quick" if n % 2 == 0 else "slow")
    spread = of_group(store.times(GROUP))
    quick, slow = (store.of_arguments(GROUP, name, spread) for name in ("quick", "slow"))
    assert quick is not None
    assert slow is not None
    assert (quick.mean, slow.mean) == (pytest.approx(1.0, abs=0.05), pytest.approx(5.0, abs=0.05))
    assert quick.variance < 0.1 * spread.variance
    assert store.of_arguments(GROUP, "new", spread) is None


def test_arguments_beyond_a_bound_are_forgotten_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.estimates.store._MOST_ARGUMENTS", 3)
    store = Store(None)
    for name in ("a", "b", "c", "a", "d"):
        store.add(GROUP, 0.0, 1.0, name)
    spread = of_group(store.times(GROUP))
    known = [name for name in "abcd" if store.of_arguments(GROUP, name, spread) is not None]
    assert known == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (((1, "a"), {}), ((1, "a"), {}), True),
        (((), {"x": 1, "y": [2]}), ((), {"y": [2], "x": 1}), True),
        ((({"b": 1, "a": 2},), {}), (({"a": 2, "b": 1},), {}), True),
        (((1,), {}), ((2,), {}), False),
        (((1,), {}), (("1",), {}), False),
        (((True,), {}), ((1,), {}), False),
        (((1,), {}), ((), {"x": 1}), False),
    ],
)
def test_equal_arguments_have_the_same_key(one: Any, other: Any, equal: bool) -> None:
    keys = equal_arguments(*one), equal_arguments(*other)
    assert None not in keys
    assert (keys[0] == keys[1]) is equal


def test_arguments_that_are_no_plain_values_or_too_many_have_no_key() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (object(), b"bytes", list(range(1000)), "x" * 5000, cycle, {1, 2}):
        assert equal_arguments((value,), {}) is None
    assert equal_arguments((), {"x": {1: 2, "a": 3}}) is None  # JSON cannot sort these keys


# -------------------------------------------------------------------------------------------------------- the file


def test_what_was_learned_is_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    first = filled(path)
    first.save()
    second = Store(path)
    assert second.learned() == first.learned()
    assert second.of_arguments(GROUP, "key 3", of_group(second.times(GROUP))) is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["times.json"]


def test_former_runs_count_less_than_they_had_calls(tmp_path: Path) -> None:
    filled(tmp_path / "t", 500).save()
    store = Store(tmp_path / "t")
    assert store.times(GROUP).n == pytest.approx(30)
    for _ in range(30):
        store.add(GROUP, 0.0, math.log(16.0), None)
    assert store.times(GROUP).z == pytest.approx((math.log(8.0) + math.log(16.0)) / 2)
    assert store.learned()[GROUP].n_calls == 530


def test_saving_twice_counts_each_call_once_and_keeps_what_others_saved(tmp_path: Path) -> None:
    path = tmp_path / "t"
    one, other = filled(path, 20), filled(path, 7)
    one.save()
    one.save()
    other.save()
    one.add(GROUP, 0.0, 1.0, None)
    one.save()
    assert Store(path).learned()[GROUP].n_calls == 28
    assert one.learned()[GROUP].n_calls == 28


def test_nothing_is_written_if_nothing_was_seen(tmp_path: Path) -> None:
    Store(tmp_path / "t").save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace('"estimates"', '"else"'),
        lambda text: text.replace('"peak": 1019', '"peak": "much"'),
        lambda text: text.replace("20.0", "NaN", 1),
        lambda text: text.replace("20.0", "-20.0", 1),
        lambda text: text.replace('"times"', '"tunes"'),
        lambda text: "\x00\xff" * 50,
    ],
)
def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "times.json"
    filled(path).save()
    text = damage(path.read_text())
    path.write_text(text, "utf-8")
    with caplog.at_level(logging.WARNING):
        store = Store(path)
    assert store.learned() == {}
    assert f"{path} is damaged" in caplog.text
    assert str(path) + ".damaged" in caplog.text
    assert (tmp_path / "times.json.damaged").read_text("utf-8") == text
    store.add(GROUP, 0.0, 1.0, None)
    store.save()
    assert Store(path).learned()[GROUP].n_calls == 1


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    filled(path).save()
    raw = json.loads(path.read_text()) | {"version": 2, "groups": ["of another form"]}
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"newer version of amlsched \(format 2, this one reads 1\): update amlsched"):
        Store(path)
    assert json.loads(path.read_text()) == raw


def test_a_folder_that_is_not_there_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/nowhere: create it first"):
        Store(tmp_path / "nowhere" / "times.json")


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    with pytest.raises(PermissionError, match="cannot be written"):
        Store(tmp_path / "times.json")


def test_a_file_that_cannot_be_saved_is_a_warning_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    store = filled(tmp_path / "folder" / "t")
    (tmp_path / "folder").rmdir()
    with caplog.at_level(logging.WARNING):
        store.save()
    assert "what was learned could not be saved" in caplog.text
    (tmp_path / "folder").mkdir()
    store.save()
    assert Store(tmp_path / "folder" / "t").learned()[GROUP].n_calls == 20
