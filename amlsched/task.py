"""Tasks, which are functions registered with a scheduler, and the base class of their plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast

from amlsched._mapping import MapResults
from amlsched.errors import CallRefusedError
from amlsched.events import Emitter, Event
from amlsched.executors.user_function import check_function

if TYPE_CHECKING:
    from amlsched._task_types import Requested
    from amlsched.events import Subscriber
    from amlsched.future import Future
    from amlsched.resources.request import Requests, Resources
    from amlsched.scheduler import Scheduler

__all__ = ["Plugin", "Task", "checked_retries", "each_plugin"]

P = ParamSpec("P")
R = TypeVar("R")


class Plugin:
    """Base class of plugins, which change a task: they can reject or rewrite calls, handle events, and add events.

    Override the methods you need. Define events as class attributes; attaching the plugin adds them to the task.
    """

    name: ClassVar[str] = "plugin"
    """Name of the plugin in messages."""

    def attach_task(self, task: Task[..., Any]) -> None:
        """Called once, when the plugin is attached: keep the task and register callbacks here."""

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
        """Called by each `task.submit`; return the function and arguments to submit, or `None` to reject the call."""
        return fn, args, kwargs

    def retry_after(self, future: Future[Any], exception: Exception) -> float | None:
        """Seconds after which to retry a call that raised, or `None` not to; the first plugin with a number decides.

        Not called for a call whose worker was lost; see `retries_on_loss` of the scheduler.
        """
        return None

    def allocated(self, future: Future[Any], request: Resources) -> None:
        """Called when a call has got the resources that it requests, before each attempt of it is sent."""

    @property
    def memory_growth(self) -> float | None:
        """By which factor the next attempt of a call that ran out of memory requests more; `None` for no more."""
        return None

    def reset(self) -> None:
        """Reset counters. Called before each run, before any of its events."""

    def events(self) -> list[Event[..., Any]]:
        """The events that the plugin's class and its base classes define."""
        defined = (value for kind in type(self).__mro__ for value in vars(kind).values())
        return [value for value in defined if isinstance(value, Event)]


