"""Two-way messages between a running call and its driver, on every executor.

The function of the task gets a `Comm` as keyword argument, to send messages and requests; the task has events for them:

    def train(epochs: int, *, comm: Comm) -> float:
        with comm.open():
            for epoch in range(epochs):
                comm.send((epoch, loss))
                if comm.request("go on?", timeout=60) == "stop":
                    break
        return loss

    task = scheduler.task(train, plugins=Comm.Plugin())

    @task.on("comm-message")
    def show(msg: Comm.Msg): print(msg.future, msg.data)

    @task.on("comm-request")
    def decide(msg: Comm.Msg): msg.respond("stop" if enough else "go on")

Messages that a call sent before it returned are delivered before the events of its result.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pickle
import threading
import time
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING, Any, ClassVar

from amlsched._context import contextmanager
from amlsched.errors import CommError
from amlsched.events import Event
from amlsched.executors.capabilities import capabilities_of
from amlsched.executors.user_function import call_function
from amlsched.plugins._comm.channel import CLOSE, MESSAGE, OPEN, REQUEST, Channel
from amlsched.plugins._comm.channel import Msg as Message
from amlsched.plugins._comm.client import InlineLink, SocketLink
from amlsched.plugins._comm.server import LOOPBACK, CommServer, outward_address
from amlsched.plugins._comm.wire import Frame, Kind, dump, shown
from amlsched.task import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Self

    from typing_extensions import TypeAliasType

    from amlsched.future import Future
    from amlsched.plugins._comm.channel import T
    from amlsched.plugins._comm.client import Link
    from amlsched.task import Task

__all__ = ["Comm", "CommPlugin"]

_LOST_S = 2.0  # how long to wait for messages that a lost worker may have sent before
_FORKED = (
    "a process forked by the call cannot use its channel: pass its messages to the process of the call, "
    "for example by a multiprocessing.Queue"
)


class CommPlugin(Plugin):
    """Passes a `Comm` to each call of a task, and adds the events `comm-open`, `-message`, `-request` and `-close`.

    Args:
        parameter_name: The function's parameter for the `Comm`.
        host: The address of this machine that workers can reach. `None` for loopback, or if workers may be on other
            hosts, for the address that the executor reports, or else that of the default route.

    Raises:
        ValueError: `parameter_name` is not a valid name of a parameter.
    """

    name: ClassVar[str] = "comm"

    OPEN = OPEN
    MESSAGE = MESSAGE
    REQUEST = REQUEST
    CLOSE = CLOSE

    def __init__(self, parameter_name: str = "comm", *, host: str | None = None) -> None:
        self.parameter_name = _parameter(parameter_name)
        self.host = host
        self._task: Task[..., Any] | None = None
        self._server: CommServer | None = None
        self._comes_first = False
        self._channels: dict[Future[Any], Channel] = {}  # of the unfinished calls

    @property
    def n_open(self) -> int:
        """How many channels are open."""
        return sum(channel.is_open for channel in self._channels.values())

    def attach_task(self, task: Task[..., Any]) -> None:
        """Subscribe to the task.

        Raises:
            TypeError: Its function does not have the parameter.
        """
        self._comes_first = self._checked_parameters(task)
        self._task = task
        task.on_submitted(self._submitted, hidden=True)
        task.on_done(self._done, hidden=True)
        task.on_cancelled(self._cancelled, hidden=True)
        task.scheduler.on_finishing(self._finishing, hidden=True)
        task.scheduler.on_finished(self._close, hidden=True)

    def pre_submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Add a `Comm` to the call.

        Raises:
            ValueError: The call already has this argument.
            RuntimeError: The executor is a simulation.
        """
        name = self.parameter_name
        if name in kwargs:
            raise ValueError(
                f"{_name(fn)}: Comm.Plugin provides the argument {name!r}, so the call must not contain it"
            )
        task = self._task
        assert task is not None
        if not task.scheduler.running():  # the scheduler will raise an error
            return fn, args, kwargs
        if self._server is None:
            if capabilities_of(task.scheduler.executor).virtual:
                raise RuntimeError(
                    f"{_name(fn)}: Comm needs a worker that runs the call, and a simulation has none: "
                    "leave the plugin out when the scheduler is made by with_simulation"
                )
            self._server = CommServer(asyncio.get_running_loop(), task, self._address(task))
        comm = Comm(_name(fn), self._server.address, self._server.key, self._server.new_channel())
        function = _WithComm(fn, name)
        if args and self._comes_first:
            return function, (comm, *args), kwargs
        return function, args, {**kwargs, name: comm}

    def reset(self) -> None:
        """Clean up after a run that did not end gracefully."""
        self._close()

    def __str__(self) -> str:
        return f"{self.name}: {self.n_open} channels open"

    def _address(self, task: Task[..., Any]) -> str:
        executor = task.scheduler.executor
        if self.host is not None:
            return self.host
        if not capabilities_of(executor).remote:
            return LOOPBACK
        return getattr(executor, "driver_host", None) or outward_address()

    def _checked_parameters(self, task: Task[..., Any]) -> bool:
        """Check the function's parameters, and return whether its first one is the one for the `Comm`."""
        try:
            parameters = inspect.signature(task.function).parameters
        except (TypeError, ValueError):  # some builtins have none
            return False
        accepted = parameters.get(self.parameter_name)
        if accepted is not None and accepted.kind is accepted.POSITIONAL_OR_KEYWORD:
            return next(iter(parameters)) == self.parameter_name
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
        if accepted is None or accepted.kind is accepted.POSITIONAL_ONLY:
            raise TypeError(
                f"{task.name}: Comm.Plugin passes the keyword {self.parameter_name!r}, which the function does not "
                f"accept: write `def {_name(task.function)}(..., *, {self.parameter_name})`, or set another name by "
                "Comm.Plugin(parameter_name=...)"
            )
        return False

    def _submitted(self, future: Future[Any], /, *args: Any, **kwargs: Any) -> None:
        comm = _comm_of(self.parameter_name, args, kwargs)
        channel = comm.channel if isinstance(comm, Comm) else None
        if channel is None:
            raise RuntimeError(
                f"{future!r}: a plugin has removed the argument {self.parameter_name!r} from the call; "
                "attach it before Comm.Plugin"
            )
        channel.future = future
        self._channels[future] = channel

    def _done(self, future: Future[Any]) -> None:
        channel, server = self._channels.pop(future, None), self._server
        if channel is None or server is None:
            return
        lost = isinstance(future.exception(), BrokenExecutor)
        if channel.is_open or (lost and not channel.was_open):
            # Its worker was lost. Messages that it had sent may still arrive; the run waits for them.
            channel.task.spawn(_drain(channel, server), f"in the channel of {future!r}")

    def _cancelled(self, future: Future[Any]) -> None:
        channel = self._channels.pop(future, None)
        if channel is not None:
            channel.end("the call was cancelled", asyncio.CancelledError())

    def _finishing(self) -> None:
        for channel in self._channels.values():
            channel.end_soon("the run is ending")

    def _close(self) -> None:
        self._channels.clear()
        if self._server is not None:
            self._server.close()
            self._server = None


