"""The driver's end of a channel: turns what a call says into events of its task, and answers its requests."""

from __future__ import annotations

import asyncio
import os
import pickle
from enum import StrEnum
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, Protocol

from amlsched.errors import NotPicklableError
from amlsched.events import Dispatcher, Event, Subscriber
from amlsched.executors.pickling import describe
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

    T = TypeVar("T")  # Python 3.11 knows no defaults

__all__ = ["CLOSE", "MESSAGE", "OPEN", "REQUEST", "Channel", "Msg", "Peer"]

OPEN: Event[[Any], Any] = Event("comm-open", ("msg",))
MESSAGE: Event[[Any], Any] = Event("comm-message", ("msg",))
REQUEST: Event[[Any], Any] = Event("comm-request", ("msg",))
CLOSE: Event[[Any], Any] = Event("comm-close", ("msg",))

# A worker that sends faster than the callbacks take is held back between these numbers of messages not delivered.
_MANY, _FEW = 1000, 100


class Peer(Protocol):
    """The way back to a call."""

    def write(self, frame: Frame) -> None:
        """Send it; this never blocks, and does nothing where the way is cut."""
        ...

    def close(self) -> None:
        """Cut the way, after what was written."""
        ...

    def hold(self, held: bool) -> None:
        """Whether to take nothing more from the call for now."""
        ...


class MsgKind(StrEnum):
    """What kind of message it is."""

    OPEN = "open"
    MESSAGE = "message"
    REQUEST = "request"
    CLOSE = "close"


