"""What every worker gets before it runs code of the user: its share of threads, and random numbers of its own.

Libraries read how many threads to start when they are loaded, from variables; those that a worker was forked with have
read them before. A forked worker has the global generators of its parent, and modules that it imports may seed theirs
with a constant: calls of several workers would get the same numbers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING

from amlsched.executors._after_import import AfterImport

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["limit_loaded", "seed_generators", "seed_later_generators", "set_threads"]

_LIBRARIES = frozenset({"numpy", "scipy", "sklearn", "torch", "xgboost", "lightgbm"})
"""Modules that bring libraries with threads."""
_limit_loaded: int | None = None

_GENERATORS = ("random", "numpy.random", "torch")
"""Modules with a global generator; `seed()` of each seeds it from the entropy of the system."""
_CONSTANT = ("torch",)
"""Those whose generator begins with the same seed in each process."""
_hook: AfterImport | None = None


def set_threads(environment: Mapping[str, str]) -> None:
    """Set the variables that bound the threads of libraries.

    Args:
        environment: As `amlsched.resources.threads.worker_environment` gives it; there may be nothing in it.
    """
    global _limit_loaded
    os.environ.update(environment)
    if environment and not _LIBRARIES.isdisjoint(sys.modules):
        _limit_loaded = int(next(iter(environment.values())))


def limit_loaded() -> None:
    """Bound the threads of the libraries that were there before `set_threads`, where threadpoolctl is installed."""
    if _limit_loaded is not None:
        with contextlib.suppress(Exception):  # it is not installed, or does not get along with a library
            importlib.import_module("threadpoolctl").threadpool_limits(_limit_loaded)


def seed_generators() -> None:
    """Seed the global generators of this process from the entropy of the system: those that it has, and later ones."""
    for name in _GENERATORS:
        if name in sys.modules:
            _seed(name)
    seed_later_generators()


def seed_later_generators() -> None:
    """The same for modules that are imported from now on, once, where their first numbers are always the same."""
    global _hook
    later = [name for name in _CONSTANT if name not in sys.modules]
    if later and _hook is None:
        _hook = AfterImport(later, _seed)


def _seed(name: str) -> None:
    with contextlib.suppress(Exception):  # a file of the user's that hides the module, another kind of generator
        sys.modules[name].seed()
