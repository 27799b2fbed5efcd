"""What Linux reports about processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amlsched import _proc

PACKAGE = Path(__file__).parents[2] / "amlsched"
WITHOUT_AMLSCHED = {"executors/_orphan_reaper.py", "plugins/_limits/watchdog.py"}
"""Programs that run as a file, and cannot import amlsched."""


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process.pid
        process.kill()


def test_one_module_reads_proc() -> None:
    opens = re.compile(r"""(open|listdir|readlink|Path|root)\(.*["']/?proc/""")
    readers = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if opens.search(path.read_text())}
    # detect reads what the machine has, and worker_exit a counter of the whole host: neither is about a process.
    assert readers == {"_proc.py", "resources/detect.py", "executors/worker_exit.py", *WITHOUT_AMLSCHED}


def test_a_child_is_below_its_parent_until_it_has_exited(sleeper: int) -> None:
    assert sleeper in _proc.children()
    assert sleeper in set(_proc.descendants(os.getpid()))
    os.kill(sleeper, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOWAIT)
    assert sleeper not in set(_proc.descendants(os.getpid()))  # a zombie
    assert _proc.start_ticks(sleeper) == 0


def test_a_stopped_process_is_said_to_be_stopped(sleeper: int) -> None:
    assert _proc.state_of(sleeper).startswith("its state is")
    os.kill(sleeper, signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper, os.WSTOPPED)
    assert _proc.state_of(sleeper) == "it was stopped by a signal"


def test_nothing_is_known_of_a_process_that_is_gone(sleeper: int) -> None:
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)
    assert _proc.state_of(sleeper) == "it has exited"
    assert _proc.start_ticks(sleeper) == 0
    assert _proc.cpu_ticks_if_stalled(sleeper) is None
    assert list(_proc.descendants(sleeper)) == []


def test_a_later_process_has_started_later(sleeper: int) -> None:
    assert 0 < _proc.start_ticks(os.getpid()) <= _proc.start_ticks(sleeper)
    now = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    assert _proc.start_ticks(sleeper) <= now + 1


def test_signals_reach_all_that_is_below() -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '100']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert child in set(_proc.descendants(os.getpid()))
        _proc.signal_below(parent.pid, signal.SIGKILL)
        assert parent.wait(30) == 0  # only its child was killed


def test_this_process_has_a_umask_and_memory() -> None:
    before = os.umask(0o027)
    try:
        assert _proc.own_umask() == 0o027
    finally:
        os.umask(before)
    resident, peak, size = (_proc.own_bytes(name) for name in ("VmRSS", "VmHWM", "VmSize"))
    assert resident is not None
    assert peak is not None
    assert size is not None
    assert resident > 1 << 20
    assert resident <= size
    assert peak <= size
    assert _proc.own_bytes("Nothing") is None
