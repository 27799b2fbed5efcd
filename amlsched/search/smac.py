"""Searches by SMAC3: by its ask and tell under a `Search`, or with its own loop over any executor (`smac_runner`)."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from amlsched._surroundings import import_extra
from amlsched.executors.capabilities import most_at_once
from amlsched.search.trial import Failure, Trial, failure_of
from amlsched.task import each_plugin

import_extra("smac", "amlsched.search.smac", "SMAC3", "smac")
from smac.runhistory import StatusType, TrialInfo, TrialValue  # noqa: E402
from smac.runner.abstract_runner import AbstractRunner  # noqa: E402

from amlsched.search.configspace import plain  # noqa: E402

if TYPE_CHECKING:
    from types import CodeType
    from typing import Self

    from smac.facade.abstract_facade import AbstractFacade
    from smac.scenario import Scenario

    from amlsched.future import Future
    from amlsched.scheduler import Scheduler
    from amlsched.search.trial import Reason, Told
    from amlsched.task import Plugin, Task

__all__ = ["SmacRunner", "SmacSearcher", "smac_runner"]

logger = logging.getLogger(__name__)

_STATUS: dict[Reason, StatusType] = {"timeout": StatusType.TIMEOUT, "memory": StatusType.MEMORYOUT}
"""What SMAC has for a failure; anything else is CRASHED."""


class SmacSearcher:
    """Lets a facade of SMAC3 propose the trials.

        facade = HyperparameterOptimizationFacade(scenario, target_function=None)
        search = Search(SmacSearcher(facade), train, n_trials=100)

    The function gets the configuration as `trial.params`, SMAC's seed as `trial.seed` and its budget as `trial.budget`.
    The values go into SMAC's run history; failures are CRASHED, TIMEOUT or MEMORYOUT there, with the scenario's
    `crash_cost`.

    Args:
        facade: The facade. It needs no target function.

    Raises:
        ValueError: Its scenario has instances, which a `Trial` has no place for.
    """

    mode: Literal["min"] = "min"

    def __init__(self, facade: AbstractFacade) -> None:
        if facade.scenario.instances:
            raise ValueError(
                f"the scenario has {len(facade.scenario.instances)} instances, which a Trial has no place for: "
                "use smac_runner, whose target function gets the instance"
            )
        self.facade = facade
        self._crash_cost = facade.scenario.crash_cost

    def ask(self, n: int, /) -> list[Trial]:
        """Let SMAC propose `n` trials, or fewer if it has no more."""
        trials: list[Trial] = []
        for _ in range(n):
            try:
                info = self.facade.ask()
            except StopIteration:
                break
            trials.append(Trial(plain(info.config), seed=info.seed, budget=info.budget, handle=info))
        return trials

    def tell(self, results: Sequence[tuple[Trial, Told]], /) -> None:
        """Put values and failures into SMAC's run history."""
        for trial, told in results:
            self.facade.tell(trial.handle, _value(told, self._crash_cost), save=False)


