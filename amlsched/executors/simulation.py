"""An executor on a virtual clock: calls take time there, but nothing waits.

The clock is that of the event loop. It stands still while anything runs, and jumps to the next timer when nothing does.
So everything that waits by the loop is on it: the calls, the run's `timeout`, `call_later`, the waits of `Retry`, and
`asyncio.sleep` in a callback. What waits by other means, such as `time.sleep` or a thread, takes no virtual time.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from amlsched._checks import is_number, parsed, whole_number
from amlsched.errors import WorkerKilledError
from amlsched.executors.capabilities import Capabilities
from amlsched.executors.user_function import call_function, call_name, drop_frame
from amlsched.units import parse_seconds

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from contextvars import Context

    from typing_extensions import TypeVarTuple, Unpack

    from amlsched.future import Future

    _Ts = TypeVarTuple("_Ts")

__all__ = ["SimulatedExecutor", "VirtualCall", "VirtualLoop"]

_SIGKILL = 9
_RESOLUTION_S = time.get_clock_info("monotonic").resolution
_LONGEST_WAIT_S = 86400.0
"""How long asyncio waits at most before it looks at its timers again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0, and jumps to the next timer whenever the loop would wait for it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._jumping.now

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> TimerHandle:
        """See `asyncio.loop.call_at`."""
        if when - self.time() > _LONGEST_WAIT_S:
            heapq.heappush(self._jumping.far, when)
        return super().call_at(when, callback, *args, context=context)


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, it advances the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.far: list[float] = []  # a heap: the times of timers that were a day away or more

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # there is no timer: only a thread or a signal can go on
            return super().select(None)
        events = super().select(0)
        if events or timeout <= 0:
            return events
        now = self.now + timeout
        while self.far and self.far[0] <= now:
            heapq.heappop(self.far)
        # A loop waits for a day at most. Then all timers are at least as far, and were so when they were set.
        if self.far and timeout >= _LONGEST_WAIT_S:
            now = self.far[0]
        # A timer is due before the present plus the resolution of the clock, which is nothing beside a large number.
        self.now = now if now + _RESOLUTION_S > now else math.nextafter(now, math.inf)
        return events


class VirtualCall:
    """A call as the functions of a simulation get it.

    Attributes:
        function: The function of the call.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        number: Its number in the run, from 1, in the order of submission.
        attempt: Number of the attempt, from 1.
    """

    __slots__ = ("_random", "_seed", "args", "attempt", "function", "kwargs", "number")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        number: int,
        attempt: int,
        seed: int,
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.number, self.attempt = number, attempt
        self._seed = seed
        self._random: random.Random | None = None

    @property
    def random(self) -> random.Random:
        """Random numbers that depend on the seed, the call and the attempt only, not on the order of the calls."""
        if self._random is None:
            self._random = random.Random(f"{self._seed} {self.number} {self.attempt}")
        return self._random

    def __repr__(self) -> str:
        return f"<call {self.number} of {call_name(self.function)}, attempt {self.attempt}>"


Duration = float | str | Callable[[VirtualCall], float]
Result = Literal["call"] | Callable[[VirtualCall], Any] | None
Failures = float | Callable[[VirtualCall], BaseException | None]


class _Work:
    """The executor's side of a call, with the methods of a future."""

    __slots__ = ("_error", "_executor", "_result", "call", "ended", "handle", "on_done", "started", "state")

    def __init__(
        self, executor: SimulatedExecutor, call: VirtualCall, on_done: Callable[[Any], object], handle: object
    ) -> None:
        self._executor, self.call, self.on_done, self.handle = executor, call, on_done, handle
        self.state: Literal["waiting", "running", "done", "cancelled"] = "waiting"
        self.started: float | None = None
        self.ended: float | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def exception(self) -> BaseException | None:
        if self.state == "cancelled":
            raise CancelledError
        return self._error

    def result(self) -> Any:
        return self._result

    def cancel(self) -> bool:
        return self._executor.cancel(self)

    def done(self) -> bool:
        return self.state in ("done", "cancelled")

    def running(self) -> bool:
        return self.state == "running"

    @property
    def measured(self) -> dict[str, Any]:
        """What the receipt of the call has of it."""
        return {"started": self.started, "ended": self.ended, "host": "simulation"}

    def set_result(self, result: Any) -> None:
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        self._error = error


