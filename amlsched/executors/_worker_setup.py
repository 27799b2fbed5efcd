"""What every worker gets before it runs code of the user: random numbers of its own.

A forked worker has the global generators of its parent, and modules that it imports may seed theirs with a constant:
calls of several workers would get the same numbers.
"""

from __future__ import annotations

import contextlib
import sys

from amlsched.executors._after_import import AfterImport

__all__ = ["seed_generators", "seed_later_generators"]

_GENERATORS = ("random", "numpy.random", "torch")
"""Modules with a global generator; `seed()` of each seeds it from the entropy of the system."""
_CONSTANT = ("torch",)
"""Those whose generator begins with the same seed in each process."""
_hook: AfterImport | None = None


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
