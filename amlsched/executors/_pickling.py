"""Pickles of calls, results and exceptions, and all that can go wrong with them."""

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
from amlsched.executors._user_function import LAZY, set_args, set_cause, traceback_of
from amlsched.executors._worker_setup import is_found_in, send_main_by_value

__all__ = [
    "RemoteTraceback",
    "call_name",
    "describe",
    "dump_by_value",
    "dump_call",
    "dump_exception",
    "dump_result",
    "dumps",
    "load_exception",
    "names_main",
    "pickled_by_value",
    "why_no_result",
]


_TBLIB = "tblib.pickling_support"
_plain_tables: dict[int, tuple[int, dict[Any, Any]]] = {}
_own_picklers: dict[Any, tuple[Any, Any]] = {}


class RemoteTraceback(Exception):  # noqa: N818  (it is shown as the cause of an error, as in the standard library)
    """Where in the worker an exception was raised.

    Args:
        text: The traceback, as printed by Python.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def call_name(fn: Any) -> str:
    """The name under which a call of this function appears in messages."""
    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        return name
    inner = getattr(fn, "func", None)  # functools.partial
    return call_name(inner) if callable(inner) else type(fn).__qualname__


def dump_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, main_travels: bool
) -> bytes | Large:
    """Pickle a call, by cloudpickle where plain pickle cannot.

    Args:
        fn: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        main_travels: Whether functions and classes of the main module travel as they are, for workers that do not
            import it.

    Raises:
        NotPicklableError: Neither can; it names the argument.
    """
    try:
        payload = dump((fn, args, kwargs), dumps)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a __reduce__ raises: it may exit, too
        return dump_by_value(fn, args, kwargs)
    if main_travels and names_main(payload if isinstance(payload, bytes) else payload.pickle):
        return dump_by_value(fn, args, kwargs)
    return payload


def names_main(pickled: bytes) -> bool:
    """Whether a pickle may refer to the main module by its name, which is `__mp_main__` in workers that import it."""
    return b"_main__" in pickled


def dump_by_value(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Large:
    """Pickle a call by cloudpickle, with the functions and classes of `__main__` in it.

    Raises:
        NotPicklableError: It cannot; the error names the argument.
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
    """How to name a positional argument: by its parameter if the signature tells it, otherwise by its position."""
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
    except BaseException:  # whatever a __reduce__ raises: it may exit, too
        try:
            return dump(value, pickled_by_value)
        except BaseException as error:
            raise NotPicklableError(call_name(fn), "the result", why_no_result(value, error)) from error


def why_no_result(value: object, error: BaseException) -> str:
    """Why a result cannot be pickled: what the pickler said, and what to do where that is known."""
    mistake = LAZY.get(type(value))
    return describe(error) if mistake is None else f"{describe(error)}; it is {mistake}"


def dump_exception(error: BaseException) -> bytes | Large:
    """Pickle an exception for `load_exception`."""
    return dump(exception_parts(error), pickle.dumps)


