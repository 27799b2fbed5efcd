"""What one repetition leaves of the process that it shares with the next."""

from __future__ import annotations

import decimal
import logging
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from amlsched.experiments._running.isolation import generators, isolated, set_generators


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def drawn(seed: str) -> tuple[float, float]:
    with isolated(seed):
        return draw()


def test_a_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    assert drawn("1 0") == drawn("1 0")
    assert len({*drawn("1 0"), *drawn("2 0"), *drawn("1 1")}) == 6


def test_the_generators_of_the_program_go_on_as_if_nothing_had_been_drawn() -> None:
    random.seed(3)
    np.random.seed(3)
    expected = draw(), draw()
    random.seed(3)
    np.random.seed(3)
    first = draw()
    drawn("1 0")
    assert (first, draw()) == expected


def test_without_a_seed_the_generators_are_left_alone() -> None:
    random.seed(3)
    expected = random.random(), random.random()
    random.seed(3)
    with isolated(None):
        first = random.random()
    assert (first, random.random()) == expected


def test_states_of_generators_can_be_set_again() -> None:
    states = generators()
    first = draw()
    set_generators(states)
    assert draw() == first


def test_a_module_with_a_generator_is_seeded_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torch, which starts with the same numbers in every process."""
    (tmp_path / "torch.py").write_text(
        "import random\n"
        "_own = random.Random(0)\n"
        "uint8 = None\n"
        "def manual_seed(n): _own.seed(n)\n"
        "class cuda:\n"
        "    is_initialized = staticmethod(lambda: False)\n"
        "class State:\n"
        "    def tolist(self): return [0]\n"
        "get_rng_state = State\n"
        "get_default_dtype = is_grad_enabled = are_deterministic_algorithms_enabled = get_num_threads = lambda: 1\n"
        "def tensor(data, dtype): return data\n"
        "def set_rng_state(state): pass\n"
        "rand = _own.random\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    got: list[float] = []
    for seed in ("1 0", "1 0", "2 0"):
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        with isolated(seed):
            import torch  # pyright: ignore[reportMissingImports]

            got.append(torch.rand())
    assert got[0] == got[1] != got[2]
    assert not [finder for finder in sys.meta_path if type(finder).__name__ == "AfterImport"]


def snapshot() -> dict[str, Any]:
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "handler": signal.getsignal(signal.SIGUSR1),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 500,
        "warnings": list(warnings.filters),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "limit": sys.getrecursionlimit(),
        "umask": mask,
        "zone": time.tzname,
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "of sys": (sys.displayhook, sys.getprofile(), sys.getswitchinterval(), sys.get_int_max_str_digits()),
        "decimal": repr(decimal.getcontext()),
        "numpy": (np.geterr(), np.get_printoptions()["precision"]),
        "rc": dict.copy(matplotlib.rcParams),
        "figures": plt.get_fignums(),
        "root": (logging.root.level, list(logging.root.handlers)),
    }


def change_all(folder: Path) -> None:
    os.chdir(folder)
    os.environ["AMLSCHED_TEST_NEW"] = "1"
    os.environ.pop("HOME", None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    warnings.simplefilter("error")
    sys.path.insert(0, str(folder))
    sys.argv.append("more")
    sys.setrecursionlimit(5000)
    os.umask(0o77)
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.displayhook = print
    sys.setprofile(lambda *_: None)
    sys.setswitchinterval(0.1)
    sys.set_int_max_str_digits(0)
    decimal.getcontext().prec = 3
    np.seterr(all="raise")
    np.set_printoptions(precision=2)
    matplotlib.rcParams["lines.linewidth"] = 17
    plt.figure()
    logging.root.setLevel(logging.DEBUG)
    logging.root.addHandler(logging.FileHandler(folder / "a.log"))


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_repetition_changes_is_as_before_afterwards(tmp_path: Path, fails: bool) -> None:
    matplotlib.use("agg")
    kept = plt.figure()
    before = snapshot()
    try:
        with isolated("1 0"):
            change_all(tmp_path)
            assert snapshot() != before
            if fails:
                raise KeyError("x")
    except KeyError:
        assert fails
    assert snapshot() == before
    plt.close(kept)


def test_a_folder_that_was_removed_meanwhile_keeps_nothing_else_from_being_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    environment = dict(os.environ)
    with isolated("1 0"):
        os.chdir(tmp_path)
        here.rmdir()
        os.environ["AMLSCHED_TEST_NEW"] = "1"
    assert dict(os.environ) == environment