class SmacRunner(AbstractRunner):
    """Runs the target function of an existing SMAC program with a scheduler of amlsched, on any executor.

        facade = HyperparameterOptimizationFacade(scenario, smac_runner(train, scenario, Scheduler.with_processes(4)))
        incumbent = facade.optimize()

    SMAC's own loop stays as it is. No dask client is needed. The limits `trial_walltime_limit` and `trial_memory_limit`
    of the scenario hold on every executor: amlsched's `Limits` enforces them. `n_workers` of the scenario becomes the
    number of trials that run at the same time; it is set to 1 there, as the facade would otherwise start a dask
    cluster.

    It runs the scheduler in a thread, from the first trial until `close`, or the end of the program.

    Args:
        target_function: The function, as SMAC takes it: it gets the configuration, and `seed`, `budget` and `instance`
            if it has such parameters.
        scenario: The scenario of the facade.
        scheduler: Where the function runs.
        n_workers: How many trials run at the same time; `None` for the scenario's number if that is above 1, or else
            for as many as the executor has workers.
        order: `"submission"` tells SMAC the results in the order of the trials, and waits for the oldest trial
            whenever all workers are busy: then SMAC decides the same in each run with the same number of workers.
        plugins: Further plugins of the task.

    Raises:
        TypeError: The target function is not callable, such as a script.
    """

    def __init__(
        self,
        target_function: Callable[..., Any],
        scenario: Scenario,
        scheduler: Scheduler,
        *,
        n_workers: int | None = None,
        order: Literal["completion", "submission"] = "completion",
        plugins: Plugin | Sequence[Plugin] = (),
    ) -> None:
        if not callable(target_function):
            raise TypeError(f"target_function={target_function!r}: must be a function")
        if order not in ("completion", "submission"):
            raise ValueError(f"order={order!r}: must be 'completion' or 'submission'")
        parameters = inspect.signature(target_function).parameters
        super().__init__(scenario, [name for name in ("instance", "seed", "budget") if name in parameters])
        self._function = target_function
        self._scheduler = scheduler
        self._n_workers = n_workers or (scenario.n_workers if scenario.n_workers > 1 else None)
        object.__setattr__(scenario, "n_workers", 1)  # a frozen dataclass; see above
        self._in_order = order == "submission"
        target = _Target(target_function, tuple(self._required_arguments))
        self._task: Task[..., Any] = scheduler.task(
            target, plugins=[*_limits(scenario), *each_plugin(plugins, "smac_runner")]
        )
        self._task.on_result(self._returned, hidden=True)
        self._task.on_exception(self._raised, hidden=True)
        self._task.on_cancelled(self._cancelled, hidden=True)
        self._changed = threading.Condition()  # guards all that follows
        self._running: deque[_Submitted] = deque()  # submitted and not yet given to SMAC, oldest first
        self._give_oldest = False
        self._session: _Session | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """What identifies the runner: its target function."""
        function: object = getattr(self._function, "func", self._function)  # of a partial
        code: CodeType | None = getattr(function, "__code__", None)
        return {**super().meta, "code": str(code.co_code) if code is not None else type(function).__qualname__}

    def submit_trial(self, trial_info: TrialInfo) -> None:
        """Submit a trial, as soon as a worker is free."""
        session = self._running_session()
        submitted = _Submitted(trial_info, time.time())
        with self._changed:
            if not self._in_order:
                self._wait_for(lambda: self._n_unfinished() < session.slots, "a worker that is free")
            self._running.append(submitted)
        session.call(lambda: self._submit(submitted))

    def iter_results(self) -> Iterator[tuple[TrialInfo, TrialValue]]:
        """Yield what has ended; in the order of the trials, if so wanted."""
        while True:
            with self._changed:
                ended = self._next_ended()
            if ended is None:
                return
            yield ended.info, cast("TrialValue", ended.value)

    def wait(self) -> None:
        """Wait until a trial has ended."""
        with self._changed:
            self._give_oldest = self._in_order
            if self._running:
                self._wait_for(self._has_ended, "the end of a trial")

    def is_running(self) -> bool:
        """Whether trials were submitted that SMAC has not got back."""
        return bool(self._running)

    def count_available_workers(self) -> int:
        """How many more trials can run now."""
        session = self._running_session()
        with self._changed:
            return max(session.slots - self._n_unfinished(), 0)

    def run(
        self,
        config: Any,
        instance: str | None = None,
        budget: float | None = None,
        seed: int | None = None,
        additional_info: dict[str, Any] | None = None,
    ) -> tuple[StatusType, float | list[float], float, float, dict[str, Any]]:
        """Run a trial here and now. SMAC does not call it: trials run where the scheduler runs them."""
        info = TrialInfo(config, instance=instance, seed=seed, budget=budget)
        value = self._value_of(_Target(self._function, tuple(self._required_arguments))(info))
        return value.status, value.cost, value.time, value.cpu_time, value.additional_info

    def close(self) -> None:
        """End the run of the scheduler. Trials that are running are cancelled."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # In SMAC's thread

    def _running_session(self) -> _Session:
        if self._session is None:
            self._session = _Session(self._scheduler, self._n_workers, self._ended)
        self._session.check()
        return self._session

    def _n_unfinished(self) -> int:
        return sum(one.value is None for one in self._running)

    def _has_ended(self) -> bool:
        if self._in_order:
            return self._running[0].value is not None
        return any(one.value is not None for one in self._running)

    def _next_ended(self) -> _Submitted | None:
        """Take the next trial that SMAC may know the value of."""
        if not self._running:
            return None
        if self._in_order:
            session = self._running_session()
            if not self._give_oldest and len(self._running) < session.slots:
                return None  # whether it has ended depends on how long it takes
            self._give_oldest = False
            self._wait_for(self._has_ended, "the end of the oldest trial")
            return self._running.popleft()
        for one in self._running:
            if one.value is not None:
                self._running.remove(one)
                return one
        return None

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        began = time.monotonic()
        while not condition():
            if self._session is not None:
                self._session.check()
            if not self._changed.wait(60.0):
                logger.info("waiting for %s, for %.0f s now", what, time.monotonic() - began)

    # In the thread of the scheduler

    def _submit(self, submitted: _Submitted) -> None:
        try:
            future = self._task.submit(submitted.info)
        except Exception as error:
            self._end(submitted, failure_of(error))
            return
        if future is None:
            self._end(submitted, Failure("cancelled", RuntimeError("a plugin refused the trial")))
            return
        future.context = submitted

    def _returned(self, future: Future[Any], result: _Returned) -> None:
        submitted: _Submitted = future.context
        try:
            self._set(submitted, self._value_of(result))
        except Exception as error:
            self._end(submitted, failure_of(error))

    def _raised(self, future: Future[Any], error: BaseException) -> None:
        self._end(future.context, failure_of(error))

    def _cancelled(self, future: Future[Any]) -> None:
        self._end(future.context, Failure("cancelled", RuntimeError("the trial was cancelled")))

    def _end(self, submitted: _Submitted, failure: Failure) -> None:
        now = time.time()
        value = _value(failure, self._crash_cost, submitted.began, now)
        self._set(submitted, value)

    def _set(self, submitted: _Submitted, value: TrialValue) -> None:
        with self._changed:
            submitted.value = value
            self._changed.notify_all()

    def _ended(self) -> None:
        """The run of the scheduler has ended: whoever waits looks again."""
        with self._changed:
            self._changed.notify_all()

    def _value_of(self, returned: _Returned) -> TrialValue:
        cost = _cost(returned.cost, list(self._objectives))
        if cost is None:
            problem = ValueError(f"the target function returned {returned.cost!r}: must be a finite number")
            return _value(Failure("crashed", problem), self._crash_cost, returned.began, returned.ended)
        return TrialValue(
            cost,
            time=returned.ended - returned.began,
            cpu_time=returned.cpu_s,
            starttime=returned.began,
            endtime=returned.ended,
            additional_info=returned.more,
        )


smac_runner = SmacRunner
"""`SmacRunner`, as a function: `smac_runner(train, scenario, scheduler)`."""


@dataclass(eq=False)
class _Submitted:
    """A trial of SMAC, and its value once it has ended."""

    info: TrialInfo
    began: float
    value: TrialValue | None = None


class _Returned(NamedTuple):
    """What a target function returned, and how long it took, by the clock of its worker."""

    cost: Any
    more: dict[str, Any]
    began: float
    ended: float
    cpu_s: float


class _Target:
    """Calls a target function with what SMAC wants it to get.

    Args:
        function: The target function.
        names: Names of its parameters, besides the configuration.
    """

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        self._function, self._names = function, names
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, info: TrialInfo) -> _Returned:
        began, cpu = time.time(), time.process_time()
        result = self._function(info.config, **{name: getattr(info, name) for name in self._names})
        cpu_s = time.process_time() - cpu
        if isinstance(result, tuple):
            cost, more = cast("tuple[Any, dict[str, Any]]", result)
            return _Returned(cost, more, began, time.time(), cpu_s)
        return _Returned(result, {}, began, time.time(), cpu_s)


class _Session:
    """A run of a scheduler in a thread of its own.

    Args:
        scheduler: The scheduler.
        n_workers: How many calls run at the same time; `None` for as many as the executor has workers.
        ended: Called in that thread once the run has ended.
    """

    _loop: asyncio.AbstractEventLoop

    def __init__(self, scheduler: Scheduler, n_workers: int | None, ended: Callable[[], object]) -> None:
        self._scheduler = scheduler
        self._ended = ended
        self._error: BaseException | None = None
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amlsched-smac", daemon=True)
        self._thread.start()
        self._began.wait()
        self.check()
        self.slots = n_workers or most_at_once(scheduler.executor) or 1
        self._finalizer = weakref.finalize(self, _stop, scheduler, self._loop, self._thread)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread of the scheduler, soon."""
        self._loop.call_soon_threadsafe(function)

    def check(self) -> None:
        """Raise if the run has ended.

        Raises:
            RuntimeError: It has; its exception is the cause.
        """
        if self._error is not None or (self._began.is_set() and not self._thread.is_alive()):
            raise RuntimeError("the run of the scheduler has ended, so SMAC's trials cannot run") from self._error

    def close(self) -> None:
        """End the run."""
        self._finalizer()

    def _run(self) -> None:
        self._scheduler.on_start(self._start, hidden=True)
        try:
            self._scheduler.run(end_on_empty=False, wait=False, on_exception="continue", on_cancelled="continue")
        except BaseException as error:
            self._error = error
        finally:
            self._scheduler.on_start.unregister(self._start)
            self._began.set()
            self._ended()

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began.set()


