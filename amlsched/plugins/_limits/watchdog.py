"""A process that watches limited calls: what they use, and when they have used too much.

It is a process because a thread of the driver would have to wait for the interpreter lock, which a callback may hold
for seconds while a call takes a gigabyte in a fraction of one. It is run as a file, without amlsched and without any
installed package, so that it starts within some 20 ms. It ends with the process that started it.

A worker connects to it and says when a limited function begins and ends, and what its process used before. A call that
passes a limit is told to the process that started the warden, which ends the call. Should that take too long, because
something blocks that process, and memory grows on, the warden stops the call's processes (SIGSTOP) until they are
ended.

What belongs to a call is the process tree below the parent of the worker, its keeper, to which orphans come, too.

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

REPORT = struct.Struct("<Qcd")  # key of the call, which limit, how much was used
WALLTIME, MEMORY, CPUTIME = b"W", b"M", b"C"

_BEGIN = struct.Struct("<QdddQQQd")
_END = struct.Struct("<Q")

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_GROWTH = 8e9  # bytes a second that calls are thought to take at most; measured: about 4e9 for one thread
_REST_S = 0.1  # the longest time between two looks at memory
_SHARE = 4  # a look that takes 1 ms is followed by none before 4 ms
_STOP_AT = 1.08  # of the memory limit
_COUNTS = 6  # at most, where the tree changes all the time
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
    """What a worker sends before the function.

    Args:
        key: Of the call.
        started: Monotonic clock.
        walltime_s: Limit; infinite for none.
        cputime_s: Limit; infinite for none.
        memory_bytes: Limit; 0 for none.
        resident: Bytes that the worker has, without pages of files.
        shared: As many of these belong to other processes that share them.
        cpu_s: What the worker has used so far.
    """
    return _BEGIN.pack(key, started, walltime_s, cputime_s, memory_bytes, resident, shared, cpu_s)


def end_message(key: int) -> bytes:
    """What a worker sends after the function."""
    return _END.pack(key)


class _Call:
    """A call that runs.

    Attributes:
        pid: Of its worker.
        look_at: When it is to be looked at, on the monotonic clock.
        twice: As many bytes were counted more than once when this was last found out.
        count_at: When it is to be found out again.
        counting_s: How long this took.
        told: Whether its host knows that it has passed a limit.
        stopped: The processes that were stopped.
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
        # Nothing is looked at before: most calls with limits are over by then, or take long.
        self.look_at = min(self.deadline, time.monotonic() + 0.002 if self.uses else self.deadline)
        self.keeper = 0
        self.tree = {pid}
        self.twice = 0
        self.count_at = self.counting_s = 0.0
        self.told = False
        self.stopped: set[int] = set()

    def get_to_know(self, processes: "_Processes") -> None:
        """Add to what the worker had before what is there besides: what former calls have left behind.

        Raises:
            ProcessLookupError: The worker has ended.
        """
        self.keeper = _stat(self.pid)[0]
        if not self.keeper:
            raise ProcessLookupError
        self.tree = processes.below(self.keeper, {self.pid})
        for pid in self.tree - {self.pid}:
            self.resident += sizes(pid)[0]
        if self.cputime_s != float("inf"):
            self.cpu_s += self._cpu_s() - _stat(self.pid)[1]

    def look(self, now: float, processes: "_Processes") -> tuple[bytes, float] | None:
        """Which limit is passed, and by how much; nothing if none is.

        Raises:
            ProcessLookupError: The worker has ended.
        """
        if not self.keeper and self.uses:
            self.get_to_know(processes)
        wait = self.deadline - now
        if wait <= 0:
            return WALLTIME, now - self.started
        if self.uses:
            self.tree = processes.below(self.keeper, self.tree)
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
        self.look_at = now + wait
        return None

    def used_bytes(self) -> int:
        """Resident memory of the tree, without pages of files, beyond what there was before the function."""
        found = {pid: sizes(pid) for pid in self.tree}
        used = sum(resident for resident, _ in found.values()) - self.resident
        if used <= self.memory or len(self.tree) == 1:
            return used
        # Forked processes share memory, and so far it is counted for each. To count it once takes a millisecond for
        # some 20 MB; so first look whether it is too much even if forked processes share all they can.
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
        """What the tree takes, what it shares counted once.

        Processes are read one after the other. When one of them ends meanwhile, or becomes another program, what it
        shared was counted for it, and is then counted for the others. So a sum that is too much is believed when
        another one, during which nothing of this kind has happened, is too much as well.
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
        """What the tree takes at least: of processes forked from each other, the largest one alone."""
        own = _stat(self.pid)[3]
        largest = {own: found[self.pid][0] - self.resident}
        for pid, (_, anonymous) in found.items():
            image = _stat(pid)[3]
            if image not in (own, 0):  # 0: it has ended
                largest[image] = max(largest.get(image, 0), anonymous)
        return sum(largest.values())

    def _cpu_s(self) -> float:
        return sum(_stat(pid)[1] for pid in self.tree) + _stat(self.keeper)[2]

    def stop(self) -> None:
        """Let no process of it run until it is ended."""
        for pid in self.tree - self.stopped:
            _signal(pid, signal.SIGSTOP)
            self.stopped.add(pid)

    def resume(self) -> None:
        """It was over already."""
        for pid in self.stopped:
            _signal(pid, signal.SIGCONT)


class _Processes:
    """The process tree. What is once known not to be in a tree never comes to be in it, unless its id is used again."""

    def __init__(self) -> None:
        self.others: dict[int, set[int]] = {}
        self.forget_at = 0.0

    def below(self, keeper: int, known: set[int]) -> set[int]:
        """The processes below a keeper, which were these before."""
        now = time.monotonic()
        if now > self.forget_at:
            self.others, self.forget_at = {}, now + _FORGET_S
        others = self.others.setdefault(keeper, set())
        there = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        tree = known & there
        new = there - tree - others
        parents = {pid: _stat(pid)[0] for pid in new}
        grows = True
        while grows:
            children = {pid for pid in new if parents[pid] == keeper or parents[pid] in tree}
            tree |= children
            new -= children
            grows = bool(children)
        others |= {pid for pid in new if parents[pid]}
        return tree


def _stat(pid: int) -> tuple[int, float, float, int]:
    """What is known of a process; zeros for one that has ended.

    Returns:
        Its parent; CPU seconds with those of its dead children; these alone; the address of its stack, which is another
        after each exec, and the same after a fork.
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
    """Resident memory that belongs to no file, and how much of it is no shared memory; zeros for an ended process.

    Pages of files are left out: the kernel takes them back where memory is short.
    """
    try:
        with open("/proc/%d/status" % pid, "rb", 0) as file:  # noqa: UP031
            text = file.read()
    except OSError:
        return 0, 0
    if b"RssAnon:" not in text:  # Linux before 4.5, and what only looks like it
        resident = _bytes(text, b"VmRSS:")
        return resident, resident
    anonymous = _bytes(text, b"RssAnon:")
    return anonymous + _bytes(text, b"RssShmem:"), anonymous


