"""How things travel between the driver and a worker.

A small message is one packet on a socket that keeps message boundaries: whoever reads it gets all of it, so a call that
no one has read can be taken back. A large one (arrays, above all) is written to a sheet, an unnamed file in memory; its
packet carries the file's descriptor and the sizes of the parts. So sending never stops half-way.
"""

import array
import os
import pickle
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = [
    "LARGE",
    "QUIT",
    "Answer",
    "AnswerKind",
    "Large",
    "Sheet",
    "dump",
    "load_call",
    "receive",
    "receive_answer",
    "reload_call",
    "send_answer",
]

_INLINE_BYTES = 64 * 1024
_PACKET_BYTES = _INLINE_BYTES + 1024
_MOST_BUFFERS = 500  # more parts than that are copied into one: their sizes must fit in a packet
_KEPT_BYTES = 32 * 1024 * 1024
_FD_SPACE = socket.CMSG_SPACE(struct.calcsize("i"))

# A packet to a worker is a pickled call, or begins with one of these; no pickle does.
QUIT = b"Q"
LARGE = b"L"

# A packet from a worker begins with this: kind, where the body lies, seconds that the function ran.
_HEAD = struct.Struct("<ccd")
_IN_PACKET, _ON_OWN_SHEET, _ON_CALLS_SHEET = b"p", b"o", b"c"


class AnswerKind:
    """First byte of a packet to the driver."""

    READY = b"H"
    FAILED_TO_START = b"F"
    DIED = b"X"
    RESULT = b"R"
    RAISED = b"E"
    NOT_LOADED = b"V"


class Large(NamedTuple):
    """A pickle and the buffers that it left out."""

    pickle: bytes
    buffers: Sequence[Any] = ()

    def copied(self) -> "Large":
        """The same with buffers of its own, so that the owner of the originals may change them."""
        return Large(self.pickle, [bytes(buffer) for buffer in self.buffers])


def dump(value: object, dumps: Callable[..., bytes] = pickle.dumps) -> bytes | Large:
    """Pickle a value.

    Returns:
        Bytes if they fit in a packet, otherwise the pickle with references to the value's own buffers.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = dumps(value, protocol=5, buffer_callback=buffers.append)
    if buffers:
        try:
            raw = [buffer.raw() for buffer in buffers]
        except BufferError:  # not in one piece
            raw = []
        if raw and len(raw) <= _MOST_BUFFERS and len(data) + sum(part.nbytes for part in raw) > _INLINE_BYTES:
            return Large(data, raw)
        data = dumps(value, protocol=5)
    return data if len(data) <= _INLINE_BYTES else Large(data)


class Sheet:
    """A file in memory that carries one large thing at a time.

    Writing to pages that are there already is several times as fast as to new ones, so sheets are used again.

    Args:
        fd: Descriptor of the file; `None` makes a new one.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = -1
        self.fd = os.memfd_create("amlsched") if fd is None else fd
        self.sizes = b""

    def write(self, large: Large) -> None:
        """Put a large thing on the sheet; `sizes` tells its layout."""
        sizes: list[int] = []
        offset = 0
        for part in (large.pickle, *large.buffers):
            with memoryview(part).cast("B") as view:
                done = 0
                while done < view.nbytes:
                    done += os.pwrite(self.fd, view[done:], offset + done)
                sizes.append(done)
                offset += done
        self.sizes = array.array("Q", sizes).tobytes()

    def read(self, sizes: bytes) -> Any:
        """Unpickle what is on the sheet."""
        parts: list[bytearray] = []
        offset = 0
        for size in array.array("Q", sizes):
            part = bytearray(size)
            done = 0
            while done < size:
                done += (got := os.preadv(self.fd, [memoryview(part)[done:]], offset + done))
                if not got:
                    raise EOFError(f"{done} of {size} bytes were there")
            parts.append(part)
            offset += size
        return pickle.loads(parts[0], buffers=parts[1:])

    def send(self, channel: socket.socket, head: bytes = LARGE) -> None:
        """Send the descriptor and the layout."""
        rights = array.array("i", [self.fd])
        channel.sendmsg([head, self.sizes], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def can_be_kept(self) -> bool:
        """Whether it holds little enough memory to wait for the next call."""
        return os.fstat(self.fd).st_size <= _KEPT_BYTES

    def close(self) -> None:
        """Give the memory back, once all others have closed theirs."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def receive(channel: socket.socket, size: int = _PACKET_BYTES, flags: int = 0) -> tuple[bytes, Sheet | None]:
    """One packet, and the sheet that came with it.

    Args:
        channel: Where to read.
        size: Bytes wanted; the rest of the packet is dropped.
        flags: Such as `socket.MSG_DONTWAIT`.
    """
    data, notes, _, _ = channel.recvmsg(size, _FD_SPACE, flags)
    return (data, Sheet(struct.unpack_from("i", notes[0][2])[0])) if notes else (data, None)


def load_call(packet: bytes, sheet: Sheet | None) -> Any:
    """Unpickle the call that a packet brought."""
    return pickle.loads(packet) if sheet is None else sheet.read(packet[1:])


def reload_call(payload: "bytes | Large | Sheet | None") -> Any:
    """Unpickle a call in the process that sent it."""
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    if isinstance(payload, Large):
        return pickle.loads(payload.pickle, buffers=payload.buffers)
    assert payload is not None
    return payload.read(payload.sizes)


class Answer(NamedTuple):
    """What a worker, or its keeper, tells the driver.

    Attributes:
        kind: One of `AnswerKind`.
        where: Where the body lies.
        seconds: How long the function ran.
        body: The body itself, or the sizes of its parts on a sheet.
        sheet: Came with the packet.
    """

    kind: bytes
    where: bytes
    seconds: float
    body: bytes
    sheet: Sheet | None

    def load(self, calls_sheet: Sheet | None = None) -> Any:
        """Unpickle the body.

        Args:
            calls_sheet: The one on which the call was sent.
        """
        if self.where == _IN_PACKET:
            return pickle.loads(self.body)
        sheet = calls_sheet if self.where == _ON_CALLS_SHEET else self.sheet
        assert sheet is not None
        return sheet.read(self.body)


def send_answer(
    channel: socket.socket,
    kind: bytes,
    seconds: float,
    body: bytes | Large,
    calls_sheet: Sheet | None = None,
    flags: int = 0,
) -> None:
    """Tell the driver something; see `Answer`."""
    if isinstance(body, bytes):
        channel.send(_HEAD.pack(kind, _IN_PACKET, seconds) + body, flags)
    elif calls_sheet is not None:  # it is the driver's, who waits for this answer before using it again
        calls_sheet.write(body)
        channel.send(_HEAD.pack(kind, _ON_CALLS_SHEET, seconds) + calls_sheet.sizes, flags)
    else:
        sheet = Sheet()
        sheet.write(body)
        sheet.send(channel, _HEAD.pack(kind, _ON_OWN_SHEET, seconds))


def receive_answer(channel: socket.socket) -> Answer:
    """The next answer.

    Raises:
        BlockingIOError: There is none yet.
    """
    data, sheet = receive(channel)
    kind, where, seconds = _HEAD.unpack_from(data)
    return Answer(kind, where, seconds, data[_HEAD.size :], sheet)
