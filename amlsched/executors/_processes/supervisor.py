"""The supervisor of one worker: terminates the worker, and every process it started, when it should.

Between the driver and each worker there is a small process, the supervisor. It runs no code of the user. Orphans below
it become its children (`PR_SET_CHILD_SUBREAPER`), so all processes that a call starts stay below it in the process
tree, even daemons with their own session. The supervisor holds the reading end of a pipe, the lifeline, whose writing
end only the driver has: when the driver exits, in whatever way, the kernel closes that end, and the supervisor kills
the tree. If the supervisor itself is killed, the kernel kills the worker (`PR_SET_PDEATHSIG`, which is reliable here
because the supervisor has one thread).

The supervisor is forked before any code of the user is imported, except with the start method `fork`, where all of it
is already loaded.

Sources: prctl(2), proc(5).
"""

import contextlib
import ctypes
import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
from multiprocessing import reduction
from typing import Any

from amlsched import _proc
from amlsched.executors import _orphans, worker_setup
from amlsched.executors._processes import main_module
from amlsched.executors._processes.transport import Kind, WorkerEnd, send_message
from amlsched.executors.pickling import dump_exception

__all__ = [
    "QUIT_S",
    "SupervisedName",
    "name_this",
    "order_end",
    "report_failed_start",
    "fork_supervised",
    "take_channel",
    "wake",
]

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_ORDER = struct.Struct("<dd")
QUIT_S = 5.0
"""How long a worker may take to exit by itself: it waits for threads and children that its calls left behind."""
_GRACE_S = 0.5
_STUCK_S = 10.0  # processes that survive SIGKILL for this long hang in the kernel
_libc = ctypes.CDLL(None, use_errno=True)

_channel: WorkerEnd | None = None  # in a worker


def _grace_s() -> float:
    """How long a worker gets when its supervisor, in a job of a batch system, gets SIGTERM."""
    try:
        return float(os.environ.get("AMLSCHED_TERM_GRACE_S") or _GRACE_S)
    except ValueError:
        return _GRACE_S


def order_end(lifeline: int, after_s: float, grace_s: float) -> None:
    """In the driver: have a worker terminated.

    Args:
        lifeline: The driver's end of its supervisor's pipe.
        after_s: Seconds until the process tree gets SIGTERM.
        grace_s: Seconds from then until the remaining processes get SIGKILL.
    """
    with contextlib.suppress(OSError):  # it has exited
        os.write(lifeline, _ORDER.pack(after_s, grace_s))


