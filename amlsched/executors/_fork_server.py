"""A process without threads, from which workers are forked.

A process that is forked from one with threads has the locks that other threads held, for ever locked, and none of the
threads of libraries: after one parallel loop of OpenMP in the driver, such a loop in a forked worker never ends. So
workers are forked from a server, a fresh interpreter that has only this package loaded. It is started with the first
worker, and ends with the driver and its workers.

It is not multiprocessing's own, which serves a whole program with what it had loaded at its start. And workers differ
little from those that were forked from the driver: they have its environment, standard streams, working folder, CPUs
and umask as they are when a worker starts. A socket without a name leads to the server, so no file can be left behind.
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

from amlsched.executors import _keeper, _main_module, _watch
from amlsched.executors._hash_seed import VARIABLE, hash_seed

__all__ = ["ForkServerContext", "serve"]

# What is not in their type stubs.
_forkserver, _resource_tracker, _spawn, _util = (
    cast("Any", import_module(f"multiprocessing.{name}"))
    for name in ("forkserver", "resource_tracker", "spawn", "util")
)
_OWN_FDS = 4  # that a request begins with
_MOST_FDS = 253 - _OWN_FDS  # SCM_MAX_FD of Linux
_START_S = 120.0  # for the start of the server, and then for a fork
_PRELOADED = ("amlsched.executors._worker", "amlsched.scheduler", "amlsched.executors.processes", "runpy")
"""What workers need, what most main modules import, and what imports main modules. None of it starts threads."""

_OTHERS_LOCK = (
    'queues and locks that the initializer gets must be made by multiprocessing.get_context("forkserver"), as in '
    'get_context("forkserver").Queue(): Python can give those of its default on Linux to forks of this process only'
)


class _Popen(popen_forkserver.Popen):
    """A process that the server has forked."""

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
            self.pid, self.sentinel, theirs = _forked(buffer.getbuffer(), self._fds)
        finally:
            multiprocessing.context.set_spawning_popen(None)
            os.close(folder)
        self.finalizer = _util.Finalize(self, _util.close_fds, (theirs, self.sentinel))


class _Process(multiprocessing.context.ForkServerProcess):
    # Else it would be that of the pools that a call starts, and they import a main module which may have no guard.
    _start_method: Any = None

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        return _Popen(process_obj)


class ForkServerContext(multiprocessing.context.ForkServerContext):
    """A context of multiprocessing whose processes are forked from a server of ours."""

    Process = _Process


def _preparation(name: str, streams: list[tuple[int, Any]], folder: Any) -> dict[str, Any]:
    """What `multiprocessing.spawn.prepare` does before the process is loaded; the first comes first."""
    surroundings = _Surroundings(
        ({**os.environ, VARIABLE: hash_seed()}, os.sched_getaffinity(0), _umask(), streams, folder)
    )
    found: dict[str, Any] = {
        "surroundings": surroundings,
        "name": name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": _util._log_to_stderr,
        "sys_path": _main_module.search_path(),
        "sys_argv": sys.argv,
        "orig_dir": cast("Any", process).ORIGINAL_DIR,
    }
    if _util._logger is not None:
        found["log_level"] = _util._logger.getEffectiveLevel()
    method = multiprocessing.get_start_method(allow_none=True)
    if method in ("fork", "forkserver", "spawn"):  # others, such as loky's, are not known there
        found["start_method"] = method
    main_name, path = _main_module.location()  # whether to import it is said by the worker's name
    if main_name is not None:
        found["init_main_from_name"] = main_name
    elif path is not None:
        found["init_main_from_path"] = path
    return found


class _Surroundings(tuple[Any, ...]):
    """What a process has from the driver apart from its memory; unpickling it gives it to this process."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _settle, tuple(self)


