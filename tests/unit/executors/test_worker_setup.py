"""What workers begin with: random numbers of their own."""

from __future__ import annotations

import importlib
import multiprocessing
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from amlsched import Scheduler

if TYPE_CHECKING:
    from pathlib import Path

FORK = multiprocessing.get_context("fork")
LOCAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fork": ("processes", {"max_workers": 1, "mp_context": FORK}),
    "loky": ("loky", {"max_workers": 1}),
    "dask": ("dask", {"n_workers": 1}),
}
TORCH = """\
import random
generator = random.Random(0)  # as torch, which begins with a constant
seed, rand = generator.seed, generator.random
"""


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)


def draw(_: int) -> list[float]:
    return [random.random(), np.random.rand(), importlib.import_module("torch").rand()]


def draw_one(_: int) -> float:
    return random.random()


# ----------------------------------------------------------------------------------------------- random numbers


@pytest.mark.parametrize("kind", LOCAL)
def test_a_worker_has_neither_the_drivers_numbers_nor_those_of_every_process(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    name, options = LOCAL[kind]
    seed_all()
    (numbers,) = Scheduler.from_name(name, **options).task(draw).map([0])
    equal = [random.Random(0).random(), np.random.RandomState(0).rand(), random.Random(0).random()]
    assert [mine for mine, other in zip(numbers, equal, strict=True) if mine == other] == []


@pytest.mark.parametrize("kind", ["fork", "loky"])
def test_an_initializer_that_seeds_wins(kind: str) -> None:
    name, options = LOCAL[kind]
    scheduler = Scheduler.from_name(name, **options, initializer=seed_all)
    assert list(scheduler.task(draw_one).map([0])) == [random.Random(0).random()]
