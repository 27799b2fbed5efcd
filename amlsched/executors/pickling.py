"""Pickling of calls, results and exceptions, with helpful errors if it fails."""

import contextlib
import copyreg
import functools
import importlib
import inspect
import io
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from amlsched.errors import NotPicklableError
from amlsched.executors._payload import Large, dump
from amlsched.executors.user_function import LAZY, call_name, describe, message_of, set_args, set_cause, traceback_of

__all__ = [
    "RemoteTraceback",
    "dump_by_value",
    "dump_call",
    "dump_exception",
    "dump_result",
    "dumps",
    "is_found_in",
    "load_exception",
    "names_main",
    "pickled_by_value",
    "send_main_by_value",
    "why_no_result",
]


_TBLIB = "tblib.pickling_support"
_plain_tables: dict[int, tuple[int, dict[Any, Any]]] = {}
_own_picklers: dict[Any, tuple[Any, Any]] = {}


class RemoteTraceback(Exception):  # noqa: N818  (it is shown as the cause of an error, as in the standard library)
    """The traceback of an exception in the worker.

    Args:
        text: The traceback, as printed by Python.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def dump_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, main_travels: bool
) -> bytes | Large:
    """Pickle a call, by cloudpickle if plain pickle fails.

    Args:
        fn: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        main_travels: Whether to send functions and classes of the main module by value, to workers that do not import
            it.

    Raises:
        NotPicklableError: Both fail; the message names the argument.
    """
    try:
        payload = dump((fn, args, kwargs), dumps)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a __reduce__ may raise anything, even SystemExit
        return dump_by_value(fn, args, kwargs)
    if main_travels and names_main(payload if isinstance(payload, bytes) else payload.pickle):
        return dump_by_value(fn, args, kwargs)
    return payload


def names_main(pickled: bytes) -> bool:
    """Whether a pickle may refer to the main module by name, which is `__mp_main__` in workers that import it."""
    return b"_main__" in pickled


def dump_by_value(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Large:
    """Pickle a call by cloudpickle, with the functions and classes of `__main__` by value.

    Raises:
        NotPicklableError: It cannot be pickled; the message names the argument.
    """
    try:
        return dump((fn, args, kwargs), pickled_by_value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        parts = [("the function", fn)]
        parts += [(f"argument {_parameter(fn, index)}", value) for index, value in enumerate(args)]
        parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
        for what, value in parts:
            try:
                pickled_by_value(value, protocol=5)
            except KeyboardInterrupt:
                raise
            except BaseException as reason:
                raise NotPicklableError(call_name(fn), what, describe(reason)) from reason
        raise NotPicklableError(call_name(fn), "the call", describe(error)) from error


def _parameter(fn: Callable[..., Any], index: int) -> str:
    """The name of a positional argument: of its parameter if the signature has it, otherwise its position."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
        named = parameters[index].kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    except (TypeError, ValueError, IndexError):
        return str(index)
    return repr(parameters[index].name) if named else str(index)


def dump_result(value: object, fn: Any) -> bytes | Large:
    """Pickle a result.

    Raises:
        NotPicklableError: It cannot be pickled.
    """
    try:
        return dump(value, dumps)
    except BaseException:  # a __reduce__ may raise anything, even SystemExit
        try:
            return dump(value, pickled_by_value)
        except BaseException as error:
            raise NotPicklableError(call_name(fn), "the result", why_no_result(value, error)) from error


def why_no_result(value: object, error: BaseException) -> str:
    """Why a result cannot be pickled: the pickler's error, and what to do, if known."""
    mistake = LAZY.get(type(value))
    return describe(error) if mistake is None else f"{describe(error)}; it is {mistake}"


def dump_exception(error: BaseException) -> bytes | Large:
    """Pickle an exception for `load_exception`."""
    return dump(exception_parts(error), pickle.dumps)


def exception_parts(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """The parts of an exception that can be sent: its pickle, if possible, and type, message and traceback as text."""
    trace = traceback_of(error)
    tail = trace and trace.tb_next  # without the worker's own frame
    try:
        text = "".join(traceback.format_exception(type(error), error, tail))
    except BaseException:  # its attributes may be broken
        text = "".join((*traceback.format_tb(tail), f"{type(error).__qualname__}: {message_of(error)}\n"))
    described = (type(error).__qualname__, message_of(error), text)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: error,
        lambda: _Taken(error),
        lambda: _Taken(error, plain=True),
    )
    for attempt in attempts:
        for pickled in (dumps, pickled_by_value):
            try:
                blob = pickled(attempt(), protocol=5)
                loaded = pickle.loads(blob)  # a constructor with other arguments fails only here
                if isinstance(loaded, BaseException) and _can_be_shown(loaded):
                    return (blob, *described)
            except BaseException:  # the exception's own code, which may even raise SystemExit
                continue
    return (None, *described)


def load_exception(body: tuple[bytes | None, str, str, str], name: str) -> BaseException:
    """The exception of a call, with the worker's traceback as its cause."""
    blob, type_name, message, text = body
    error: BaseException | None = None
    if blob is not None:
        try:
            error = pickle.loads(blob)
        except BaseException:  # the exception's own code, which may even raise SystemExit
            error = None
    if not isinstance(error, BaseException):
        error = NotPicklableError(name, f"the exception {type_name}({message!r})", "see the traceback above")
    set_cause(error, RemoteTraceback(text))
    return error