def _settle(
    environment: Mapping[str, str], cpus: set[int], umask: int, streams: Sequence[tuple[int, Any]], folder: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    with contextlib.suppress(OSError):  # some of them have been taken from this program
        os.sched_setaffinity(0, cpus)
    os.umask(umask)
    for fd, theirs in (*streams, (None, folder)):
        sent = theirs.detach()
        if fd is None:
            os.fchdir(sent)
        else:
            os.dup2(sent, fd)
        os.close(sent)


def _umask() -> int:
    """The umask of this process; to ask the system for it is to set it, for a moment."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o022)


# ------------------------------------------------------------------------------------------------ the driver's side


class _Server:
    """The server, as the driver knows it.

    Args:
        seed: Value of `PYTHONHASHSEED`, which holds for all workers that come from it.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        own: list[str] = _forkserver._forkserver._preload_modules
        others = [name for name in own if name != "__main__"]
        path = _main_module.search_path()
        # Named in its command line, multiprocessing's own server is known to end by itself, also to `_watchman`.
        code = (
            f"import sys; sys.path[:] = {_safest_first(path)!r}; import multiprocessing.forkserver; "
            f"from {__name__} import serve; serve({others!r}, {path!r})"
        )
        # Without the mark of `_watch`, which is to end what calls leave behind: not this.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_watch.MARK)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours.detach()  # open to the end of this process, of which a socket would warn
        with theirs:
            started = subprocess.Popen(
                [os.fsdecode(_spawn.get_executable()), *_util._args_from_interpreter_flags(), "-c", code],
                env={**environment, VARIABLE: seed},
                stdin=theirs.fileno(),
                start_new_session=True,  # a terminal's signals are not for it
            )
        self.pid = started.pid
        started.returncode = 0  # it is waited for below, and at the end of this process by nobody

    def request(self, fds: Sequence[int]) -> None:
        """Ask for a process that gets these descriptors.

        Raises:
            ConnectionError: The server has ended.
        """
        requests = socket.socket(fileno=self._requests)
        try:
            socket.send_fds(requests, [b"f"], fds)
        finally:
            requests.detach()

    def answer(self, status: int) -> int:
        """The process id; 0 if the server has ended, and less if it had no process to give: -errno.

        Raises:
            TimeoutError: The server says nothing.
        """
        poll = select.poll()
        poll.register(status, select.POLLIN)
        if not poll.poll(1000 * _START_S):
            raise TimeoutError(
                f"process {self.pid}, from which workers are forked, has not answered within {_START_S:g} s: "
                f"{_keeper.state_of(self.pid)}"
            )
        with contextlib.suppress(EOFError):
            return int(_forkserver.read_signed(status))
        return 0

    def forget(self) -> None:
        """Let go of it in a process that was forked from the driver: it is the driver's."""
        os.close(self._requests)

    def let_go(self) -> None:
        """Ask for no more: it ends once its workers have."""
        self.forget()
        with contextlib.suppress(ChildProcessError):  # it was waited for by somebody else
            os.waitpid(self.pid, os.WNOHANG)


def _safest_first(path: Sequence[str]) -> list[str]:
    """Where the server looks for what it needs: a `random.py` of the user's hides nothing from it.

    The driver had imported those modules before a folder of the user's came to the front.
    """
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    package = str(Path(__file__).parents[2])
    installed = ("site-packages", "dist-packages")

    def rank(place: str) -> int:
        if place in standard or Path(place).name == "lib-dynload":
            return 0
        return 1 if place == package else 2 if place.endswith(installed) else 3

    return sorted([*path, package], key=rank)


_lock = threading.Lock()
_server: _Server | None = None


def _forked(data: memoryview, fds: Sequence[int]) -> tuple[int, int, int]:
    """A process of the server's.

    Args:
        data: What it is to load.
        fds: Descriptors that it gets.

    Returns:
        Its process id, a descriptor that brings its exit code, and one that is to be open as long as this process.

    Raises:
        OSError: No process is to be had, or no server.
    """
    if len(fds) > _MOST_FDS:
        raise ValueError(f"{len(fds)} descriptors are to be sent to a worker, at most {_MOST_FDS} can be")
    with open(os.memfd_create("amlsched"), "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            done += file.write(data[done:])
        for _ in range(2):  # someone may have ended the server since the last time
            file.seek(0)
            if found := _ask(file.fileno(), fds):
                return found
    raise ChildProcessError("the server that workers are forked from ended before it had forked this one")


def _ask(data: int, fds: Sequence[int]) -> tuple[int, int, int] | None:
    """The same once; `None` if the server has ended."""
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
    """Which server was asked; `None` if it has ended."""
    global _server
    seed = hash_seed()
    with _lock:
        if _server is not None and _server.seed != seed:
            _server.let_go()
            _server = None
        server = _server = _server or _Server(seed)
        try:
            server.request(fds)
        except ConnectionError:
            server.let_go()
            _server = None
            return None
        return server


def _drop(server: _Server) -> None:
    global _server
    with _lock:
        if _server is server:
            server.let_go()
            _server = None


def _begin_anew() -> None:
    """In a process forked from the driver: the server is the driver's, and ends with it."""
    global _lock, _server
    _lock = threading.Lock()
    if _server is not None:
        _server.forget()
        _server = None


os.register_at_fork(after_in_child=_begin_anew)


# ------------------------------------------------------------------------------------------------ the server's side


def serve(preloaded: Sequence[str], path: Sequence[str]) -> None:
    """Fork processes as they are asked for; return when the driver has ended, and all of them.

    Args:
        preloaded: Modules that all of them have beside ours: those that the user has set.
        path: The driver's `sys.path`, where these are.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _preload(_PRELOADED)
    sys.path[:] = path
    _preload(preloaded)
    gc.freeze()  # so that collections in workers do not copy the pages that they share with this process
    _keeper.name_this(b"amlsched-server")
    with requests:
        _Forks(requests).run()


def _preload(names: Sequence[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except ImportError:
            pass  # as of multiprocessing: then workers import it, or do not need it
        except Exception:
            traceback.print_exc()


class _Forks:
    def __init__(self, requests: socket.socket) -> None:
        self.requests = requests
        self.statuses: dict[int, int] = {}  # where to say how a process has ended
        self.wakes = os.pipe()
        for fd in self.wakes:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wakes[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _keeper.wake)

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
        """In a new process: what it is for, to the end."""
        code = 1
        try:
            _keeper.name_this(b"amlsched-worker")
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
    with contextlib.suppress(OSError):  # the driver has ended
        _forkserver.write_signed(fd, number)
