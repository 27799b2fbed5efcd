"""The transport between the driver and one worker: slots in shared memory for small messages, a socket for the others.

A slot holds one call, and then its answer. The driver fills slots in turn and adds one token each to a semaphore; the
worker takes a token before each call. A call whose token the driver takes out again has therefore not started and never
will: calls can be prefetched and reclaimed, and it is always known which one a dead worker was running, whatever it was
doing. The worker counts its answers in a second semaphore, on which the driver waits.

A call that does not fit into a slot is sent as a packet through a socket that keeps message boundaries, or in a shared
file whose descriptor is sent in the packet. So is such an answer, and any other message of a worker or its supervisor.

Semaphores are eventfds, with one system call per operation. They also order the accesses to the shared memory.

Sources: eventfd(2), unix(7).
"""

import contextlib
import mmap
import os
import pickle
import select
import socket
import struct
from collections import deque
from typing import Any, NamedTuple

from amlsched.executors._payload import PACKET_BYTES, Large, Payload, SharedFile

__all__ = ["SLOTS", "Answer", "DriverEnd", "Kind", "WorkerEnd", "fits_slot", "send_message"]

SLOTS = 32
_SLOT_BYTES = 4096
_QUIT, _IN_PACKET, _IN_FILE = b"Q", b"P", b"S"  # first byte of a slot without a pickled call
_HEAD = struct.Struct("<ccdI")  # of an answer: kind, place of its body, duration of the function, bytes in the slot
_IN_SLOT, _IN_CALLS_FILE = b"s", b"c"
_ROOM = _SLOT_BYTES - _HEAD.size
_FD_SPACE = socket.CMSG_SPACE(struct.calcsize("i"))


class Kind:
    """Kinds of messages from a worker or its supervisor."""

    SUPERVISED = b"K"
    READY = b"H"
    FAILED_TO_START = b"F"
    EXITED = b"X"
    RESULT = b"R"
    RAISED = b"E"
    NOT_LOADED = b"V"


_MESSAGES = (Kind.SUPERVISED, Kind.READY, Kind.FAILED_TO_START, Kind.EXITED)


class Answer(NamedTuple):
    """The outcome of a call.

    Attributes:
        kind: One of the last three of `Kind`.
        seconds: How long the function ran.
        body: The pickled result or exception.
    """

    kind: bytes
    seconds: float
    body: Payload


def fits_slot(payload: Payload | None) -> bool:
    """Whether a call fits into a slot, so that it can be prefetched."""
    return isinstance(payload, bytes) and len(payload) <= _SLOT_BYTES


class _Slots:
    def __init__(self, fd: int) -> None:
        view = memoryview(mmap.mmap(fd, SLOTS * _SLOT_BYTES))
        self.all = [view[start : start + _SLOT_BYTES] for start in range(0, len(view), _SLOT_BYTES)]
        self.bodies = [slot[_HEAD.size :] for slot in self.all]


