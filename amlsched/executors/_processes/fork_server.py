"""A fork server: a process without threads, from which workers are forked.

In a process forked from one with threads, the locks that other threads held stay locked forever, and the threads of
libraries are missing: after one parallel OpenMP loop in the driver, such a loop in a forked worker never ends. So
workers are forked from a server, a fresh interpreter that has only this package loaded. It is started with the first
worker, and exits with the driver and its workers.

It is not multiprocessing's own fork server, which serves a whole program with the modules loaded at its start. And
workers are similar to processes forked from the driver: they have its environment, standard streams, working folder,
CPUs and umask at the time when they start. The server is reached by an unnamed socket, so no file can be left behind.
"""

import atexit
import contextlib
import gc
import io
import multiprocessing
import multiprocessing.context
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import popen_forkserver, process, reduction
from pathlib import Path
from typing import Any, cast

from amlsched import _proc
from amlsched.executors import _orphans
from amlsched.executors._processes import main_module, supervisor
from amlsched.executors.worker_setup import HASH_SEED_VARIABLE, hash_seed

__all__ = ["ForkServerContext", "serve"]

# Imported like this since their type stubs lack the private parts.
_forkserver, _resource_tracker, _spawn, _util = (
    cast("Any", import_module(f"multiprocessing.{name}"))
    for name in ("forkserver", "resource_tracker", "spawn", "util")
)
_OWN_FDS = 4  # descriptors at the start of each request
_MOST_FDS = 253 - _OWN_FDS  # SCM_MAX_FD of Linux
_START_S = 120.0  # for the start of the server, and then for a fork
_PRELOADED = (
    "amlsched.executors._processes.worker_main",
    "amlsched.scheduler",
    "amlsched.executors.processes",
    "runpy",
)
"""Modules that workers need, that most main modules import, or that import main modules. None of them starts threads.
"""
_PRELOADED_IF_USED = ("amlsched.experiments._running.repetition",)
"""Modules that workers need if this program has imported them when the server starts; likewise without threads."""

_OTHERS_LOCK = (
    'queues and locks for the initializer must be created by multiprocessing.get_context("forkserver"), as in '
    'get_context("forkserver").Queue(): those of the default context on Linux only work in forks of this process'
)


class _Popen(popen_forkserver.Popen):
    """A process forked by the server."""

    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        streams: list[tuple[int, Any]] = []
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
        buffer = io.BytesIO()
        multiprocessing.context.set_spawning_popen(self)
        try:
            for fd in (0, 1, 2):
                with contextlib.suppress(OSError):  # it is closed
                    os.fstat(fd)
                    streams.append((fd, reduction.DupFd(fd)))
            reduction.dump(_preparation(process_obj.name, streams, reduction.DupFd(folder)), buffer)
            try:
                reduction.dump(process_obj, buffer)
            except RuntimeError as error:
                if "SemLock" in str(error):
                    raise RuntimeError(_OTHERS_LOCK) from error
                raise
            # Released also where it fails: a traceback that is part of a cycle would keep it, at which Python 3.12.1
            # crashes as it collects garbage.
            with buffer.getbuffer() as data:
                self.pid, self.sentinel, theirs = _forked(data, self._fds)
        finally:
            multiprocessing.context.set_spawning_popen(None)
            os.close(folder)
        self.finalizer = _util.Finalize(self, _util.close_fds, (theirs, self.sentinel))


class _Process(multiprocessing.context.ForkServerProcess):
    # Otherwise pools that a call starts would use this method, and import a main module that may have no guard.
    _start_method: Any = None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        return _Popen(process_obj)


class ForkServerContext(multiprocessing.context.ForkServerContext):
    """A context of multiprocessing whose processes are forked from our own server."""

    Process = _Process


def _preparation(name: str, streams: list[tuple[int, Any]], folder: Any) -> dict[str, Any]:
    """The data for `multiprocessing.spawn.prepare`, which runs before the process is loaded; the first item first."""
    surroundings = _Surroundings(
        ({**os.environ, HASH_SEED_VARIABLE: hash_seed()}, os.sched_getaffinity(0), _proc.own_umask(), streams, folder)
    )
    found: dict[str, Any] = {
        "surroundings": surroundings,
        "name": name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": _util._log_to_stderr,
        "sys_path": main_module.search_path(),
        "sys_argv": sys.argv,
        "orig_dir": cast("Any", process).ORIGINAL_DIR,
    }
    if _util._logger is not None:
        found["log_level"] = _util._logger.getEffectiveLevel()
    method = multiprocessing.get_start_method(allow_none=True)
    if method in ("fork", "forkserver", "spawn"):  # the server does not know others, such as loky's
        found["start_method"] = method
    main_name, path = main_module.location()  # the worker's name says whether to import it
    if main_name is not None:
        found["init_main_from_name"] = main_name
    elif path is not None:
        found["init_main_from_path"] = path
    return found


