"""The search: keeps the workers of a scheduler busy with what a searcher proposes, and tells it the results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from amlsched._checks import check_flag, check_seconds, whole_number
from amlsched._surroundings import import_extra
from amlsched.errors import SearcherError, TrialsFailedError
from amlsched.events import Emitter, Event
from amlsched.executors.capabilities import capabilities_of, most_at_once
from amlsched.scheduler import Scheduler
from amlsched.search._thinking import AskSize, Place, Thinking, reports_to
from amlsched.search.trial import Failure, Mode, TrialResult, failure_of
from amlsched.task import each_plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    import pandas as pd

    from amlsched.events import Subscriber
    from amlsched.exit_state import ExitState
    from amlsched.future import Future
    from amlsched.plugins import Comm
    from amlsched.scheduler import Display, Order
    from amlsched.search._thinking import Thought
    from amlsched.search.trial import Searcher, Told, Trial, Value
    from amlsched.task import Plugin, Task

__all__ = ["Search"]

logger = logging.getLogger(__name__)

_STOCK_FACTOR = 1.6
"""How much more is kept in stock than workers take while the searcher thinks."""
_FORGET = 0.98
"""The longest round of the searcher counts less by this factor with each later one."""
_BATCH_S = 0.01
"""How long a batch of fast trials should run: then sending it costs little, and the search still hears often of it."""
_LARGEST_BATCH = 256
_WINDOW_S = 0.1
_FEWEST_FAILURES = 3
_ADAPTERS = {
    "optuna": "amlsched.search.optuna.OptunaSearcher(study, space)",
    "smac": "amlsched.search.smac.SmacSearcher(facade)",
    "nevergrad": "amlsched.search.nevergrad.NevergradSearcher(optimizer)",
    "ConfigSpace": "amlsched.search.configspace.ConfigSpaceSearcher(space)",
}


class Search(Emitter):
    """Runs a function on the trials that a searcher proposes.

        from amlsched import Scheduler
        from amlsched.search import Float, Search, random

        def parabola(trial):
            return (trial["x"] - 3) ** 2

        search = Search(random({"x": Float(-10, 10)}), parabola, scheduler=Scheduler.with_processes(2), n_trials=100)
        search.run()
        print(search.best.value, search.best.trial.params)

    The searcher thinks in a thread of its own while the workers go on with trials that it has proposed before. How many
    of these are kept in stock follows from how long the searcher takes and how quickly trials end.

    Args:
        searcher: Proposes trials and learns from their values: an object with `ask` and `tell`; see `Searcher`.
        function: Called with each `Trial`. It returns a number, or for several objectives a sequence of them.
        scheduler: Where it runs; `None` for `Scheduler.with_processes(n_workers)`.
        n_trials: How many trials to run; `None` for no limit.
        timeout: Seconds after which no more trials start; `None` for no limit.
        n_workers: How many trials run at the same time; `None` for as many as the executor has workers.
        order: `"completion"` tells the searcher results as they come. `"submission"` tells them in the order of the
            trials, and asks for one trial after each: then the same searcher decides the same, however long each
            trial takes.
        in_flight: With `order="submission"`, how many trials have been proposed and not told; `None` for `n_workers`.
            The decisions depend on it, and not on the number of workers.
        searcher_in: Where it thinks: in a `"thread"` of its own; in a `"process"`, for a searcher that computes
            in Python for long, and would hold up the scheduler; in the scheduler's `"loop"`, if it takes no time worth
            mentioning. `None` for the loop if the searcher says that it is quick, or else for a thread.
        batch_size: How many trials to send to a worker at once; `"auto"` decides that from how long they take, for
            functions that take less than some milliseconds.
        mode: Whether the best value is the smallest (`"min"`) or the largest (`"max"`); `None` for what the searcher
            says, or else `"min"`.
        keep_trials: Whether `trials` keeps all results; otherwise only the best one, so that memory is bounded.
        keep_going: Whether to go on if the first trials (as many as there are workers, but at least 3) all raise.
        plugins: Plugins of the task, such as `Limits`. A trial over a limit is told as failed for that reason.

    Attributes:
        searcher: The searcher. After a run with `searcher_in="process"`, with what it learned there, if it can be
            pickled.
        trials: The results, in the order in which the trials ended.
        n_done: How many trials have ended.
        n_failed: How many of them have no value.
        task: The task whose calls are the trials.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: An argument has a value that it cannot have.
    """

    TRIAL: ClassVar[Event[[TrialResult], Any]] = Event("on-trial", ("result",))
    """A trial has ended; with its `TrialResult`."""

    on_trial: Subscriber[[TrialResult], Any]

    def __init__(
        self,
        searcher: Searcher,
        function: Callable[[Trial], Any],
        *,
        scheduler: Scheduler | None = None,
        n_trials: int | None = None,
        timeout: float | None = None,
        n_workers: int | None = None,
        order: Order = "completion",
        in_flight: int | None = None,
        searcher_in: Place | None = None,
        batch_size: int | Literal["auto"] = 1,
        mode: Mode | None = None,
        keep_trials: bool = True,
        keep_going: bool = False,
        plugins: Plugin | Iterable[Plugin] = (),
    ) -> None:
        super().__init__(name="search")
        _check_searcher(searcher)
        _check_one_of("order", order, ("completion", "submission"))
        if searcher_in is None:
            searcher_in = "loop" if getattr(searcher, "quick", False) else "thread"
        _check_one_of("searcher_in", searcher_in, ("thread", "process", "loop"))
        mode = mode if mode is not None else getattr(searcher, "mode", "min")
        _check_one_of("mode", mode, ("min", "max"))
        if timeout is not None:
            check_seconds("timeout", timeout, " or None")
        check_flag("keep_trials", keep_trials)
        check_flag("keep_going", keep_going)
        if in_flight is not None and order != "submission":
            raise ValueError(f"in_flight={in_flight!r}: needs order='submission'; otherwise n_workers is the limit")
        self.searcher = searcher
        self.n_trials = None if n_trials is None else whole_number("n_trials", n_trials)
        self.n_workers = None if n_workers is None else whole_number("n_workers", n_workers)
        self.scheduler = scheduler if scheduler is not None else Scheduler.with_processes(self.n_workers)
        self.mode = mode
        self.trials: list[TrialResult] = []
        self.n_done = self.n_failed = 0
        self.on_trial = self.subscriber(self.TRIAL)
        self._timeout = timeout
        self._in_flight = None if in_flight is None else whole_number("in_flight", in_flight)
        self._in_order = order == "submission"
        self._place: Place = searcher_in
        self._keep_trials = keep_trials
        self._keep_going = keep_going
        self._auto_batch = batch_size == "auto"
        self._best: TrialResult | None = None
        self._n_asked = 0  # of all runs of this search: numbers of trials are never used twice
        self.task = self._task(function, plugins, 1 if batch_size == "auto" else batch_size)
        self._begin()

    def _task(self, function: Callable[[Trial], Any], plugins: Any, batch_size: int) -> Task[..., Any]:
        if not reports_to(self.searcher):
            task: Task[..., Any] = self.scheduler.task(function, plugins=plugins, batch_size=batch_size)
        else:
            from amlsched.plugins import Comm

            several = [Comm.Plugin(), *each_plugin(plugins, "a search")]
            task = self.scheduler.task(_Reporting(function), plugins=several, batch_size=batch_size)
            task.on("comm-request", self._report)
        task.on_result(self._returned, hidden=True)
        task.on_exception(self._raised, hidden=True)
        task.on_cancelled(self._cancelled, hidden=True)
        return task

    def _begin(self) -> None:
        """Set what belongs to one run."""
        self._stock: deque[Trial] = deque()
        self._running: dict[Future[Any], tuple[Trial, float]] = {}
        self._ended: dict[int, Told] = {}  # not told yet
        self._pruned: set[int] = set()
        self._n_told = self._n_before = self._n_asked
        self._n_known_to_lack = -1  # so many results were told when the searcher had no more trials
        self._stopped = False
        self._ask_size = AskSize()
        self._round_s = self._trial_s = 0.0
        self._thinking: Thinking | None = None
        self._driver: asyncio.Task[Any] | None = None
        self._changed = asyncio.Event()
        self._window_began, self._n_in_window = time.monotonic(), 0

    # Running

    def run(self, *, wait: bool = True, display: Display = False) -> ExitState:
        """Run until all trials have ended, the searcher has no more, or the time is over.

        Args:
            wait: Whether the trials that run when the search ends early are waited for; otherwise they are cancelled.
            display: As for `Scheduler.run`.

        Raises:
            SearcherError: The searcher raised; what it was told until then is kept.
            TrialsFailedError: The first trials all failed.
            RuntimeError: The scheduler runs already.
        """
        with self._subscribed():
            return self.scheduler.run(timeout=self._timeout, wait=wait, display=display)

    async def async_run(self, *, wait: bool = True, display: Display = False) -> ExitState:
        """The same as `run`, in a loop that is already running."""
        with self._subscribed():
            return await self.scheduler.async_run(timeout=self._timeout, wait=wait, display=display)

    def stop(self) -> None:
        """Propose no more trials. Those that run are waited for; for callbacks of `on_trial`."""
        self._stopped = True
        self._stock.clear()
        self._changed.set()

    @contextmanager
    def _subscribed(self) -> Generator[None]:
        """Take part in a run of the scheduler."""
        self.scheduler.refuse_second_run()
        self._begin()
        thinking = self._thinking = Thinking(self.searcher, self._place, self._n_asked)
        self.scheduler.on_start(self._start, hidden=True)
        self.scheduler.on_finishing(self._finishing, hidden=True)
        try:
            yield
        except SearcherError:
            self._ended.clear()  # it raised once, and would probably raise again
            raise
        finally:
            self.scheduler.on_start.unregister(self._start)
            self.scheduler.on_finishing.unregister(self._finishing)
            self.dispatcher = None
            told = [(number, self._ended[number]) for number in sorted(self._ended)]
            searcher = thinking.close(told)  # what ended after the run was stopped
            if searcher is not None:
                self.searcher = searcher

    def _start(self) -> None:
        executor = self.scheduler.executor
        self.dispatcher = self.scheduler.dispatcher
        self._inline = capabilities_of(executor).inline
        self._slots = self.n_workers or most_at_once(executor) or 1
        if self._place == "loop":
            self._think_at_once()
        else:
            self._driver = self.spawn(self._drive(), "while the searcher was thinking")

    def _finishing(self) -> None:
        """The run is ending, and does not wait for the searcher: what ends from now on is told to it afterwards."""
        self._stopped = True
        if self._driver is not None:
            self._driver.cancel()

    async def _drive(self) -> None:
        """Tell the searcher results and ask it for trials, until there are no more."""
        assert self._thinking is not None
        while True:
            told, wanted, n_told = self._next_round()
            if told or wanted:
                self._take(wanted, await self._thinking.think(told, wanted, n_told))
            elif self._running or self._stock:
                self._changed.clear()
                await self._changed.wait()
            else:
                return

    def _think_at_once(self) -> None:
        """The same in a callback, for a searcher that thinks in the loop."""
        assert self._thinking is not None
        told, wanted, n_told = self._next_round()
        while told or wanted:
            self._take(wanted, self._thinking.think_now(told, wanted, n_told))
            told, wanted, n_told = self._next_round()

    def _next_round(self) -> tuple[list[tuple[int, Told]], int, int | None]:
        """What to tell the searcher next, for how many trials to ask it, and `n_told` of these trials."""
        told = self._to_tell()
        wanted = self._wanted(len(told))
        for number, _ in told:
            del self._ended[number]
        self._n_told += len(told)
        return told, wanted, self._n_told if self._in_order else None

    def _to_tell(self) -> list[tuple[int, Told]]:
        if self._in_order:  # what has ended by now depends on durations: one at a time, once all are in flight
            first = self._n_told
            return [] if first not in self._ended or self._wanted(0) else [(first, self._ended[first])]
        return list(self._ended.items())

    def _wanted(self, n_telling: int) -> int:
        """For how many trials to ask the searcher now."""
        if self._stopped or self._n_known_to_lack == self._n_told + n_telling:
            return 0
        left = math.inf if self.n_trials is None else self._n_before + self.n_trials - self._n_asked
        if self._in_order:
            in_flight = self._in_flight or self._slots
            return int(max(min(left, 1, in_flight - (self._n_asked - self._n_told - n_telling)), 0))
        room = self._slots * self.task.batch_size
        stock = 0.0
        if self._trial_s:  # what workers take while the searcher thinks
            stock = min(math.ceil(_STOCK_FACTOR * room * self._round_s / self._trial_s), 4 * room)
        lacking = room + stock - len(self._running) - len(self._stock)
        return self._ask_size.at_once(int(min(left, max(lacking, 0))))

    def _take(self, wanted: int, thought: Thought) -> None:
        """Take what the searcher has proposed."""
        trials = thought.trials
        if wanted:
            if trials:
                self._ask_size.learn(len(trials), thought.ask_s)
            else:
                self._n_known_to_lack = self._n_told
            seconds = thought.tell_s + thought.ask_s
            self._round_s = max(seconds, _FORGET * self._round_s)  # some rounds fit a model, and take far longer
        self._n_asked += len(trials)
        if not self._stopped:
            self._stock.extend(trials)
            self._feed()

    def _feed(self) -> None:
        """Submit trials while workers are free."""
        now = time.monotonic()
        room = self._slots * self.task.batch_size - len(self._running)
        while room > 0 and self._stock:
            trial = self._stock.popleft()
            future = self.task.submit(trial)
            if future is None:  # a plugin refused it, such as a limit on the number of calls
                self._finish(trial, Failure("cancelled"), 0.0)
                continue
            future.awaited = True  # how a trial ends is the searcher's to know, and does not end the run
            self._running[future] = trial, now
            room -= 1

    # What trials come to

    def _returned(self, future: Future[Any], result: Any) -> None:
        trial, _ = self._running[future]
        try:
            value = _value_of(result)
            told: Told = value if trial.number not in self._pruned else Failure("pruned", None, value)
        except (TypeError, ValueError) as error:
            told = Failure("crashed", error)
        self._call_ended(future, told)

    def _raised(self, future: Future[Any], error: BaseException) -> None:
        self._call_ended(future, failure_of(error))

    def _cancelled(self, future: Future[Any]) -> None:
        self._call_ended(future, Failure("cancelled", concurrent.futures.CancelledError(f"{future!r} was cancelled")))

    def _call_ended(self, future: Future[Any], told: Told) -> None:
        trial, began = self._running.pop(future)
        seconds = time.monotonic() - began
        self._trial_s = seconds if not self._trial_s else 0.9 * self._trial_s + 0.1 * seconds
        if self._auto_batch:
            self._choose_batch_size()
        self._finish(trial, told, seconds)
        if self.scheduler.running():
            self._feed()
            if self._place == "loop":
                self._think_at_once()

    def _finish(self, trial: Trial, told: Told, seconds: float) -> None:
        failure = told if isinstance(told, Failure) else None
        result = TrialResult(trial, None if isinstance(told, Failure) else told, failure, seconds)
        self.n_done += 1
        self._pruned.discard(trial.number)
        self._ended[trial.number] = told
        self._changed.set()
        if self._keep_trials:
            self.trials.append(result)
        if failure is not None:
            self._failed(trial, failure)
        elif isinstance(result.value, float) and self._is_better(result.value):
            self._best = result
        self.on_trial.emit(result)

    def _failed(self, trial: Trial, failure: Failure) -> None:
        self.n_failed += 1
        if failure.reason == "pruned":
            return
        level = logging.WARNING if self.n_failed == 1 else logging.INFO
        logger.log(level, "Trial %d with %s %s", trial.number, trial.params, failure, exc_info=failure.error)
        fewest = max(_FEWEST_FAILURES, self._slots)
        if failure.reason == "crashed" and self.n_failed == self.n_done == fewest and not self._keep_going:
            error = TrialsFailedError(self.n_failed, f"{type(failure.error).__name__}: {failure.error}")
            error.__cause__ = failure.error
            self.stop()
            self.scheduler.stop(stop_msg=str(error), exception=error)

    def _choose_batch_size(self) -> None:
        """Choose it by how much time of a worker a trial has taken lately, with what it costs to send it."""
        now = time.monotonic()
        self._n_in_window += 1
        if now - self._window_began < _WINDOW_S:
            return
        each = self._slots * (now - self._window_began) / self._n_in_window
        self.task.batch_size = min(max(int(_BATCH_S / each), 1), _LARGEST_BATCH)
        self._window_began, self._n_in_window = now, 0

    def _report(self, message: Comm.Msg[Any]) -> None:
        """Answer an intermediate value of a trial with whether it should stop."""
        if self._inline or self._place == "loop":  # the call or the searcher runs in this thread: nobody can wait
            assert self._thinking is not None
            self._answer(message, self._thinking.report_now(*message.data))
        else:
            self.spawn(self._answered(message), "while a trial reported a value")

    async def _answered(self, message: Comm.Msg[Any]) -> None:
        assert self._thinking is not None
        self._answer(message, await self._thinking.report(*message.data))

    def _answer(self, message: Comm.Msg[Any], stop: bool) -> None:
        if stop:
            self._pruned.add(message.data[0])
        message.respond(stop)

    # Results

    @property
    def best(self) -> TrialResult:
        """The result with the best value.

        Raises:
            LookupError: No trial has a value yet, or they have values of several objectives.
        """
        if self._best is not None:
            return self._best
        if self.n_done > self.n_failed:
            raise LookupError("no trial is the best by several objectives: compare those in search.trials")
        raise LookupError(f"no trial has a value yet: {self.n_done} have ended, {self.n_failed} of them failed")

    def df(self) -> pd.DataFrame:
        """The results as a table: a row for each trial, in the order of their numbers.

        Its columns are `value` (`value_0`, `value_1`, … of several objectives), `failure`, `seconds`, `seed`, `budget`,
        and the parameters as `params.…`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        import_extra("pandas", "Search.df", "pandas", "results")
        import pandas as pd

        rows = [_row(result) for result in sorted(self.trials, key=lambda each: each.trial.number)]
        return pd.DataFrame(rows, index=pd.Index([row.pop("number") for row in rows], name="trial"))

    def _is_better(self, value: float) -> bool:
        if self._best is None:
            return True
        best = cast("float", self._best.value)
        return value < best if self.mode == "min" else value > best

    def __repr__(self) -> str:
        of = "" if self.n_trials is None else f" of {self.n_trials}"
        return (
            f"<search by {type(self.searcher).__name__}: {self.n_done}{of} trials have ended, {self.n_failed} failed>"
        )


