"""The scheduler: one executor, one asyncio loop, and the events of what runs there."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from amlsched._checks import check_flag, check_seconds
from amlsched._surroundings import open_descriptors
from amlsched.bounded import gather, gather_in_own_run, until_given_up
from amlsched.errors import SchedulerNotRunningError
from amlsched.events import Emitter, Event, Subscriber
from amlsched.executors import dask, jobqueue, local, ray
from amlsched.executors._user_function import check_function
from amlsched.executors.capabilities import kill_workers
from amlsched.executors.shared import Shared, is_shared, with_shared
from amlsched.exit_state import ExitState, Policy, check_mode
from amlsched.receipts import Outcome, outcome
from amlsched.signals import event_loop, handled
from amlsched.task import Plugin, Task, checked_retries

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from amlsched._task_types import CommFirst, CommKeyword, CommSecond, CommThird, Plugins, TaskOptions
    from amlsched.exit_state import CancelledMode, ExceptionMode
    from amlsched.future import Future
    from amlsched.plugins.comm import CommPlugin
    from amlsched.run_loop import RunLoop

__all__ = ["Scheduler", "check_executor"]

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")
S = TypeVar("S", bound="Scheduler")
S_co = TypeVar("S_co", bound="Scheduler", covariant=True)

Order = Literal["completion", "submission"]
Display = bool | Literal["auto"] | Iterable[Any]

_OPTIONS = ("retries_on_loss", "receipts")
"""What every constructor takes, beside what its factory takes."""
_RETRIES_ON_LOSS = 3


class _Constructed(Protocol[P, S_co]):
    """What a constructor is called with: what its factory takes, and what any scheduler does.

    The two kinds of parameters cannot be written in one signature (PEP 612); hence a call with one of the scheduler's
    own is not checked further.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> S_co: ...

    @overload
    def __call__(self, *args: Any, retries_on_loss: int, receipts: bool = ..., **kwargs: Any) -> S_co: ...

    @overload
    def __call__(self, *args: Any, receipts: bool, **kwargs: Any) -> S_co: ...

    def __call__(self, *args: Any, **kwargs: Any) -> S_co: ...


class _Constructor(Generic[P]):
    """A classmethod with the docstring of the factory that it lifts, and its signature with the scheduler's options."""

    def __init__(self, factory: Callable[P, Executor]) -> None:
        self.factory = factory

    def __get__(self, instance: object, owner: type[S]) -> _Constructed[P, S]:
        @functools.wraps(self.factory)
        def construct(*args: Any, **kwargs: Any) -> S:
            options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
            factory = partial(self.factory, *args, **kwargs)
            return owner._from_factory(factory, **options)  # pyright: ignore[reportPrivateUsage]

        vars(construct)["__signature__"] = _with_options(inspect.signature(self.factory))
        return cast("_Constructed[P, S]", construct)


def _with_options(signature: inspect.Signature) -> inspect.Signature:
    """The signature of a factory, with what any scheduler takes."""
    own = [
        parameter for name, parameter in inspect.signature(Scheduler.__init__).parameters.items() if name in _OPTIONS
    ]
    theirs = list(signature.parameters.values())
    place = len(theirs) - any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs)
    return signature.replace(parameters=[*theirs[:place], *own, *theirs[place:]])