class _Surroundings(tuple[Any, ...]):
    """Properties of the driver's process other than its memory; unpickling applies them to this process."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _apply_surroundings, tuple(self)


def _apply_surroundings(
    environment: Mapping[str, str], cpus: set[int], umask: int, streams: Sequence[tuple[int, Any]], folder: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    with contextlib.suppress(OSError):  # this program may no longer use some of them
        os.sched_setaffinity(0, cpus)
    os.umask(umask)
    for fd, theirs in (*streams, (None, folder)):
        sent = theirs.detach()
        if fd is None:
            os.fchdir(sent)
        else:
            os.dup2(sent, fd)
        os.close(sent)


# ------------------------------------------------------------------------------------------------ the driver's side


class _Server:
    """The driver's handle of the server.

    Args:
        seed: Value of `PYTHONHASHSEED` for the server and all workers forked from it.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        own: list[str] = _forkserver._forkserver._preload_modules
        used = [name for name in _PRELOADED_IF_USED if name in sys.modules]
        others = [*used, *(name for name in own if name != "__main__")]
        path = main_module.search_path()
        # The command line names multiprocessing's server, so that the orphan reaper knows that it exits by itself.
        code = (
            f"import sys; sys.path[:] = {_safest_first(path)!r}; import multiprocessing.forkserver; "
            f"from {__name__} import serve; serve({others!r}, {path!r})"
        )
        # Without the marks by which the orphan reaper finds processes left behind by calls: this is not one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_orphans.MARK)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours.detach()  # stays open until this process exits, about which a socket object would warn
        with theirs:
            started = subprocess.Popen(
                [os.fsdecode(_spawn.get_executable()), *_util._args_from_interpreter_flags(), "-c", code],
                env={**environment, HASH_SEED_VARIABLE: seed},
                stdin=theirs.fileno(),
                start_new_session=True,  # so that it gets no signals of the terminal
            )
        self.pid = started.pid
        started.returncode = 0  # `release` waits for it; Popen should not

    def request(self, fds: Sequence[int]) -> None:
        """Request a process with these descriptors.

        Raises:
            ConnectionError: The server has exited.
        """
        requests = socket.socket(fileno=self._requests)
        try:
            socket.send_fds(requests, [b"f"], fds)
        finally:
            requests.detach()

    def answer(self, status: int) -> int:
        """The process id; 0 if the server has exited; -errno if it could not fork.

        Raises:
            TimeoutError: The server does not answer.
        """
        poll = select.poll()
        poll.register(status, select.POLLIN)
        if not poll.poll(1000 * _START_S):
            raise TimeoutError(
                f"process {self.pid}, from which workers are forked, did not answer within {_START_S:g} s: "
                f"{_proc.state_of(self.pid)}"
            )
        with contextlib.suppress(EOFError):
            return int(_forkserver.read_signed(status))
        return 0

    def forget(self) -> None:
        """Release it in a process forked from the driver, to which it belongs."""
        os.close(self._requests)

    def release(self) -> None:
        """Request no more processes: the server exits once its workers have."""
        self.forget()
        with contextlib.suppress(ChildProcessError):  # other code has waited for it
            os.waitpid(self.pid, os.WNOHANG)


def _safest_first(path: Sequence[str]) -> list[str]:
    """The search path of the server, with the user's folders last, so that a `random.py` there hides nothing.

    The driver has imported the standard modules before a user's folder came first.
    """
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    package = str(Path(__file__).parents[3])
    installed = ("site-packages", "dist-packages")

    def rank(place: str) -> int:
        if place in standard or Path(place).name == "lib-dynload":
            return 0
        return 1 if place == package else 2 if place.endswith(installed) else 3

    return sorted([*path, package], key=rank)


_lock = threading.Lock()
_server: _Server | None = None


