"""The main loop of a worker: receive a call, run it, send back its outcome."""

import os
import pickle
import time
from typing import Any

from amlsched.errors import NotPicklableError
from amlsched.executors._processes import main_module, supervisor
from amlsched.executors._processes.transport import Kind, WorkerEnd, send_message
from amlsched.executors.pickling import dump_exception, dump_result, names_main, pickled_by_value
from amlsched.executors.user_function import AlarmsEnd, call_function
from amlsched.executors.worker_setup import prepare_worker, set_threads

__all__ = ["Portable", "main", "portable"]


class Portable:
    """An object, such as a function, that is pickled by cloudpickle if plain pickle fails or would not work."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickled = pickle.dumps(self.value)
        except Exception:  # whatever the pickler raises
            return _revived, (pickled_by_value(self.value),)
        if names_main(pickled) and not main_module.imported_by_workers():
            return _revived, (pickled_by_value(self.value),)
        return Portable, (self.value,)


def _revived(data: bytes) -> Portable:
    return Portable(pickle.loads(data))


def portable(initargs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of an initializer, each in a `Portable` if it needs one.

    multiprocessing pickles the others itself: only it can send a queue, for example.
    """
    if main_module.imported_by_workers():
        return initargs
    return tuple(Portable(value) if _refers_to_main(value) else value for value in initargs)


def _refers_to_main(value: object) -> bool:
    try:
        return names_main(pickle.dumps(value))
    except Exception:  # whatever the pickler raises
        return False


def main(
    fds: tuple[int, ...] | None,
    environment: dict[str, str],
    initializer: Portable | None,
    initargs: tuple[Any, ...],
) -> None:
    """Run calls until asked to quit.

    Args:
        fds: For `supervisor.fork_supervised`, with the start method `fork`; with the others, that has been done before.
        environment: Variables that limit the threads of libraries, likewise.
        initializer: Called first.
        initargs: Its arguments.
    """
    if fds is not None:
        set_threads(environment)
        supervisor.fork_supervised(*fds)
    channel = supervisor.take_channel()
    prepare_worker()
    if initializer is not None:
        try:
            values = (value.value if isinstance(value, Portable) else value for value in initargs)
            call_function(initializer.value, tuple(values), {})
        except BaseException as error:
            supervisor.report_failed_start(channel, error)
            return
    send_message(channel.socket, Kind.READY, b"%d" % os.getpid())
    while channel.wait():
        _serve(channel)


def _serve(channel: WorkerEnd) -> None:
    began = time.perf_counter()
    try:
        fn, args, kwargs = channel.load()
    except BaseException as error:
        channel.answer(Kind.NOT_LOADED, 0.0, dump_exception(error))
        return
    try:
        with AlarmsEnd():
            result = call_function(fn, args, kwargs)
    except BaseException as error:
        channel.answer(Kind.RAISED, time.perf_counter() - began, dump_exception(error))
        return
    seconds = time.perf_counter() - began
    try:
        channel.answer(Kind.RESULT, seconds, dump_result(result, fn))
    except (NotPicklableError, OSError, MemoryError) as error:  # OSError: no memory for a large result
        channel.answer(Kind.RAISED, seconds, dump_exception(error))
