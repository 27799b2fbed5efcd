"""The protocol between a call and its driver, which both ends use.

The two ends prove to each other, once, that they have the key of the run:

    worker -> driver   a random number
    driver -> worker   another random number, and an authentication code of both numbers, made with the key
    worker -> driver   another code of both numbers, and then its messages

Packets are framed as by `multiprocessing.connection.Connection.send_bytes`, so that the worker can use that class while
the driver, which must never block, reads the same bytes in its event loop. Each packet has an authentication code, made
with a key of this connection that is derived from both numbers: bytes that are injected into a connection between two
hosts, or replayed from another connection, are never unpickled.
"""

from __future__ import annotations

import hmac
import reprlib
import struct
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from amlsched.errors import NotPicklableError
from amlsched.executors.pickling import dumps, pickled_by_value
from amlsched.executors.user_function import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FROM_DRIVER",
    "FROM_WORKER",
    "NUMBER_BYTES",
    "PROOF_BYTES",
    "Agreement",
    "Frame",
    "Kind",
    "Seal",
    "dump",
    "packet",
    "packets",
    "shown",
]

FROM_WORKER, FROM_DRIVER = b"w", b"d"  # the two directions of a connection
NUMBER_BYTES = PROOF_BYTES = 32


class Agreement:
    """What both ends of one connection derive from the exchanged random numbers.

    Args:
        key: The key of the run.
        worker: The worker's number.
        driver: The driver's number.

    Attributes:
        proof_of_worker: The worker's proof that it has the key.
        proof_of_driver: The driver's proof.
        key: The key of the packets of this connection.
    """

    def __init__(self, key: bytes, worker: bytes, driver: bytes) -> None:
        def code(purpose: bytes) -> bytes:
            return hmac.digest(key, b"amlsched comm 1 " + purpose + worker + driver, "sha256")

        self.proof_of_worker, self.proof_of_driver, self.key = code(b"worker"), code(b"driver"), code(b"packet")


class Kind(StrEnum):
    """The kind of a frame; the first four go to the driver, the others come from it."""

    OPEN = "O"
    MESSAGE = "M"
    REQUEST = "R"
    CLOSE = "C"

    ANSWER = "A"
    """The answer to the request with this number, pickled."""
    FAILED = "F"
    """The request with this number gets no answer; contains the reason."""
    CLOSED = "K"
    """The driver has received everything that was sent before `CLOSE`."""
    ENDED = "E"
    """The driver closes the channel; contains the reason."""


class Frame(NamedTuple):
    """One message of the protocol.

    Attributes:
        kind: The kind.
        number: Number of the call in `OPEN`; otherwise of the message or request.
        body: A pickle, or text in UTF-8.
    """

    kind: Kind
    number: int
    body: bytes | memoryview = b""

    def words(self) -> str:
        """The body as text."""
        return bytes(self.body).decode("utf-8", "replace")


class Seal:
    """Packs and unpacks frames of one direction of one connection, with a code that requires the key.

    The code includes the position of the packet in the stream, so that none can be dropped, repeated or moved.

    Args:
        key: The key of the connection.
        direction: Identifies the direction.
    """

    _HEAD = struct.Struct("!cQ")
    _CODE_BYTES = 16

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._key = key
        self._direction = direction
        self._count = 0

    def wrap(self, frame: Frame) -> bytes:
        """Pack a frame into the payload of a packet."""
        content = self._HEAD.pack(frame.kind.encode(), frame.number) + frame.body
        return self._code(content) + content

    def unwrap(self, payload: bytes | bytearray) -> Frame:
        """Unpack the frame of a payload.

        Raises:
            ConnectionError: The code is wrong, or the payload is not a frame.
        """
        view = memoryview(payload)
        content = view[self._CODE_BYTES :]
        if not hmac.compare_digest(view[: self._CODE_BYTES], self._code(content)):
            raise ConnectionError("a packet was modified or injected on its way")
        try:
            kind, number = self._HEAD.unpack_from(content)
            return Frame(Kind(kind.decode()), number, content[self._HEAD.size :])
        except (struct.error, ValueError) as error:
            raise ConnectionError(f"a packet is not a frame: {error}") from error

    def _code(self, content: bytes | memoryview) -> bytes:
        self._count += 1
        code = hmac.new(self._key, self._direction + self._count.to_bytes(8), "sha256")
        code.update(content)
        return code.digest()[: self._CODE_BYTES]


def packet(payload: bytes) -> bytes:
    """A packet for `Connection.recv_bytes`."""
    size = len(payload)
    return (struct.pack("!i", size) if size <= 0x7FFFFFFF else struct.pack("!iQ", -1, size)) + payload


def packets(buffer: bytearray) -> Iterator[bytes]:
    """Remove complete packets of `Connection.send_bytes` from the buffer, and return their payloads."""
    start = 0
    try:
        while len(buffer) - start >= 4:
            (size,) = struct.unpack_from("!i", buffer, start)
            begin = start + 4
            if size == -1:
                if len(buffer) - begin < 8:
                    return
                (size,) = struct.unpack_from("!Q", buffer, begin)
                begin += 8
            if size < 0:
                raise ConnectionError(f"a packet of {size} bytes")
            if len(buffer) - begin < size:
                return
            start = begin + size
            yield bytes(memoryview(buffer)[begin:start])
    finally:
        del buffer[:start]


def dump(value: object, call: str, what: str) -> bytes:
    """Pickle a value, by cloudpickle if plain pickle fails.

    Raises:
        NotPicklableError: Both fail; the message names `what` of the call, and shows the value.
    """
    try:
        return dumps(value, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException as plain:  # a __reduce__ may raise anything, even SystemExit
        try:
            return pickled_by_value(value, protocol=5)
        except KeyboardInterrupt:
            raise
        except BaseException:
            raise NotPicklableError(call, f"{what} {shown(value)}", describe(plain)) from plain


def shown(value: object) -> str:
    """A short representation of a value for an error message; never raises."""
    try:
        return reprlib.repr(value)
    except BaseException:  # even SystemExit
        return f"<a {type(value).__name__}>"
