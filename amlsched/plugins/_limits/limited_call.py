"""Wraps a limited function; sent to a worker in its place."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from amlsched import _proc
from amlsched._context import contextmanager
from amlsched.errors import CpuTimeLimitError, LimitError, MemoryLimitError, WalltimeLimitError
from amlsched.executors.user_function import call_function
from amlsched.plugins._limits import watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Bounds", "LimitedCall"]


class Bounds(NamedTuple):
    """The limits of a call; `None` for no limit.

    Attributes:
        walltime_s: Time from the start of the function.
        memory_bytes: Resident memory of the process tree, in addition to what the worker had before.
        cputime_s: CPU time of the process tree, from the start of the function.
        address_space_bytes: Address space of the worker process.
        grace_s: Time between SIGTERM and SIGKILL.
    """

    walltime_s: float | None = None
    memory_bytes: int | None = None
    cputime_s: float | None = None
    address_space_bytes: int | None = None
    grace_s: float = 1.0

    @property
    def needs_watchdog(self) -> bool:
        """Whether the watchdog is needed."""
        return self.walltime_s is not None or self.memory_bytes is not None or self.cputime_s is not None

    def with_memory(self, factor: float, cap_bytes: float) -> Bounds | None:
        """A copy with more memory, and more address space; `None` if the limit cannot grow."""
        if self.memory_bytes is None or self.memory_bytes >= cap_bytes:
            return None
        memory = int(min(self.memory_bytes * factor, cap_bytes))
        space = self.address_space_bytes
        if space is not None:
            space = int(space * memory / self.memory_bytes)
        return self._replace(memory_bytes=memory, address_space_bytes=space)

    def error(self, call: str, which: bytes, used: float) -> LimitError:
        """The exception of a call that exceeded one of the limits.

        Args:
            call: Name of the call.
            which: The kind of limit, from the watchdog's report.
            used: How much it used, in the unit of the limit.
        """
        if which == watchdog.MEMORY:
            return MemoryLimitError(call, self.memory_bytes or 0, int(used))
        if which == watchdog.CPUTIME:
            return CpuTimeLimitError(call, self.cputime_s or 0.0, used)
        return WalltimeLimitError(call, self.walltime_s or 0.0, used)


class LimitedCall:
    """Runs a function in the worker, and notifies the watchdog of its start and end.

    Args:
        function: The function.
        bounds: The limits.
        key: Key of the call for the watchdog.
        address: Where the watchdog listens.
    """

    def __init__(self, function: Callable[..., Any], bounds: Bounds, key: int, address: bytes) -> None:
        self.function, self.bounds, self.key, self.address = function, bounds, key, address
        self.__name__ = getattr(function, "__name__", None) or type(function).__name__
        self.__qualname__: str = getattr(function, "__qualname__", self.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        return LimitedCall, (self.function, self.bounds, self.key, self.address)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as limits:
            if self.bounds.address_space_bytes is not None:
                limits.enter_context(_address_space(self.__qualname__, self.bounds.address_space_bytes))
            if self.bounds.needs_watchdog:
                limits.enter_context(self._under_watchdog())
            return call_function(self.function, args, kwargs)

    @contextmanager
    def _under_watchdog(self) -> Generator[None]:
        connection = _connection_to(self.address)
        bounds = self.bounds
        resident, shared = _memory() if bounds.memory_bytes is not None else (0, 0)
        cpu_s = sum(os.times()[:4]) if bounds.cputime_s is not None else 0.0
        message = watchdog.begin_message(
            self.key,
            time.monotonic(),
            inf if bounds.walltime_s is None else bounds.walltime_s,
            inf if bounds.cputime_s is None else bounds.cputime_s,
            bounds.memory_bytes or 0,
            resident,
            shared,
            cpu_s,
        )
        connection.send(message)
        try:
            yield
        finally:
            connection.send(watchdog.end_message(self.key))


_connection: tuple[int, bytes, socket.socket] | None = None


def _connection_to(address: bytes) -> socket.socket:
    """The connection of this process to the watchdog, which is opened by the first call."""
    global _connection
    if _connection is None or _connection[:2] != (os.getpid(), address):
        if _connection is not None:
            _connection[2].close()
            _connection = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(None)  # not socket.setdefaulttimeout's
        connection.connect(address)
        _connection = os.getpid(), address, connection
    return _connection[2]


_shared: tuple[int, int] | None = None


def _memory() -> tuple[int, int]:
    """Resident bytes of this process, without file pages, and how many of them it shared with others at first."""
    global _shared
    resident, _ = watchdog.sizes(os.getpid())
    if _shared is None or _shared[0] != os.getpid():
        _shared = os.getpid(), max(0, resident - watchdog.proportional(os.getpid()))
    return resident, _shared[1]


@contextmanager
def _address_space(call: str, limit_bytes: int) -> Generator[None]:
    """Limit the address space of this process by the kernel: allocations beyond the limit fail."""
    former = resource.getrlimit(resource.RLIMIT_AS)
    hard = former[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard), hard)
    )
    try:
        yield
    except MemoryError as error:
        if isinstance(error, LimitError):
            raise
        resource.setrlimit(resource.RLIMIT_AS, former)
        raise MemoryLimitError(call, limit_bytes, _proc.own_bytes("VmSize") or 0) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)