class Msg(Generic[T]):
    """What a call said; callbacks of the four events are called with one.

    Attributes:
        kind: Which of the events it is, such as `"request"`.
        data: What was sent; in `comm-open` and `comm-close`, what was given to `open` and `close`, else `None`.
        task: The task whose call it is.
        exception: In `comm-close`: why the channel broke, or `None` where the call closed it.
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
        """The handle of the call."""
        future = self._channel.future
        assert future is not None, "a call was submitted before it can say anything"
        return future

    def respond(self, response: Any = None) -> None:
        """Answer a request: `comm.request()` returns it. Nothing happens where the call waits no longer.

        It may be called later than in the callback, and in any thread.

        Args:
            response: The answer.

        Raises:
            NotPicklableError: It cannot be sent; the request can still be answered.
            RuntimeError: It is no request, or was answered already.
        """
        call = repr(self._channel)
        if self.kind is not MsgKind.REQUEST:
            raise RuntimeError(f"{call}: a {self.kind} asks for no answer, only a request does")
        if self._responded:
            raise RuntimeError(f"{call}: this request was answered already")
        body = dump(response, call, "the answer")
        self._responded = True
        self._channel.in_loop(self._channel.answer, Frame(Kind.ANSWER, self._number, body))

    def fail(self, problem: str) -> None:
        """Tell a request that it gets no answer; nothing happens where it was answered."""
        if not self._responded:
            self._responded = True
            self._channel.in_loop(self._channel.answer, Frame(Kind.FAILED, self._number, problem.encode()))

    def not_later(self) -> None:
        """The callbacks of a request have run: while the run is ending, an answer is waited for no longer."""
        if self._channel.ending:
            self.fail(self._channel.ending)

    def delivered(self) -> None:
        """The callbacks were called."""
        self._channel.delivered()

    def __del__(self) -> None:
        # Nobody can answer any more, and the call need not wait for it. This may be in any thread, at any time.
        if self.kind is MsgKind.REQUEST and not self._responded:
            frame = Frame(Kind.FAILED, self._number, b"no callback of comm-request answered the request")
            self._channel.soon(self._channel.answer, frame)

    def __repr__(self) -> str:
        broken = f", broken by {shown(self.exception)}" if self.exception is not None else ""
        return f"<{self.kind} of {self._channel!r}: {shown(self.data)}{broken}>"


class Channel:
    """The driver's end of the channel of one call. All of it happens in the loop's thread, except where it says so.

    Args:
        loop: The loop of the run.
        task: Whose events are emitted.
        number: Of this channel among those of the run.
        home: Where channels whose calls may still open them are found by their number.
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
        self.future: Future[Any] | None = None  # known once the call was submitted, and before it can say anything
        self.was_open = False
        self.on_gone: Callable[[], object] | None = None  # called when the channel is closed or broken
        self._loop = loop
        self._home = (os.getpid(), get_ident())
        self._peer: Peer | None = None
        self._inline = False
        self._unanswered: set[int] = set()
        self.ending = ""  # the run ends: why requests are not kept for later
        self._undelivered = 0
        home[number] = self

    @property
    def is_open(self) -> bool:
        """Whether the call can say something."""
        return self._peer is not None

    def is_here(self) -> bool:
        """Whether this is the loop's own thread. May be called anywhere."""
        return self._home == (os.getpid(), get_ident())

    def in_loop(self, function: Callable[[Frame], None], frame: Frame) -> None:
        """Call a function in the loop's thread: now, if this is it. May be called in any thread."""
        if self.is_here():
            function(frame)
        else:
            self.soon(function, frame)

    def soon(self, function: Callable[[Frame], None], frame: Frame) -> None:
        """Call a function in the loop's thread, soon. May be called in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, frame)

    # From the call

    def received(self, peer: Peer, frame: Frame, *, inline: bool = False) -> None:
        """Take up what the call said.

        Args:
            peer: Through which it came.
            frame: What it is.
            inline: The call runs in this very thread: callbacks run now, as it may wait for one.
        """
        if frame.kind is Kind.OPEN:
            # A call whose worker was lost may be run again, by executors that do so.
            self.end("the call was run again elsewhere", ConnectionResetError("the call was run again elsewhere"))
            self.was_open = True
            self._peer, self._inline = peer, inline and self.future is not None
        elif peer is not self._peer:
            return
        try:
            data = pickle.loads(frame.body)
        except BaseException as error:  # whatever an import or a __setstate__ raises: it may exit, too
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
            # All that was said is on its way to the callbacks now. The result of the call comes after this, so that
            # its events come after those of its messages.
            peer.write(Frame(Kind.CLOSED, 0))

    def lost(self, peer: Peer, reason: BaseException) -> None:
        """The way to the call is cut."""
        if peer is self._peer:
            self._gone(None, self._better_reason(reason))

    # To the call

    def answer(self, frame: Frame) -> None:
        """Answer a request, or tell it that there will be no answer; once."""
        if self._peer is not None and frame.number in self._unanswered:
            self._unanswered.discard(frame.number)
            self._peer.write(frame)

    def end_soon(self, problem: str) -> None:
        """The run ends: requests that wait get no answer, and later ones only from the callbacks themselves."""
        self.ending = problem
        self._fail_requests(problem)

    def end(self, problem: str, reason: BaseException) -> None:
        """Close the channel from this side.

        Args:
            problem: What the call is told.
            reason: What the callbacks of `comm-close` are told.
        """
        if (peer := self._peer) is None:
            return
        self._fail_requests(problem)
        self._gone(None, self._better_reason(reason))
        peer.write(Frame(Kind.ENDED, 0, problem.encode()))
        peer.close()

    def delivered(self) -> None:
        """The callbacks of a message were called."""
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
        told = NotPicklableError(repr(self), f"a {MsgKind[frame.kind.name]} of its channel", reason)
        told.__cause__ = error
        if frame.kind is Kind.REQUEST:
            self._unanswered.add(frame.number)
            self.answer(Frame(Kind.FAILED, frame.number, str(told).encode()))
        if self.task.dispatcher is not None:
            self.task.dispatcher.callback_failed(told)

    def _better_reason(self, reason: BaseException) -> BaseException:
        """What became of the call, where that is known already."""
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
    """Delivers one event in its turn, and keeps watch over it."""

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
                msg.fail(f"{emitter.name} has no callback of {str(REQUEST)!r}, so that nobody answers")
            emitter.dispatcher = watch = _Watch(dispatcher, msg)
            try:
                subscriber.deliver((msg,))
            finally:
                emitter.dispatcher = dispatcher
            if not watch.goes_on:
                msg.not_later()
        msg.delivered()


class _Watch(Dispatcher):
    """A run's dispatcher while a request is delivered: a callback that fails does not leave the call waiting."""

    def __init__(self, inner: Dispatcher, request: Msg[Any]) -> None:
        self.goes_on = False  # an async callback was started, and may answer yet
        self.stopwatch = inner.stopwatch
        self._inner = inner
        self._request = request

    def post(self, subscriber: Subscriber[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inner.post(subscriber, args, kwargs)

    def spawn(self, coroutine: Coroutine[Any, Any, object], note: str) -> asyncio.Task[Any]:
        self.goes_on = True
        callback = self._inner.spawn(coroutine, note)
        callback.add_done_callback(self._ended)
        return callback

    def callback_failed(self, error: BaseException) -> None:
        self._tell(error)
        self._inner.callback_failed(error)

    def _ended(self, callback: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if callback.cancelled() else callback.exception()
        if error is None:
            self._request.not_later()
        else:
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        self._request.fail(f"the callback of comm-request failed: {describe(error)}")
