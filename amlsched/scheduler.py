"""The scheduler: runs calls on one executor, from one asyncio loop, and emits their events."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from amlsched._checks import check_flag, check_seconds
from amlsched._mapping import gather, gather_in_own_run, until_own_run_ended
from amlsched._signals import event_loop, handled
from amlsched._spelling import as_question, most_similar
from amlsched._surroundings import open_descriptors
from amlsched.errors import SchedulerNotRunningError
from amlsched.events import Emitter, Event, Subscriber
from amlsched.executors import dask, jobqueue, local, ray
from amlsched.executors.capabilities import capabilities_of, kill_workers, loop_factory_of
from amlsched.executors.scatter import Shared, is_shared, with_shared
from amlsched.executors.user_function import check_function
from amlsched.exit_state import ExitState, Policy, check_mode
from amlsched.receipts import Outcome, outcome
from amlsched.task import Plugin, Task, checked_retries

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from amlsched._run.loop import RunLoop
    from amlsched._task_types import (
        CommFirst,
        CommKeyword,
        CommSecond,
        CommThird,
        Plugins,
        Requested,
        TaskOptions,
    )
    from amlsched.estimates import Estimate, LearnedGroups
    from amlsched.estimates.estimator import Estimator
    from amlsched.exit_state import CancelledMode, ExceptionMode
    from amlsched.future import Future
    from amlsched.plugins.comm import CommPlugin
    from amlsched.policies import Policy as PlacingPolicy
    from amlsched.resources.pool import Pool
    from amlsched.resources.request import Wanted

__all__ = ["Scheduler", "check_executor"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
S = TypeVar("S", bound="Scheduler")
S_co = TypeVar("S_co", bound="Scheduler", covariant=True)

Order = Literal["completion", "submission"]
Display = bool | Literal["auto"] | Iterable[Any]
Estimates = bool | str | PathLike[str]

_OPTIONS = ("retries_on_loss", "receipts", "estimates", "pool", "policy")
"""The options that every constructor accepts in addition to those of its factory."""
_RETRIES_ON_LOSS = 3


class _Constructed(Protocol[P, S_co]):
    """The type of a constructor: the parameters of its factory, plus those of every scheduler.

    One signature cannot express both (PEP 612), so a call with one of the scheduler's own options is not checked
    further.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> S_co: ...

    @overload
    def __call__(
        self, *args: Any, retries_on_loss: int, receipts: bool = ..., estimates: Estimates = ..., **kwargs: Any
    ) -> S_co: ...

    @overload
    def __call__(self, *args: Any, receipts: bool, estimates: Estimates = ..., **kwargs: Any) -> S_co: ...

    @overload
    def __call__(self, *args: Any, estimates: Estimates, **kwargs: Any) -> S_co: ...

    @overload
    def __call__(self, *args: Any, pool: Pool | Sequence[Pool], **kwargs: Any) -> S_co: ...

    @overload
    def __call__(self, *args: Any, policy: Callable[[], PlacingPolicy], **kwargs: Any) -> S_co: ...

    def __call__(self, *args: Any, **kwargs: Any) -> S_co: ...


class _Constructor(Generic[P]):
    """A classmethod made from a factory of executors: its docstring, and its signature with the scheduler's options."""

    def __init__(self, factory: Callable[P, Executor]) -> None:
        self.factory = factory

    def __get__(self, instance: object, owner: type[S]) -> _Constructed[P, S]:
        @functools.wraps(self.factory)
        def construct(*args: Any, **kwargs: Any) -> S:
            options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
            if options.get("pool") is not None:
                kwargs = _for_pool(options["pool"], inspect.signature(self.factory), args, kwargs)
            factory = partial(self.factory, *args, **kwargs)
            return owner._from_factory(factory, **options)  # pyright: ignore[reportPrivateUsage]

        vars(construct)["__signature__"] = _with_options(inspect.signature(self.factory))
        return cast("_Constructed[P, S]", construct)


def _with_options(signature: inspect.Signature) -> inspect.Signature:
    """The signature of a factory, extended by the options of every scheduler."""
    own = [
        parameter for name, parameter in inspect.signature(Scheduler.__init__).parameters.items() if name in _OPTIONS
    ]
    theirs = list(signature.parameters.values())
    place = len(theirs) - any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs)
    return signature.replace(parameters=[*theirs[:place], *own, *theirs[place:]])


