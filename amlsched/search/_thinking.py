"""Where a searcher thinks: in the loop, in a thread, or in a process of its own; and how much to ask it for."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from amlsched.errors import SearcherError
from amlsched.executors.capabilities import kill_workers
from amlsched.executors.pickling import pickled_by_value
from amlsched.search.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from amlsched.search.trial import Searcher, Told

__all__ = ["AskSize", "Place", "Thinking", "Thought", "reports_to"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Place = Literal["thread", "process", "loop"]

_LAST_S = 30.0
"""How long a search that has ended waits for its searcher."""


class Thought(NamedTuple):
    """What came of one round of a searcher."""

    trials: Sequence[Trial]
    tell_s: float
    ask_s: float


def reports_to(searcher: object) -> bool:
    """Whether a searcher decides during a trial whether that should stop."""
    return callable(getattr(searcher, "report", None))


class _Mind:
    """A searcher with the trials that it has proposed, in the place where it thinks."""

    def __init__(self, searcher: Searcher, first: int) -> None:
        self.searcher = searcher
        self._decide: Callable[[Trial, int, float], object] | None = getattr(searcher, "report", None)
        self._trials: dict[int, Trial] = {}  # proposed, and not told yet
        self._n_asked = first
        self._lock = threading.Lock()  # a report of an inline call comes while the thread thinks

    def think(self, told: Sequence[tuple[int, Told]], n: int, n_told: int | None) -> Thought:
        """Tell results, then ask for up to `n` trials, and number these."""
        with self._lock:
            began = time.perf_counter()
            if told:
                results = [(self._trials.pop(number), one) for number, one in told]
                self._call("tell", lambda: self.searcher.tell(results))
            asked = time.perf_counter()
            trials = self._checked(self._call("ask", lambda: self.searcher.ask(n)), n) if n else []
            for trial in trials:
                trial.number, trial.n_told = self._n_asked, n_told
                self._trials[self._n_asked] = trial
                self._n_asked += 1
            return Thought(trials, asked - began, time.perf_counter() - asked)

    def report(self, number: int, step: int, value: float) -> bool:
        """Pass an intermediate value on, and return whether to stop."""
        with self._lock:
            trial, decide = self._trials[number], self._decide
            return decide is not None and bool(self._call("report", lambda: decide(trial, step, value)))

    def _call(self, method: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise SearcherError(type(self.searcher).__name__, method, self._n_asked, what) from error

    def _checked(self, trials: object, n: int) -> list[Trial]:
        name = type(self.searcher).__name__
        if not isinstance(trials, list | tuple):
            raise SearcherError(name, "ask", self._n_asked, f"it returned {trials!r}: must be a list of trials")
        several = list(cast("Sequence[object]", trials))
        for trial in several:
            if not isinstance(trial, Trial):
                raise SearcherError(name, "ask", self._n_asked, f"it proposed {trial!r}: must be a Trial")
        if len(several) > n:
            raise SearcherError(name, "ask", self._n_asked, f"it proposed {len(several)} trials when asked for {n}")
        return cast("list[Trial]", several)


_mind: _Mind | None = None
"""In the process of a searcher: that searcher."""


def _begin(pickled: bytes, first: int) -> None:
    global _mind
    _mind = _Mind(pickle.loads(pickled), first)


def _in_process(method: str, *args: Any) -> Any:
    assert _mind is not None
    if method == "searcher":
        return pickled_by_value(_mind.searcher)
    return getattr(_mind, method)(*args)


class Thinking:
    """Runs the methods of a searcher, one after the other.

    Args:
        searcher: The searcher.
        place: Where they run.
        first: The number of the first trial that it will propose.

    Raises:
        TypeError: The searcher cannot be sent to a process.
    """

    def __init__(self, searcher: Searcher, place: Place, first: int) -> None:
        self._executor: Executor | None = None
        self._mind: _Mind | None = None
        if place == "process":
            try:
                pickled = pickled_by_value(searcher)
            except Exception as error:
                raise TypeError(
                    f"searcher_in='process': {type(searcher).__name__} cannot be sent to another process "
                    f"({type(error).__name__}: {error}): use searcher_in='thread'"
                ) from error
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(pickled, first))
        else:
            self._mind = _Mind(searcher, first)
            if place == "thread":
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="amlsched-searcher")
        self._name = type(searcher).__name__

    async def think(self, told: Sequence[tuple[int, Told]], n: int, n_told: int | None) -> Thought:
        """Tell results, then ask for up to `n` trials.

        Raises:
            SearcherError: The searcher raised, proposed something else, or its process was lost.
        """
        return cast("Thought", await self._run("think", told, n, n_told))

    async def report(self, number: int, step: int, value: float) -> bool:
        """Pass an intermediate value on, and return whether to stop; raises as `think`."""
        return cast("bool", await self._run("report", number, step, value))

    def think_now(self, told: Sequence[tuple[int, Told]], n: int, n_told: int | None) -> Thought:
        """As `think`, for a searcher that thinks in the loop."""
        return cast("Thought", self._wait_for("think", told, n, n_told))

    def report_now(self, number: int, step: int, value: float) -> bool:
        """As `report`, for a call or a searcher that runs in the loop, which therefore cannot await."""
        return cast("bool", self._wait_for("report", number, step, value))

    def close(self, told: Sequence[tuple[int, Told]]) -> Searcher | None:
        """Tell the last results, and end the thread or process. Waits for a searcher that thinks, but not for long.

        Returns:
            The searcher, if it has been in another process and can be pickled.
        """
        searcher: Searcher | None = None
        try:
            if told:
                self._wait_for("think", told, 0, None, timeout_s=_LAST_S)
            if self._mind is None:
                searcher = pickle.loads(self._wait_for("searcher", timeout_s=_LAST_S))
        except TimeoutError:
            logger.warning("%s is still thinking after %.0f s: it does not get the last results", self._name, _LAST_S)
        except Exception as error:  # a searcher that raises, is no longer picklable, or whose process was lost
            logger.warning("%s did not take the last results, or cannot be returned: %s", self._name, error)
        finally:
            if self._mind is None and self._executor is not None:
                kill_workers(self._executor)
            elif self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
        return searcher

    def _function(self, method: str) -> Callable[..., Any]:
        return partial(_in_process, method) if self._mind is None else getattr(self._mind, method)

    def _wait_for(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        function = self._function(method)
        return function(*args) if self._executor is None else self._executor.submit(function, *args).result(timeout_s)

    async def _run(self, method: str, *args: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._function(method), *args)
        except BrokenExecutor as error:
            raise SearcherError(self._name, method, None, f"its process was lost ({error})") from error


class AskSize:
    """Decides how many trials to ask for at once, from how long earlier requests took.

    Of a searcher that needs its time for each trial, few are asked for, so that workers need not wait for the last one.
    If it needs the same time for any number, all are asked for at once.
    """

    _KEEP = 0.9  # weight of the past, at each request
    _LEAST_S = 0.02  # below this, a request is not worth dividing

    def __init__(self) -> None:
        self._weight = self._n = self._t = self._nn = self._nt = 0.0
        self._largest = 0

    def learn(self, n: int, seconds: float) -> None:
        """Take the duration of a request for `n` trials."""
        self._largest = max(self._largest, n)
        keep = self._KEEP
        self._weight = keep * self._weight + 1
        self._n = keep * self._n + n
        self._t = keep * self._t + seconds
        self._nn = keep * self._nn + n * n
        self._nt = keep * self._nt + n * seconds

    def at_once(self, wanted: int) -> int:
        """How many of the wanted trials to ask for now."""
        if wanted <= 1 or not self._weight:
            return min(wanted, 1)
        n, t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - n * n
        if spread < 1e-9:  # one size was seen only
            return min(wanted, max(1, 2 * self._largest))
        each = min(max((self._nt / self._weight - n * t) / spread, 0.0), t / n)
        fixed = t - each * n
        if each <= 0 or each * wanted <= self._LEAST_S:
            return min(wanted, 4 * self._largest)
        return min(wanted, 4 * self._largest, max(1, math.ceil(max(fixed, self._LEAST_S) / each)))