class DriverEnd:
    """The driver's end of the transport.

    Attributes:
        packets_fd: Readable when there is a packet.
        answers_fd: Readable when there are answers.
    """

    def __init__(self) -> None:
        self._socket, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._far.settimeout(None)  # not socket.setdefaulttimeout's: the worker, which shares it, must block
        self._memory = os.memfd_create("amlsched-slots")
        os.ftruncate(self._memory, SLOTS * _SLOT_BYTES)
        self._slots = _Slots(self._memory)
        self._tokens = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.answers_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.packets_fd = self._socket.fileno()
        self._sent = self._heard = 0
        self._unposted = 0
        self._early: deque[tuple[bytes, SharedFile | None]] = deque()  # packets whose answers have not been processed
        self._messages: list[tuple[bytes, bytes]] = []

    def fds(self) -> tuple[int, ...]:
        """The descriptors for a `WorkerEnd`, which the caller must close. Call it once."""
        return (*map(os.dup, (self._far.fileno(), self._tokens, self.answers_fd)), self._memory)

    def put(self, payload: Payload) -> bool:
        """Write a call, to be sent by `post`.

        Returns:
            Whether there was room. A call that does not fit into a slot needs all earlier ones to be answered.
        """
        slot = self._slots.all[self._sent % SLOTS]
        if self._sent - self._heard >= SLOTS:
            return False
        if isinstance(payload, bytes) and fits_slot(payload):
            slot[: len(payload)] = payload
        elif self._sent != self._heard:
            return False
        elif isinstance(payload, bytes):
            self._socket.send(payload)
            slot[:1] = _IN_PACKET
        else:
            assert isinstance(payload, SharedFile)
            payload.send(self._socket, _IN_FILE)
            slot[:1] = _IN_FILE
        self._sent += 1
        self._unposted += 1
        return True

    def post(self) -> None:
        """Send what was `put`."""
        if self._unposted:
            os.eventfd_write(self._tokens, self._unposted)
            self._unposted = 0

    def quit(self) -> None:
        """Ask the worker to exit after its present calls."""
        self._slots.all[self._sent % SLOTS][:1] = _QUIT
        os.eventfd_write(self._tokens, 1)

    def reclaim(self) -> int:
        """Reclaim the calls that the worker has not started, and return their number, counted from the last one put."""
        number, self._unposted = self._unposted, 0
        with contextlib.suppress(BlockingIOError):
            while number < self._sent - self._heard:
                os.eventfd_read(self._tokens)
                number += 1
        self._sent -= number
        if (
            number
            and self._sent == self._heard
            and bytes(self._slots.all[self._sent % SLOTS][:1]) in (_IN_PACKET, _IN_FILE)
        ):
            with contextlib.suppress(BlockingIOError):  # the first of them was sent as a packet
                _receive(self._far, socket.MSG_DONTWAIT)
        return number

    def answers(self, calls: "deque[Any]") -> list[Answer]:
        """The available answers, in the order of the calls.

        Args:
            calls: The unanswered calls, with their payloads as attribute `payload`.
        """
        try:
            number = os.eventfd_read(self.answers_fd)
        except BlockingIOError:
            return []
        answers: list[Answer] = []
        for index in range(number):
            place = self._heard % SLOTS
            self._heard += 1
            kind, where, seconds, size = _HEAD.unpack_from(self._slots.all[place])
            if where == _IN_SLOT:
                body: Payload = bytes(self._slots.bodies[place][:size])
            else:
                if not self._early:
                    self._read()
                packet, shared_file = self._early.popleft()
                shared_file = calls[index].payload if where == _IN_CALLS_FILE else shared_file
                if shared_file is not None:
                    shared_file.sizes = packet[1:]
                body = packet if shared_file is None else shared_file
            answers.append(Answer(kind, seconds, body))
        return answers

    @property
    def has_messages(self) -> bool:
        """Whether messages were received along with answers."""
        return bool(self._messages)

    def messages(self) -> list[tuple[bytes, bytes]]:
        """The other messages of the worker or its supervisor: kind and body of each."""
        self._read()
        found, self._messages = self._messages, []
        return found

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, shared_file = _receive(self._socket)
                if packet[:1] in _MESSAGES:
                    self._messages.append((packet[:1], packet[1:]))
                else:
                    self._early.append((packet, shared_file))

    def close(self) -> None:
        """Close the descriptors."""
        # Reset before they are closed: a process forked in between must not close files that reuse these descriptors.
        fds, self._tokens, self.answers_fd = (self._tokens, self.answers_fd), -1, -1
        self._socket.close()
        self._far.close()
        for fd in fds:
            if fd >= 0:
                os.close(fd)


class WorkerEnd:
    """The worker's end of the transport.

    Args:
        fds: From `DriverEnd.fds`.
    """

    def __init__(self, fds: tuple[int, ...]) -> None:
        end, self._tokens, self._answers, memory = fds
        self.socket = socket.socket(fileno=end)
        self.socket.settimeout(None)
        self._slots = _Slots(memory)
        self._taken = 0
        self._shared_file: SharedFile | None = (
            None  # the shared file of the present call, which the driver reuses for the answer
        )
        self._poll = select.poll()
        self._poll.register(self._tokens, select.POLLIN)

    def wait(self) -> bool:
        """Wait for a call, and return whether there is one; otherwise the worker must exit."""
        while True:
            try:
                os.eventfd_read(self._tokens)
                break
            except BlockingIOError:
                self._poll.poll()
        self._taken += 1
        return self._slots.all[(self._taken - 1) % SLOTS][0] != _QUIT[0]

    def load(self) -> Any:
        """Unpickle the call."""
        slot = self._slots.all[(self._taken - 1) % SLOTS]
        kind = slot[0]
        if kind not in (_IN_PACKET[0], _IN_FILE[0]):
            return pickle.loads(slot)
        packet, self._shared_file = _receive(self.socket)
        if self._shared_file is None:
            return pickle.loads(packet)
        self._shared_file.sizes = packet[1:]
        return self._shared_file.load()

    def answer(self, kind: bytes, seconds: float, body: bytes | Large) -> None:
        """Answer the present call."""
        place = (self._taken - 1) % SLOTS
        size, shared_file, self._shared_file = 0, self._shared_file, None
        if isinstance(body, bytes) and len(body) <= _ROOM:
            where, size = _IN_SLOT, len(body)
            self._slots.bodies[place][:size] = body
        elif isinstance(body, bytes):
            where = _IN_PACKET
            self.socket.send(body)
        elif shared_file is not None:
            where = _IN_CALLS_FILE
            shared_file.write(body)
            self.socket.send(_IN_FILE + shared_file.sizes)
        else:
            where, shared_file = _IN_FILE, SharedFile()
            shared_file.write(body)
            shared_file.send(self.socket, _IN_FILE)
        _HEAD.pack_into(self._slots.all[place], 0, kind, where, seconds, size)
        os.eventfd_write(self._answers, 1)


def send_message(channel: socket.socket, kind: bytes, body: bytes, flags: int = 0) -> None:
    """Send the driver a message other than an answer."""
    channel.send(kind + body, flags)


def _receive(channel: socket.socket, flags: int = 0) -> tuple[bytes, SharedFile | None]:
    packet, notes, _, _ = channel.recvmsg(PACKET_BYTES, _FD_SPACE, flags)
    return packet, (SharedFile(struct.unpack_from("i", notes[0][2])[0]) if notes else None)
