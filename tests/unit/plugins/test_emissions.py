"""The tracker of emissions around calls, without a network."""

from __future__ import annotations

import csv
import importlib.util
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

from amlsched import MissingExtraError, Scheduler
from amlsched.plugins import EmissionsTrackerPlugin

needs_codecarbon = pytest.mark.skipif(
    importlib.util.find_spec("codecarbon") is None, reason="codecarbon is not installed"
)


def work(x: int) -> int:
    if x < 0:
        raise ValueError("no luck")
    return sum(range(x))


def no_network(self: socket.socket, address: Any) -> None:
    raise AssertionError(f"something connects to {address}")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)  # forked workers have it, too
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def plugin(folder: Path, **options: Any) -> EmissionsTrackerPlugin:
    return EmissionsTrackerPlugin(country_iso_code="DEU", log_level="error", output_dir=str(folder), **options)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "emissions.csv").open() as file:
        return list(csv.DictReader(file))


@needs_codecarbon
@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_a_call_is_tracked_and_its_result_is_as_before(executor: str, tmp_path: Path) -> None:
    scheduler = Scheduler.from_name(executor)
    task = scheduler.task(work, plugins=plugin(tmp_path))
    results: list[int] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(10))
    scheduler.run()
    assert results == [45]
    (row,) = rows(tmp_path)
    assert row["project_name"] == "work"
    assert row["country_iso_code"] == "DEU"
    assert float(row["emissions"]) > 0


@needs_codecarbon
def test_a_call_that_raises_keeps_its_exception_and_is_tracked(tmp_path: Path) -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(work, plugins=plugin(tmp_path, project_name="mine"))
    scheduler.on_start(lambda: task.submit(-1))
    with pytest.raises(ValueError, match="no luck"):
        scheduler.run()
    (row,) = rows(tmp_path)
    assert row["project_name"] == "mine"


@needs_codecarbon
def test_a_wrapped_function_travels_and_keeps_its_name(tmp_path: Path) -> None:
    wrapped, args, kwargs = plugin(tmp_path).pre_submit(work, 3)
    assert pickle.loads(pickle.dumps(wrapped)).__name__ == "work"
    assert (args, kwargs) == ((3,), {})
    assert "country_iso_code='DEU'" in str(plugin(tmp_path))


def test_without_codecarbon_the_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.plugins.emissions.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs codecarbon: pip install 'amlsched\[emissions\]'"):
        EmissionsTrackerPlugin()
