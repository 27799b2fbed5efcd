"""Limits on the time, the memory and the CPU time of a call."""

from __future__ import annotations

import inspect
import secrets
import sys
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from amlsched._checks import is_number
from amlsched.errors import CpuTimeLimitError, LimitError, MemoryLimitError, WalltimeLimitError
from amlsched.events import Event
from amlsched.executors.capabilities import capabilities_of, worker_count
from amlsched.task import Plugin
from amlsched.units import parse_memory, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from amlsched.future import Future
    from amlsched.plugins._limits.limited_call import LimitedCall
    from amlsched.plugins._limits.watchdog_client import InChild, Subscription
    from amlsched.resources import Resources
    from amlsched.task import Task

__all__ = ["Limits", "PynisherPlugin"]

_ANY_AMOUNT = 1 << 60
"""More memory than any call uses: the limit until it is known what a call has requested, and if it requests none."""


class Limits(Plugin):
    """Terminates calls of the task that exceed a limit, with all processes they have started; on every executor.

    The call fails with `WalltimeLimitError`, `MemoryLimitError` or `CpuTimeLimitError`, which say how much it used.
    Other calls are not affected: the worker is replaced.

    With `with_processes`, the worker runs the call itself and is terminated with it. On every other executor, even
    `with_sequential`, the call runs in a child process of the worker, which is kept for the next call. Its arguments
    and its result are pickled in that case, and a debugger in the function cannot use the terminal.

    Give each limit either as a string with its unit, or as a number by the parameter whose name has the unit.

    Args:
        walltime: How long a call may run from the start of its function, such as `"10 min"`; `None` for no limit.
        memory: How much resident memory its process and all descendants may use, in addition to what the process had
            when the function started, such as `"6 GB"`; shared memory counts once, and pages of mapped files do not
            count. `"request"` for what each call has requested by the task's `resources`. `None` for no limit.
        cputime: How much CPU time they may use from the start of the function; `None` for no limit.
        address_space: How much address space the process may have; beyond that, Python raises MemoryError, which
            becomes a `MemoryLimitError`. Libraries reserve far more than they use, so this does not measure memory.
        grace: Time between SIGTERM and SIGKILL; a call that uses even more memory meanwhile is stopped.
        walltime_s: The same as `walltime`, in seconds.
        memory_bytes: The same as `memory`.
        cputime_s: The same as `cputime`, in seconds.
        address_space_bytes: The same as `address_space`.
        grace_s: The same as `grace`, in seconds.

    Raises:
        ValueError: A limit has no unit or an unknown one, is zero or less, or is given twice.
        NotImplementedError: This is not Linux.
    """

    name: ClassVar[str] = "limits"

    task: Task[..., Any]
    _executor: Any
    _n_workers: int
    _in_worker: bool | None
    _subscription: Subscription | None

    def __init__(
        self,
        walltime: str | None = None,
        memory: str | None = None,
        cputime: str | None = None,
        *,
        address_space: str | None = None,
        grace: str | None = None,
        walltime_s: float | None = None,
        memory_bytes: int | None = None,
        cputime_s: float | None = None,
        address_space_bytes: int | None = None,
        grace_s: float | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise NotImplementedError("Limits needs Linux: it reads the usage of processes from /proc")
        from amlsched.plugins._limits.limited_call import Bounds

        wait_s = _amount("grace", grace, "grace_s", grace_s, parse_seconds, least=0)
        self.follows_request = memory == "request"
        if self.follows_request:
            memory, memory_bytes = None, _as_given("memory_bytes", memory_bytes, _ANY_AMOUNT)
        memory_limit = _amount("memory", memory, "memory_bytes", memory_bytes, parse_memory)
        space = _amount("address_space", address_space, "address_space_bytes", address_space_bytes, parse_memory)
        self._bounds = Bounds(
            walltime_s=_amount("walltime", walltime, "walltime_s", walltime_s, parse_seconds),
            memory_bytes=None if memory_limit is None else int(memory_limit),
            cputime_s=_amount("cputime", cputime, "cputime_s", cputime_s, parse_seconds),
            address_space_bytes=None if space is None else int(space),
            grace_s=1.0 if wait_s is None else wait_s,
        )
        self._forget()

    def attach_task(self, task: Task[..., Any]) -> None:
        """Keep the task, and subscribe to its calls.

        Raises:
            ValueError: The memory limit is what calls request, and the task has no `resources`.
        """
        if self.follows_request and not task.requests_resources:
            raise ValueError(f"{task.name}: Limits(memory='request') needs resources=… of the task")
        self.task = task
        function = task.function
        self._call_name: str = getattr(function, "__qualname__", None) or type(function).__qualname__
        task.on_submitted.register(self._submitted, hidden=True)
        task.scheduler.on_finished.register(self._run_ended, hidden=True)

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Wrap the function to run under the limits."""
        bounds = self._bounds
        if not bounds.needs_watchdog and bounds.address_space_bytes is None:
            return fn, args, kwargs
        from amlsched.plugins._limits import limited_call, watchdog_client

        if self._in_worker is None:
            self._executor = self.task.scheduler.executor
            self._in_worker = self.task.batch_size == 1 and _ends_calls(self._executor)
            self._n_workers = 1 if capabilities_of(self._executor).remote else worker_count(self._executor) or 1
        # The number of the call among those of the task in this run, unless a later plugin rejects it.
        number = self.task.n_submitted
        limited: InChild | LimitedCall
        if not self._in_worker:
            limited = watchdog_client.InChild(fn, bounds, self._run, self._n_workers)
        else:
            if self._subscription is None or not self._subscription.up:
                self._subscription = watchdog_client.subscribe(self._passed)
            limited = limited_call.LimitedCall(fn, bounds, self._subscription.base + number, self._subscription.address)
        self._submitting[number] = limited
        return limited, args, kwargs

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit of the first attempt; `None` for none."""
        return None if self.follows_request else self._bounds.memory_bytes

    def allocated(self, future: Future[Any], request: Resources) -> None:
        """Limit a call to what it has requested, if that is the limit."""
        limited = self._limited.get(future) if self.follows_request else None
        if limited is not None:
            limited.bounds = limited.bounds._replace(memory_bytes=request.memory or _ANY_AMOUNT)

    def more_memory(self, future: Future[Any], factor: float, cap_bytes: float) -> int | None:
        """Raise the memory limit of one call for its next attempt, and that of its address space likewise.

        Args:
            future: The call.
            factor: A number above 1.
            cap_bytes: The largest possible limit.

        Returns:
            The new limit; `None` if the call has no memory limit, or has already reached the cap.
        """
        limited = self._limited.get(future)
        if limited is None:
            return None
        raised = limited.bounds.with_memory(factor, cap_bytes)
        if raised is None:
            return None
        limited.bounds = raised
        return raised.memory_bytes

    def reset(self) -> None:
        """Forget the calls of the previous run."""
        self._run_ended()

    def _forget(self) -> None:
        self._run = secrets.token_hex(8)
        self._in_worker = None
        self._executor = None
        self._subscription = None
        self._n_seen = 0
        self._futures: WeakValueDictionary[int, Future[Any]] = WeakValueDictionary()
        self._early: dict[int, tuple[bytes, float]] = {}
        self._submitting: dict[int, InChild | LimitedCall] = {}
        self._limited: WeakKeyDictionary[Future[Any], InChild | LimitedCall] = WeakKeyDictionary()

    def _submitted(self, future: Future[Any], /, *_args: Any, **_kwargs: Any) -> None:
        number, self._n_seen = self._n_seen, self._n_seen + 1
        limited = self._submitting.pop(number, None)
        if limited is None:
            return
        self._limited[future] = limited
        if self._in_worker:
            self._futures[number] = future
            if number in self._early:
                self._passed(number, *self._early.pop(number))

    def _passed(self, number: int, which: bytes, used: float) -> None:
        """Kill a call that has exceeded a limit. Called in a separate thread, or in the loop's."""
        future = self._futures.get(number)
        if future is None:  # the loop has not emitted its submission yet
            self._early[number] = which, used
            future = self._futures.get(number)
        work, executor = None if future is None else future.work, self._executor
        if future is None or work is None or executor is None:
            return
        bounds = self._limited[future].bounds
        executor.kill_call(work, bounds.error(self._call_name, which, used), grace_s=bounds.grace_s)

    def _run_ended(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
        if self._in_worker is False:
            from amlsched.plugins._limits.watchdog_client import end_children

            end_children(self._run)
        self._forget()

    def __str__(self) -> str:
        bounds = self._bounds
        parts: list[str] = []
        if bounds.walltime_s is not None:
            parts.append(f"walltime {bounds.walltime_s:g} s")
        if self.follows_request:
            parts.append("memory as requested")
        elif bounds.memory_bytes is not None:
            parts.append(f"memory {bounds.memory_bytes / 2**20:.0f} MiB")
        if bounds.cputime_s is not None:
            parts.append(f"CPU time {bounds.cputime_s:g} s")
        if bounds.address_space_bytes is not None:
            parts.append(f"address space {bounds.address_space_bytes / 2**20:.0f} MiB")
        return f"{self.name}: {', '.join(parts) or 'none'}"


class PynisherPlugin(Limits):
    """`Limits` with the parameters and events of amltk's plugin.

    Args:
        memory_limit: Bytes, or a number with one of the units `"B"`, `"KB"`, `"MB"`, `"GB"`, which are powers of 1024
            here, as in pynisher. Limits resident memory, as `Limits` does; pynisher limits the address space.
        cputime_limit: Seconds, or a number with one of the units `"s"`, `"m"`, `"h"`.
        walltime_limit: The same.
        context: Ignored: the executor decides how processes start.
        disable_trial_handling: Ignored: exceptions go to `on_exception`, as with `True` in amltk.

    Raises:
        TypeError: A limit is not a number.
        ValueError: The unit is unknown, or a limit is zero or less, or infinite.
    """

    name: ClassVar[str] = "pynisher-plugin"

    TIMEOUT: ClassVar[Event[..., Any]] = Event("pynisher-timeout", ("exception",))
    """A call exceeded its limit of time or of CPU time; with the exception."""
    MEMORY_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("pynisher-memory-limit", ("exception",))
    """A call exceeded its memory limit; with the exception."""
    CPU_TIME_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("pynisher-cputime-limit", ("exception",))
    """A call exceeded its limit of CPU time; with the exception."""
    WALL_TIME_LIMIT_REACHED: ClassVar[Event[..., Any]] = Event("pynisher-walltime-limit", ("exception",))
    """A call exceeded its time limit; with the exception."""

    PynisherException: TypeAlias = LimitError
    TimeoutException: TypeAlias = TimeoutError
    MemoryLimitException: TypeAlias = MemoryLimitError
    CpuTimeoutException: TypeAlias = CpuTimeLimitError
    WallTimeoutException: TypeAlias = WalltimeLimitError

    def __init__(
        self,
        *,
        memory_limit: int | tuple[float, str] | None = None,
        cputime_limit: float | tuple[float, str] | None = None,
        walltime_limit: float | tuple[float, str] | None = None,
        context: BaseContext | None = None,
        disable_trial_handling: bool = False,
    ) -> None:
        memory = _with_unit("memory_limit", memory_limit, _PYNISHER_BYTES)
        super().__init__(
            memory_bytes=None if memory is None else int(memory),
            cputime_s=_with_unit("cputime_limit", cputime_limit, _PYNISHER_SECONDS),
            walltime_s=_with_unit("walltime_limit", walltime_limit, _PYNISHER_SECONDS),
        )
        self.context = context
        self.disable_trial_handling = disable_trial_handling

    @classmethod
    def supports(cls, kind: str) -> bool:
        """Whether this kind of limit is supported here: `"memory"`, `"cpu_time"` or `"wall_time"`."""
        return sys.platform == "linux" and kind in ("memory", "cpu_time", "wall_time")

    def attach_task(self, task: Task[..., Any]) -> None:
        """Keep the task, and emit the events."""
        super().attach_task(task)
        task.on_exception.register(self._emit_limit, hidden=True)

    def _emit_limit(self, future: Future[Any], exception: BaseException) -> None:
        if isinstance(exception, MemoryLimitError):
            self.task.emit(self.MEMORY_LIMIT_REACHED, exception)
        elif isinstance(exception, LimitError):
            self.task.emit(self.TIMEOUT, exception)
            is_cpu = isinstance(exception, CpuTimeLimitError)
            self.task.emit(self.CPU_TIME_LIMIT_REACHED if is_cpu else self.WALL_TIME_LIMIT_REACHED, exception)


_PYNISHER_BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_PYNISHER_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _as_given(number_name: str, number: int | None, instead: int) -> int:
    if number is not None:
        raise ValueError(f"memory='request' and {number_name}={number!r}: give only one of them")
    return instead


def _ends_calls(executor: Executor) -> bool:
    """Whether the executor can kill a single running call with an exception, in a process of this machine."""
    capabilities = capabilities_of(executor)
    if not capabilities.kills_calls or capabilities.remote:
        return False
    return {"exception", "grace_s"} <= {*inspect.signature(getattr(executor, "kill_call")).parameters}  # noqa: B009


def _amount(
    name: str, text: Any, number_name: str, number: Any, parse: Callable[[str], float], least: float | None = None
) -> float | None:
    """A limit, from either of its parameters; `None` for none."""
    if text is not None and number is not None:
        raise ValueError(f"{name}={text!r} and {number_name}={number!r}: give only one of them")
    if text is not None:
        try:
            number = parse(text)
        except ValueError as error:
            hint = "" if isinstance(text, str) else f"; or {number_name}={text!r}"
            raise ValueError(f"{name}: {error}{hint}") from None
    if number is None:
        return None
    good = isinstance(number, int | float) and not isinstance(number, bool) and number < float("inf")
    if not good or not (number > 0 or number == least):
        given = f"{number_name}={number!r}" if text is None else f"{name}={text!r}"
        raise ValueError(f"{given}: must be more than 0, or None for no limit")
    return float(number)


def _with_unit(name: str, given: float | tuple[float, str] | None, units: dict[str, int]) -> float | None:
    if given is None:
        return None
    unit: Any
    number, unit = given if isinstance(given, tuple) and len(given) == 2 else (given, next(iter(units)))
    if not is_number(number):
        raise TypeError(f"{name}={given!r}: must be a number, or a number and a unit, such as (1.5, {[*units][-1]!r})")
    known = {key.lower(): factor for key, factor in units.items()}
    if str(unit).lower() not in known:
        raise ValueError(f"{name}={given!r}: the unit must be one of {', '.join(units)}")
    if not 0 < number < float("inf"):
        raise ValueError(f"{name}={given!r}: must be more than 0, or None for no limit")
    return number * known[unit.lower()]
