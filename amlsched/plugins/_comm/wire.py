"""What travels between a call and its driver, and how: the same on both ends, without any state of either.

The two ends prove to each other, once, that they hold the key of the run:

    worker -> driver   a random number
    driver -> worker   a random number of its own, and a code of both numbers, made with the key
    worker -> driver   another code of both numbers, and all that it has to say

Packets are framed as `multiprocessing.connection.Connection.send_bytes` frames them, so that the worker uses that class
while the driver, which must never block, reads the same bytes in its event loop. Each packet carries a code, made with
a key of this connection that follows from both numbers: bytes that someone slips into a connection on their way between
two hosts are never unpickled, and neither are those that were recorded from another connection.
"""

from __future__ import annotations

import hmac
import reprlib
import struct
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from amlsched.errors import NotPicklableError
from amlsched.executors.pickling import describe, dumps, pickled_by_value

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
    """What both ends of one connection know once they have told each other a random number.

    Args:
        key: The key of the run.
        worker: The worker's number.
        driver: The driver's.

    Attributes:
        proof_of_worker: What the worker sends to show that it holds the key.
        proof_of_driver: What the driver sends.
        key: For the packets of this connection.
    """

    def __init__(self, key: bytes, worker: bytes, driver: bytes) -> None:
        def code(purpose: bytes) -> bytes:
            return hmac.digest(key, b"amlsched comm 1 " + purpose + worker + driver, "sha256")

        self.proof_of_worker, self.proof_of_driver, self.key = code(b"worker"), code(b"driver"), code(b"packet")


class Kind(StrEnum):
    """What a frame is; the first four go to the driver, the others come from it."""

    OPEN = "O"
    MESSAGE = "M"
    REQUEST = "R"
    CLOSE = "C"

    ANSWER = "A"
    """To the request of this number, pickled."""
    FAILED = "F"
    """The request of this number gets no answer; why, in words."""
    CLOSED = "K"
    """The driver has everything that was sent before `CLOSE`."""
    ENDED = "E"
    """The driver closes the channel; why, in words."""


class Frame(NamedTuple):
    """One thing that is said.

    Attributes:
        kind: What it is.
        number: Of the call in `OPEN`; of the message or request elsewhere.
        body: A pickle, or words in UTF-8.
    """

    kind: Kind
    number: int
    body: bytes | memoryview = b""

    def words(self) -> str:
        """The body of a frame that carries words."""
        return bytes(self.body).decode("utf-8", "replace")


class Seal:
    """One direction of one connection: packs frames with a code that only those who hold the key can make.

    The code covers the place of the packet in the stream, so that none can be dropped, repeated or moved.

    Args:
        key: The key of the connection.
        direction: Differs between the two directions.
    """

    _HEAD = struct.Struct("!cQ")
    _CODE_BYTES = 16

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._key = key
        self._direction = direction
        self._count = 0

    def wrap(self, frame: Frame) -> bytes:
        """The frame as the payload of a packet."""
        content = self._HEAD.pack(frame.kind.encode(), frame.number) + frame.body
        return self._code(content) + content

    def unwrap(self, payload: bytes | bytearray) -> Frame:
        """The frame in a payload.

        Raises:
            ConnectionError: It does not carry the code, or is no frame.
        """
        view = memoryview(payload)
        content = view[self._CODE_BYTES :]
        if not hmac.compare_digest(view[: self._CODE_BYTES], self._code(content)):
            raise ConnectionError("a packet was changed or slipped in on its way")
        try:
            kind, number = self._HEAD.unpack_from(content)
            return Frame(Kind(kind.decode()), number, content[self._HEAD.size :])
        except (struct.error, ValueError) as error:
            raise ConnectionError(f"a packet is no frame: {error}") from error

    def _code(self, content: bytes | memoryview) -> bytes:
        self._count += 1
        code = hmac.new(self._key, self._direction + self._count.to_bytes(8), "sha256")
        code.update(content)
        return code.digest()[: self._CODE_BYTES]


def packet(payload: bytes) -> bytes:
    """The payload as `Connection.recv_bytes` reads it."""
    size = len(payload)
    return (struct.pack("!i", size) if size <= 0x7FFFFFFF else struct.pack("!iQ", -1, size)) + payload


def packets(buffer: bytearray) -> Iterator[bytes]:
    """The payloads that are complete in the buffer, as `Connection.send_bytes` wrote them; they are taken out of it."""
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
    """A value pickled; by cloudpickle where plain pickle cannot.

    Raises:
        NotPicklableError: Neither can; it names `what` of the call, and shows the value.
    """
    try:
        return dumps(value, protocol=5)
    except KeyboardInterrupt:
        raise
    except BaseException as plain:  # whatever a __reduce__ raises: it may exit, too
        try:
            return pickled_by_value(value, protocol=5)
        except KeyboardInterrupt:
            raise
        except BaseException:
            raise NotPicklableError(call, f"{what} {shown(value)}", describe(plain)) from plain


def shown(value: object) -> str:
    """A value for an error message: short, and never an error itself."""
    try:
        return reprlib.repr(value)
    except BaseException:  # it may exit, too
        return f"<a {type(value).__name__}>"