class Scheduler(Emitter):
    """Runs functions on an executor and emits events about their progress and results.

        scheduler = Scheduler.with_processes(4)
        task = scheduler.task(train)

        @scheduler.on_start
        def start():
            task.submit(seed=0)

        @task.on_result
        def report(future, result): ...

        scheduler.run()

    An executor passed in remains the caller's: the scheduler never shuts it down. An executor created by a `with_…`
    constructor belongs to the scheduler: it is shut down after each run and recreated for the next. To keep the workers
    over several runs, use the scheduler as a context manager.

    Args:
        executor: Where calls run.
        terminate: How to terminate the workers when a run does not wait for its calls (`wait=False`, Ctrl-C): `True`
            for amlsched's own way for this kind of executor, `False` to leave them running, or a function that takes
            the executor.
        retries_on_loss: How often to retry a call whose worker was lost through no fault of its function, for example
            because the worker was killed or its node failed. Use 0 for functions that must never run twice. Every
            constructor accepts it.
        receipts: Whether to measure each call where it runs; see `outcome`. Every constructor accepts it.
        estimates: Whether to learn from the calls that finish how long the others take; see `estimate`. A path is a
            file that keeps what was learned for the next run. Calls are measured as with `receipts`. Every constructor
            accepts it.
        pool: What calls may use together: each call waits until what it requests is free. `None` for what this process
            may use of the machine, if a task has `resources`; several pools, one for each node, in a simulation. Every
            constructor accepts it; where it creates the workers, there is one for each CPU of the pool, unless
            `max_workers` is given.
        policy: Decides which call starts next: a class such as `ArrivalOrder`, or a function that creates a policy for
            a run; `None` for `Portfolio`. Every constructor accepts it.

    Raises:
        TypeError: `executor` is not a `concurrent.futures.Executor`, or an argument has the wrong type.
        ValueError: `retries_on_loss` is below 0, or a newer version of amlsched wrote the file of `estimates`.
        OSError: The file of `estimates` cannot be read, or its folder cannot be written.
    """

    STARTED: ClassVar[Event[[], Any]] = Event("on_start", ())
    """The run has started: submit the first calls here."""
    FINISHING: ClassVar[Event[[], Any]] = Event("on_finishing", ())
    """The run is ending and accepts no more calls; it may still wait for running ones."""
    FINISHED: ClassVar[Event[[], Any]] = Event("on_finished", ())
    """The run has finished: no event follows."""
    STOP: ClassVar[Event[[str, BaseException | None], Any]] = Event("on_stop", ("msg", "exception"))
    """The run was stopped: by `stop`, an exception, a cancelled call or a signal."""
    TIMEOUT: ClassVar[Event[[], Any]] = Event("on_timeout", ())
    """The run reached its `timeout`."""
    EMPTY: ClassVar[Event[[], Any]] = Event("on_empty", ())
    """No calls remain. A callback may submit more to keep the run going, unless the run has already ended."""
    FUTURE_SUBMITTED: ClassVar[Event[[Any], Any]] = Event("on_future_submitted", ("future",))
    """A call was submitted."""
    FUTURE_DONE: ClassVar[Event[[Any], Any]] = Event("on_future_done", ("future",))
    """A call finished with a result or an exception; emitted before `on_future_result` or `on_future_exception`."""
    FUTURE_CANCELLED: ClassVar[Event[[Any], Any]] = Event("on_future_cancelled", ("future",))
    """A call was cancelled."""
    FUTURE_RESULT: ClassVar[Event[[Any, Any], Any]] = Event("on_future_result", ("future", "result"))
    """A call returned."""
    FUTURE_EXCEPTION: ClassVar[Event[[Any, BaseException], Any]] = Event("on_future_exception", ("future", "exception"))
    """A call raised, or its worker was lost."""
    FUTURE_RETRY: ClassVar[Event[[Any, BaseException, int], Any]] = Event(
        "on_future_retry", ("future", "exception", "attempt")
    )
    """A call failed and will be retried; with its exception and the number of the failed attempt, from 1."""

    on_start: Subscriber[[], Any]
    on_finishing: Subscriber[[], Any]
    on_finished: Subscriber[[], Any]
    on_stop: Subscriber[[str, BaseException | None], Any]
    on_timeout: Subscriber[[], Any]
    on_empty: Subscriber[[], Any]
    on_future_submitted: Subscriber[[Future[Any]], Any]
    on_future_done: Subscriber[[Future[Any]], Any]
    on_future_cancelled: Subscriber[[Future[Any]], Any]
    on_future_result: Subscriber[[Future[Any], Any], Any]
    on_future_exception: Subscriber[[Future[Any], BaseException], Any]
    on_future_retry: Subscriber[[Future[Any], BaseException, int], Any]

    with_sequential = _Constructor(local.sequential)
    with_threads = _Constructor(local.threads)
    with_processes = _Constructor(local.processes)
    with_loky = _Constructor(local.loky)
    with_dask = _Constructor(dask.dask)
    with_slurm = _Constructor(jobqueue.slurm)
    with_slurm_allocation = _Constructor(jobqueue.slurm_allocation)
    with_pbs = _Constructor(jobqueue.pbs)
    with_sge = _Constructor(jobqueue.sge)
    with_lsf = _Constructor(jobqueue.lsf)
    with_moab = _Constructor(jobqueue.moab)
    with_oar = _Constructor(jobqueue.oar)
    with_htcondor = _Constructor(jobqueue.htcondor)
    with_jobqueue = _Constructor(jobqueue.jobqueue)
    with_dask_jobqueue = with_jobqueue
    with_ray = _Constructor(ray.ray)
    with_simulation = _Constructor(local.simulation)

    def __init__(
        self,
        executor: Executor,
        *,
        terminate: bool | Callable[[Executor], object] = True,
        retries_on_loss: int = _RETRIES_ON_LOSS,
        receipts: bool = False,
        estimates: Estimates = False,
        pool: Pool | Sequence[Pool] | None = None,
        policy: Callable[[], PlacingPolicy] | None = None,
    ) -> None:
        if not isinstance(executor, Executor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Scheduler needs a concurrent.futures.Executor, not {executor!r}; {_remedy(executor)}")
        if not isinstance(terminate, bool) and not callable(terminate):
            raise TypeError(f"terminate={terminate!r}: must be True, False or a function that takes the executor")
        check_flag("receipts", receipts)
        super().__init__(name="scheduler")
        self._given: Executor | None = executor
        self._factory: Callable[[], Executor] | None  # set if we own the executor
        self._factory = dask.in_place_of(executor)
        self._executor: Executor | None = executor if self._factory is None else None
        self._keep = False  # in a `with` block: our executor is kept between runs
        self._terminate: Callable[[Executor], object] | None
        self._terminate = terminate if callable(terminate) else (kill_workers if terminate else None)
        self.retries_on_loss = checked_retries(retries_on_loss)
        self.receipts = receipts or estimates is not False
        self._pools = _checked_pools(pool, executor)
        if policy is not None and not callable(policy):
            raise TypeError(f"policy={policy!r}: must be a class such as amlsched.policies.ArrivalOrder, or a function")
        self._policy = policy
        self.loop_factory = loop_factory_of(executor)
        self._elapsed_s = 0.0
        self._tasks: list[Task[..., Any]] = []
        self.renderables: list[Any] = []
        self._run: RunLoop | None = None
        self._has_shared = False  # while false, `submit` need not search arguments for handles
        self.on_start = self.subscriber(self.STARTED)
        self.on_finishing = self.subscriber(self.FINISHING)
        self.on_finished = self.subscriber(self.FINISHED)
        self.on_stop = self.subscriber(self.STOP)
        self.on_timeout = self.subscriber(self.TIMEOUT)
        self.on_empty = self.subscriber(self.EMPTY)
        self.on_future_submitted = self.subscriber(self.FUTURE_SUBMITTED)
        self.on_future_done = self.subscriber(self.FUTURE_DONE)
        self.on_future_cancelled = self.subscriber(self.FUTURE_CANCELLED)
        self.on_future_result = self.subscriber(self.FUTURE_RESULT)
        self.on_future_exception = self.subscriber(self.FUTURE_EXCEPTION)
        self.on_future_retry = self.subscriber(self.FUTURE_RETRY)
        self._estimator = _estimator_for(self, estimates) if estimates is not False else None

    @classmethod
    def _from_factory(cls, factory: Callable[[], Executor], **options: Any) -> Self:
        checked_retries(options.get("retries_on_loss", 0))  # before any worker is started
        executor = factory()
        try:
            self = cls(executor, **options)
        except BaseException:  # such as for a pool that does not suit this executor
            executor.shutdown()
            raise
        self._given, self._factory = None, factory
        return self

    @classmethod
    def from_name(cls, name: str, **options: Any) -> Self:
        """Create a scheduler by the name of its executor, such as `"processes"` for `with_processes`.

        Args:
            name: The part of the constructor's name after `with_`.
            **options: The constructor's arguments.

        Raises:
            ValueError: There is no such constructor, or it has no such option; the message lists the valid ones.
        """
        check_executor(name, options)
        made: Self = getattr(cls, f"with_{name}")(**options)
        return made

    # Running

    def run(
        self,
        *,
        timeout: float | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: ExceptionMode | Mapping[type[Exception], ExceptionMode] = "raise",
        on_cancelled: CancelledMode = "raise",
        order: Order = "completion",
        asyncio_debug_mode: bool = False,
        display: Display = False,
    ) -> ExitState:
        """Run until no calls remain or something stops the run, and return why it ended.

        Ctrl-C, SIGTERM and a closed terminal end the run gracefully: no more calls are accepted, `on_stop` is emitted,
        running calls are cancelled, the workers are terminated, and KeyboardInterrupt (or SystemExit with 128 plus the
        signal's number) is raised. A second Ctrl-C kills at once.

        Args:
            timeout: Seconds after which the run ends; `None` for no limit.
            end_on_empty: Whether to end the run if no calls remain after the callbacks of `on_empty`.
            wait: Whether a run that ends early waits for its running calls and emits their events. Otherwise they are
                cancelled and the workers are terminated. Calls that have not started are cancelled either way.
            on_exception: How to handle an exception of a call or a callback: `"raise"` ends the run and raises it,
                `"end"` ends the run, `"continue"` goes on; or a mapping from exception types to these, in which the
                first matching type decides, and `"raise"` applies if none matches. A call that raises something other
                than an `Exception`, for example by `sys.exit`, fails with a `CallAbortedError`. If a callback raises
                something other than an `Exception`, such as KeyboardInterrupt, the run always ends and raises it.
            on_cancelled: The same for a call that is cancelled during the run.
            order: `"completion"` reports calls as they finish, `"submission"` in the order in which they were
                submitted, so that the callbacks' decisions do not depend on the workers' timing.
            asyncio_debug_mode: Whether asyncio runs in its debug mode.
            display: Whether to show workers, queue, rates, tasks and plugins during the run: drawn by rich on a
                terminal, one line every few seconds elsewhere. `"auto"` shows them on a terminal or in a notebook only.
                A list adds further renderables of rich.

        Raises:
            RuntimeError: The scheduler is already running, or an asyncio loop runs in this thread.
            TypeError: An argument has a type that it cannot have.
            ValueError: An argument has a value that it cannot have.
            concurrent.futures.CancelledError: A call was cancelled, under `on_cancelled="raise"`.
        """
        self.refuse_second_run()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "scheduler.run() cannot be used while an asyncio loop is running: await scheduler.async_run() instead"
            )
        check_flag("asyncio_debug_mode", asyncio_debug_mode)
        open_descriptors()
        with handled(self.interrupt, self.kill), event_loop(asyncio_debug_mode, self.loop_factory) as loop:
            return loop.run_until_complete(
                self.async_run(
                    timeout=timeout,
                    end_on_empty=end_on_empty,
                    wait=wait,
                    on_exception=on_exception,
                    on_cancelled=on_cancelled,
                    order=order,
                    display=display,
                )
            )

    async def async_run(
        self,
        *,
        timeout: float | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: ExceptionMode | Mapping[type[Exception], ExceptionMode] = "raise",
        on_cancelled: CancelledMode = "raise",
        order: Order = "completion",
        display: Display = False,
    ) -> ExitState:
        """The same as `run`, in a loop that is already running; its owner handles signals."""
        if self._run is not None:
            await until_own_run_ended(self)
        self.refuse_second_run()
        check_mode("on_cancelled", on_cancelled)
        policy = Policy(on_exception)
        if order not in ("completion", "submission"):
            raise ValueError(f"order={order!r}: must be 'completion' or 'submission'")
        if timeout is not None:
            check_seconds("timeout", timeout, " or None")
        check_flag("end_on_empty", end_on_empty)
        check_flag("wait", wait)
        from amlsched._run.loop import RunLoop  # here: a fifth of the time of `import amlsched`

        showing = self._showing(display)
        try:
            runner = self._runner()
            run = RunLoop(
                self,
                runner,
                policy=policy,
                on_cancelled=on_cancelled,
                end_on_empty=end_on_empty,
                order=order,
                retries_on_loss=self.retries_on_loss,
                renew=self._renewed,
                receipts=self.receipts,
                pools=self._pools_of_run(capabilities_of(runner).places),
                placing_policy=self._policy,
                estimator=self._estimator,
            )
            self._begin(run)
            with showing:
                state = await run.run(timeout, wait, self.kill)
            if state.code is ExitState.Code.EXHAUSTED and not self._was_used():
                logger.warning("The run ended without a single call: submit calls in a callback of on_start")
            return state
        finally:
            self._finish()

    def _was_used(self) -> bool:
        """Whether a call was submitted, or the program had a callback that could do so."""
        return bool(self.on_future_submitted.count or self.on_start.handlers or self.on_empty.handlers)

    def stop(
        self, /, *args: Any, stop_msg: str | None = None, exception: BaseException | None = None, **kwargs: Any
    ) -> None:
        """End the run, if there is one. Accepts any arguments, so that it can be a callback of any event.

        Args:
            *args: Ignored.
            stop_msg: Passed to the callbacks of `on_stop`.
            exception: The reason: passed to them as well, and handled according to the run's `on_exception=`.
            **kwargs: Ignored.

        Raises:
            TypeError: `exception` is not an exception.
        """
        if exception is not None and not isinstance(exception, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"scheduler.stop(exception={exception!r}): must be an exception, such as ValueError('why')")
        if self._run is None:
            return
        message = stop_msg if stop_msg is not None else "scheduler.stop() was called"
        if exception is not None:
            self._run.fail(exception, message)
        self._run.end(ExitState.Code.STOPPED, message=message)

    def running(self) -> bool:
        """Whether the scheduler accepts calls."""
        return self._run is not None and self._run.accepting

    @property
    def has_run(self) -> bool:
        """Whether a run is in progress, even if it is ending."""
        return self._run is not None

    # Calls

    # Functions with a `comm` parameter: by keyword, or as one of the first three parameters.

    @overload
    def task(self, f: CommKeyword[R], /, *, plugins: Plugins, **options: Unpack[TaskOptions]) -> Task[..., R]: ...

    @overload
    def task(self, f: CommFirst[R], /, *, plugins: Plugins, **options: Unpack[TaskOptions]) -> Task[..., R]: ...

    @overload
    def task(self, f: CommSecond[R], /, *, plugins: Plugins, **options: Unpack[TaskOptions]) -> Task[..., R]: ...

    @overload
    def task(self, f: CommThird[R], /, *, plugins: Plugins, **options: Unpack[TaskOptions]) -> Task[..., R]: ...

    @overload
    def task(self, f: Callable[P, R], /, *, plugins: CommPlugin, **options: Unpack[TaskOptions]) -> Task[..., R]: ...

    @overload
    def task(
        self, function: Callable[P, R], *, plugins: Plugins = ..., **options: Unpack[TaskOptions]
    ) -> Task[P, R]: ...

    def task(
        self,
        function: Callable[..., Any],
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        init_plugins: bool = True,
        batch_size: int = 1,
        retries_on_loss: int | None = None,
        resources: Requested = None,
        priority: float | Callable[..., float] = 0,
        group: str | Callable[..., str] | None = None,
    ) -> Task[..., Any]:
        """Register a function as a task.

        Type checkers check the arguments of a call against the function's parameters, unless a plugin provides one of
        them: a function with a `comm: Comm` parameter is submitted without it, and its other arguments are not checked.

        Args:
            function: The function that each call runs.
            plugins: Plugins that change the task's behavior; each belongs to this task only.
            init_plugins: Whether to attach the plugins now.
            batch_size: How many calls to send to a worker at once; see `Task`.
            retries_on_loss: How often to retry a call whose worker was lost; `None` for the scheduler's value.
            resources: What each call needs while it runs; see `Task`.
            priority: Calls with a higher one go first; see `Task`.
            group: Name of the calls from which `estimates` learn together; see `Task`.
        """
        return Task(
            function,
            self,
            plugins=plugins,
            init_plugins=init_plugins,
            batch_size=batch_size,
            retries_on_loss=retries_on_loss,
            resources=resources,
            priority=priority,
            group=group,
        )

    def _pools_of_run(self, places: bool) -> Sequence[Pool] | None:
        """What calls of the run may use; `None` if no call requests anything.

        Args:
            places: Whether the executor has nodes of its own, so that what they have need not be given.
        """
        if self._pools is None and any(task.requests_resources for task in self._tasks):
            if places:
                return ()
            from amlsched.resources.pool import Pool

            return (Pool.here(),)
        return self._pools

    def _register(self, task: Task[..., Any]) -> None:
        if self._run is not None and task.requests_resources and not self._run.places_calls:
            raise RuntimeError(
                f"{task.name} has resources or a priority, but the run has begun without a pool: "
                "register the task before the run, or give the scheduler a pool"
            )
        if task.learns and self._estimator is None:
            if self._run is not None:
                raise RuntimeError(
                    f"{task.name} has resources='learn', but the run has begun without estimates: "
                    "register the task before the run, or create the scheduler with estimates=True"
                )
            self._estimator, self.receipts = _estimator_for(self, True), True
        task.dispatcher = self.dispatcher
        self._tasks.append(task)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call of a function that is not a task, and return its future.

        Raises:
            SchedulerNotRunningError: The scheduler is not running, or the run is ending.
            TypeError: `fn` is not callable, or calling it would run nothing: it is async or a generator function.
            NotPicklableError: An argument cannot be sent to a worker.
        """
        check_function(fn, "scheduler.submit")
        return self._submit(None, fn, args, kwargs)

    def _submit(
        self,
        task: Task[..., R] | None,
        function: Callable[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wanted: Wanted | None = None,
    ) -> Future[R]:
        if self._run is None:
            name = getattr(function, "__name__", repr(function))
            why = "the run of the scheduler has ended" if self.on_start.count else "the scheduler is not running"
            raise SchedulerNotRunningError(
                f"{name} cannot be submitted: {why}; submit in a callback, such as of on_start"
            )
        if self._has_shared:
            function = self._carrying(function, args, kwargs)
        return self._run.submit(task, function, args, kwargs, wanted)

    def _carrying(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., R]:
        """The function, wrapped to receive the shared objects if an argument is a handle of one."""
        found = False
        for each in (*args, *kwargs.values()):
            if is_shared(each):
                each.carry(self._runner())
                found = True
        return with_shared(function) if found else function

    def scatter(self, value: V) -> Shared[V]:
        """Share an object between calls: pass the returned handle as an argument, and the call receives the object.

        Calls that run in this process get the object itself. Elsewhere it is sent to each worker once, and all calls of
        a worker get the same object, so they must not modify it. It stays available to the workers for as long as the
        handle is alive.

        Args:
            value: The object to share.

        Raises:
            NotPicklableError: The object cannot be sent; raised by `submit`.
        """
        self._has_shared = True
        return Shared(value)

    async def gather(
        self, futures: Iterable[Awaitable[R]], *, max_in_flight: int | None = None, return_exceptions: bool = False
    ) -> list[R]:
        """Return the results of calls, in order: `await scheduler.gather(task(x) for x in xs)`.

        If the scheduler is not running, as in a notebook, this starts a run and ends it afterwards.

        Args:
            futures: Futures of calls. An iterator is consumed, and its calls are submitted, as earlier calls finish.
            max_in_flight: How many unfinished calls to take from it at most; `None` for all.
            return_exceptions: Whether to return exceptions in the list, instead of raising the first one.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: `max_in_flight` is below 1.
        """
        given: Any = futures
        if isinstance(given, Awaitable) or not isinstance(given, Iterable):  # asyncio's can be iterated over, too
            raise TypeError(f"futures={futures!r}: must be an iterable of futures, such as a list or a generator")
        check_flag("return_exceptions", return_exceptions)
        if self._run is None:
            return await gather_in_own_run(self, futures, max_in_flight, return_exceptions)
        return await gather(self._runner(), futures, max_in_flight, return_exceptions)

    def more_memory(
        self, future: Future[Any], error: BaseException, factor: float, most: float = math.inf
    ) -> int | None:
        """Have the next attempt of a call that ran out of memory request more of the pool; for plugins that retry.

        Args:
            future: The call.
            error: Its exception.
            factor: By which to multiply what it requested, above 1.
            most: Bytes beyond which the request does not grow; it never grows beyond the largest node.

        Returns:
            What it requests now, in bytes; `None` if that is no more than before, as it requests no memory, or all.
        """
        return None if self._run is None else self._run.more_memory(future, error, factor, most)

    def call_later(
        self, delay: float, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.TimerHandle:
        """Call a function after `delay` seconds, as a callback of this run; the returned timer can be cancelled.

        An `async def` function runs as a task of the loop. A pending timer does not keep the run from ending.

        Raises:
            SchedulerNotRunningError: The scheduler is not running.
            TypeError: `delay` is not a number, or `fn` is not callable.
            ValueError: `delay` is below 0 or not finite.
        """
        check_seconds("delay", delay)
        if not callable(fn):
            raise TypeError(f"call_later needs a function, not {fn!r}")
        if self._run is None:
            raise SchedulerNotRunningError("call_later needs a running scheduler: use it in a callback")
        return self._run.call_later(delay, partial(fn, *args, **kwargs))

    def outcome(self, future: Future[Any]) -> Outcome:
        """When and where a call ran and which resources it used; complete once the call has finished.

        Raises:
            RuntimeError: The scheduler was created without `receipts=True`.
        """
        try:
            return outcome(future)
        except AttributeError:
            raise RuntimeError(
                f"{future!r} has no receipt: create its scheduler with receipts=True, which every constructor accepts"
            ) from None

    def estimate(self) -> Estimate | None:
        """How long the present run still takes for the calls that were submitted: `print(scheduler.estimate())` prints
        `14 min left (11 to 19)`.

        The scheduler learns from the calls that finish. What calls it does not know yet, such as those that callbacks
        will submit, and workers that are still to come, is not part of the estimate.

        Returns:
            The estimate, with an interval of 80 %; `None` if nothing is known yet, as no call has finished.

        Raises:
            RuntimeError: The scheduler was created without `estimates=True`.
        """
        return self.estimator.estimate()

    def learned(self) -> LearnedGroups:
        """What is known of the calls of each group: their time, memory and CPUs, from this run and former ones.

        `print(scheduler.learned())` prints a table of what they used and requested, and what to request next time.

        Raises:
            RuntimeError: The scheduler was created without `estimates=True`.
        """
        return self.estimator.learned()

    @property
    def estimator(self) -> Estimator:
        """What learns, for displays.

        Raises:
            RuntimeError: The scheduler was created without `estimates=True`.
        """
        if self._estimator is None:
            raise RuntimeError(
                "there are no estimates: create the scheduler with estimates=True, or estimates='times.json' to keep "
                "what it learns, which every constructor accepts"
            )
        return self._estimator

    @property
    def estimates(self) -> bool:
        """Whether there are estimates."""
        return self._estimator is not None

    @property
    def queue(self) -> dict[Future[Any], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
        """The unfinished calls, oldest first, each with its function and arguments."""
        calls = self._run.calls if self._run is not None else []
        return {future: (future.function, future.args, dict(future.kwargs)) for future in calls}

    def empty(self) -> bool:
        """Whether all calls have finished."""
        return self._run is None or not self._run.calls

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the present run, or how long the last one took; virtual ones in a simulation."""
        return self._elapsed_s if self._run is None else self._run.elapsed_s

    @property
    def held_back(self) -> tuple[int, int]:
        """How many calls of the queue are finished and how many are cancelled, but not yet reported because of
        `order="submission"`.
        """
        return self._run.held_back if self._run is not None else (0, 0)

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The registered tasks, in the order of their registration."""
        return tuple(self._tasks)

    # Showing

    def add_renderable(self, renderable: Any) -> None:
        """Show a renderable of rich below the scheduler in its display."""
        self.renderables.append(renderable)

    def __rich__(self) -> Any:
        from amlsched.display.live import scheduler_view

        return scheduler_view(self)

    def _repr_html_(self) -> str | None:
        from amlsched.display.live import as_html

        return as_html(self)

    def _showing(self, display: Display) -> AbstractContextManager[object]:
        if display is False:
            return nullcontext()
        from amlsched.display.live import live  # only if a display is requested

        return live(self, display)

    # The executor

    @property
    def executor(self) -> Executor:
        """Where calls run: the executor passed in, or the scheduler's own, which is created when needed."""
        return self._given or self._runner()

    def _runner(self) -> Executor:
        """What calls are submitted to: the executor, or the one that runs calls on its behalf."""
        if self._executor is None:
            assert self._factory is not None
            self._executor = self._factory()
        return self._executor

    def __enter__(self) -> Self:
        self._keep = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep = False
        self._release()

    def refuse_second_run(self) -> None:
        """Raise RuntimeError if a run is in progress."""
        if self._run is not None:
            raise RuntimeError("the scheduler is already running: it can do one run at a time")

    def _begin(self, run: RunLoop) -> None:
        self._run = run
        self._reset_counts()
        for task in self._tasks:
            task._reset()  # pyright: ignore[reportPrivateUsage]
        for emitter in (self, *self._tasks):
            emitter.dispatcher = run

    def _finish(self) -> None:
        if self._run is not None:
            self._elapsed_s = self._run.elapsed_s
        self._run = None
        for emitter in (self, *self._tasks):
            emitter.dispatcher = None
        if not self._keep:
            self._release()

    def _release(self) -> None:
        """Shut down the executor if the scheduler owns it."""
        if self._factory is not None and self._executor is not None:
            executor, self._executor = self._executor, None
            executor.shutdown(wait=True)

    def _renewed(self) -> Executor | None:
        """Replace a broken executor; return `None` if the scheduler does not own it."""
        if self._factory is None or self._executor is None:
            return None
        broken, self._executor = self._executor, None
        kill_workers(broken)  # some may have survived
        return self._runner()

    def kill(self) -> None:
        """Kill the workers at once, whatever they run. The scheduler recreates its own for the next run."""
        if self._executor is None:
            return
        executor = self._executor
        if self._factory is not None:
            self._executor = None
            kill_workers(executor)
        own = self._factory is None or self._terminate is not kill_workers
        if own and self._given is not None and self._terminate is not None:
            self._terminate(self._given)

    def interrupt(self, error: BaseException) -> bool:
        """End the run as Ctrl-C does, so that it raises this error. For signal handlers, in the loop's thread.

        Returns:
            Whether the run handles it; if not, the caller must raise the error itself.
        """
        run = self._run
        if run is None:
            return False
        run.interruption = error
        run.loop.call_soon_threadsafe(run.interrupt, error)
        return not run.executing  # a call that runs in this thread is interrupted by raising there


