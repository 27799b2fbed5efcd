"""Isolate repetitions that run in one process, one after the other.

When a repetition starts, the global random number generators are seeded from its seed. When it ends, the parts of the
process that it may have changed are restored: the working directory, environment variables, signal handlers, settings
of libraries. Neither is possible while several repetitions run in the threads of one process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import locale
import logging
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from amlsched._context import contextmanager
from amlsched.executors.worker_setup import AfterImport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = ["generators", "isolated", "set_generators"]

# ---------------------------------------------------------------------------------------------- random numbers


def generators() -> dict[str, Any]:
    """The states of the global generators of imported modules; they can be pickled."""
    return {name: kind.state(sys.modules[name]) for name, kind in _GENERATORS.items() if name in sys.modules}


def set_generators(states: Mapping[str, Any]) -> None:
    """Set the global generators to states from `generators`."""
    for name, state in states.items():
        if name in sys.modules:
            _GENERATORS[name].set(sys.modules[name], state)


def _seed(name: str, seed: str) -> None:
    """Seed a generator; each gets its own stream, which also differs from the one that the user seeds with `_seed`."""
    _GENERATORS[name].seed(sys.modules[name], random.Random(f"{seed} {name}").getrandbits(32))


class _Random:
    @staticmethod
    def seed(module: Any, number: int) -> None:
        module.seed(number)

    @staticmethod
    def state(module: Any) -> Any:
        return module.getstate()

    @staticmethod
    def set(module: Any, state: Any) -> None:
        module.setstate(state)


class _Numpy(_Random):
    @staticmethod
    def seed(module: Any, number: int) -> None:
        importlib.import_module("numpy.random").seed(number)

    @staticmethod
    def state(module: Any) -> Any:
        name, keys, *rest = importlib.import_module("numpy.random").get_state()
        return (name, keys.tobytes(), *rest)

    @staticmethod
    def set(module: Any, state: Any) -> None:
        name, keys, *rest = state
        importlib.import_module("numpy.random").set_state((name, module.frombuffer(keys, module.uint32), *rest))


class _Torch(_Random):
    @staticmethod
    def seed(module: Any, number: int) -> None:
        module.manual_seed(number)  # of all devices; CUDA is seeded when it is initialized

    @staticmethod
    def state(module: Any) -> Any:
        states: list[Any] = [module.get_rng_state()]
        if module.cuda.is_initialized():
            states += module.cuda.get_rng_state_all()
        return [bytes(state.tolist()) for state in states]

    @staticmethod
    def set(module: Any, state: Any) -> None:
        first, *cuda = (module.tensor(list(data), dtype=module.uint8) for data in state)
        module.set_rng_state(first)
        if cuda and len(cuda) <= module.cuda.device_count():
            module.cuda.set_rng_state_all(cuda)


_GENERATORS: dict[str, type[_Random]] = {"random": _Random, "numpy": _Numpy, "torch": _Torch}


# ------------------------------------------------------------------------------------------------- what is restored


@contextmanager
def isolated(seed: str | None) -> Generator[None]:
    """A context in which one repetition has this process to itself.

    Args:
        seed: Seed of the global generators; `None` to leave them alone. The generator of a module that is imported
            within the context is seeded then.
    """
    with contextlib.ExitStack() as stack:

        def guard(name: str) -> None:
            module = sys.modules[name]
            if name in _SETTINGS:
                stack.callback(_safely, _SETTINGS[name](module))
            if seed is not None and name in _GENERATORS:
                stack.callback(_safely, _set_again(name, _GENERATORS[name].state(module)))
                _seed(name, seed)

        for keep in _KEPT:
            stack.callback(_safely, keep())
        stack.enter_context(warnings.catch_warnings())
        libraries = list(dict.fromkeys((*_GENERATORS, *_SETTINGS)))
        for name in libraries:
            if name in sys.modules:
                guard(name)
        hook = AfterImport([name for name in libraries if name not in sys.modules], guard)
        stack.callback(hook.remove)
        yield


def _safely(restore: Callable[[], object]) -> None:
    """Ignore errors, so that a part that cannot be restored does not prevent restoring the others."""
    with contextlib.suppress(Exception):
        restore()


def _set_again(name: str, state: Any) -> Callable[[], object]:
    return lambda: _GENERATORS[name].set(sys.modules[name], state)


def _working_directory() -> Callable[[], object]:
    try:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)  # a descriptor, as the folder may be renamed
    except OSError:  # it was removed
        return lambda: None

    def restore() -> None:
        try:
            os.fchdir(here)
        finally:
            os.close(here)

    return restore


def _environment() -> Callable[[], object]:
    before = dict(os.environ)

    def restore() -> None:
        zone = os.environ.get("TZ")
        for name in set(os.environ).difference(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if zone != before.get("TZ"):
            time.tzset()

    return restore


def _handlers() -> Callable[[], object]:
    """Signal handlers, blocked signals, and a running timer."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    (left_s, again_s), begun = signal.getitimer(signal.ITIMER_REAL), time.monotonic()

    def restore() -> None:
        left_now_s = max(1e-3, left_s - (time.monotonic() - begun)) if left_s else 0.0
        signal.setitimer(signal.ITIMER_REAL, left_now_s, again_s)
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    return restore


