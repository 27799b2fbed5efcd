"""The driver's end of a channel: emits the messages of a call as events of its task, and answers its requests."""

from __future__ import annotations

import asyncio
import os
import pickle
from enum import StrEnum
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, Protocol

from amlsched.errors import NotPicklableError
from amlsched.events import Dispatcher, Event, Subscriber
from amlsched.executors.user_function import describe
from amlsched.plugins._comm.wire import Frame, Kind, dump, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from weakref import WeakValueDictionary

    from typing_extensions import TypeVar

    from amlsched.future import Future
    from amlsched.task import Task

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")  # Python 3.11 does not support defaults

__all__ = ["CLOSE", "MESSAGE", "OPEN", "REQUEST", "Channel", "Msg", "Peer"]

OPEN: Event[[Any], Any] = Event("comm-open", ("msg",))
MESSAGE: Event[[Any], Any] = Event("comm-message", ("msg",))
REQUEST: Event[[Any], Any] = Event("comm-request", ("msg",))
CLOSE: Event[[Any], Any] = Event("comm-close", ("msg",))

# A worker that sends faster than callbacks process is paused at the first, and resumed at the second number of
# undelivered messages.
_MANY, _FEW = 1000, 100


class Peer(Protocol):
    """The connection back to a call."""

    def write(self, frame: Frame) -> None:
        """Send a frame without blocking; does nothing if the connection is broken."""
        ...

    def close(self) -> None:
        """Close the connection, after everything written was sent."""
        ...

    def hold(self, held: bool) -> None:
        """Pause or resume receiving from the call."""
        ...


class MsgKind(StrEnum):
    """The kind of a message."""

    OPEN = "open"
    MESSAGE = "message"
    REQUEST = "request"
    CLOSE = "close"


class Msg(Generic[T]):
    """A message of a call; the argument of callbacks of the four events.

    Attributes:
        kind: The kind of event, such as `"request"`.
        data: The sent object; in `comm-open` and `comm-close`, the argument of `open` and `close`, if any.
        task: The task of the call.
        exception: In `comm-close`: why the channel broke, or `None` if the call closed it.
    """

    Kind = MsgKind

    def __init__(
        self, channel: Channel, kind: MsgKind, data: T, number: int, exception: BaseException | None = None
    ) -> None:
        self.kind = kind
        self.data = data
        self.task = channel.task
        self.exception = exception
        self._channel = channel
        self._number = number
        self._responded = False

    @property
    def future(self) -> Future[Any]:
        """The future of the call."""
        future = self._channel.future
        assert future is not None, "a call is submitted before it can send anything"
        return future

    def respond(self, response: Any = None) -> None:
        """Answer a request: `comm.request()` returns the response. Does nothing if the call no longer waits.

        Can be called after the callback has returned, and in any thread.

        Args:
            response: The answer.

        Raises:
            NotPicklableError: It cannot be sent; the request can still be answered.
            RuntimeError: This is not a request, or was already answered.
        """
        call = repr(self._channel)
        if self.kind is not MsgKind.REQUEST:
            raise RuntimeError(f"{call}: cannot respond to a {self.kind}, only to a request")
        if self._responded:
            raise RuntimeError(f"{call}: this request was already answered")
        body = dump(response, call, "the answer")
        self._responded = True
        self._channel.in_loop(self._channel.answer, Frame(Kind.ANSWER, self._number, body))

    def fail(self, problem: str) -> None:
        """Fail a request that gets no answer; does nothing if it was answered."""
        if not self._responded:
            self._responded = True
            self._channel.in_loop(self._channel.answer, Frame(Kind.FAILED, self._number, problem.encode()))

    def not_later(self) -> None:
        """Called after the callbacks of a request: while the run is ending, the request does not wait any longer."""
        if self._channel.ending:
            self.fail(self._channel.ending)

    def delivered(self) -> None:
        """Called after the callbacks."""
        self._channel.delivered()

    def __del__(self) -> None:
        # No code can answer it any more, so the call need not wait. This may run in any thread, at any time.
        if self.kind is MsgKind.REQUEST and not self._responded:
            frame = Frame(Kind.FAILED, self._number, b"no callback of comm-request answered the request")
            self._channel.soon(self._channel.answer, frame)

    def __repr__(self) -> str:
        broken = f", broken by {shown(self.exception)}" if self.exception is not None else ""
        return f"<{self.kind} of {self._channel!r}: {shown(self.data)}{broken}>"


