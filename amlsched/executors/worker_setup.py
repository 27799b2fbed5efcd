"""Prepares a worker before it runs the user's code.

- Number of threads. Libraries read from environment variables how many to start when they are loaded; those already
  loaded when a worker was forked have read them before, and are limited by threadpoolctl.
- Random numbers. A forked worker has copies of its parent's global generators, and modules that it imports may seed
  theirs with a constant: calls in several workers would get the same numbers.
- Main module. Its functions and classes must reach the pools that a call starts. A worker that has imported the
  driver's main module has it as `__mp_main__`, a name that processes of joblib and loky cannot import. If they were
  sent by value, the worker's own main module does not contain them.
- Pools of joblib and loky, which they keep for the next call, are shut down at exit: their own shutdown takes long, or
  prints tracebacks of workers that are just starting.
- `PYTHONHASHSEED`. It is the same in all workers, so that sets have the same order; whoever starts a worker sets it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import sys
import threading
from importlib.abc import MetaPathFinder
from multiprocessing import util
from types import FunctionType
from typing import TYPE_CHECKING, Any

from amlsched.executors.pickling import is_found_in, pickled_by_value, send_main_by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = [
    "AfterImport",
    "HASH_SEED_VARIABLE",
    "hash_seed",
    "hash_seed_set",
    "limit_loaded_libraries",
    "prepare_imports",
    "prepare_worker",
    "set_threads",
]

HASH_SEED_VARIABLE = "PYTHONHASHSEED"
_LIBRARIES = frozenset({"numpy", "scipy", "sklearn", "torch", "xgboost", "lightgbm"})
"""Modules that load libraries with threads."""
_GENERATORS = ("random", "numpy.random", "torch")
"""Modules with a global generator; their `seed()` seeds it from the system's entropy."""
_POOLS = ("loky.reusable_executor", "joblib.externals.loky.reusable_executor")
_limit_loaded: int | None = None
_prepared = False


def set_threads(environment: Mapping[str, str]) -> None:
    """Set the variables that limit the threads of libraries.

    Args:
        environment: From `amlsched.resources.binding.worker_environment`; may be empty.
    """
    global _limit_loaded
    os.environ.update(environment)
    if environment and not _LIBRARIES.isdisjoint(sys.modules):
        _limit_loaded = int(next(iter(environment.values())))


def limit_loaded_libraries(n_threads: int) -> None:
    """Limit the threads of libraries that are loaded already, if threadpoolctl is installed."""
    if not _LIBRARIES.isdisjoint(sys.modules):
        with contextlib.suppress(Exception):  # it is not installed, or fails with a library
            importlib.import_module("threadpoolctl").threadpool_limits(n_threads)


def prepare_worker() -> None:
    """Do everything else, in a process started for calls, after its main module was imported."""
    if _limit_loaded is not None:
        limit_loaded_libraries(_limit_loaded)
    for name in _GENERATORS:
        if name in sys.modules:
            _seed(name)
    prepare_imports()
    if multiprocessing.get_start_method(allow_none=True) == "loky":  # unknown to processes that a call starts
        multiprocessing.set_start_method(None, force=True)
    util.Finalize(None, _end_pools, exitpriority=10)


def prepare_imports() -> None:
    """Prepare modules, which is possible in any process that runs calls."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    for name, prepare in _PICKLERS.items():
        if name in sys.modules:
            prepare(name)
    actions = {"torch": _seed, **_PICKLERS}  # torch starts with the same seed in each process
    AfterImport([name for name in actions if name not in sys.modules], lambda name: actions[name](name))


class AfterImport(MetaPathFinder):
    """Calls a function once for each of these modules, right after it was imported.

    Args:
        names: Names of modules that are not imported yet.
        then: Called with the name of the imported module.
    """

    def __init__(self, names: Iterable[str], then: Callable[[str], object]) -> None:
        self._names = set(names)
        self._then = then
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find it by the other finders, and wrap its loader."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._add_to(spec.loader, fullname)
                return spec
        return None

    def remove(self) -> None:
        """Stop watching imports."""
        self._names.clear()
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def _add_to(self, loader: Any, name: str) -> None:
        original = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            loader.exec_module = original
            if self in sys.meta_path and name in self._names:
                self._names.discard(name)
                self._then(name)

        loader.exec_module = exec_module


def _seed(name: str) -> None:
    with contextlib.suppress(Exception):  # a user's file that hides the module, another kind of generator
        sys.modules[name].seed()


def _send_unknown_by_value(name: str) -> None:
    pickler: Any = getattr(
        sys.modules[name], "ForkingPickler" if name == "multiprocessing.reduction" else "CustomizablePickler"
    )
    if not hasattr(pickler, "reducer_override"):
        pickler.reducer_override = _reduced


def _reduced(_pickler: object, value: Any) -> Any:
    """Pickle a function or class of the main module by value if it cannot be found there."""
    if not isinstance(value, FunctionType | type) or value.__module__ != "__main__":
        return NotImplemented
    if is_found_in(sys.modules["__main__"], value):
        return NotImplemented
    return pickle.loads, (pickled_by_value(value),)


_PICKLERS: dict[str, Callable[[str], None]] = {
    "cloudpickle.cloudpickle": send_main_by_value,
    "joblib.externals.cloudpickle.cloudpickle": send_main_by_value,
    "multiprocessing.reduction": _send_unknown_by_value,
    "joblib.pool": _send_unknown_by_value,
}


def _end_pools() -> None:
    for name in _POOLS:
        executor = getattr(sys.modules.get(name), "_executor", None)
        if executor is not None:
            with contextlib.suppress(Exception):
                executor.shutdown(wait=True, kill_workers=True)


def hash_seed() -> str:
    """The value of `PYTHONHASHSEED` for workers: the user's, which may be "random", or "0"."""
    return os.environ.get(HASH_SEED_VARIABLE) or "0"


@contextlib.contextmanager
def hash_seed_set() -> Generator[None]:
    """In this context, interpreters started by this process have it in their environment."""
    with _lock:  # otherwise another thread would mistake it for the user's value, and then lose it
        if HASH_SEED_VARIABLE in os.environ:
            yield
            return
        os.environ[HASH_SEED_VARIABLE] = hash_seed()
        try:
            yield
        finally:
            os.environ.pop(HASH_SEED_VARIABLE, None)


_lock = threading.Lock()


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_in_child)
