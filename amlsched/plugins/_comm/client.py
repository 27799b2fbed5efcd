"""A call's connection to its driver: by a socket, or directly if it runs in the driver's own thread."""

from __future__ import annotations

import hmac
import secrets
import socket
import time
from collections import deque
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from amlsched.errors import CommError
from amlsched.plugins._comm.wire import (
    FROM_DRIVER,
    FROM_WORKER,
    NUMBER_BYTES,
    PROOF_BYTES,
    Agreement,
    Frame,
    Kind,
    Seal,
)

if TYPE_CHECKING:
    from amlsched.plugins._comm.channel import Channel

__all__ = ["InlineLink", "Link", "SocketLink"]

_CONNECT_S = 60.0
_PROOF_S = 600.0  # a driver with long callbacks answers late
_NOT_LATER = (
    "no callback of 'comm-request' answered at once; while a call runs in the scheduler's own thread, it cannot be "
    "answered later: use with_threads(1) or with_processes(1) instead of with_sequential()"
)


class Link(Protocol):
    """A call's connection to its driver."""

    def send(self, frame: Frame) -> None: ...

    def receive(self, timeout: float | None) -> Frame | None: ...

    def close(self) -> None: ...


class SocketLink:
    """A socket connection to the driver.

    Raises:
        AuthenticationError: The process at this address does not have the key.
        OSError: No process listens there or answers, or the connection broke; also `EOFError`.
    """

    def __init__(self, call: str, address: tuple[str, int], key: bytes) -> None:
        self._call = call
        self._connection, of_connection = _connect(address, key)
        self._incoming = Seal(of_connection, FROM_DRIVER)
        self._outgoing = Seal(of_connection, FROM_WORKER)

    def send(self, frame: Frame) -> None:
        try:
            self._connection.send_bytes(self._outgoing.wrap(frame))
        except OSError as error:
            raise CommError(self._call, f"the connection to the driver is lost: {error!r}") from error

    def receive(self, timeout: float | None) -> Frame | None:
        try:
            if not self._connection.poll(timeout):
                return None
            return self._incoming.unwrap(self._connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise CommError(self._call, f"the connection to the driver is lost: {error!r}") from error

    def close(self) -> None:
        self._connection.close()


def _connect(address: tuple[str, int], key: bytes) -> tuple[Connection[Any, Any], bytes]:
    """Open an authenticated connection; returns it and the key of its packets.

    May need several attempts if the driver has many unauthenticated connections.
    """
    until = time.monotonic() + _CONNECT_S
    patience = 0.05
    while True:
        stream = socket.create_connection(address, timeout=_CONNECT_S)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            of_connection = _agree(stream, key)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            stream.close()
            if time.monotonic() + patience > until:
                raise
            time.sleep(patience)
            patience = min(1.0, 2 * patience)
        except BaseException:
            stream.close()
            raise
        else:
            stream.setblocking(True)
            return Connection(stream.detach()), of_connection


def _agree(stream: socket.socket, key: bytes) -> bytes:
    """Authenticate: the driver proves that it has the key, then this end does."""
    stream.settimeout(_PROOF_S)
    number = secrets.token_bytes(NUMBER_BYTES)
    stream.sendall(number)
    answer = b""
    while missing := NUMBER_BYTES + PROOF_BYTES - len(answer):
        part = stream.recv(missing)
        if not part:
            raise EOFError("the driver closed the connection")
        answer += part
    agreement = Agreement(key, number, answer[:NUMBER_BYTES])
    if not hmac.compare_digest(answer[NUMBER_BYTES:], agreement.proof_of_driver):
        raise AuthenticationError("the driver's proof is wrong")
    stream.sendall(agreement.proof_of_worker)
    return agreement.key


class InlineLink:
    """The connection of a call that runs in the loop's own thread: its messages are delivered immediately.

    No other callback runs meanwhile, as the call was not started by one. If it was, by an executor that runs calls in
    `submit`, everything is delivered after the call, and requests cannot be answered.
    """

    def __init__(self, call: str, channel: Channel) -> None:
        self._call = call
        self._channel = channel
        self._frames: deque[Frame] = deque()
        self._asked = 0

    def send(self, frame: Frame) -> None:
        future = self._channel.future
        if future is not None and future.cancelled():
            raise CommError(self._call, "the call was cancelled")
        self._asked = frame.number
        self._channel.received(self, frame, inline=True)

    def receive(self, timeout: float | None) -> Frame | None:
        if self._frames:
            return self._frames.popleft()
        if timeout == 0:
            return None
        return Frame(Kind.FAILED, self._asked, _NOT_LATER.encode())

    def close(self) -> None:
        pass

    # As the driver's `Peer`

    def write(self, frame: Frame) -> None:
        self._frames.append(frame)

    def hold(self, held: bool) -> None:
        pass
