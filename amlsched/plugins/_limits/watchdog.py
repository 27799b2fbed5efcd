"""The watchdog: a process that measures limited calls and reports those that exceed a limit.

It is a process because a thread of the driver would have to wait for the interpreter lock, which a callback may hold
for seconds while a call allocates a gigabyte in a fraction of one. This file is run as a script, without amlsched and
without any installed package, so that it starts within some 20 ms. It exits with the process that started it.

A worker connects to it and reports when a limited function starts and ends, and what its process used before. If a call
exceeds a limit, the watchdog reports that to the process that started it, which kills the call. If that takes too long,
because something blocks that process, and memory keeps growing, the watchdog stops the processes of the call (SIGSTOP)
until they are killed.

The processes of a call are the tree below the worker's parent, its supervisor, which also adopts orphans.

Sources: proc(5), unix(7).
"""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time

__all__ = ["CPUTIME", "MEMORY", "REPORT", "WALLTIME", "begin_message", "end_message", "proportional", "sizes"]

REPORT = struct.Struct("<Qcd")  # key of the call, kind of limit, how much was used
WALLTIME, MEMORY, CPUTIME = b"W", b"M", b"C"

_BEGIN = struct.Struct("<QdddQQQd")
_END = struct.Struct("<Q")

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_GROWTH = 8e9  # assumed maximum allocation rate of a call, in bytes per second; measured: about 4e9 for one thread
_REST_S = 0.1  # longest time between two checks of memory
_SHARE = 4  # after a check that takes 1 ms, the next one comes after at least 4 ms
_STOP_AT = 1.08  # times the memory limit
_COUNTS = 6  # maximum number of counts while the process tree keeps changing
_FORGET_S = 3.0


def begin_message(
    key: int,
    started: float,
    walltime_s: float,
    cputime_s: float,
    memory_bytes: int,
    resident: int,
    shared: int,
    cpu_s: float,
) -> bytes:
    """The message that a worker sends before the function.

    Args:
        key: Key of the call.
        started: Start time, on the monotonic clock.
        walltime_s: Limit; infinite for none.
        cputime_s: Limit; infinite for none.
        memory_bytes: Limit; 0 for none.
        resident: Resident bytes of the worker, without file pages.
        shared: How many of these are accounted to other processes that share them.
        cpu_s: CPU time that the worker has used so far.
    """
    return _BEGIN.pack(key, started, walltime_s, cputime_s, memory_bytes, resident, shared, cpu_s)


def end_message(key: int) -> bytes:
    """The message that a worker sends after the function."""
    return _END.pack(key)