class Task(Emitter, Generic[P, R]):
    """A function registered with a scheduler; each submission of it is a call.

    Create one by `scheduler.task(function)` or `Task(function, scheduler)`.

    Args:
        function: The function that each call runs.
        scheduler: Where its calls are submitted.
        plugins: Attached in this order; each receives a call as the previous one left it.
        init_plugins: Whether to attach the plugins now, or leave `attach_task` to the caller.
        batch_size: How many calls to send to a worker at once, for functions so fast that sending dominates. Events,
            exceptions and cancellation remain per call. Calls wait for each other only while the loop is busy.
        retries_on_loss: How often to retry a call whose worker was lost; `None` for the scheduler's value.
        resources: What each call needs while it runs: a `Resources`, a list of alternatives, the preferred one first,
            or a function of the call's arguments that returns one of these. The call waits until the pool of the
            scheduler has it. `"learn"` to learn CPUs and memory from the first calls. `None` for one CPU, if the
            scheduler has a pool.
        priority: Calls with a higher one go first, if the scheduler has a pool: a number, or a function of the call's
            arguments.
        group: Name of the calls that have in common what is learned from one of them, such as by which factor their
            expected times are wrong, if the scheduler has `estimates`; or a function of the call's arguments that
            returns it. `None` for the calls of this function.

    Raises:
        TypeError: `function` is not callable, or calling it would run nothing: it is async or a generator function; or
            `resources`, `priority` or `group` is something else.
        ValueError: `batch_size` is below 1, or above 1 with `resources`, or `retries_on_loss` is below 0, or `group` is
            empty.
        RuntimeError: It has `resources`, and the scheduler runs without a pool.
    """

    SUBMITTED: ClassVar[Event[..., Any]] = Event("on-submitted", ("future", "*args"))
    """A call was submitted; with its future and its arguments."""
    DONE: ClassVar[Event[[Any], Any]] = Event("on-done", ("future",))
    """A call finished with a result or an exception; emitted before `on_result` or `on_exception`."""
    RESULT: ClassVar[Event[[Any, Any], Any]] = Event("on-result", ("future", "result"))
    """A call returned; with its future and the result."""
    RESULTS: ClassVar[Event[[list[tuple[Any, Any]]], Any]] = Event("on-results", ("results",), gathers=True)
    """Calls returned; with the future and result of each call since the previous such event, in order."""
    EXCEPTION: ClassVar[Event[[Any, BaseException], Any]] = Event("on-exception", ("future", "exception"))
    """A call raised, or its worker was lost; with its future and the exception."""
    CANCELLED: ClassVar[Event[[Any], Any]] = Event("on-cancelled", ("future",))
    """A call was cancelled; with its future."""
    RETRY: ClassVar[Event[[Any, BaseException, int], Any]] = Event("on-retry", ("future", "exception", "attempt"))
    """A call failed and will be retried; with its future, its exception, and the number of that attempt, from 1."""

    on_submitted: Subscriber[Concatenate[Future[R], P], Any]
    on_done: Subscriber[[Future[R]], Any]
    on_result: Subscriber[[Future[R], R], Any]
    on_results: Subscriber[[list[tuple[Future[R], R]]], Any]
    on_exception: Subscriber[[Future[R], BaseException], Any]
    on_cancelled: Subscriber[[Future[R]], Any]
    on_retry: Subscriber[[Future[R], BaseException, int], Any]

    def __init__(
        self,
        function: Callable[P, R],
        scheduler: Scheduler,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        init_plugins: bool = True,
        batch_size: int = 1,
        retries_on_loss: int | None = None,
        resources: Requested = None,
        priority: float | Callable[..., float] = 0,
        group: str | Callable[..., str] | None = None,
    ) -> None:
        check_function(function, "a task")
        super().__init__(name=f"task {getattr(function, '__name__', None) or repr(function)}")
        self.function = function
        self.scheduler = scheduler
        self.plugins: list[Plugin] = []
        self.batch_size = _checked_batch_size(batch_size)
        self.retries_on_loss = None if retries_on_loss is None else checked_retries(retries_on_loss)
        self._requests: Requests | None = None
        self.requests_resources = resources is not None or priority != 0
        if self.requests_resources or group is not None:
            from amlsched.resources.request import Requests  # here, to keep `import amlsched` light

            self._requests = Requests(self.name, resources, priority, group)
        self.learns = self._requests is not None and self._requests.learns
        if resources is not None and self.batch_size > 1:
            raise ValueError(
                f"{self.name}: batch_size={batch_size}, but its calls request resources, and so are sent one by one: "
                "leave one of them out"
            )
        self.n_running = 0  # maintained by the run loop: unfinished calls of this run
        self.n_submitted = 0  # maintained by the run loop: submitted calls of this run
        self.on_submitted = cast("Subscriber[Concatenate[Future[R], P], Any]", self.subscriber(self.SUBMITTED))
        self.on_done = self.subscriber(self.DONE)
        self.on_result = self.subscriber(self.RESULT)
        self.on_exception = self.subscriber(self.EXCEPTION)
        self.on_cancelled = self.subscriber(self.CANCELLED)
        self.on_retry = self.subscriber(self.RETRY)
        self.on_results = self.subscriber(self.RESULTS)
        for plugin in each_plugin(plugins, self.name):
            if init_plugins:
                self.attach_plugin(plugin)
            else:
                self.plugins.append(plugin)
        scheduler._register(self)  # pyright: ignore[reportPrivateUsage]

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R] | None:
        """Submit a call, and return its future, or `None` if a plugin rejected it.

        Raises:
            SchedulerNotRunningError: The scheduler is not running, or the run is ending.
            NotPicklableError: An argument cannot be sent to a worker.
            ResourcesError: No node can ever hold what the call requests, or the function given as `resources`,
                `priority` or `group` failed.
        """
        function: Callable[..., R] = self.function
        given = args, kwargs
        for plugin in self.plugins:
            allowed = plugin.pre_submit(function, *args, **kwargs)
            if allowed is None:
                return None
            function, args, kwargs = allowed  # type: ignore[assignment]
        if self._requests is not None:
            wanted = self._requests.of_call(*given)
            return self.scheduler._submit(self, function, args, kwargs, wanted)  # pyright: ignore[reportPrivateUsage]
        return self.scheduler._submit(self, function, args, kwargs)  # pyright: ignore[reportPrivateUsage]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call to be awaited: `result = await task(…)` in an async callback.

        Raises:
            CallRefusedError: A plugin rejected the call.
            SchedulerNotRunningError: The scheduler is not running, or the run is ending.
        """
        future = self.submit(*args, **kwargs)
        if future is None:
            raise CallRefusedError(self.name, ", ".join(plugin.name for plugin in self.plugins))
        future.awaited = None  # it may fail before the caller awaits it
        return future

    def map(self, *iterables: Iterable[Any], max_in_flight: int | None = None) -> MapResults[R]:
        """Call the task for each item of the iterables, and iterate over the results: `for result in task.map(xs)`.

        If an asyncio loop is running, as in a notebook or an async callback, use `async for`, or `await` to get a list
        of all results. All of these start a run if the scheduler is not running. The exception of a call is raised in
        place of its result; later calls are then cancelled.

        Args:
            *iterables: One per positional parameter; the shortest ends the iteration. Consumed as calls are submitted.
            max_in_flight: How many calls to submit ahead of the results taken, at most; `None` for four per worker.
        """
        _check_iterables(iterables, self.name)
        return MapResults(self.scheduler, self, zip(*iterables, strict=False), max_in_flight)

    def futures(self) -> list[Future[R]]:
        """The futures of the unfinished calls, oldest first."""
        return [future for future in self.scheduler.queue if future.task is self]

    @property
    def queue(self) -> list[Future[R]]:
        """The same as `futures()` (amltk's name)."""
        return self.futures()

    def running(self) -> bool:
        """Whether there are unfinished calls."""
        return self.n_running > 0

    def attach_plugin(self, plugin: Plugin) -> None:
        """Attach a plugin, after those attached before.

        Raises:
            TypeError: It is not a `Plugin`.
            ValueError: It is already attached, to this or another task.
        """
        if not isinstance(plugin, Plugin):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{self.name}: {plugin!r} is not a Plugin{_remedy(plugin)}")
        owner = vars(plugin).get("_attached_to")
        if owner is not None:
            raise ValueError(
                f"plugin {plugin.name!r} is already attached to {owner} and cannot be attached to {self.name}: "
                "create a new one for each task"
            )
        self.add_event(*plugin.events())
        plugin.attach_task(self)
        self.plugins.append(plugin)
        vars(plugin)["_attached_to"] = self.name

    def _reset(self) -> None:
        self.n_running = self.n_submitted = 0
        self._reset_counts()
        for plugin in self.plugins:
            plugin.reset()

    def __repr__(self) -> str:
        return f"<{self.name}, {self.n_running} unfinished calls>"


def _check_iterables(iterables: tuple[Any, ...], name: str) -> None:
    for number, each in enumerate(iterables, 1):
        if not isinstance(each, Iterable) and not hasattr(each, "__getitem__"):
            raise TypeError(f"{name}: map(…) takes one iterable per parameter, but argument {number} is {each!r}")


def each_plugin(plugins: Any, name: str) -> Iterable[Plugin]:
    """The plugins given as `plugins=`: one, or several.

    Args:
        plugins: The value.
        name: What they are for, for the message.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(plugins, Plugin):
        return (plugins,)
    if not isinstance(plugins, Iterable):
        remedy = f": call it, as in {plugins.__name__}(…)" if isinstance(plugins, type) else _remedy(plugins)
        raise TypeError(f"{name}: plugins={plugins!r}: must be a Plugin or an iterable of them{remedy}")
    return cast("Iterable[Plugin]", plugins)


def _remedy(plugin: object) -> str:
    """What to do about an object that is not a plugin of amlsched, if known."""
    for kind in type(plugin).__mro__:
        if kind.__module__.startswith("amltk."):
            return f" of amlsched: it comes from amltk; import {kind.__name__} from amlsched.plugins instead"
    return ""


def _checked_batch_size(number: Any) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise ValueError(f"batch_size={number!r}: must be a whole number of at least 1")


def checked_retries(number: Any) -> int:
    """Return a valid value of `retries_on_loss`.

    Raises:
        ValueError: It is not a whole number of at least 0.
    """
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    raise ValueError(f"retries_on_loss={number!r}: must be a whole number of at least 0")
