"""The server to which the calls of one task connect: a listening socket in the loop of the run, with authentication.

Everything runs in the loop's thread and never blocks. What a peer sends before it has proved that it has the key of the
run is limited in time and size, and nothing of it is kept or unpickled.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from amlsched.plugins._comm.channel import Channel
from amlsched.plugins._comm.wire import (
    FROM_DRIVER,
    FROM_WORKER,
    NUMBER_BYTES,
    PROOF_BYTES,
    Agreement,
    Frame,
    Kind,
    Seal,
    packet,
    packets,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from amlsched.task import Task

__all__ = ["LOOPBACK", "CommServer", "outward_address"]

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_PROOF_S = 5.0  # how long a peer may take to authenticate
_MOST_UNAUTHENTICATED = 64  # maximum number of unauthenticated peers; one more disconnects the oldest,
_PATIENCE_S = 0.25  # which has at least this much time
_BACKLOG = 512
_PAUSE_S = 0.5  # when no connection can be accepted because there are no file descriptors


def outward_address() -> str:
    """The address of this machine on its default route; loopback if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved (RFC 5737); connecting a datagram socket sends nothing
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


class _Unauthenticated(NamedTuple):
    """An unauthenticated peer."""

    came: float
    timer: asyncio.TimerHandle


class CommServer:
    """Serves the calls of one task during one run.

    Args:
        loop: The loop of the run.
        task: The task.
        host: The address to listen on, which workers connect to.

    Attributes:
        address: Its host and port.
        key: The key for authentication, which is only contained in the arguments of calls.

    Raises:
        OSError: It cannot listen on this address.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, task: Task[..., Any], host: str) -> None:
        self.loop = loop
        self.key = secrets.token_bytes(32)
        self.channels: WeakValueDictionary[int, Channel] = WeakValueDictionary()
        self._task = task
        self._made = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
        self._listening.setblocking(False)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._unauthenticated: dict[_Peer, _Unauthenticated] = {}
        self._admissions: set[asyncio.Task[Any]] = set()
        self.peers: dict[_Peer, socket.socket] = {}  # including unauthenticated ones
        self.closed = False
        loop.add_reader(self._listening, self._accept)
        _servers.add(self)

    def new_channel(self) -> Channel:
        """Create the driver's end of the channel of a call that is about to be submitted."""
        self._made += 1
        return Channel(self.loop, self._task, self._made, self.channels)

    async def all_arrived(self, until: Callable[[], bool]) -> None:
        """Wait until all connections are processed whose peers may be dead by now, or until a condition holds."""
        for _ in range(2):  # accept connections that are waiting in the kernel
            await asyncio.sleep(0)
        while not until() and any(peer.is_new for peer in self.peers):
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Close all channels and connections, which notifies their calls."""
        self.closed = True
        self.loop.remove_reader(self._listening)
        self._listening.close()
        for channel in list(self.channels.values()):
            channel.end("the run has finished", ConnectionAbortedError("the run has finished"))
        for admission in tuple(self._admissions):
            admission.cancel()
        for peer in tuple(self.peers):
            peer.abort()

    def close_inherited(self) -> None:
        """In a forked worker: close the driver's connections."""
        for connection in (self._listening, *self.peers.values()):
            connection.close()

    def _accept(self) -> None:
        if len(self._unauthenticated) >= _MOST_UNAUTHENTICATED:
            oldest = next(iter(self._unauthenticated))
            if self.loop.time() < self._unauthenticated[oldest].came + _PATIENCE_S:
                self._pause(_PATIENCE_S / 10)
                return
            oldest.abort()
            self.authenticated(oldest)
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            logger.warning("the channel of %s cannot accept a connection: %s", self._task.name, error)
            self._pause(_PAUSE_S)
            return
        connection.setblocking(False)
        peer = _Peer(self, connection)
        self.peers[peer] = connection
        self._unauthenticated[peer] = _Unauthenticated(self.loop.time(), self.loop.call_later(_PROOF_S, peer.abort))
        admission = self.loop.create_task(self.loop.connect_accepted_socket(lambda: peer, connection))
        self._admissions.add(admission)
        admission.add_done_callback(partial(self._admitted, peer))

    def _pause(self, seconds: float) -> None:
        """Stop accepting connections for a while, as they would wake up the loop all the time."""
        self.loop.remove_reader(self._listening)
        self.loop.call_later(seconds, self._accept_again)

    def _accept_again(self) -> None:
        if not self.closed:
            self.loop.add_reader(self._listening, self._accept)

    def _admitted(self, peer: _Peer, admission: asyncio.Task[Any]) -> None:
        self._admissions.discard(admission)
        error = None if admission.cancelled() else admission.exception()
        if admission.cancelled() or error is not None:
            peer.discard()
            self.disconnected(peer)
        if error is not None:
            logger.warning("a worker of %s could not be connected: %s", self._task.name, error)

    def authenticated(self, peer: _Peer) -> None:
        """A peer is no longer unauthenticated: it has proved that it has the key, or was disconnected."""
        if (former := self._unauthenticated.pop(peer, None)) is not None:
            former.timer.cancel()

    def disconnected(self, peer: _Peer) -> None:
        """A peer is gone."""
        self.authenticated(peer)
        self.peers.pop(peer, None)