class _Call:
    """A running call.

    Attributes:
        pid: Process id of its worker.
        check_at: When to check it next, on the monotonic clock.
        twice: How many bytes were counted more than once, at the last exact count.
        count_at: When to count exactly again.
        counting_s: How long the last exact count took.
        reported: Whether it was reported that it exceeded a limit.
        stopped: Its stopped processes.
    """

    key: int
    started: float
    cputime_s: float
    memory: int
    resident: int
    shared: int
    cpu_s: float

    def __init__(self, pid: int, message: bytes) -> None:
        self.pid = pid
        (self.key, self.started, walltime_s, self.cputime_s, self.memory, self.resident, self.shared, self.cpu_s) = (
            _BEGIN.unpack(message)
        )
        self.deadline = self.started + walltime_s
        self.uses = bool(self.memory) or self.cputime_s != float("inf")
        # No check before: most limited calls have finished by then, or take long.
        self.check_at = min(self.deadline, time.monotonic() + 0.002 if self.uses else self.deadline)
        self.supervisor = 0
        self.tree = {pid}
        self.twice = 0
        self.count_at = self.counting_s = 0.0
        self.reported = False
        self.stopped: set[int] = set()

    def measure_start(self, processes: "_Processes") -> None:
        """Also subtract the usage of processes that earlier calls have left behind.

        Raises:
            ProcessLookupError: The worker has exited.
        """
        self.supervisor = _stat(self.pid)[0]
        if not self.supervisor:
            raise ProcessLookupError
        self.tree = processes.below(self.supervisor, {self.pid})
        for pid in self.tree - {self.pid}:
            self.resident += sizes(pid)[0]
        if self.cputime_s != float("inf"):
            self.cpu_s += self._cpu_s() - _stat(self.pid)[1]

    def check(self, now: float, processes: "_Processes") -> tuple[bytes, float] | None:
        """Check the limits. Returns the kind of the exceeded limit and the usage; `None` if none is exceeded.

        Raises:
            ProcessLookupError: The worker has exited.
        """
        if not self.supervisor and self.uses:
            self.measure_start(processes)
        wait = self.deadline - now
        if wait <= 0:
            return WALLTIME, now - self.started
        if self.uses:
            self.tree = processes.below(self.supervisor, self.tree)
            if self.pid not in self.tree:
                raise ProcessLookupError
        if self.memory:
            used = self.used_bytes()
            if used > self.memory:
                return MEMORY, used
            wait = min(wait, _REST_S, (self.memory - used) / _GROWTH)
        if self.cputime_s != float("inf"):
            used_s = self._cpu_s() - self.cpu_s
            if used_s > self.cputime_s:
                return CPUTIME, used_s
            wait = min(wait, 0.2, max(0.01, (self.cputime_s - used_s) / (os.cpu_count() or 1)))
        self.check_at = now + wait
        return None

    def used_bytes(self) -> int:
        """Resident memory of the tree, without file pages, in addition to what it had before the function."""
        found = {pid: sizes(pid) for pid in self.tree}
        used = sum(resident for resident, _ in found.values()) - self.resident
        if used <= self.memory or len(self.tree) == 1:
            return used
        # Forked processes share memory, which is counted for each of them so far. Counting it only once takes a
        # millisecond per 20 MB; so first check whether it is too much even if they share as much as possible.
        least = self._least_bytes(found)
        if least > self.memory:
            return least
        began = time.monotonic()
        if used - self.twice > self.memory or began > self.count_at:
            once = self._once_bytes()
            self.twice = max(0, used - once)
            self.counting_s = time.monotonic() - began
            self.count_at = began + 10 * self.counting_s
        return used - self.twice

    def _once_bytes(self) -> int:
        """Memory of the tree, with shared memory counted once.

        Processes are read one after the other. If one of them exits meanwhile, or executes another program, its shared
        memory was counted for it, and is then counted for the others again. So a sum above the limit counts only if a
        second one, during which this did not happen, is above the limit as well.
        """
        sums: list[int] = []
        steady = False
        while not sums or (min(sums) > self.memory and (not steady or len(sums) < 2) and len(sums) < _COUNTS):
            before = self._images()
            sums.append(sum(map(proportional, self.tree)) + self.shared - self.resident)
            steady = before == self._images()
        return min(sums)

    def _images(self) -> dict[int, int]:
        return {pid: _stat(pid)[3] for pid in self.tree}

    def _least_bytes(self, found: dict[int, tuple[int, int]]) -> int:
        """Lower bound of the tree's memory: of processes forked from each other, only the largest one counts."""
        own = _stat(self.pid)[3]
        largest = {own: found[self.pid][0] - self.resident}
        for pid, (_, anonymous) in found.items():
            image = _stat(pid)[3]
            if image not in (own, 0):  # 0: it has exited
                largest[image] = max(largest.get(image, 0), anonymous)
        return sum(largest.values())

    def _cpu_s(self) -> float:
        return sum(_stat(pid)[1] for pid in self.tree) + _stat(self.supervisor)[2]

    def stop(self) -> None:
        """Stop all of its processes until they are killed."""
        for pid in self.tree - self.stopped:
            _signal(pid, signal.SIGSTOP)
            self.stopped.add(pid)

    def resume(self) -> None:
        """Continue its stopped processes: it had already finished."""
        for pid in self.stopped:
            _signal(pid, signal.SIGCONT)


class _Processes:
    """The process tree. A process outside of a tree never becomes part of it, unless its id is reused."""

    def __init__(self) -> None:
        self.others: dict[int, set[int]] = {}
        self.forget_at = 0.0

    def below(self, supervisor: int, known: set[int]) -> set[int]:
        """The descendants of a supervisor, given those known before."""
        now = time.monotonic()
        if now > self.forget_at:
            self.others, self.forget_at = {}, now + _FORGET_S
        others = self.others.setdefault(supervisor, set())
        there = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        tree = known & there
        new = there - tree - others
        parents = {pid: _stat(pid)[0] for pid in new}
        grows = True
        while grows:
            children = {pid for pid in new if parents[pid] == supervisor or parents[pid] in tree}
            tree |= children
            new -= children
            grows = bool(children)
        others |= {pid for pid in new if parents[pid]}
        return tree


def _stat(pid: int) -> tuple[int, float, float, int]:
    """Read a process's /proc/PID/stat; zeros if it has exited.

    Returns:
        Its parent; its CPU seconds including those of its dead children; the latter alone; the address of its stack,
        which changes with each exec, but not with a fork.
    """
    try:
        with open("/proc/%d/stat" % pid, "rb", 0) as file:  # noqa: UP031
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0.0, 0.0, 0
    of_children = int(fields[13]) + int(fields[14])
    cpu_s = (int(fields[11]) + int(fields[12]) + of_children) * _TICK_S
    return int(fields[1]), cpu_s, of_children * _TICK_S, int(fields[25])