def _python() -> Callable[[], object]:
    """Settings of the interpreter and of the standard library."""
    path, argv, limit = list(sys.path), list(sys.argv), sys.getrecursionlimit()
    hooks = sys.excepthook, threading.excepthook, sys.displayhook
    trace, profile, interval = sys.gettrace(), sys.getprofile(), sys.getswitchinterval()
    digits = sys.get_int_max_str_digits()
    collects, temporary, patience = gc.isenabled(), tempfile.tempdir, socket.getdefaulttimeout()
    umask = os.umask(0o77)
    os.umask(umask)
    conventions = locale.setlocale(locale.LC_ALL)

    def restore() -> None:
        sys.path[:], sys.argv[:] = path, argv
        sys.setrecursionlimit(limit)
        sys.excepthook, threading.excepthook, sys.displayhook = hooks
        if sys.gettrace() is not trace:
            sys.settrace(trace)
        if sys.getprofile() is not profile:
            sys.setprofile(profile)
        sys.setswitchinterval(interval)
        sys.set_int_max_str_digits(digits)
        (gc.enable if collects else gc.disable)()
        tempfile.tempdir = temporary
        socket.setdefaulttimeout(patience)
        os.umask(umask)
        if locale.setlocale(locale.LC_ALL) != conventions:
            locale.setlocale(locale.LC_ALL, conventions)

    return restore


def _loggers() -> Callable[[], object]:
    """Levels and handlers: a handler that writes to the output of this repetition is useless for the next one."""
    disabled = logging.root.manager.disable
    before = {one: (list(one.handlers), one.level, one.propagate, one.disabled) for one in _all_loggers()}

    def restore() -> None:
        logging.disable(disabled)
        for one in _all_loggers():
            known = before.get(one)
            handlers = known[0] if known else []
            for handler in [handler for handler in one.handlers if handler not in handlers]:
                one.removeHandler(handler)
                handler.flush()
                if isinstance(handler, logging.FileHandler):
                    handler.close()
            if known:
                one.handlers[:] = handlers
                one.propagate, one.disabled = known[2:]
                if one.level != known[1]:
                    one.setLevel(known[1])

    return restore


def _all_loggers() -> list[logging.Logger]:
    found = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in found if isinstance(one, logging.Logger))]


_KEPT: tuple[Callable[[], Callable[[], object]], ...] = (
    _working_directory,
    _environment,
    _handlers,
    _python,
    _loggers,
)


def _of_decimal(module: Any) -> Callable[[], object]:
    before = module.getcontext().copy()
    return lambda: module.setcontext(before)


def _of_multiprocessing(module: Any) -> Callable[[], object]:
    before = module.get_start_method(allow_none=True)

    def restore() -> None:
        if module.get_start_method(allow_none=True) != before:
            module.set_start_method(before, force=True)

    return restore


def _of_numpy(module: Any) -> Callable[[], object]:
    errors, printed = module.geterr(), module.get_printoptions()

    def restore() -> None:
        module.seterr(**errors)
        module.set_printoptions(**printed)

    return restore


_TORCH = (
    ("get_default_dtype", "set_default_dtype"),
    ("is_grad_enabled", "set_grad_enabled"),
    ("are_deterministic_algorithms_enabled", "use_deterministic_algorithms"),
    ("get_num_threads", "set_num_threads"),
)


def _of_torch(module: Any) -> Callable[[], object]:
    before = {setter: (getter, getattr(module, getter)()) for getter, setter in _TORCH}

    def restore() -> None:
        for setter, (getter, value) in before.items():
            if getattr(module, getter)() != value:
                getattr(module, setter)(value)

    return restore


def _of_matplotlib(module: Any) -> Callable[[], object]:
    """Its settings and its backend; new figures are closed."""
    before = _plain_copy(module.rcParams)
    open_before = _figures()

    def restore() -> None:
        for number in set(_figures()).difference(open_before):
            sys.modules["matplotlib.pyplot"].close(number)
        now, backend = _plain_copy(module.rcParams), before.get("backend")
        for key, value in before.items():
            if key != "backend" and now.get(key) != value:
                _set_plainly(module.rcParams, key, value)
        if now.get("backend") != backend:
            pyplot: Any = sys.modules.get("matplotlib.pyplot")
            if pyplot is not None and isinstance(backend, str):
                pyplot.switch_backend(backend)
            _set_plainly(module.rcParams, "backend", backend)

    return restore


def _plain_copy(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy that does not look up the backend, which would choose one."""
    copied: dict[str, Any] = dict.copy(settings)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return copied


def _set_plainly(settings: dict[str, Any], key: str, value: Any) -> None:
    dict.__setitem__(settings, key, value)  # pyright: ignore[reportUnknownMemberType]


def _figures() -> list[int]:
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    return list(pyplot.get_fignums()) if pyplot is not None else []


_SETTINGS: dict[str, Callable[[Any], Callable[[], object]]] = {
    "decimal": _of_decimal,
    "matplotlib": _of_matplotlib,
    "multiprocessing": _of_multiprocessing,
    "numpy": _of_numpy,
    "torch": _of_torch,
}