class SimulatedExecutor(Executor):
    """Runs the calls of a `Scheduler` on a virtual clock; see `Scheduler.with_simulation`.

    Args:
        max_workers: How many calls run at a time.
        duration: How long calls take.
        result: What they return.
        failures: How they fail.
        seed: Of their random numbers.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range.
    """

    capabilities = Capabilities(posts=True, kills_calls=True, survives_lost_workers=True, virtual=True)

    def __init__(
        self,
        max_workers: int,
        duration: Duration,
        result: Result = None,
        failures: Failures = 0.0,
        seed: int = 0,
    ) -> None:
        self.max_workers = whole_number("max_workers", max_workers, also="")
        self._duration = _as_function(duration)
        if result is not None and result != "call" and not callable(result):
            raise TypeError(f"result={result!r}: must be 'call', a function of the call, or None")
        self._result = result
        if not callable(failures) and not (is_number(failures) and 0 <= failures <= 1):
            raise ValueError(f"failures={failures!r}: must be a probability from 0 to 1, or a function of the call")
        self._failures = failures
        self._seed = whole_number("seed", seed, 0, also="")
        self._loop: VirtualLoop | None = None
        self._around: Callable[[Callable[[], object]], object] | None = None
        self._timer: TimerHandle | None = None
        self._now = 0.0
        self._waiting: deque[_Work] = deque()
        self._ends: list[tuple[float, int, _Work, BaseException | None]] = []
        self._n_running = 0
        self._n_started = 0

    @staticmethod
    def new_event_loop() -> asyncio.AbstractEventLoop:
        """The loop in which a scheduler with this executor runs."""
        return VirtualLoop()

    def clock(self) -> float:
        """Seconds on the virtual clock since the beginning of the run."""
        return self._now if self._loop is None else max(self._now, self._loop.time())

    def attach(
        self, loop: asyncio.AbstractEventLoop, around: Callable[[Callable[[], object]], object] | None = None
    ) -> None:
        """Use the clock of a loop from now on.

        Raises:
            RuntimeError: The loop has a real clock.
        """
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(
                "a simulation needs an event loop with a virtual clock: use scheduler.run(), which creates one; "
                "where a loop runs already, as in a notebook: await asyncio.to_thread(scheduler.run)"
            )
        self._loop, self._around, self._now = loop, around, loop.time()

    def detach(self) -> None:
        """Forget the loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._now = self.clock()
        self._loop = self._around = self._timer = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: there is no clock without a scheduler.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a simulated executor runs the calls of a Scheduler only: Scheduler.with_simulation(…)")

    def post(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        on_done: Callable[[Any], object],
        handle: object,
        /,
    ) -> _Work:
        """See `PostingExecutor`."""
        future = cast("Future[Any]", handle)
        task = future.task
        call = VirtualCall(
            function if task is None else task.function, args, kwargs, future.number, future.attempt, self._seed
        )
        work = _Work(self, call, on_done, handle)
        if self._n_running < self.max_workers:
            self._start(work)
        else:
            self._waiting.append(work)
        return work

    def cancel(self, work: _Work) -> bool:
        """Cancel a call that has not started, and return whether that succeeded."""
        if work.state != "waiting":
            return work.state == "cancelled"
        self._conclude(work, "cancelled")
        return True

    def kill_call(self, work: _Work) -> bool:
        """Cancel a running call, whose worker is free again at once."""
        if work.state != "running":
            return False
        self._conclude(work, "cancelled")
        self._start_waiting()
        return True

    def kill_workers(self) -> None:
        """Cancel all calls."""
        self._waiting.clear()
        for *_, work, _ in self._ends:
            if work.state == "running":
                self._conclude(work, "cancelled")
        self._ends.clear()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. There is never anything to wait for."""

    # The way of a call

    def _start(self, work: _Work) -> None:
        work.started = self.clock()
        seconds, error = self._fate(work.call)
        work.state = "running"
        self._n_running += 1
        self._n_started += 1
        heapq.heappush(self._ends, (work.started + seconds, self._n_started, work, error))
        if self._ends[0][2] is work:
            self._set_timer()

    def _start_waiting(self) -> None:
        while self._waiting and self._n_running < self.max_workers:
            work = self._waiting.popleft()
            if work.state != "waiting":
                continue
            try:
                self._start(work)
            except BaseException as error:  # a function of the user raised
                work.started = self.clock()
                work.set_exception(error)
                self._conclude(work, "done")

    def _fate(self, call: VirtualCall) -> tuple[float, BaseException | None]:
        """After how many seconds a call ends, and its exception, if it fails."""
        seconds = self._duration(call)
        if not is_number(seconds) or not 0 <= seconds < math.inf:
            raise ValueError(f"duration({call!r}) returned {seconds!r}: must be a number of seconds of at least 0")
        if callable(self._failures):
            error = self._failures(call)
            if error is not None and not isinstance(error, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"failures({call!r}) returned {error!r}: must be an exception, or None")
            return float(seconds), error
        if self._failures and call.random.random() < self._failures:
            return seconds * call.random.random(), WorkerKilledError(call_name(call.function), _SIGKILL)
        return float(seconds), None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ends and self._loop is not None:
            self._timer = self._loop.call_at(self._ends[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        if self._around is None:
            self._finish_due()
        else:
            self._around(self._finish_due)

    def _finish_due(self) -> None:
        """Finish the calls that end first, all at the same time."""
        ends = self._ends
        self._now = now = max(self._now, ends[0][0])
        while ends and ends[0][0] <= now:
            *_, work, error = heapq.heappop(ends)
            if work.state != "running":
                continue  # it was killed
            if error is None:
                error = self._evaluate(work)
            if error is not None:
                work.set_exception(error)
            self._conclude(work, "done")
        self._start_waiting()
        self._set_timer()

    def _evaluate(self, work: _Work) -> BaseException | None:
        """Have the result of a call, or return its exception."""
        call = work.call
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)  # the function may run its own loop, as in any worker
        try:
            if self._result == "call":
                work.set_result(call_function(call.function, call.args, call.kwargs))
            elif callable(self._result):
                work.set_result(self._result(call))
        except BaseException as error:  # even SystemExit, as in any worker
            drop_frame(error)
            return error
        finally:
            asyncio._set_running_loop(loop)
        return None

    def _conclude(self, work: _Work, state: Literal["done", "cancelled"]) -> None:
        if work.state == "running":
            self._n_running -= 1
        work.state, work.ended = state, self.clock()
        work.on_done(work.handle)


def _as_function(duration: Any) -> Callable[[VirtualCall], float]:
    if callable(duration):
        return cast("Callable[[VirtualCall], float]", duration)
    if isinstance(duration, str):
        seconds = parsed("duration", duration, parse_seconds)
    elif is_number(duration) and 0 <= duration < math.inf:
        seconds = float(duration)
    else:
        raise TypeError(
            f"duration={duration!r}: must be a number of seconds, a text such as '10 min', or a function of the call"
        )
    return lambda _: seconds