def sizes(pid: int) -> tuple[int, int]:
    """Resident memory without file pages, and how much of it is not shared memory; zeros if the process has exited.

    File pages are excluded because the kernel reclaims them when memory is short.
    """
    try:
        with open("/proc/%d/status" % pid, "rb", 0) as file:  # noqa: UP031
            text = file.read()
    except OSError:
        return 0, 0
    if b"RssAnon:" not in text:  # Linux before 4.5, and emulations of Linux
        resident = _bytes(text, b"VmRSS:")
        return resident, resident
    anonymous = _bytes(text, b"RssAnon:")
    return anonymous + _bytes(text, b"RssShmem:"), anonymous


def proportional(pid: int) -> int:
    """The same resident memory, but memory shared by several processes counts for each of them in part."""
    try:
        with open("/proc/%d/smaps_rollup" % pid, "rb", 0) as file:  # noqa: UP031
            text = file.read()
    except OSError:
        return sizes(pid)[0]
    return _bytes(text, b"Pss:") - _bytes(text, b"Pss_File:")


def _bytes(text: bytes, name: bytes) -> int:
    """An amount from a file of /proc with lines such as `RssAnon:  1234 kB`; 0 if it is missing."""
    start = text.find(b"\n" + name)
    return int(text[start + 1 + len(name) : text.index(b"kB", start)]) * 1024 if start >= 0 else 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has exited, or runs as another user
        os.kill(pid, number)


class _Watchdog:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.poll = select.epoll()
        self.poll.register(listener, select.EPOLLIN)
        self.poll.register(0, select.EPOLLIN)
        self.host = -1
        with contextlib.suppress(OSError):  # Linux before 5.3
            self.host = os.pidfd_open(os.getppid())  # in case another process holds the other end of 0
            self.poll.register(self.host, select.EPOLLIN)
        self.workers: dict[int, tuple[socket.socket, int]] = {}  # by descriptor: connection, process id
        self.calls: dict[int, _Call] = {}  # by process id of the worker
        self.processes = _Processes()

    def watch(self) -> None:
        """Return when the process that started this one has exited."""
        while True:
            soonest = min((call.check_at for call in self.calls.values()), default=float("inf"))
            wait = -1.0 if soonest == float("inf") else max(0.0, soonest - time.monotonic())
            for fd, _ in self.poll.poll(wait):
                if fd in (0, self.host):
                    return
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.receive(fd)
            now = time.monotonic()
            for call in list(self.calls.values()):
                if now >= call.check_at:
                    self.check(call, now)

    def accept(self) -> None:
        connection, _ = self.listener.accept()
        size = struct.calcsize("3i")
        pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if user != os.getuid():
            connection.close()
            return
        connection.setblocking(False)
        self.workers[connection.fileno()] = connection, pid
        self.poll.register(connection, select.EPOLLIN)

    def receive(self, fd: int) -> None:
        connection, pid = self.workers[fd]
        try:
            message = connection.recv(256)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if len(message) == _BEGIN.size:
            self.calls[pid] = _Call(pid, message)
            return
        call = self.calls.pop(pid, None)
        if len(message) == _END.size:
            if call is not None:
                call.resume()
            return
        self.poll.unregister(fd)
        del self.workers[fd]
        connection.close()

    def check(self, call: _Call, now: float) -> None:
        try:
            if call.reported:
                self.check_again(call, now)
                return
            passed = call.check(now, self.processes)
        except ProcessLookupError:
            self.calls.pop(call.pid, None)
            return
        if passed is not None:
            os.write(1, REPORT.pack(call.key, passed[0], passed[1]))
            call.reported = True
            call.check_at = now if call.memory else float("inf")
            return
        done = time.monotonic()
        took_s, call.counting_s = done - now - call.counting_s, 0.0
        call.check_at = max(call.check_at, done + max(0.001, _SHARE * took_s))

    def check_again(self, call: _Call, now: float) -> None:
        """Check a call that is being killed: stop it if its memory keeps growing."""
        call.tree = self.processes.below(call.supervisor, call.tree)
        if call.pid not in call.tree:
            raise ProcessLookupError
        if call.stopped or call.used_bytes() > _STOP_AT * call.memory:
            call.stop()
        call.check_at = now + 0.002


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Watchdog(socket.socket(fileno=int(sys.argv[1]))).watch()