def _estimator_for(scheduler: Scheduler, estimates: object) -> Estimator:
    if estimates is not True and not isinstance(estimates, str | PathLike):
        raise TypeError(f"estimates={estimates!r}: must be True, False or the path of a file, such as 'times.json'")
    from pathlib import Path

    from amlsched.estimates.estimator import Estimator  # only if estimates are requested

    return Estimator(scheduler, None if estimates is True else Path(cast("str | PathLike[str]", estimates)))


def _checked_pools(pool: Any, executor: Executor) -> tuple[Pool, ...] | None:
    """The pools of a scheduler.

    Raises:
        TypeError: They are something else.
        ValueError: There is none, or there are several, and the executor runs calls.
    """
    if pool is None:
        return None
    from amlsched.resources.pool import Pool
    from amlsched.resources.request import is_sequence

    pools: tuple[Any, ...] = tuple(cast("Sequence[Any]", pool)) if is_sequence(pool) else (pool,)
    if not all(isinstance(each, Pool) for each in pools):
        raise TypeError(f"pool={pool!r}: must be a Pool, such as amlsched.resources.Pool(cpus=8, memory='32 GB')")
    known = capabilities_of(executor)
    if known.remote and not known.places:
        raise ValueError(
            f"pool={pool!r}: not with {type(executor).__name__}, whose workers are on other hosts and cannot be "
            "chosen: request resources from the cluster's own scheduler"
        )
    several = known.virtual or known.places
    if not pools or (len(pools) > 1 and not several):
        raise ValueError(
            f"pool={pool!r}: must be one Pool; several, one for each node, are for clusters of dask and Ray, "
            "jobs of batch systems, and simulations"
        )
    for each in () if several else pools:
        each.warn_if_larger_than_this_machine()
    return pools


