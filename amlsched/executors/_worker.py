"""What runs in a worker: take a call from the channel, run it, send back how it ended."""

import os
import pickle
import socket
import time
from collections.abc import Callable
from typing import Any

from amlsched.errors import NotPicklableError
from amlsched.executors import _keeper
from amlsched.executors._calls import call_name, dump_exception, dump_result, pickled_by_value
from amlsched.executors._packets import QUIT, AnswerKind, Sheet, load_call, receive, send_answer

__all__ = ["Portable", "main", "send_failed_start"]


class Portable:
    """A function that travels by cloudpickle where plain pickle refuses it."""

    def __init__(self, fn: Callable[..., object]) -> None:
        self.fn = fn

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.fn)
        except Exception:  # whatever the pickler raises
            return _revived, (pickled_by_value(self.fn),)
        return Portable, (self.fn,)


def _revived(data: bytes) -> Portable:
    return Portable(pickle.loads(data))


def main(fds: tuple[int, int] | None, initializer: Portable | None, initargs: tuple[Any, ...]) -> None:
    """Run calls until told to quit.

    Args:
        fds: Lifeline and channel, under the start method `fork`; under the others it has parted from its keeper before.
        initializer: Called first.
        initargs: Its arguments.
    """
    if fds is not None:
        _keeper.part(*fds)
    channel = _keeper.take_channel()
    if initializer is not None:
        try:
            initializer.fn(*initargs)
        except BaseException as error:
            send_failed_start(channel, error)
            return
    send_answer(channel, AnswerKind.READY, 0.0, b"%d" % os.getpid())
    while True:
        packet, sheet = receive(channel)
        if not packet or packet == QUIT:
            return
        _serve(channel, packet, sheet)
        del packet, sheet


def send_failed_start(channel: socket.socket, error: BaseException) -> None:
    """Tell the driver that this worker cannot come up, and why."""
    send_answer(channel, AnswerKind.FAILED_TO_START, 0.0, dump_exception(error))


def _serve(channel: socket.socket, packet: bytes, sheet: Sheet | None) -> None:
    began = time.perf_counter()
    try:
        fn, args, kwargs = load_call(packet, sheet)
    except BaseException as error:
        send_answer(channel, AnswerKind.NOT_LOADED, 0.0, dump_exception(error))
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:
        send_answer(channel, AnswerKind.RAISED, time.perf_counter() - began, dump_exception(error), sheet)
        return
    seconds = time.perf_counter() - began
    try:
        body = dump_result(result, call_name(fn))
        send_answer(channel, AnswerKind.RESULT, seconds, body, sheet)
    except (NotPicklableError, OSError, MemoryError) as error:  # OSError: no memory for a large result
        send_answer(channel, AnswerKind.RAISED, seconds, dump_exception(error))
