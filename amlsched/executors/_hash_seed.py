"""`PYTHONHASHSEED` of workers: the same in all of them, so that sets have the same order."""

import contextlib
import os
import threading
from collections.abc import Generator

__all__ = ["VARIABLE", "hash_seed", "hash_seed_set"]

VARIABLE = "PYTHONHASHSEED"
_lock = threading.Lock()


def hash_seed() -> str:
    """The user's value, which may be "random", or "0"."""
    return os.environ.get(VARIABLE) or "0"


@contextlib.contextmanager
def hash_seed_set() -> Generator[None]:
    """In this context, interpreters started by this process have it."""
    with _lock:  # otherwise another thread would mistake it for the user's value, and then lose it
        if VARIABLE in os.environ:
            yield
            return
        os.environ[VARIABLE] = hash_seed()
        try:
            yield
        finally:
            os.environ.pop(VARIABLE, None)


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_in_child)