def _for_pool(pool: Any, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a factory, with the defaults that a pool implies."""
    from amlsched.resources.pool import Pool
    from amlsched.resources.request import is_sequence

    given_pools = cast("Sequence[Any]", pool) if is_sequence(pool) else [pool]
    pools = [each for each in given_pools if isinstance(each, Pool)]  # others are an error of the scheduler
    given = signature.bind_partial(*args, **kwargs).arguments
    implied = {"max_workers": max(1, sum(math.ceil(each.cpus) for each in pools))}
    if any(each.gpus for each in pools):
        implied["max_tasks_per_child"] = 1  # a process selects its GPUs once
    return {**kwargs, **{k: v for k, v in implied.items() if k in signature.parameters and given.get(k) is None}}


def _remedy(given: object) -> str:
    """What to do if this object was passed as an executor."""
    if type(given).__module__.startswith(("dask", "distributed.")):
        return "pass clients and clusters of dask to Scheduler.with_dask(…)"
    return "Scheduler.with_processes(), with_threads() and the other constructors create one"


def executor_names() -> list[str]:
    """The names that `Scheduler.from_name` accepts."""
    signatures = {
        key.removeprefix("with_"): inspect.signature(getattr(Scheduler, key))
        for key, one in vars(Scheduler).items()
        if isinstance(one, _Constructor)
    }
    return sorted(
        key for key, one in signatures.items() if not any(p.kind is p.POSITIONAL_ONLY for p in one.parameters.values())
    )


def check_executor(name: str, options: Mapping[str, Any]) -> None:
    """Check that `Scheduler.from_name` has a constructor of this name that accepts these options.

    Raises:
        ValueError: It has none; the message lists the valid names and suggests the closest one.
    """
    names = executor_names()
    if name not in names:
        hint = as_question(most_similar(name.lower().replace("-", "_"), names, 0.6))
        raise ValueError(f"there is no executor {name!r} ({hint}there are: {', '.join(names)})")
    signature = inspect.signature(getattr(Scheduler, f"with_{name}"))
    known = [key for key, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD]
    any_other = len(known) < len(signature.parameters)
    unknown = [key for key in options if key not in known]
    near = {key: found for key in unknown if (found := most_similar(key, known, 0.9 if any_other else 0.6))}
    wrong = next(iter([*near, *unknown]), "")  # the others may be options of what the factory calls
    try:
        signature.bind(**options)
        problem = f"has no option {wrong!r}" if near else ""
    except TypeError as error:
        problem = f"has no option {wrong!r}" if unknown and not any_other else str(error)
    if problem:
        raise ValueError(
            f"executor {name!r}: {problem} ({as_question(near.get(wrong))}its options: {', '.join(known)})"
        )