def exception_parts(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """What of an exception can travel: itself if it pickles in any way, and type, message and traceback in words."""
    trace = traceback_of(error)
    tail = trace and trace.tb_next  # without the worker's own frame
    try:
        text = "".join(traceback.format_exception(type(error), error, tail))
    except BaseException:  # of attributes that are not what they should be
        text = "".join((*traceback.format_tb(tail), f"{type(error).__qualname__}: {_message(error)}\n"))
    described = (type(error).__qualname__, _message(error), text)
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
            except BaseException:  # code of the exception's own, which may exit, too
                continue
    return (None, *described)


def load_exception(body: tuple[bytes | None, str, str, str], name: str) -> BaseException:
    """The exception of a call, with the worker's traceback as its cause."""
    blob, type_name, message, text = body
    error: BaseException | None = None
    if blob is not None:
        try:
            error = pickle.loads(blob)
        except BaseException:  # code of the exception's own, which may exit, too
            error = None
    if not isinstance(error, BaseException):
        error = NotPicklableError(name, f"the exception {type_name}({message!r})", "see the traceback above")
    set_cause(error, RemoteTraceback(text))
    return error


class _Taken:
    """Pickles as the exception taken to pieces, for those whose constructor wants something else than their `args`."""

    def __init__(self, error: BaseException, *, plain: bool = False) -> None:
        def taken(value: Any) -> Any:
            if isinstance(value, BaseException):
                return _Taken(value, plain=plain)
            if type(value) in (list, tuple) and any(isinstance(item, BaseException) for item in value):
                return type(value)(map(taken, value))  # of a group
            return value if not plain or _pickles(value) else repr(value)

        args = tuple(map(taken, error.args))
        state = {key: taken(value) for key, value in error.__dict__.items()}
        self.parts = (type(error), args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _put_together, self.parts


def _put_together(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    set_args(error, args)  # also of a frozen dataclass
    error.__dict__.update(state)
    return error


def _can_be_shown(error: BaseException) -> bool:
    """Whether whoever gets it can print it: one whose attributes or message exit would end the driver."""
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
    """Pickle by cloudpickle; the options are those of `pickle.dumps`."""
    cloudpickle: Any = importlib.import_module("cloudpickle")  # slow to import, seldom needed; it has no types
    send_main_by_value("cloudpickle.cloudpickle")
    _send_generators_by_name()
    with io.BytesIO() as file:
        _own_pickler(cloudpickle.Pickler)(file, **options).dump(value)
        return file.getvalue()


def _own_pickler(pickler: Any) -> Any:
    """The same pickler with a table of its own: that of its class is read when one is made, not that of an object."""
    table = _without_exceptions(pickler.dispatch_table)
    if _own_picklers.get(pickler, (None, None))[0] is not table:
        own = {**table, **_REDUCED}
        _own_picklers[pickler] = (table, type("OwnPickler", (pickler,), {"dispatch_table": own}))
    return _own_picklers[pickler][1]


def _reduce_cached(function: Any) -> str | tuple[Any, ...]:
    """A function with a cache: by its name where workers find it by that, else as it is, with an empty cache."""
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
    functools.cached_property: lambda own: (_property, (own.func, own.attrname)),  # before Python 3.12 it has a lock
    WeakKeyDictionary: lambda own: (WeakKeyDictionary, (dict(own),)),  # in what functools.singledispatch makes
}
"""What of functools cloudpickle leaves to plain pickle, which cannot send it, or knows it only by its name."""


def dumps(value: object, **options: Any) -> bytes:
    """Pickle as Python itself does, also where dask is loaded; the options are those of `pickle.dumps`."""
    _send_generators_by_name()
    if _TBLIB not in sys.modules:
        return pickle.dumps(value, **options)
    with io.BytesIO() as file:
        pickler = pickle.Pickler(file, **options)
        pickler.dispatch_table = _without_exceptions(copyreg.dispatch_table)
        pickler.dump(value)
        return file.getvalue()


def _without_exceptions(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """Exceptions as Python itself pickles them.

    dask has tblib do it, which does not call their `__init__`: a SystemExit loses its code, and a BaseExceptionGroup
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
    """Let functions such as `random.gauss` be those of the worker.

    They are methods of a global generator, and would travel with its state: all calls would draw the same numbers.
    """
    for module, name in _GENERATORS.items():
        generator: Any = getattr(sys.modules.get(module), name, None)
        if generator is not None and generator.__class__ not in copyreg.dispatch_table:
            copyreg.pickle(generator.__class__, functools.partial(_reduce_generator, generator, name))


def _reduce_generator(own: Any, name: str, given: Any) -> str | tuple[Any, ...]:
    return name if given is own else given.__reduce__()


_GENERATORS = {"random": "_inst", "numpy.random.mtrand": "_rand"}


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as own:
        return f"<its message raised {type(own).__name__}>"


def describe(error: BaseException) -> str:
    """Type and message of an error."""
    return f"{type(error).__name__}: {_message(error)}"