def proportional(pid: int) -> int:
    """The first of these, but what is shared by several processes counts for each in part."""
    try:
        with open("/proc/%d/smaps_rollup" % pid, "rb", 0) as file:  # noqa: UP031
            text = file.read()
    except OSError:
        return sizes(pid)[0]
    return _bytes(text, b"Pss:") - _bytes(text, b"Pss_File:")


def _bytes(text: bytes, name: bytes) -> int:
    """An amount in a file of /proc, whose lines are such as `RssAnon:  1234 kB`; 0 if it is not there."""
    start = text.find(b"\n" + name)
    return int(text[start + 1 + len(name) : text.index(b"kB", start)]) * 1024 if start >= 0 else 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended, or changed its user
        os.kill(pid, number)


class _Warden:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.poll = select.epoll()
        self.poll.register(listener, select.EPOLLIN)
        self.poll.register(0, select.EPOLLIN)
        self.host = -1
        with contextlib.suppress(OSError):  # Linux before 5.3
            self.host = os.pidfd_open(os.getppid())  # should somebody else hold the other end of 0
            self.poll.register(self.host, select.EPOLLIN)
        self.workers: dict[int, tuple[socket.socket, int]] = {}  # by descriptor: connection, process id
        self.calls: dict[int, _Call] = {}  # by process id of the worker
        self.processes = _Processes()

    def watch(self) -> None:
        """Return when the process that started this one has ended."""
        while True:
            soonest = min((call.look_at for call in self.calls.values()), default=float("inf"))
            wait = -1.0 if soonest == float("inf") else max(0.0, soonest - time.monotonic())
            for fd, _ in self.poll.poll(wait):
                if fd in (0, self.host):
                    return
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.hear(fd)
            now = time.monotonic()
            for call in list(self.calls.values()):
                if now >= call.look_at:
                    self.look(call, now)

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

    def hear(self, fd: int) -> None:
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

    def look(self, call: _Call, now: float) -> None:
        try:
            if call.told:
                self.look_again(call, now)
                return
            passed = call.look(now, self.processes)
        except ProcessLookupError:
            self.calls.pop(call.pid, None)
            return
        if passed is not None:
            os.write(1, REPORT.pack(call.key, passed[0], passed[1]))
            call.told = True
            call.look_at = now if call.memory else float("inf")
            return
        done = time.monotonic()
        took_s, call.counting_s = done - now - call.counting_s, 0.0
        call.look_at = max(call.look_at, done + max(0.001, _SHARE * took_s))

    def look_again(self, call: _Call, now: float) -> None:
        """It is being ended. Until then its memory must not grow."""
        call.tree = self.processes.below(call.keeper, call.tree)
        if call.pid not in call.tree:
            raise ProcessLookupError
        if call.stopped or call.used_bytes() > _STOP_AT * call.memory:
            call.stop()
        call.look_at = now + 0.002


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Warden(socket.socket(fileno=int(sys.argv[1]))).watch()