class Comm:
    """A call's end of its channel. Several threads of the call can use it, but no process forked by the call.

    The channel is opened on first use and closed when the function returns, unless that was done before.
    """

    OPEN: ClassVar[Event[[Message[Any]], Any]] = OPEN
    """A call opened its channel; `msg.data` is the argument of `open`."""
    MESSAGE: ClassVar[Event[[Message[Any]], Any]] = MESSAGE
    """A call sent a message."""
    REQUEST: ClassVar[Event[[Message[Any]], Any]] = REQUEST
    """A call sent a request, and waits for `msg.respond(answer)`."""
    CLOSE: ClassVar[Event[[Message[Any]], Any]] = CLOSE
    """A call closed its channel, or lost it: `msg.exception` is the reason, or `None` if the call closed it."""

    Plugin = CommPlugin
    if TYPE_CHECKING:
        Msg = TypeAliasType("Msg", Message[T], type_params=(T,))  # otherwise mypy treats it as a variable
    else:
        Msg = Message
    TimeoutError = TimeoutError
    """The exception of `request` if it times out."""
    CloseRequestError = CommError
    """The exception of the methods if the channel cannot be used (amltk's name)."""

    _link: Link | None
    _closed: str  # why the channel can no longer be used
    _sent: int
    _pid: int
    _answers: dict[int, Frame]
    _writing: threading.Lock
    _arrived: threading.Condition
    _is_being_read: bool

    def __init__(self, call: str, address: tuple[str, int], key: bytes, channel: Channel) -> None:
        self.channel: Channel | None = channel  # in the driver's process only
        self._number = channel.number
        self._call = call
        self._address = address
        self._key = key
        self._begin()

    @contextmanager
    def open(self, opening_msg: Any = None, *, wait_for_ack: bool = True) -> Generator[Self]:
        """Open the channel, and close it at the end of the `with` block.

        Args:
            opening_msg: The data of `comm-open`.
            wait_for_ack: Ignored: closing always waits until the driver has received everything (amltk's name).

        Raises:
            CommError: The driver cannot be reached, or the channel was closed.
            NotPicklableError: `opening_msg` cannot be sent.
        """
        self._link_opened(opening_msg)
        try:
            yield self
        finally:
            self.close()

    def send(self, obj: Any) -> None:
        """Send a message, without waiting for its arrival.

        Raises:
            CommError: The channel is closed, for example because the call was cancelled or the run has finished.
            NotPicklableError: It cannot be sent; the channel can still be used.
        """
        self._say(Kind.MESSAGE, obj)

    def request(self, msg: Any = None, *, timeout: float | None = None) -> Any:
        """Send a request, and return the answer of a callback of `comm-request`.

        Args:
            msg: The request.
            timeout: Seconds to wait; `None` for as long as an answer is possible.

        Raises:
            TimeoutError: There was no answer in time; a later answer is dropped.
            CommError: There will be no answer: the callback raised or did not answer the request, the run is ending,
                the call was cancelled, or the driver is gone.
            NotPicklableError: `msg` cannot be sent; the channel can still be used.
        """
        until = None if timeout is None else time.monotonic() + timeout
        link, number = self._say(Kind.REQUEST, msg)
        if not self._wait(link, lambda: number in self._answers, until):
            raise TimeoutError(f"{self._call}: no answer within {timeout} s to the request {shown(msg)}")
        answer = self._answers.pop(number)
        if answer.kind is Kind.FAILED:
            raise CommError(self._call, f"no answer to the request {shown(msg)}: {answer.words()}")
        return pickle.loads(answer.body)

    def close(self, msg: Any = None) -> None:
        """Close the channel, and wait until the driver has received everything. Does nothing if already closed.

        Args:
            msg: The data of `comm-close`.

        Raises:
            NotPicklableError: `msg` cannot be sent; the channel stays open.
        """
        link = self._link
        if link is None or self._closed or os.getpid() != self._pid:
            return
        body = dump(msg, self._call, "the closing message")
        with suppress(CommError):  # the driver is gone, or has closed the channel itself
            with self._writing:
                link.send(Frame(Kind.CLOSE, 0, body))
            self._wait(link, lambda: bool(self._closed), None)
        self._shut("it was closed")
        link.close()

    def begin(self) -> None:
        """Allow the channel to be opened. Called before the function, for each attempt in this process."""
        if self._closed:
            self._begin()

    def end(self) -> None:
        """Close the channel if it is open. Called when the function has returned or raised."""
        if self._link is None:
            self._shut("the function has returned")
        self.close()

    # The link

    def _link_opened(self, opening_msg: Any = None) -> Link:
        if os.getpid() != self._pid:
            raise CommError(self._call, _FORKED)
        with self._writing:
            if self._closed:
                raise CommError(self._call, f"the channel cannot be used: {self._closed}")
            if self._link is None:
                body = dump(opening_msg, self._call, "the opening message")
                self._link = self._connect()
                self._link.send(Frame(Kind.OPEN, self._number, body))
            return self._link

    def _connect(self) -> Link:
        if self.channel is not None and self.channel.is_here():
            return InlineLink(self._call, self.channel)
        try:
            return SocketLink(self._call, self._address, self._key)
        except AuthenticationError as error:
            raise CommError(self._call, "the process at the driver's address does not have its key") from error
        except (OSError, EOFError) as error:
            host, port = self._address
            raise CommError(self._call, f"the driver cannot be reached at {host}:{port}: {error!r}") from error

    def _say(self, kind: Kind, value: Any) -> tuple[Link, int]:
        body = dump(value, self._call, f"the {kind.name.lower()}")
        link = self._link_opened()
        self._wait(link, lambda: False, time.monotonic())  # has the driver closed the channel?
        with self._writing:
            self._sent += 1
            number = self._sent
            link.send(Frame(kind, number, body))
        return link, number

    def _wait(self, link: Link, done: Callable[[], bool], until: float | None) -> bool:
        """Receive from the driver until a condition holds; whether it does in time. One thread reads for all."""
        with self._arrived:
            while not done():
                if self._closed:
                    raise CommError(self._call, f"the channel cannot be used: {self._closed}")
                left = None if until is None else max(0.0, until - time.monotonic())
                if self._is_being_read:
                    if not self._arrived.wait(left):
                        return done()
                elif not self._read(link, left):
                    return False
        return True

    def _read(self, link: Link, timeout: float | None) -> bool:
        """Receive a frame, and return whether one came in time. Releases `_arrived` while it waits."""
        self._is_being_read = True
        self._arrived.release()
        problem, frame = "", None
        try:
            frame = link.receive(timeout)
        except CommError as error:
            problem = error.problem
        finally:
            self._arrived.acquire()
            self._is_being_read = False
            self._arrived.notify_all()
        if frame is not None and frame.kind is Kind.CLOSED:
            problem = "it was closed"
        elif frame is not None and frame.kind is Kind.ENDED:
            problem = f"the driver closed it, as {frame.words()}"
        elif frame is not None:
            self._answers[frame.number] = frame
        self._shut(problem)
        return frame is not None or bool(problem)

    def _shut(self, reason: str) -> None:
        self._closed = self._closed or reason

    def _begin(self) -> None:
        self._link, self._closed, self._sent, self._answers = None, "", 0, {}
        self._pid = os.getpid()  # a forked process shares the connection, and must not use it
        self._writing, self._arrived, self._is_being_read = threading.Lock(), threading.Condition(), False

    def __getstate__(self) -> tuple[object, ...]:
        return self._number, self._call, self._address, self._key

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._number, self._call, self._address, self._key = state
        self.channel = None
        self._begin()

    def __repr__(self) -> str:
        return f"<Comm {self._number} of {self._call}>"  # must not contain the key


class _WithComm:
    """Wraps the function of a call, to close the channel when it returns."""

    def __init__(self, function: Callable[..., Any], parameter_name: str) -> None:
        self.function = function
        self.parameter_name = parameter_name
        functools.update_wrapper(self, function, assigned=("__name__", "__qualname__"), updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        comm: Comm = _comm_of(self.parameter_name, args, kwargs)
        comm.begin()
        try:
            return call_function(self.function, args, kwargs)
        finally:
            comm.end()


async def _drain(channel: Channel, server: CommServer) -> None:
    gone = asyncio.Event()
    channel.on_gone = gone.set
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOST_S):
                await server.all_arrived(until=lambda: channel.was_open)
                if channel.is_open:
                    await gone.wait()
    finally:
        channel.end("the call has finished", ConnectionResetError("the worker exited without closing its channel"))


def _comm_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs[name] if name in kwargs else args[0] if args else None


def _parameter(name: Any) -> str:
    if isinstance(name, str) and name.isidentifier():
        return name
    raise ValueError(f"parameter_name={name!r}: must be the name of a parameter, such as 'comm'")


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", None) or type(function).__name__