def _stop(scheduler: Scheduler, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if thread.is_alive():
        loop.call_soon_threadsafe(scheduler.stop)
        thread.join(30.0)


def _limits(scenario: Scenario) -> list[Plugin]:
    """The limits of a scenario as a plugin, if there are any."""
    seconds, memory = scenario.trial_walltime_limit, scenario.trial_memory_limit
    if seconds is None and memory is None:
        return []
    from amlsched.plugins import Limits

    n_bytes: int | None = None
    if memory is not None:
        given: Any = memory  # a number of MB, or a pair of a number and a unit
        amount, unit = cast("tuple[float, str]", given) if isinstance(given, tuple | list) else (given, "MB")
        n_bytes = math.ceil(amount) * _UNITS[unit.upper()]
    return [Limits(walltime_s=None if seconds is None else math.ceil(seconds), memory_bytes=n_bytes)]


_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
"""Units of `trial_memory_limit`, which pynisher counts in powers of 1024."""


def _cost(cost: Any, objectives: Sequence[str]) -> float | list[float] | None:
    """The costs that a function returned, as SMAC keeps them; `None` if they are not finite."""
    if cost is None:
        return None
    if isinstance(cost, Mapping):
        by_name = cast("Mapping[str, float]", cost)
        missing = [name for name in objectives if name not in by_name]
        if missing:
            raise ValueError(f"the target function returned no {missing[0]!r}: it returned {by_name!r}")
        several = [float(by_name[name]) for name in objectives]
    elif isinstance(cost, Iterable):
        several = [float(one) for one in cast("Iterable[float]", cost)]
    else:
        several = [float(cost)]
    if len(several) != len(objectives):
        raise ValueError(f"the target function returned {cost!r}, but the objectives are {', '.join(objectives)}")
    if not all(map(math.isfinite, several)):
        return None
    return several[0] if len(several) == 1 else several


def _value(told: Told, crash_cost: float | list[float], began: float = 0.0, ended: float = 0.0) -> TrialValue:
    """A value or failure, as SMAC keeps it."""
    if not isinstance(told, Failure):
        return TrialValue(list(told) if isinstance(told, tuple) else told, starttime=began, endtime=ended)
    if told.reason == "pruned" and told.value is not None:
        return _value(told.value, crash_cost, began, ended)
    return TrialValue(
        crash_cost,
        time=ended - began,
        status=_STATUS.get(told.reason, StatusType.CRASHED),
        starttime=began,
        endtime=ended,
        additional_info={"error": str(told)},
    )
