"""What every worker gets before it runs code of the user.

- Its share of threads. Libraries read how many to start when they are loaded, from variables; those that a worker was
  forked with have read them before.
- Random numbers of its own. A forked worker has the global generators of its parent, and modules that it imports may
  seed theirs with a constant: calls of several workers would get the same numbers.
- A main module whose functions and classes reach the pools that a call starts. A worker that has imported the main
  module of the driver has it as `__mp_main__`, a name that no process of joblib's or loky's can import. Where they came
  by value, nothing of that name is found in the worker's own main module.
- An end of the pools that joblib and loky keep for the next call: their own takes long, or prints tracebacks of workers
  that are just starting.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import sys
from multiprocessing import util
from types import FunctionType
from typing import TYPE_CHECKING, Any

from amlsched.executors._after_import import AfterImport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["is_found_in", "prepare_imports", "prepare_worker", "send_main_by_value", "set_threads"]

_LIBRARIES = frozenset({"numpy", "scipy", "sklearn", "torch", "xgboost", "lightgbm"})
"""Modules that bring libraries with threads."""
_GENERATORS = ("random", "numpy.random", "torch")
"""Modules with a global generator; `seed()` of each seeds it from the entropy of the system."""
_POOLS = ("loky.reusable_executor", "joblib.externals.loky.reusable_executor")
_limit_loaded: int | None = None
_prepared = False


def set_threads(environment: Mapping[str, str]) -> None:
    """Set the variables that bound the threads of libraries.

    Args:
        environment: As `amlsched.resources.threads.worker_environment` gives it; there may be nothing in it.
    """
    global _limit_loaded
    os.environ.update(environment)
    if environment and not _LIBRARIES.isdisjoint(sys.modules):
        _limit_loaded = int(next(iter(environment.values())))


def prepare_worker() -> None:
    """Do all the rest in a process that was started for calls, once its main module is imported."""
    if _limit_loaded is not None:
        with contextlib.suppress(Exception):  # threadpoolctl is not installed, or does not get along with a library
            importlib.import_module("threadpoolctl").threadpool_limits(_limit_loaded)
    for name in _GENERATORS:
        if name in sys.modules:
            _seed(name)
    prepare_imports()
    if multiprocessing.get_start_method(allow_none=True) == "loky":  # processes that a call starts do not know it
        multiprocessing.set_start_method(None, force=True)
    util.Finalize(None, _end_pools, exitpriority=10)


def prepare_imports() -> None:
    """Do what can be done in any process that runs calls: all that is about modules."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    for name, prepare in _PICKLERS.items():
        if name in sys.modules:
            prepare(name)
    actions = {"torch": _seed, **_PICKLERS}  # torch begins with the same seed in each process
    AfterImport([name for name in actions if name not in sys.modules], lambda name: actions[name](name))


def _seed(name: str) -> None:
    with contextlib.suppress(Exception):  # a file of the user's that hides the module, another kind of generator
        sys.modules[name].seed()


def send_main_by_value(cloudpickle: str) -> None:
    """Have cloudpickle send functions and classes of the main module by value in a worker that has imported it.

    Args:
        cloudpickle: Name of its module, which is imported.
    """
    main = sys.modules.get("__mp_main__")
    if getattr(main, "__name__", "") == "__mp_main__":  # elsewhere it is `__main__`, whose functions go by value anyway
        sys.modules[cloudpickle].register_pickle_by_value(main)


def _send_unknown_by_value(name: str) -> None:
    pickler: Any = getattr(
        sys.modules[name], "ForkingPickler" if name == "multiprocessing.reduction" else "CustomizablePickler"
    )
    if not hasattr(pickler, "reducer_override"):
        pickler.reducer_override = _reduced


def is_found_in(module: Any, value: Any) -> bool:
    """Whether a function or class is what a module has under its name."""
    found = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _reduced(_pickler: object, value: Any) -> Any:
    """How a function or class of the main module is pickled that cannot be found there."""
    if not isinstance(value, FunctionType | type) or value.__module__ != "__main__":
        return NotImplemented
    if is_found_in(sys.modules["__main__"], value):
        return NotImplemented
    from amlsched.executors._pickling import pickled_by_value

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
