"""Events, their emitters, and their subscribers.

An `Emitter` has a `Subscriber` for each of its events. Callbacks are registered there, and called in the order of their
registration when the event is emitted:

    @task.on_result(every=10)
    def report(future, result): ...

Nothing here depends on schedulers. During a run, the scheduler gives its emitters a `Dispatcher`: events emitted
meanwhile are delivered by the run loop, so that no callback ever runs inside another one.
"""

from __future__ import annotations

import asyncio
import inspect
import reprlib
import time
import types
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from amlsched._checks import check_whole
from amlsched.errors import CallbackError, EventNotKnownError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

__all__ = ["Dispatcher", "Emitter", "Event", "Handler", "Stopwatch", "Subscriber", "add_note", "lazy_kind"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

if TYPE_CHECKING:
    from typing import Self

    class _Text:
        """To type checkers an event is not a `str`, as they could not check the arguments for a bare name."""

        def __new__(cls, name: str) -> Self: ...

        def __eq__(self, other: object) -> bool: ...

        def __hash__(self) -> int: ...
else:
    _Text = str

_NO_KWARGS: dict[str, Any] = {}
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 120


class Event(_Text, Generic[P, R]):
    """The name of an event, and the type of its callbacks.

    It is a string: equal to its name, with the same hash.

    Args:
        name: The name by which `task.on("name")` finds it.
        parameters: Names of the arguments of its callbacks; if given, registering a callback that does not accept them
            raises. The last one may be `"*args"`: any number of arguments may follow.
        gathers: Whether it is emitted with a list whose items a gated callback gets later, if its gate is closed.
    """

    parameters: tuple[str, ...] | None
    gathers: bool

    def __new__(cls, name: str, parameters: tuple[str, ...] | None = None, *, gathers: bool = False) -> Event[P, R]:
        """Create the string, with the parameters of its callbacks."""
        self = super().__new__(cls, name)
        self.parameters = parameters
        self.gathers = gathers
        return self

    def __class_getitem__(cls, parameters: Any) -> Any:
        """`Event[[int, str]]` is `Event[[int, str], Any]`, and `Event[str]` is `Event[[str], Any]`."""
        if not isinstance(parameters, tuple):
            parameters = (parameters if isinstance(parameters, list) or parameters is ... else [parameters], Any)
        return super().__class_getitem__(parameters)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """The name as a plain string."""
        return str(self)

    def __repr__(self) -> str:
        return f"Event({str(self)!r})"


class Stopwatch:
    """Measures the time spent in callbacks; a display adds one to the run that it shows.

    Attributes:
        seconds: The time so far.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    async def timed(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wrap an async callback, to measure it while it computes, not while it waits."""
        return await self._steps(coroutine)

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = partial(coroutine.send, None)
        while True:
            begun = time.perf_counter()
            try:
                awaited = step()
            except StopIteration as ended:
                return cast("T", ended.value)
            finally:
                self.seconds += time.perf_counter() - begun
            try:
                step = partial(coroutine.send, (yield awaited))
            except BaseException as error:  # such as its cancellation
                step = partial(coroutine.throw, error)


class Dispatcher(Protocol):
    """Delivers the events of a scheduler's emitters during a run."""

    stopwatch: Stopwatch | None
    """Measures callbacks, if a display shows it."""

    def post(self, subscriber: Subscriber[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Deliver an event when no callback is running, after those posted before."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, object], note: str) -> asyncio.Task[Any]:
        """Run an async callback as a task, which is returned; the note is added to its exception."""
        ...

    def callback_failed(self, error: BaseException) -> None:
        """Handle a callback's exception; the other callbacks of the event still run."""
        ...


class Handler:
    """One registered callback.

    Attributes:
        callback: The user's function.
        hidden: Whether displays omit it, as for the internal callbacks of plugins.
        calls: How often it was called, or -1 if it has no gates and is not counted.
    """

    __slots__ = ("call", "callback", "calls", "hidden")

    def __init__(self, callback: Callable[..., object], call: Callable[..., object], hidden: bool, calls: int) -> None:
        self.callback, self.call, self.hidden, self.calls = callback, call, hidden, calls


class Subscriber(Generic[P, R]):
    """Where callbacks of one event of one emitter are registered.

    Attributes:
        event: The event.
        emitter: Whose event it is.
        count: How often it was emitted.
    """

    __slots__ = ("_calls", "count", "emitter", "event", "handlers")

    def __init__(self, emitter: Emitter, event: Event[P, R]) -> None:
        self.emitter = emitter
        self.event = event
        self.count = 0
        self.handlers: tuple[Handler, ...] = ()
        self._calls: tuple[Callable[..., object], ...] = ()

    @property
    def event_counts(self) -> int:
        """How often the event was emitted (amltk's name for `count`)."""
        return self.count

    def __repr__(self) -> str:
        return f"<Subscriber to {str(self.event)!r} of {self.emitter.name}, {len(self.handlers)} callbacks>"

    @overload
    def __call__(
        self,
        callback: None = None,
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...

    @overload
    def __call__(
        self,
        callback: Callable[P, T],
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[P, T]: ...

    def __call__(
        self,
        callback: Callable[P, T] | None = None,
        *,
        when: Callable[[], bool] | None = None,
        every: int = 1,
        repeat: int = 1,
        max_calls: int | None = None,
        hidden: bool = False,
    ) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
        """Register a callback and return it; without a callback, return a decorator that does.

        Args:
            callback: Called with the arguments of the event. An `async def` function runs as a task of the loop.
            when: Called without arguments before each call; the callback is skipped if it returns false.
            every: Call it only for every `every`-th event.
            repeat: Call it this many times in a row.
            max_calls: Call it for this many events at most; `None` for no limit.
            hidden: Omit it from displays.

        Raises:
            CallbackError: The callback does not accept the event's arguments.
            ValueError: A count is below 1.
        """
        if callback is None:
            gates: dict[str, Any] = {"when": when, "every": every, "repeat": repeat, "max_calls": max_calls}
            return cast("Callable[[Callable[P, T]], Callable[P, T]]", partial(self.register, **gates, hidden=hidden))
        return self.register(callback, when=when, every=every, repeat=repeat, max_calls=max_calls, hidden=hidden)

    def register(
        self,
        callback: Callable[P, T],
        *,
        when: Callable[[], bool] | None = None,
        every: int = 1,
        repeat: int = 1,
        max_calls: int | None = None,
        hidden: bool = False,
    ) -> Callable[P, T]:
        """Register a callback and return it. The arguments are those of calling the subscriber."""
        _check_counts(every=every, repeat=repeat, max_calls=max_calls)
        if when is not None and not callable(when):
            raise TypeError(f"when={when!r}: must be a function without arguments, or None")
        _check_signature(callback, self.event)
        call: Callable[..., object] = self._spawning(callback) if lazy_kind(callback) == "async" else callback
        gated = when is not None or every > 1 or repeat > 1 or max_calls is not None
        handler = Handler(callback, call, hidden, calls=0 if gated else -1)
        if gated:
            handler.call = _gate(handler, call, when, every, repeat, max_calls, self.event.gathers)
        self._replace((*self.handlers, handler))
        return callback

    def unregister(self, callback: Callable[..., object]) -> None:
        """Remove all registrations of a callback, if there are any."""
        self._replace(tuple(handler for handler in self.handlers if handler.callback != callback))

    def emit(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the callbacks: now, or during a run, as soon as no other callback is running."""
        if self._calls:
            self.emit_packed(args, kwargs)
        else:
            self.count += 1

    def emit_packed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The same as `emit`, with the arguments as a tuple and a dict."""
        if not self._calls:
            self.count += 1
        elif (dispatcher := self.emitter.dispatcher) is None:
            self.deliver(args, kwargs)
        else:
            dispatcher.post(self, args, kwargs)

    def deliver(self, args: tuple[Any, ...], kwargs: dict[str, Any] = _NO_KWARGS) -> None:
        """Call all callbacks now, even if one raises.

        Raises:
            BaseException: The first exception of a callback, if there is no dispatcher to handle it.
        """
        self.count += 1
        if not self._calls:
            return
        first: BaseException | None = None
        dispatcher = self.emitter.dispatcher
        watch = None if dispatcher is None else dispatcher.stopwatch
        begun = 0.0 if watch is None else time.perf_counter()
        for call in self._calls:  # a tuple: registering meanwhile is safe
            try:
                call(*args, **kwargs)
            except BaseException as error:
                add_note(error, self._note(call, args))
                if dispatcher is not None:
                    dispatcher.callback_failed(error)
                else:
                    first = error if first is None else first
        if watch is not None:
            watch.seconds += time.perf_counter() - begun
        if first is not None:
            raise first

    def _replace(self, handlers: tuple[Handler, ...]) -> None:
        self.handlers = handlers
        self._calls = tuple(handler.call for handler in handlers)

    def _note(self, call: Callable[..., object], args: tuple[object, ...]) -> str:
        callback = next((handler.callback for handler in self.handlers if handler.call is call), call)
        about = f", called with {_SHORT.repr(args[0])}" if args else ""
        return f"in the callback {_name(callback)} of event {_as_written(self.event)} of {self.emitter.name}{about}"

    def _spawning(self, callback: Callable[..., Any]) -> Callable[..., object]:
        def spawn(*args: object, **kwargs: object) -> None:
            self.emitter.spawn(callback(*args, **kwargs), self._note(callback, args))

        return spawn


class Emitter:
    """Base class of objects that emit events.

    Args:
        name: Its name in messages.
    """

    dispatcher: Dispatcher | None = None

    def __init__(self, name: str | None = None) -> None:
        self.name = name or type(self).__name__
        self._subscribers: dict[str | Event[..., Any], Subscriber[..., Any]] = {}
        self._spawned: set[asyncio.Task[object]] = set()

    @property
    def events(self) -> list[Event[..., Any]]:
        """The events of this emitter."""
        return [subscriber.event for subscriber in self._subscribers.values()]

    @property
    def event_counts(self) -> Counter[str | Event[..., Any]]:
        """How often each event was emitted; for a scheduler and its tasks, since the start of the latest run."""
        return Counter({subscriber.event: subscriber.count for subscriber in self._subscribers.values()})

    def subscriber(self, event: Event[P, R]) -> Subscriber[P, R]:
        """The subscriber of an event, which is added if it is new."""
        if event not in self._subscribers:
            self._subscribers[event] = Subscriber(self, event)
        return cast("Subscriber[P, R]", self._subscribers[event])

    def add_event(self, *events: Event[..., Any]) -> None:
        """Add events, so that `on("name")` finds them."""
        for event in events:
            self.subscriber(event)

    @overload
    def on(
        self,
        event: Event[P, R],
        callback: None = None,
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...

    @overload
    def on(
        self,
        event: Event[P, R],
        callback: Callable[P, T],
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[P, T]: ...

    @overload
    def on(
        self,
        event: str,
        callback: None = None,
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[[Callable[..., T]], Callable[..., T]]: ...

    @overload
    def on(
        self,
        event: str,
        callback: Callable[..., T],
        *,
        when: Callable[[], bool] | None = ...,
        every: int = ...,
        repeat: int = ...,
        max_calls: int | None = ...,
        hidden: bool = ...,
    ) -> Callable[..., T]: ...

    def on(self, event: Any, callback: Callable[..., Any] | None = None, **gates: Any) -> Any:
        """Register a callback by the event or its name, also as a decorator; see `Subscriber`.

        Raises:
            EventNotKnownError: There is no event of this name.
        """
        return self._known(event)(callback, **gates)

    def register(self, event: str | Event[..., Any], callback: Callable[..., T], **gates: Any) -> Callable[..., T]:
        """Register a callback by the event or its name; see `Subscriber`.

        Raises:
            EventNotKnownError: There is no event of this name.
        """
        return self._known(event).register(callback, **gates)

    @overload
    def emit(self, event: Event[P, R], /, *args: P.args, **kwargs: P.kwargs) -> None: ...

    @overload
    def emit(self, event: str, /, *args: Any, **kwargs: Any) -> None: ...

    def emit(self, event: Any, /, *args: Any, **kwargs: Any) -> None:
        """Call the callbacks of an event; see `Subscriber.emit`.

        Raises:
            EventNotKnownError: There is no event of this name; an `Event` object is added instead.
        """
        subscriber = self._subscribers.get(event) or self._known(event)
        if subscriber.handlers:
            subscriber.emit_packed(args, kwargs)
        else:  # save the call for an event without callbacks
            subscriber.count += 1

    def spawn(self, coroutine: Coroutine[Any, Any, object], note: str) -> asyncio.Task[Any]:
        """Run an async callback as a task, which is returned: of the dispatcher, or else of the running loop."""
        if self.dispatcher is not None:
            return self.dispatcher.spawn(coroutine, note)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            coroutine.close()
            raise
        task = loop.create_task(coroutine)
        self._spawned.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._spawned.discard)
        return task

    def _known(self, event: str | Event[..., Any]) -> Subscriber[..., Any]:
        if event in self._subscribers:
            return self._subscribers[event]
        if isinstance(event, Event):
            return self.subscriber(event)
        raise EventNotKnownError(event, self.name, tuple(map(str, self._subscribers)))

    def _reset_counts(self) -> None:
        for subscriber in self._subscribers.values():
            subscriber.count = 0


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, if possible: not to a frozen dataclass, for example."""
    with suppress(BaseException):  # code of a user's class, which may even raise SystemExit
        error.add_note(note)


def _as_written(event: object) -> str:
    """The name of an event as users write it, `on_result`; other names are left as they are."""
    name = str(event)
    return name.replace("-", "_") if name.startswith("on-") else name


def _name(callback: Callable[..., object]) -> str:
    inner: Any = callback.func if isinstance(callback, partial) else callback
    return getattr(inner, "__qualname__", None) or repr(inner)


def lazy_kind(function: Any) -> Literal["async", "a generator function"] | None:
    """The kind of a function whose call only creates a coroutine or a generator; `None` for any other."""
    inner: Any = function
    while isinstance(inner, partial):
        inner = cast("Any", inner).func
    for one in (inner, getattr(cast("Any", type)(inner), "__call__", None)):  # noqa: B004  (of an object)
        if inspect.iscoroutinefunction(one):
            return "async"
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            return "a generator function"
    return None


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None:
            check_whole(name, value, 1)


def _check_signature(callback: Callable[..., object], event: Event[..., Any]) -> None:
    if not callable(callback):
        raise CallbackError(repr(callback), str(event), "it is not callable")
    if (kind := lazy_kind(callback)) == "a generator function":
        raise CallbackError(_name(callback), str(event), f"it is {kind}, and calling it would run nothing")
    if event.parameters is None:
        return
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some builtins have none
        return
    fixed = [name for name in event.parameters if not name.startswith("*")]
    open_ended = len(fixed) < len(event.parameters)
    try:
        (signature.bind_partial if open_ended else signature.bind)(*fixed)
    except TypeError as error:
        shape = f"({', '.join(event.parameters)})"
        raise CallbackError(_name(callback), str(event), f"it is called with {shape}: {error}") from None


def _gate(
    handler: Handler,
    call: Callable[..., object],
    when: Callable[[], bool] | None,
    every: int,
    repeat: int,
    max_calls: int | None,
    gathers: bool,
) -> Callable[..., None]:
    seen = 0
    kept: list[Any] = []

    def gated(*args: Any, **kwargs: Mapping[str, Any]) -> None:
        nonlocal seen, kept
        seen += 1
        if max_calls is not None and handler.calls >= max_calls:
            return
        if gathers:
            kept += args[0]
        if seen % every or (when is not None and not when()):
            return
        if gathers:
            args, kept = (kept,), []
        handler.calls += 1
        for _ in range(repeat):
            call(*args, **kwargs)

    return gated