class SupervisedName(str):
    """The name of a worker's process; unpickling it forks the process into supervisor and worker.

    With spawn and forkserver, a new process first loads its name, then imports the user's main module, then loads the
    function that it is to run. The name is the only object of ours that comes before the import; forking after the
    import would be unsafe, as the module may have started threads or opened a GPU.
    """

    fds: tuple[int, ...] | None = None
    environment: dict[str, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        fds, self.fds = self.fds, None  # it is pickled a second time, in the process object
        if fds is None:
            return str, (str(self),)
        scope: dict[str, Any] = {
            "path": main_module.search_path(),  # the child's own is not set yet
            "name": str(self),
            "fds": tuple(map(reduction.DupFd, fds)),
            "environment": self.environment or {},
            "main": None if main_module.imported_by_workers() else main_module.location(),
        }
        call = f"__import__('importlib').import_module({__name__!r}).fork_named(name, fds, environment, main)"
        return eval, (f"__import__('sys').path.__setitem__(slice(None), path) or {call}", scope)


def fork_named(
    name: str, fds: tuple[Any, ...], environment: dict[str, str], main: tuple[str | None, str | None] | None
) -> str:
    """Called by unpickling a `SupervisedName`: become supervisor and worker. Returns only in the worker.

    Args:
        name: The name.
        fds: For `fork_supervised`.
        environment: Variables that limit its number of threads.
        main: Name and path of the driver's main module, if it must not be imported.
    """
    worker_setup.set_threads(environment)
    fork_supervised(*(fd.detach() for fd in fds))
    if main is not None:
        main_module.leave_out(*main)
    return name


def fork_supervised(lifeline: int, *ends: int) -> None:
    """Fork. Returns only in the child, the worker; the parent stays as its supervisor and never returns.

    Args:
        lifeline: Reading end of the pipe from the driver.
        *ends: Descriptors of the worker's end of the transport.
    """
    global _channel
    with contextlib.suppress(PermissionError):  # it is already a group leader
        os.setsid()
    _orphans.release()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    own_pid = os.getpid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # reset the handlers of a forked driver
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGCHLD))
    signal.set_wakeup_fd(-1)
    _channel = WorkerEnd(ends)
    wakes = os.pipe()
    os.set_blocking(wakes[1], False)
    signal.set_wakeup_fd(wakes[1], warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, wake)
    try:
        worker = os.fork()
    except OSError as error:
        report_failed_start(_channel, error)
        os._exit(1)
    if worker:
        with contextlib.suppress(BaseException):
            _Supervisor(worker, lifeline, wakes[0], _channel.socket).run()
        os._exit(0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # A handler rather than SIG_IGN, which programs started by the user's functions would inherit.
    signal.signal(signal.SIGINT, wake)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != own_pid:
        os._exit(1)
    os.setsid()
    for fd in (lifeline, *wakes):
        os.close(fd)
    sys.excepthook = _report_failed_start
    with contextlib.suppress(OSError):  # the driver has exited
        send_message(_channel.socket, Kind.SUPERVISED, b"")


def take_channel() -> WorkerEnd:
    """In a worker that has started: its end of the transport. Uncaught exceptions no longer count as failed starts."""
    assert _channel is not None
    sys.excepthook = sys.__excepthook__
    return _channel


def _report_failed_start(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Report to the driver what the import of the main module raised: the worker's stderr may be discarded."""
    if _channel is not None:
        report_failed_start(_channel, error)


def report_failed_start(channel: WorkerEnd, error: BaseException) -> None:
    """Report to the driver that this worker cannot start, and why."""
    body = dump_exception(error)
    if not isinstance(body, bytes):
        body = pickle.dumps((None, type(error).__qualname__, "too long to be sent", ""))
    send_message(channel.socket, Kind.FAILED_TO_START, body)


class _Supervisor:
    def __init__(self, worker: int, lifeline: int, wake: int, end: socket.socket) -> None:
        self.worker, self.lifeline, self.wake, self.channel = worker, lifeline, wake, end
        self.status: int | None = None
        self.peak_kib = 0
        self.alone = False  # no child remains, and so no descendant: orphans would have become our children
        self.term_at = self.kill_at = float("inf")
        self.gone_by = float("inf")
        self.poll = select.poll()
        self.poll.register(lifeline, select.POLLIN)
        self.poll.register(wake, select.POLLIN)

    def run(self) -> None:
        """Return once the worker and all of its descendants have exited and the driver has been notified."""
        gc.disable()  # a collection would copy the memory pages shared with the parent
        name_this(b"amlsched-supervisor")
        reported = False
        while True:
            now = time.monotonic()
            self._reap(now)
            if now >= self.kill_at:
                _proc.signal_below(os.getpid(), signal.SIGKILL)
                self._reap(now)
            elif now >= self.term_at:
                self.term_at = float("inf")
                _proc.signal_below(os.getpid(), signal.SIGTERM)
            if self.status is not None and (self.alone or now > self.gone_by):
                reported = reported or self._report()
                if reported:
                    return
            self._wait(now)

    def _reap(self, now: float) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.worker:
                    self.status, self.peak_kib = status, usage.ru_maxrss
                    if self.kill_at == float("inf") or self.term_at != float("inf"):  # it exited by itself
                        self.kill_at = now
                    self.gone_by = max(now, self.kill_at) + _STUCK_S
        self.alone = True

    def _report(self) -> bool:
        try:
            send_message(self.channel, Kind.EXITED, b"%d %d" % (self.status or 0, self.peak_kib), socket.MSG_DONTWAIT)
        except BlockingIOError:  # the driver has not read earlier results yet
            return False
        except OSError:
            return True
        return True

    def _wait(self, now: float) -> None:
        if now >= self.kill_at or self.status is not None:
            timeout = 0.02
        else:
            timeout = min(self.term_at, self.kill_at) - now
        for fd, _ in self.poll.poll(None if timeout == float("inf") else max(0.0, timeout) * 1000):
            if fd == self.wake:
                if signal.SIGTERM in os.read(fd, 512) and self.kill_at == float("inf"):
                    # A batch system that terminates the whole job may have promised more time to its calls.
                    self._end(0.0, _grace_s())
                continue
            order = os.read(fd, _ORDER.size)
            if order:
                self._end(*_ORDER.unpack(order))
            else:  # the driver has exited, or kills this worker
                self.poll.unregister(fd)
                self.kill_at = 0.0

    def _end(self, after_s: float, grace_s: float) -> None:
        self.term_at = time.monotonic() + after_s
        self.kill_at = min(self.kill_at, self.term_at + grace_s)


def wake(*_: object) -> None:
    """A signal handler that does nothing: the signal only interrupts a wait."""


def name_this(name: bytes) -> None:
    """Set the name that `ps -e` shows for this process, of at most 15 bytes."""
    _prctl(_PR_SET_NAME, name)


def _prctl(option: int, value: int | bytes) -> None:
    word = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    _libc.prctl(option, word, 0, 0, 0)