class Scheduler(Emitter):
    """Runs functions on an executor, and tells by events what becomes of them.

        scheduler = Scheduler.with_processes(4)
        task = scheduler.task(train)

        @scheduler.on_start
        def start():
            task.submit(seed=0)

        @task.on_result
        def report(future, result): ...

        scheduler.run()

    An executor that is given stays the caller's: it is left open. One that a `with_…` constructor makes belongs to the
    scheduler: it is shut down at the end of each run and made anew for the next, unless the scheduler is used as a
    context manager, which keeps the workers over several runs.

    Args:
        executor: Where calls run.
        terminate: What ends the workers of the executor when a run does not wait for its calls (`wait=False`, Ctrl-C):
            `True` for what amlsched knows of this kind of executor, `False` for nothing, or a function of the executor.
        retries_on_loss: How often a call is run again that lost its worker, through no fault of its function: the
            worker was killed, its node went down. 0 for functions that must never run twice. Every constructor takes
            it.
        receipts: Whether each call is measured where it runs; see `outcome`. Every constructor takes it.

    Raises:
        TypeError: `executor` is no `concurrent.futures.Executor`.
        ValueError: `retries_on_loss` is below 0.
    """

    STARTED: ClassVar[Event[[], Any]] = Event("on_start", ())
    """The run begins: the place to submit the first calls."""
    FINISHING: ClassVar[Event[[], Any]] = Event("on_finishing", ())
    """The run ends and takes no more calls; those that run may still be waited for."""
    FINISHED: ClassVar[Event[[], Any]] = Event("on_finished", ())
    """The run is over: no event follows."""
    STOP: ClassVar[Event[[str, BaseException | None], Any]] = Event("on_stop", ("msg", "exception"))
    """The run was stopped: by `stop`, an exception, a cancelled call or a signal."""
    TIMEOUT: ClassVar[Event[[], Any]] = Event("on_timeout", ())
    """The time given to the run is over."""
    EMPTY: ClassVar[Event[[], Any]] = Event("on_empty", ())
    """No call is left; a callback may submit more, and the run goes on, unless it has ended by the last of them."""
    FUTURE_SUBMITTED: ClassVar[Event[[Any], Any]] = Event("on_future_submitted", ("future",))
    """A call was submitted."""
    FUTURE_DONE: ClassVar[Event[[Any], Any]] = Event("on_future_done", ("future",))
    """A call ended with a result or an exception; emitted before those."""
    FUTURE_CANCELLED: ClassVar[Event[[Any], Any]] = Event("on_future_cancelled", ("future",))
    """A call was cancelled."""
    FUTURE_RESULT: ClassVar[Event[[Any, Any], Any]] = Event("on_future_result", ("future", "result"))
    """A call returned."""
    FUTURE_EXCEPTION: ClassVar[Event[[Any, BaseException], Any]] = Event("on_future_exception", ("future", "exception"))
    """A call raised, or its worker was lost."""
    FUTURE_RETRY: ClassVar[Event[[Any, BaseException, int], Any]] = Event(
        "on_future_retry", ("future", "exception", "attempt")
    )
    """A call failed and runs again; with what it failed of, and which attempt that was, counted from 1."""

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

    def __init__(
        self,
        executor: Executor,
        *,
        terminate: bool | Callable[[Executor], object] = True,
        retries_on_loss: int = _RETRIES_ON_LOSS,
        receipts: bool = False,
    ) -> None:
        if not isinstance(executor, Executor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Scheduler needs a concurrent.futures.Executor, not {executor!r}; {_remedy(executor)}")
        if not isinstance(terminate, bool) and not callable(terminate):
            raise TypeError(f"terminate={terminate!r}: must be True, False or a function of the executor")
        check_flag("receipts", receipts)
        super().__init__(name="scheduler")
        self._given: Executor | None = executor
        self._factory: Callable[[], Executor] | None  # set where what runs the calls is ours
        self._factory = dask.in_place_of(executor)
        self._executor: Executor | None = executor if self._factory is None else None
        self._keep = False  # in a `with` block: our executor outlives the run
        self._terminate: Callable[[Executor], object] | None
        self._terminate = terminate if callable(terminate) else (kill_workers if terminate else None)
        self.retries_on_loss = checked_retries(retries_on_loss)
        self.receipts = receipts
        self._tasks: list[Task[..., Any]] = []
        self.renderables: list[Any] = []
        self._run: RunLoop | None = None
        self._has_shared = False  # else no argument is looked at
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

    @classmethod
    def _from_factory(cls, factory: Callable[[], Executor], **options: Any) -> Self:
        checked_retries(options.get("retries_on_loss", 0))  # before workers are made
        self = cls(factory(), **options)
        self._given, self._factory = None, factory
        return self

    @classmethod
    def from_name(cls, name: str, **options: Any) -> Self:
        """A scheduler over the executor of this name, such as `"processes"` for `with_processes`.

        Args:
            name: What follows `with_` in the constructor's name.
            **options: The constructor's arguments.

        Raises:
            ValueError: There is no such constructor, or it takes no such option; the message lists those there are.
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
        """Run until no call is left, or until something ends the run; why it ended.

        Ctrl-C, SIGTERM and a closed terminal end the run in good order: no more calls are taken, `on_stop` fires, the
        calls that run are cancelled, the workers are ended, and KeyboardInterrupt (or SystemExit with 128 plus the
        signal's number) is raised. A second Ctrl-C kills at once.

        Args:
            timeout: Seconds after which the run ends; `None` for no bound.
            end_on_empty: Whether the run ends once no call is left after the callbacks of `on_empty`.
            wait: When the run ends before its calls: whether those that have started are waited for, and their events
                told. Otherwise they are cancelled and the workers are ended. Calls that have not started are
                cancelled either way.
            on_exception: What an exception does, of a call or of a callback: `"raise"` ends the run and raises it,
                `"end"` ends the run, `"continue"` changes nothing; or a mapping from types of exceptions to these, of
                which the first type that matches decides, and `"raise"` where none does. A call that raises what is
                no `Exception`, as by `sys.exit`, ends with a `CallAbortedError`. Of a callback, what is no
                `Exception`, such as KeyboardInterrupt, always ends the run and is raised.
            on_cancelled: The same for a call that is cancelled while the run goes on.
            order: `"completion"` tells of calls as they end, `"submission"` in the order in which they were submitted,
                so that the callbacks' decisions do not depend on the workers' timing.
            asyncio_debug_mode: Whether asyncio runs in its debug mode.
            display: Whether to show workers, queue, rates, tasks and plugins while the run goes on: drawn by rich on a
                terminal, a line every few seconds elsewhere. `"auto"` for a terminal or a notebook only; or a list of
                what else is to be shown, anything that rich can render.

        Raises:
            RuntimeError: The scheduler runs already, or an asyncio loop runs in this thread.
            TypeError: An argument has a type that it cannot have.
            ValueError: An argument has a value that it cannot have.
            concurrent.futures.CancelledError: A call was cancelled, under `on_cancelled="raise"`.
        """
        self.refuse_second_run()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("scheduler.run() cannot be used where an asyncio loop runs: await scheduler.async_run()")
        check_flag("asyncio_debug_mode", asyncio_debug_mode)
        open_descriptors()
        with handled(self.interrupt, self.kill), event_loop(asyncio_debug_mode) as loop:
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
        """The same as `run`, in a loop that runs already; signals are left to that loop's owner."""
        if self._run is not None:
            await until_given_up(self)
        self.refuse_second_run()
        check_mode("on_cancelled", on_cancelled)
        policy = Policy(on_exception)
        if order not in ("completion", "submission"):
            raise ValueError(f"order={order!r}: must be 'completion' or 'submission'")
        if timeout is not None:
            check_seconds("timeout", timeout, " or None")
        check_flag("end_on_empty", end_on_empty)
        check_flag("wait", wait)
        from amlsched.run_loop import RunLoop  # and with it a fifth of what `import amlsched` would take

        run = RunLoop(
            self,
            self._runner(),
            policy=policy,
            on_cancelled=on_cancelled,
            end_on_empty=end_on_empty,
            order=order,
            retries_on_loss=self.retries_on_loss,
            renew=self._renewed,
            receipts=self.receipts,
        )
        showing = self._showing(display)
        try:
            self._begin(run)
            with showing:
                return await run.run(timeout, wait, self.kill)
        finally:
            self._finish()

    def stop(
        self, /, *args: Any, stop_msg: str | None = None, exception: BaseException | None = None, **kwargs: Any
    ) -> None:
        """End the run; nothing happens where none is. It takes any arguments, so that it can be any event's callback.

        Args:
            *args: Not used.
            stop_msg: Given to the callbacks of `on_stop`.
            exception: Why: given to them too, and treated as `on_exception=` of the run says.
            **kwargs: Not used.

        Raises:
            TypeError: `exception` is no exception.
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
        """Whether calls can be submitted."""
        return self._run is not None and self._run.accepting

    @property
    def has_run(self) -> bool:
        """Whether a run is under way, be it that it ends."""
        return self._run is not None

    # Calls

    # Functions that take a `Comm`: by keyword, or as one of the first parameters.

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
    ) -> Task[..., Any]:
        """Register a function.

        For type checkers, its parameters are those of a call, unless a plugin gives one of them: a function that takes
        `comm: Comm` can be submitted without it, and its other arguments are not checked.

        Args:
            function: What a call of the task runs.
            plugins: Change what the task does; each is for this task alone.
            init_plugins: Whether to attach the plugins now.
            batch_size: How many calls are sent to a worker as one; see `Task`.
            retries_on_loss: How often a call is run again that lost its worker; `None` for what the scheduler says.
        """
        return Task(
            function,
            self,
            plugins=plugins,
            init_plugins=init_plugins,
            batch_size=batch_size,
            retries_on_loss=retries_on_loss,
        )

    def _register(self, task: Task[..., Any]) -> None:
        task.dispatcher = self.dispatcher
        self._tasks.append(task)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """The handle of a new call of a function that is no task.

        Raises:
            SchedulerNotRunningError: The scheduler does not run, or is ending.
            TypeError: `fn` cannot be called, or a call of it would run nothing: it is async, or yields.
            NotPicklableError: An argument cannot be sent to a worker.
        """
        check_function(fn, "scheduler.submit")
        return self._submit(None, fn, args, kwargs)

    def _submit(
        self, task: Task[..., R] | None, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[R]:
        if self._run is None:
            name = getattr(function, "__name__", repr(function))
            raise SchedulerNotRunningError(
                f"{name} cannot be submitted: the scheduler does not run; submit in a callback, such as of on_start"
            )
        if self._has_shared:
            function = self._carrying(function, args, kwargs)
        return self._run.submit(task, function, args, kwargs)

    def _carrying(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., R]:
        """The function with shared objects in the place of their handles, if there are any."""
        found = False
        for each in (*args, *kwargs.values()):
            if is_shared(each):
                each.carry(self._runner())
                found = True
        return with_shared(function) if found else function

    def scatter(self, value: V) -> Shared[V]:
        """A handle of an object that many calls share: as an argument of a call it stands for the object.

        Where calls run in this process they get the object itself. Elsewhere it is sent to each worker once, and calls
        of one worker get the same object; so it is not to be changed. It is kept for the workers as long as the handle
        lives.

        Args:
            value: The object.

        Raises:
            NotPicklableError: By `submit`: the object cannot be sent.
        """
        self._has_shared = True
        return Shared(value)

    async def gather(
        self, futures: Iterable[Awaitable[R]], *, max_in_flight: int | None = None, return_exceptions: bool = False
    ) -> list[R]:
        """The results of calls, in their order: `await scheduler.gather(task(x) for x in xs)`.

        Where the scheduler is not running, as in a notebook, this starts a run, and ends it afterwards.

        Args:
            futures: Handles of calls. An iterator is read, and so the calls are submitted, as earlier ones end.
            max_in_flight: How many calls that have not ended are taken from it; `None` for all.
            return_exceptions: Whether exceptions stand in the list, instead of the first one being raised.

        Raises:
            TypeError: An argument has a type that it cannot have.
            ValueError: `max_in_flight` is below 1.
        """
        given: Any = futures
        if isinstance(given, Awaitable) or not isinstance(given, Iterable):  # asyncio's can be iterated over, too
            raise TypeError(f"futures={futures!r}: must be several, such as a list or a generator of futures")
        check_flag("return_exceptions", return_exceptions)
        if self._run is None:
            return await gather_in_own_run(self, futures, max_in_flight, return_exceptions)
        return await gather(self._runner(), futures, max_in_flight, return_exceptions)

    def call_later(
        self, delay: float, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.TimerHandle:
        """Call a function in this run after `delay` seconds, as a callback; the timer can be cancelled.

        An `async def` runs as a task of the loop.

        A timer does not keep the run from ending.

        Raises:
            SchedulerNotRunningError: The scheduler does not run.
            TypeError: `delay` is no number, or `fn` cannot be called.
            ValueError: `delay` is below 0 or not finite.
        """
        check_seconds("delay", delay)
        if not callable(fn):
            raise TypeError(f"call_later needs a function, not {fn!r}")
        if self._run is None:
            raise SchedulerNotRunningError("call_later needs a scheduler that runs: use it in a callback")
        return self._run.call_later(delay, partial(fn, *args, **kwargs))

    def outcome(self, future: Future[Any]) -> Outcome:
        """When and where a call ran, and what it used; complete once it has ended, as in the callbacks of its end.

        Raises:
            RuntimeError: The scheduler was made without `receipts=True`.
        """
        try:
            return outcome(future)
        except AttributeError:
            raise RuntimeError(
                f"{future!r} has no receipt: make its scheduler with receipts=True, as every constructor takes it"
            ) from None

    @property
    def queue(self) -> dict[Future[Any], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
        """The calls that have not ended, oldest first, each with its function and its arguments."""
        calls = self._run.calls if self._run is not None else []
        return {future: (future.function, future.args, dict(future.kwargs)) for future in calls}

    def empty(self) -> bool:
        """Whether every call has ended."""
        return self._run is None or not self._run.calls

    @property
    def held_back(self) -> tuple[int, int]:
        """How many calls of the queue have ended, with an outcome and as cancelled, and are not reported yet, as
        `order="submission"` holds them back.
        """
        return self._run.held_back if self._run is not None else (0, 0)

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The tasks registered here, in the order of their registration."""
        return tuple(self._tasks)

    # Showing

    def add_renderable(self, renderable: Any) -> None:
        """Show this below the scheduler in its display: anything that rich can render."""
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
        from amlsched.display.live import live  # only where it is asked for

        return live(self, display)

    # The executor

    @property
    def executor(self) -> Executor:
        """Where calls run: the one that was given, or where it is ours, one that is made when it is needed."""
        return self._given or self._runner()

    def _runner(self) -> Executor:
        """What calls are submitted to: the executor, or what runs them in its place."""
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
        """Raise RuntimeError where a run is under way."""
        if self._run is not None:
            raise RuntimeError("the scheduler runs already: one run at a time")

    def _begin(self, run: RunLoop) -> None:
        self._run = run
        self._reset_counts()
        for task in self._tasks:
            task._reset()  # pyright: ignore[reportPrivateUsage]
        for emitter in (self, *self._tasks):
            emitter.dispatcher = run

    def _finish(self) -> None:
        self._run = None
        for emitter in (self, *self._tasks):
            emitter.dispatcher = None
        if not self._keep:
            self._release()

    def _release(self) -> None:
        """Shut the executor down, where it is ours."""
        if self._factory is not None and self._executor is not None:
            executor, self._executor = self._executor, None
            executor.shutdown(wait=True)

    def _renewed(self) -> Executor | None:
        """A new executor in place of one that broke; `None` where it is not ours."""
        if self._factory is None or self._executor is None:
            return None
        broken, self._executor = self._executor, None
        kill_workers(broken)  # those that outlived the others
        return self._runner()

    def kill(self) -> None:
        """End the workers at once, whatever they run. Ours are made anew when the next run needs them."""
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
        """End the run as Ctrl-C does; it raises the error. For handlers of signals, in the loop's thread.

        Returns:
            Whether the run takes care of it; if not, raise the error on the spot.
        """
        run = self._run
        if run is None:
            return False
        run.interruption = error
        run.loop.call_soon_threadsafe(run.interrupt, error)
        return not run.executing  # a call that runs in this thread is interrupted where it is


def _remedy(given: object) -> str:
    """What to do where this was given for an executor."""
    if type(given).__module__.startswith(("dask", "distributed.")):
        return "Scheduler.with_dask(…) takes clients and clusters of dask"
    return "Scheduler.with_processes(), with_threads() and their sisters make one"


def check_executor(name: str, options: Mapping[str, Any]) -> None:
    """Raise unless `Scheduler.from_name` has a constructor of this name that takes these options.

    Raises:
        ValueError: It has not; the message lists those there are, and what was probably meant.
    """
    signatures = {
        key[5:]: inspect.signature(getattr(Scheduler, key))
        for key, one in vars(Scheduler).items()
        if isinstance(one, _Constructor)
    }
    names = sorted(
        key for key, one in signatures.items() if not any(p.kind is p.POSITIONAL_ONLY for p in one.parameters.values())
    )
    if name not in names:
        hint = _hint(_nearest(name.lower().replace("-", "_"), names))
        raise ValueError(f"there is no executor {name!r} ({hint}there are: {', '.join(names)})")
    signature = signatures[name]
    known = [key for key, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD]
    any_other = len(known) < len(signature.parameters)
    unknown = [key for key in options if key not in known]
    near = {key: found for key in unknown if (found := _nearest(key, known, 0.9 if any_other else 0.6))}
    wrong = next(iter([*near, *unknown]), "")  # others may be options of what is called below
    try:
        signature.bind(**options)
        problem = f"has no option {wrong!r}" if near else ""
    except TypeError as error:
        problem = f"has no option {wrong!r}" if unknown and not any_other else str(error)
    if problem:
        raise ValueError(f"executor {name!r}: {problem} ({_hint(near.get(wrong))}its options: {', '.join(known)})")


def _nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    from difflib import get_close_matches  # only where something is wrong

    return next(iter(get_close_matches(word, [*known], 1, cutoff)), None)


def _hint(guess: str | None) -> str:
    return f"did you mean {guess}? " if guess else ""
