"""Objects shared by many calls, and sent to each worker once."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeGuard, TypeVar, cast

from amlsched.errors import NotPicklableError
from amlsched.executors.capabilities import capabilities_of
from amlsched.executors.pickled_calls import run_pickled
from amlsched.executors.user_function import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    class _StandsForAny(Any):  # type: ignore[misc]
        """Accepted by type checkers for any argument."""
else:

    class _StandsForAny:
        """An empty class at runtime."""


__all__ = ["InDask", "InRay", "Shared", "dumped", "is_shared", "run_with_shared", "with_shared"]

T = TypeVar("T")
R = TypeVar("R")

_KEPT = 8
"""How many shared objects a worker keeps; it loads the least recently used ones again when needed."""


class _Carrier(Protocol):
    """Transfers a shared object to the workers of one executor.

    Attributes:
        key: Key of the object in the cache of a worker.
        for_workers_only: Whether only workers can load it, not even their child processes.
    """

    key: str
    for_workers_only: bool

    def load(self) -> Any:
        """Load the object in a worker."""
        ...


class _Shares(Protocol):
    """An executor with its own way to share objects."""

    def share(self, value: object, /) -> _Carrier: ...


class Shared(_StandsForAny, Generic[T]):
    """The handle of an object shared by calls; created by `Scheduler.scatter`.

    A call that has it as an argument gets the object instead. Inside another argument, such as a list, it stays a
    handle; use its `value` in the call.
    """

    def __init__(self, value: T) -> None:
        self._value: T = value
        self._carrier: _Carrier | None = None
        self._executor: weakref.ref[Executor] | None = None

    @property
    def value(self) -> T:
        """The object. All calls of a worker get the same one, so do not modify it."""
        return self._value

    def carry(self, executor: Executor) -> None:
        """Prepare to be sent to the workers of this executor.

        Raises:
            NotPicklableError: The object cannot be sent to them.
        """
        if self._executor is not None and self._executor() is executor:
            return
        capabilities = capabilities_of(executor)
        self._carrier = None
        if hasattr(executor, "share"):
            self._carrier = cast("_Shares", executor).share(self._value)
        elif capabilities.pickles and not capabilities.remote:
            self._carrier = _InMemory(dumped(self._value))
        self._executor = weakref.ref(executor)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._carrier is None:
            return Shared, (self._value,)
        return _Arrived, (self._carrier,)


class _Arrived(Shared[T]):
    """The handle in a worker."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier
        self._executor = None

    @property
    def value(self) -> T:
        return cast("T", _cache.get(self._carrier))

    def carry(self, executor: Executor) -> None:
        """Does nothing: it has already been sent."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self._carrier is not None and self._carrier.for_workers_only:
            return Shared, (self.value,)  # sent on, to a child of the worker or in a result
        return super().__reduce__()


class _Cache:
    """The shared objects of this worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def get(self, carrier: Any) -> Any:
        key = carrier.key
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = carrier.load()
        with self._lock:
            value = self._kept.setdefault(key, value)  # another thread may have loaded it first
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return value


_cache = _Cache()


class _InMemory:
    """An object in a memory file, which exists as long as the driver keeps it, and no longer than the driver."""

    for_workers_only = False

    def __init__(self, blob: bytes) -> None:
        descriptor = os.memfd_create("amlsched-shared")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(blob)
        self.key = f"/proc/{os.getpid()}/fd/{descriptor}-{id(self)}"
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        weakref.finalize(self, os.close, descriptor)

    def load(self) -> Any:
        import pickle

        with open(self.path, "rb") as file:
            return pickle.load(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _InMemoryElsewhere, (self.key, self.path)


class _InMemoryElsewhere(_InMemory):
    def __init__(self, key: str, path: str) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.key, self.path = key, path


class InDask:
    """An object as the result of a task of a dask cluster, which recomputes it if its worker is lost."""

    for_workers_only = True

    def __init__(self, key: str, future: Any = None) -> None:
        self.key = key
        self._future = future  # held in the driver: otherwise dask would forget the result

    def load(self) -> Any:
        """Load the object, from this worker or another."""
        distributed: Any = importlib.import_module("distributed")
        held = distributed.get_worker().data
        if self.key in held:
            return held[self.key]
        with distributed.worker_client() as client:
            future = distributed.Future(self.key, client=client)
            client._inform_scheduler_of_futures()  # that it is needed here
            return future.result()

    def __reduce__(self) -> tuple[Any, ...]:
        return InDask, (self.key,)


class InRay:
    """An object in the store of a Ray cluster, with one copy per host that needs it.

    Only its key is pickled, and Ray's reference is sent alongside the call: Ray counts the references that it sees, and
    would keep an object forever if its reference were inside our pickle.
    """

    for_workers_only = True

    def __init__(self, key: str, reference: Any = None) -> None:
        self.key = key
        self.reference = reference  # held in the driver: otherwise Ray would delete the object

    def load(self) -> Any:
        """Load the object, from the store of this host or another."""
        return importlib.import_module("ray").get(_references[self.key])

    def __reduce__(self) -> tuple[Any, ...]:
        return InRay, (self.key,)


_references: dict[str, Any] = {}
"""Ray's references to the shared objects of the running call, by their keys."""


def run_with_shared(call: bytes, references: dict[str, Any]) -> bytes:
    """Run a call from `pickled_call` in a worker of Ray.

    Args:
        call: The call.
        references: References to the shared objects whose handles it contains, by their keys.
    """
    from amlsched.executors.worker_setup import prepare_imports  # here, to keep `import amlsched` light

    prepare_imports()
    _references.update(references)
    try:
        return run_pickled(call)
    finally:
        _references.clear()  # otherwise the store would keep the objects


def dumped(value: object) -> bytes:
    """Pickle an object.

    Raises:
        NotPicklableError: It cannot be pickled.
    """
    from amlsched.executors.pickling import pickled_by_value

    try:
        return pickled_by_value(value, protocol=5)
    except Exception as reason:
        raise NotPicklableError("scatter", f"the {type(value).__name__}", describe(reason)) from reason


class with_shared(Generic[R]):  # noqa: N801  (it is used as a function)
    """Wraps a function so that it gets shared objects instead of their handles."""

    def __init__(self, function: Callable[..., R]) -> None:
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> R:
        """Call the function."""
        named = {name: _value(each) for name, each in kwargs.items()}
        return self.__wrapped__(*map(_value, args), **named)


def _value(given: Any) -> Any:
    return given.value if is_shared(given) else given


def is_shared(value: object) -> TypeGuard[Shared[Any]]:
    """Whether this is a handle of a shared object."""
    return isinstance(value, Shared)
