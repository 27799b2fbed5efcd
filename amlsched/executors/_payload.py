"""Data sent between the driver and a worker: a pickle, with large buffers out of band."""

import array
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["PACKET_BYTES", "Large", "Payload", "SharedFile", "dump", "load"]

PACKET_BYTES = 64 * 1024
"""Larger data is sent in a shared file."""
_MOST_BUFFERS = 500  # more buffers than this are copied into the pickle: their sizes must fit into a packet
_KEPT_BYTES = 8 * 1024 * 1024


class Large(NamedTuple):
    """A pickle and its out-of-band buffers."""

    pickle: bytes
    buffers: Sequence[Any] = ()

    def copied(self) -> "Large":
        """A copy with its own buffers, so that the owner of the originals may modify them."""
        return Large(self.pickle, [bytes(buffer) for buffer in self.buffers])


class SharedFile:
    """A memory file, shared with a worker, that holds one large message at a time.

    Writing to existing pages is several times as fast as to new ones, so these files are reused.

    Args:
        fd: Descriptor of the file; `None` to create one.
        sizes: Sizes of its parts, as set by `write`.
    """

    def __init__(self, fd: int | None = None, sizes: bytes = b"") -> None:
        self.fd = -1
        self.fd = os.memfd_create("amlsched") if fd is None else fd
        self.sizes = sizes

    def write(self, large: Large) -> None:
        """Write a large message to the file."""
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

    def load(self) -> Any:
        """Unpickle the message in the file; the buffers are copies."""
        parts: list[bytearray] = []
        offset = 0
        for size in array.array("Q", self.sizes):
            part = bytearray(size)
            done = 0
            while done < size:
                got = os.preadv(self.fd, [memoryview(part)[done:]], offset + done)
                if not got:
                    raise EOFError(f"only {done} of {size} bytes are there")
                done += got
            parts.append(part)
            offset += size
        return pickle.loads(parts[0], buffers=parts[1:])

    def send(self, channel: socket.socket, head: bytes) -> None:
        """Send the descriptor and the sizes, in one packet."""
        rights = array.array("i", [self.fd])
        channel.sendmsg([head, self.sizes], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def can_be_kept(self) -> bool:
        """Whether it is small enough to be kept for the next call."""
        return os.fstat(self.fd).st_size <= _KEPT_BYTES

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


Payload = bytes | Large | SharedFile


def dump(value: object, dumps: Callable[..., bytes]) -> bytes | Large:
    """Pickle a value.

    Returns:
        Bytes if they fit into a packet, otherwise the pickle with references to the value's own buffers.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = dumps(value, protocol=5, buffer_callback=buffers.append)
    if buffers:
        try:
            raw = [buffer.raw() for buffer in buffers]
        except BufferError:  # not contiguous
            raw = []
        if raw and len(raw) <= _MOST_BUFFERS and len(data) + sum(part.nbytes for part in raw) > PACKET_BYTES:
            return Large(data, raw)
        data = dumps(value, protocol=5)
    return data if len(data) <= PACKET_BYTES else Large(data)


def load(payload: Payload) -> Any:
    """Unpickle the output of `dump`."""
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    return payload.load() if isinstance(payload, SharedFile) else pickle.loads(payload.pickle, buffers=payload.buffers)