class Channel:
    """The driver's end of the channel of one call. Used in the loop's thread, unless a method says otherwise.

    Args:
        loop: The loop of the run.
        task: The task, whose events are emitted.
        number: Number of the channel in the run.
        home: The channels that calls may still open, by number.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        task: Task[..., Any],
        number: int,
        home: WeakValueDictionary[int, Channel],
    ) -> None:
        self.task = task
        self.number = number
        self.future: Future[Any] | None = None  # set when the call is submitted, before it can send anything
        self.was_open = False
        self.on_gone: Callable[[], object] | None = None  # called when the channel is closed or broken
        self._loop = loop
        self._home = (os.getpid(), get_ident())
        self._peer: Peer | None = None
        self._inline = False
        self._unanswered: set[int] = set()
        self.ending = ""  # while the run is ending: why requests are failed
        self._undelivered = 0
        home[number] = self

    @property
    def is_open(self) -> bool:
        """Whether the call can send messages."""
        return self._peer is not None

    def is_here(self) -> bool:
        """Whether this is the loop's own thread. Can be called anywhere."""
        return self._home == (os.getpid(), get_ident())

    def in_loop(self, function: Callable[[Frame], None], frame: Frame) -> None:
        """Call a function in the loop's thread: now, if this is it. Can be called in any thread."""
        if self.is_here():
            function(frame)
        else:
            self.soon(function, frame)

    def soon(self, function: Callable[[Frame], None], frame: Frame) -> None:
        """Call a function in the loop's thread, soon. Can be called in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, frame)

    # From the call

    def received(self, peer: Peer, frame: Frame, *, inline: bool = False) -> None:
        """Process a frame from the call.

        Args:
            peer: The connection.
            frame: The frame.
            inline: Whether the call runs in this thread: callbacks then run now, as the call may wait for one.
        """
        if frame.kind is Kind.OPEN:
            # Some executors retry a call whose worker was lost.
            self.end("the call was retried elsewhere", ConnectionResetError("the call was retried elsewhere"))
            self.was_open = True
            self._peer, self._inline = peer, inline and self.future is not None
        elif peer is not self._peer:
            return
        try:
            data = pickle.loads(frame.body)
        except BaseException as error:  # an import or a __setstate__ may raise anything, even SystemExit
            self._not_loaded(frame, error)
            if frame.kind in (Kind.MESSAGE, Kind.REQUEST):
                return
            data = None
        if frame.kind is Kind.OPEN:
            self._emit(OPEN, Msg(self, MsgKind.OPEN, data, 0))
        elif frame.kind is Kind.MESSAGE:
            self._emit(MESSAGE, Msg(self, MsgKind.MESSAGE, data, 0))
        elif frame.kind is Kind.REQUEST:
            self._unanswered.add(frame.number)
            self._emit(REQUEST, Msg(self, MsgKind.REQUEST, data, frame.number))
        elif frame.kind is Kind.CLOSE:
            self._fail_requests("the call closed the channel")
            self._gone(data, None)
            # All messages have been posted to the callbacks. The result of the call arrives after this, so its events
            # come after those of its messages.
            peer.write(Frame(Kind.CLOSED, 0))

    def lost(self, peer: Peer, reason: BaseException) -> None:
        """The connection to the call is broken."""
        if peer is self._peer:
            self._gone(None, self._better_reason(reason))

    # To the call

    def answer(self, frame: Frame) -> None:
        """Answer or fail a request, once."""
        if self._peer is not None and frame.number in self._unanswered:
            self._unanswered.discard(frame.number)
            self._peer.write(frame)

    def end_soon(self, problem: str) -> None:
        """The run is ending: fail the requests that wait. Later ones are answered in their callbacks, or not at all."""
        self.ending = problem
        self._fail_requests(problem)

    def end(self, problem: str, reason: BaseException) -> None:
        """Close the channel from this side.

        Args:
            problem: The reason, for the call.
            reason: The exception, for the callbacks of `comm-close`.
        """
        if (peer := self._peer) is None:
            return
        self._fail_requests(problem)
        self._gone(None, self._better_reason(reason))
        peer.write(Frame(Kind.ENDED, 0, problem.encode()))
        peer.close()

    def delivered(self) -> None:
        """Called after the callbacks of a message."""
        self._undelivered -= 1
        if self._undelivered == _FEW and self._peer is not None:
            self._peer.hold(False)

    def _emit(self, event: Event[[Any], Any], msg: Msg[Any]) -> None:
        self._undelivered += 1
        delivery = _Delivery(self.task, event)
        dispatcher = self.task.dispatcher
        if self._inline or dispatcher is None:
            delivery.deliver((msg,))
            return
        dispatcher.post(delivery, (msg,), {})
        if self._undelivered == _MANY and self._peer is not None:
            self._peer.hold(True)

    def _gone(self, data: object, reason: BaseException | None) -> None:
        self._peer = None
        self._unanswered.clear()
        self._emit(CLOSE, Msg(self, MsgKind.CLOSE, data, 0, reason))
        if self.on_gone is not None:
            self.on_gone()

    def _fail_requests(self, problem: str) -> None:
        for number in sorted(self._unanswered):
            self.answer(Frame(Kind.FAILED, number, problem.encode()))

    def _not_loaded(self, frame: Frame, error: BaseException) -> None:
        reason = f"it cannot be loaded here: {describe(error)}"
        wrapped = NotPicklableError(repr(self), f"a {MsgKind[frame.kind.name]} of its channel", reason)
        wrapped.__cause__ = error
        if frame.kind is Kind.REQUEST:
            self._unanswered.add(frame.number)
            self.answer(Frame(Kind.FAILED, frame.number, str(wrapped).encode()))
        if self.task.dispatcher is not None:
            self.task.dispatcher.callback_failed(wrapped)

    def _better_reason(self, reason: BaseException) -> BaseException:
        """The exception of the call, if it has already finished."""
        future = self.future
        if future is None or not future.done():
            return reason
        if future.cancelled():
            return asyncio.CancelledError(f"{future!r} was cancelled")
        error = future.exception()
        return reason if error is None else error  # an exception may count as false

    def __repr__(self) -> str:
        if self.future is None:
            return f"a call of {self.task.name}"
        return f"call {self.future.number} of {self.task.name}"


class _Delivery(Subscriber[[Msg[Any]], Any]):
    """Delivers one event, and makes sure that a request is answered or failed."""

    __slots__ = ()

    def deliver(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        msg: Msg[Any] = args[0]
        emitter = self.emitter
        subscriber = emitter.subscriber(self.event)
        dispatcher = emitter.dispatcher
        if msg.kind is not MsgKind.REQUEST or dispatcher is None:
            subscriber.deliver((msg,))
        else:
            if not subscriber.handlers:
                msg.fail(f"{emitter.name} has no callback of {str(REQUEST)!r}, which would answer it")
            emitter.dispatcher = wrapper = _RequestDispatcher(dispatcher, msg)
            try:
                subscriber.deliver((msg,))
            finally:
                emitter.dispatcher = dispatcher
            if not wrapper.is_async:
                msg.not_later()
        msg.delivered()


class _RequestDispatcher(Dispatcher):
    """Wraps a run's dispatcher while a request is delivered: fails the request if a callback raises."""

    def __init__(self, inner: Dispatcher, request: Msg[Any]) -> None:
        self.is_async = False  # whether an async callback was started, which may still answer
        self.stopwatch = inner.stopwatch
        self._inner = inner
        self._request = request

    def post(self, subscriber: Subscriber[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inner.post(subscriber, args, kwargs)

    def spawn(self, coroutine: Coroutine[Any, Any, object], note: str) -> asyncio.Task[Any]:
        self.is_async = True
        callback = self._inner.spawn(coroutine, note)
        callback.add_done_callback(self._ended)
        return callback

    def callback_failed(self, error: BaseException) -> None:
        self._fail(error)
        self._inner.callback_failed(error)

    def _ended(self, callback: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if callback.cancelled() else callback.exception()
        if error is None:
            self._request.not_later()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._request.fail(f"the callback of comm-request raised {describe(error)}")