class _Reporting:
    """Calls the function with a trial that can report to the searcher."""

    def __init__(self, function: Callable[[Trial], Any]) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, trial: Trial, *, comm: Comm) -> Any:
        with comm.open():
            return self._function(trial.reporting(lambda step, value: bool(comm.request((trial.number, step, value)))))


def _row(result: TrialResult) -> dict[str, Any]:
    trial, value = result.trial, result.value
    row: dict[str, Any] = {"number": trial.number}
    if isinstance(value, tuple):
        row |= {f"value_{place}": one for place, one in enumerate(value)}
    else:
        row["value"] = value
    row["failure"] = None if result.failure is None else result.failure.reason
    row |= {"seconds": result.seconds, "seed": trial.seed, "budget": trial.budget}
    return row | {f"params.{name}": one for name, one in trial.params.items()}


def _value_of(result: Any) -> Value:
    """What the function of a trial returned, as numbers."""
    if isinstance(result, list | tuple):
        several = cast("Sequence[Any]", result)
        if several:
            return tuple(_number(one) for one in several)
    return _number(result)


def _number(result: Any) -> float:
    if isinstance(result, bool | str | bytes | None) or not hasattr(result, "__float__"):
        raise TypeError(f"the function returned {result!r}: must be a number, or a list of numbers")
    number = float(result)
    if math.isnan(number):
        raise ValueError("the function returned nan: must be a number, or raise an exception if the trial has no value")
    return number


def _check_searcher(searcher: object) -> None:
    if isinstance(searcher, type):
        raise TypeError(f"searcher={searcher.__name__}: is a class; create one, as in {searcher.__name__}(…)")
    for kind in type(searcher).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in _ADAPTERS:  # some of their objects have methods of the same names, with other arguments
            raise TypeError(f"searcher={searcher!r}: is an object of {library}: use {_ADAPTERS[library]}")
    missing = [name for name in ("ask", "tell") if not callable(getattr(searcher, name, None))]
    if missing:
        raise TypeError(f"searcher={searcher!r}: has no method {' and '.join(missing)}")


def _check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}: must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