class _Taken:
    """Pickles an exception by its parts, for those whose constructor takes other arguments than their `args`."""

    def __init__(self, error: BaseException, *, plain: bool = False) -> None:
        def taken(value: Any) -> Any:
            if isinstance(value, BaseException):
                return _Taken(value, plain=plain)
            if type(value) in (list, tuple) and any(isinstance(item, BaseException) for item in value):
                return type(value)(map(taken, value))  # of an exception group
            return value if not plain or _pickles(value) else repr(value)

        args = tuple(map(taken, error.args))
        state = {key: taken(value) for key, value in error.__dict__.items()}
        self.parts = (type(error), args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _put_together, self.parts


def _put_together(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    set_args(error, args)  # works for a frozen dataclass, too
    error.__dict__.update(state)
    return error


def _can_be_shown(error: BaseException) -> bool:
    """Whether it can be printed; raises if that would raise SystemExit or the like, which would end the driver."""
    traceback.TracebackException.from_exception(error)
    for shown in (str, repr):
        with contextlib.suppress(Exception):
            shown(error)
    return True


def _pickles(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value, protocol=5))
    except BaseException:
        return False
    return True


def pickled_by_value(value: object, **options: Any) -> bytes:
    """Pickle by cloudpickle, with the options of `pickle.dumps`."""
    cloudpickle: Any = importlib.import_module("cloudpickle")  # slow to import and rarely needed; has no types
    send_main_by_value("cloudpickle.cloudpickle")
    _send_generators_by_name()
    with io.BytesIO() as file:
        _own_pickler(cloudpickle.Pickler)(file, **options).dump(value)
        return file.getvalue()


def send_main_by_value(cloudpickle: str) -> None:
    """Have cloudpickle pickle functions and classes of the main module by value, in a worker that has imported it.

    Args:
        cloudpickle: Name of cloudpickle's module, which must be imported.
    """
    main = sys.modules.get("__mp_main__")
    if getattr(main, "__name__", "") == "__mp_main__":  # functions of `__main__` are pickled by value anyway
        sys.modules[cloudpickle].register_pickle_by_value(main)


def is_found_in(module: Any, value: Any) -> bool:
    """Whether a module has this function or class under its name."""
    found = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _own_pickler(pickler: Any) -> Any:
    """A subclass of the pickler with our dispatch table: picklers of cloudpickle only read the table of their class."""
    table = _without_exceptions(pickler.dispatch_table)
    if _own_picklers.get(pickler, (None, None))[0] is not table:
        own = {**table, **_REDUCED}
        _own_picklers[pickler] = (table, type("OwnPickler", (pickler,), {"dispatch_table": own}))
    return _own_picklers[pickler][1]


def _reduce_cached(function: Any) -> str | tuple[Any, ...]:
    """A function with a cache: by name if workers find it by that, otherwise by value, with an empty cache."""
    if is_found_in(None if function.__module__ == "__main__" else sys.modules.get(function.__module__), function):
        return str(function.__qualname__)
    return _cached, (function.__wrapped__, function.cache_parameters(), vars(function))


def _cached(function: Callable[..., Any], parameters: dict[str, Any], state: dict[str, Any]) -> Any:
    cached = functools.lru_cache(**parameters)(function)
    vars(cached).update(state)
    return cached


def _property(function: Callable[..., Any], name: str | None) -> Any:
    cached = functools.cached_property(function)
    cached.attrname = name
    return cached


_REDUCED: dict[Any, Callable[[Any], Any]] = {
    type(functools.lru_cache(call_name)): _reduce_cached,
    functools.cached_property: lambda own: (_property, (own.func, own.attrname)),  # it has a lock before Python 3.12
    WeakKeyDictionary: lambda own: (WeakKeyDictionary, (dict(own),)),  # created by functools.singledispatch
}
"""Objects of functools that cloudpickle leaves to plain pickle, which fails or pickles them by name only."""


def dumps(value: object, **options: Any) -> bytes:
    """Pickle as plain Python does, even if dask is loaded, with the options of `pickle.dumps`."""
    _send_generators_by_name()
    if _TBLIB not in sys.modules:
        return pickle.dumps(value, **options)
    with io.BytesIO() as file:
        pickler = pickle.Pickler(file, **options)
        pickler.dispatch_table = _without_exceptions(copyreg.dispatch_table)
        pickler.dump(value)
        return file.getvalue()


def _without_exceptions(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """A dispatch table without entries for exceptions, so that Python itself pickles them.

    dask installs entries of tblib, which do not call `__init__`: a SystemExit loses its code, and a BaseExceptionGroup
    cannot be loaded.
    """
    size = len(table)
    if _plain_tables.get(id(table), (-1, {}))[0] != size:
        _plain_tables[id(table)] = (
            size,
            {key: table[key] for key in table if not (isinstance(key, type) and issubclass(key, BaseException))},
        )
    return _plain_tables[id(table)][1]


def _send_generators_by_name() -> None:
    """Pickle functions such as `random.gauss` by name, so that workers use their own.

    They are methods of a global generator and would be sent with its state: all calls would draw the same numbers.
    """
    for module, name in _GENERATORS.items():
        generator: Any = getattr(sys.modules.get(module), name, None)
        if generator is not None and generator.__class__ not in copyreg.dispatch_table:
            copyreg.pickle(generator.__class__, functools.partial(_reduce_generator, generator, name))


def _reduce_generator(own: Any, name: str, given: Any) -> str | tuple[Any, ...]:
    return name if given is own else given.__reduce__()


_GENERATORS = {"random": "_inst", "numpy.random.mtrand": "_rand"}