class _Peer(asyncio.Protocol):
    """A connection from a worker, or from an unauthenticated peer."""

    def __init__(self, server: CommServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._buffer = bytearray()
        self._agreement: Agreement | None = None
        self._seals: tuple[Seal, Seal] | None = None  # incoming and outgoing, once it is authenticated
        self._aborted = False

    @property
    def is_new(self) -> bool:
        """Whether it has sent nothing yet."""
        return self._channel is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._server.closed or self._aborted:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._seals is None and not self._proves_itself():
                return
            assert self._seals is not None
            for payload in packets(self._buffer):
                self._received(self._seals[0].unwrap(payload))
        except ConnectionError as error:
            self._broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.disconnected(self)
        self._broken(exc or ConnectionResetError("the worker exited without closing its channel"))

    def write(self, frame: Frame) -> None:
        """See `Peer`."""
        if self._transport is not None and self._seals is not None and not self._transport.is_closing():
            self._transport.write(packet(self._seals[1].wrap(frame)))

    def close(self) -> None:
        """See `Peer`."""
        if self._transport is not None:
            self._transport.close()

    def discard(self) -> None:
        """Close the connection of a peer that could not be accepted."""
        self._connection.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def hold(self, held: bool) -> None:
        """See `Peer`."""
        if self._transport is None or self._transport.is_closing():
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _proves_itself(self) -> bool:
        """Process the received part of the peer's proof, and return whether it is complete.

        Raises:
            ConnectionError: The peer does not have the key.
        """
        if self._agreement is None:
            if len(self._buffer) < NUMBER_BYTES:
                return False
            assert self._transport is not None
            number = secrets.token_bytes(NUMBER_BYTES)
            self._agreement = Agreement(self._server.key, self._take(NUMBER_BYTES), number)
            self._transport.write(number + self._agreement.proof_of_driver)
        if len(self._buffer) < PROOF_BYTES:
            return False
        if not hmac.compare_digest(self._take(PROOF_BYTES), self._agreement.proof_of_worker):
            raise ConnectionError("a peer does not have the key")
        self._seals = Seal(self._agreement.key, FROM_WORKER), Seal(self._agreement.key, FROM_DRIVER)
        self._server.authenticated(self)
        return True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _received(self, frame: Frame) -> None:
        if self._channel is None:
            self._channel = self._server.channels.get(frame.number) if frame.kind is Kind.OPEN else None
            if self._channel is None:
                raise ConnectionError(f"the call {frame.number} of a worker is unknown here")
        self._channel.received(self, frame)

    def _broken(self, error: Exception) -> None:
        if self._transport is not None and not self._transport.is_closing():
            # Any program may connect to any port.
            logger.log(logging.DEBUG if self._seals is None else logging.WARNING, "a channel was closed: %s", error)
            self._transport.abort()
        if self._channel is not None:
            self._channel.lost(self, error)


# Processes forked during a run inherit its sockets, and would keep the driver's ends of connections open.
_servers: WeakSet[CommServer] = WeakSet()


def _close_inherited() -> None:
    for server in tuple(_servers):
        server.close_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