def _forked(data: memoryview, fds: Sequence[int]) -> tuple[int, int, int]:
    """Have the server fork a process.

    Args:
        data: What the process loads.
        fds: Its descriptors.

    Returns:
        Its process id, a descriptor from which to read its exit code, and one that must stay open as long as this
        process runs.

    Raises:
        OSError: No process can be created, or no server.
    """
    if len(fds) > _MOST_FDS:
        raise ValueError(f"{len(fds)} descriptors cannot be sent to a worker: at most {_MOST_FDS} can")
    with open(os.memfd_create("amlsched"), "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            done += file.write(data[done:])
        for _ in range(2):  # the server may have been killed since the last request
            file.seek(0)
            if found := _ask(file.fileno(), fds):
                return found
    raise ChildProcessError("the fork server exited before it had forked this worker")


def _ask(data: int, fds: Sequence[int]) -> tuple[int, int, int] | None:
    """Try it once; `None` if the server has exited."""
    with contextlib.ExitStack() as unused:
        status, theirs = os.pipe()
        sentinel, ours = os.pipe()
        unused.callback(os.close, status)
        unused.callback(os.close, ours)
        try:
            server = _request((data, sentinel, theirs, _resource_tracker._resource_tracker.getfd(), *fds))
        finally:
            os.close(theirs)
            os.close(sentinel)
        pid = server.answer(status) if server else 0
        if pid > 0:
            unused.pop_all()
            return pid, status, ours
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    if server:
        _drop(server)
    return None


def _request(fds: Sequence[int]) -> _Server | None:
    """Send a request, and return the server; `None` if it has exited."""
    global _server
    seed = hash_seed()
    with _lock:
        if _server is not None and _server.seed != seed:
            _server.release()
            _server = None
        server = _server = _server or _Server(seed)
        try:
            server.request(fds)
        except ConnectionError:
            server.release()
            _server = None
            return None
        return server


def _drop(server: _Server) -> None:
    global _server
    with _lock:
        if _server is server:
            server.release()
            _server = None


def _reset_in_child() -> None:
    """In a process forked from the driver: release the server, which belongs to the driver and exits with it."""
    global _lock, _server
    _lock = threading.Lock()
    if _server is not None:
        _server.forget()
        _server = None


os.register_at_fork(after_in_child=_reset_in_child)


# ------------------------------------------------------------------------------------------------ the server's side


def serve(preloaded: Sequence[str], path: Sequence[str]) -> None:
    """Fork processes on request; return when the driver and all of them have exited.

    Args:
        preloaded: Additional modules to load first: those that the program uses, and those that the user has set.
        path: The driver's `sys.path`, where to find them.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _preload(_PRELOADED)
    sys.path[:] = path
    _preload(preloaded)
    gc.freeze()  # so that garbage collections in workers do not copy the pages shared with this process
    supervisor.name_this(b"amlsched-server")
    with requests:
        _Forks(requests).run()


def _preload(names: Sequence[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError:
            pass  # as multiprocessing does: workers import it themselves, if they need it
        except Exception:
            traceback.print_exc()


class _Forks:
    def __init__(self, requests: socket.socket) -> None:
        self.requests = requests
        self.statuses: dict[int, int] = {}  # where to write the exit code of each process
        self.wakes = os.pipe()
        for fd in self.wakes:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wakes[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, supervisor.wake)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.requests, select.POLLIN)
        poll.register(self.wakes[0], select.POLLIN)
        driver_lives = True
        while driver_lives or self.statuses:
            for fd, _ in poll.poll():
                if fd == self.wakes[0]:
                    os.read(fd, 512)
                    self._reap()
                    continue
                data, fds, _, _ = socket.recv_fds(self.requests, 1, _OWN_FDS + _MOST_FDS)
                if data:
                    self._fork(fds)
                else:
                    poll.unregister(self.requests)
                    driver_lives = False

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                theirs = self.statuses.pop(pid, None)
                if theirs is not None:
                    _answer(theirs, os.waitstatus_to_exitcode(status))
                    os.close(theirs)

    def _fork(self, fds: list[int]) -> None:
        data, sentinel, status, *rest = fds
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if not pid:
            self._become(data, sentinel, status, rest)
        _answer(status, pid)
        if pid > 0:
            self.statuses[pid] = status
        else:
            os.close(status)
        for fd in (data, sentinel, *rest):
            os.close(fd)

    def _become(self, data: int, sentinel: int, status: int, rest: list[int]) -> None:
        """Run the new process until it exits."""
        code = 1
        try:
            supervisor.name_this(b"amlsched-worker")
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.requests.close()
            for fd in (status, *self.wakes, *self.statuses.values()):
                os.close(fd)
            cast("Any", atexit)._clear()
            _resource_tracker._resource_tracker._fd = rest[0]
            _forkserver._forkserver._inherited_fds = rest[1:]
            code = _spawn._main(data, sentinel)
            cast("Any", atexit)._run_exitfuncs()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*cast("Any", sys.exc_info()))
        finally:
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)


def _answer(fd: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the driver has exited
        _forkserver.write_signed(fd, number)
