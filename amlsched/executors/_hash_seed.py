"""`PYTHONHASHSEED` of workers: the same in all, so that what depends on the order of a set is the same in all."""

import contextlib
import os
import threading
from collections.abc import Generator

__all__ = ["VARIABLE", "hash_seed", "hash_seed_set"]

VARIABLE = "PYTHONHASHSEED"
_lock = threading.Lock()


def hash_seed() -> str:
    """What the user has set, which may be "random"; else "0"."""
    return os.environ.get(VARIABLE) or "0"


@contextlib.contextmanager
def hash_seed_set() -> Generator[None]:
    """While in here, interpreters that this process starts have it."""
    with _lock:  # another thread would take it for what the user has set, and lose it meanwhile
        if VARIABLE in os.environ:
            yield
            return
        os.environ[VARIABLE] = hash_seed()
        try:
            yield
        finally:
            os.environ.pop(VARIABLE, None)


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
