"""A small program on each executor of this machine, where something that a program usually has is missing, closed,
full, too long or used up. It works, or each of its calls ends with one message that says what is wrong; it ends, and
leaves no process and no file behind.

`tests/experiments/test_surroundings.py` has the same for the command line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends import THOROUGH
from tests.processes import ROOT, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and ProcessPool is for Linux"),
]

LIMIT_S = 60
KINDS = ("processes", "forkserver", "spawn", "fork", "loky", "threads")
PROGRAM = '''
import json, multiprocessing, os, sys
from amlsched import AmlschedError, Scheduler


def square(number):
    return number * number


def outcomes(kind):
    """The results of three calls, and the messages of those that failed."""
    results, errors = [], []
    try:
        if kind in ("fork", "forkserver", "spawn"):
            scheduler = Scheduler.with_processes(2, multiprocessing.get_context(kind))
        else:
            scheduler = Scheduler.from_name(kind, max_workers=2)
        task = scheduler.task(square)
        task.on_result(lambda _, result: results.append(result))
        task.on_exception(lambda _, error: errors.append(str(error)))
        scheduler.on_start(lambda: [task.submit(number) for number in range(3)])
        scheduler.run(on_exception="continue")
    except AmlschedError as error:
        errors.append(str(error))
    return sorted(results), errors


if __name__ == "__main__":
    kind, after_use = sys.argv[1], sys.argv[2]
    found = outcomes(kind)
    if after_use == "fork":
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        found = outcomes(kind)
    with open("outcomes", "w") as file:
        json.dump(found, file)
    if after_use == "fork":
        os._exit(0)
'''
START = (
    r"(square|run_batch|the pool) was lost: its worker could not start: "
    r"(BlockingIOError: \[Errno 11\] Resource temporarily unavailable|RuntimeError: can't start new thread) "
    r"\(this user or this container has as many processes and threads as it may have: .*\)"
)
NO_SEMAPHORES = (
    r"the pool was lost: its worker could not start: OSError: \[Errno 30\] Read-only file system "
    r"\(loky needs semaphores in /dev/shm: .*\)"
)


@dataclass(frozen=True)
class Surroundings:
    """One row of the table.

    Attributes:
        name: What is odd.
        shell: What a shell adds to the command, such as `>&-`.
        env: Variables of the environment; `None` for one that is missing.
        prefix: A command that runs the program.
        after_use: "fork" to run it again in a fork of the program.
        folder: The folder in which the program is.
        fails: By executor, a pattern of the message of each call that fails; "" stands for all executors.
        may_work: Whether calls may also work: it depends on what else counts towards a limit.
        needs: Returns what is missing here to try it.
    """

    name: str
    shell: str = ""
    env: Mapping[str, str | None] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    after_use: str = ""
    folder: str = "project"
    fails: Mapping[str, str] = field(default_factory=dict)
    may_work: bool = False
    needs: Callable[[], str] = lambda: ""


def no_root(command: str) -> Callable[[], str]:
    """What is missing where a row needs root, and this command."""
    return lambda: "" if os.geteuid() == 0 and shutil.which(command) else f"needs root, and the command {command}"


def cannot_run(*command: str) -> str:
    """What to say if this command fails here, as in a container that may not do it."""
    failed = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0
    return f"may not run {command[0]} here" if failed else ""


def processes_at_most(number: int) -> Surroundings:
    user = str(200_000 + os.getpid())  # of nobody else, as the limit is on the processes of a user
    limited = ("setpriv", "--reuid", user, "--regid", user, "--clear-groups")
    reads = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")  # this checkout
    return Surroundings(
        f"at most {number} processes",
        prefix=(*limited, *reads, "bash", "-c", f'ulimit -u {number}; exec "$@"', "bash"),
        fails={"": START},
        may_work=True,
        needs=no_root("setpriv"),
    )


def in_cgroup(controller: str, name: str, files: dict[str, int], **more: Any) -> Surroundings:
    """Limits of a container, by a cgroup of its own that a fixture makes and removes."""
    place = f"/sys/fs/cgroup/{controller}/amlsched-odd-{os.getpid()}"
    writes = "; ".join(f"echo {value} >{place}/{file}" for file, value in files.items())
    script = f'mkdir {place} && {writes}; echo $$ >{place}/cgroup.procs && exec "$@"'
    return Surroundings(
        name,
        prefix=("sh", "-c", script, "sh"),
        needs=lambda: "" if os.access(f"/sys/fs/cgroup/{controller}", os.W_OK) else "cannot make cgroups here",
        **more,
    )


TABLE = (
    Surroundings("nothing odd"),
    Surroundings("stdout closed", shell=">&-"),
    Surroundings("stderr closed", shell="2>&-"),
    Surroundings("all streams closed", shell="<&- >&- 2>&-"),
    Surroundings("stdout full", shell=">/dev/full"),
    Surroundings("no HOME", env={"HOME": None}),
    Surroundings("a long TMPDIR", env={"TMPDIR": "x" * 150}),
    Surroundings(
        "C locale",
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        folder="größe",
    ),
    Surroundings(
        "no /dev/shm",
        prefix=("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"),
        fails={"loky": NO_SEMAPHORES},
        needs=lambda: no_root("unshare")() or cannot_run("unshare", "-m", "true"),
    ),
    Surroundings("fork after use", after_use="fork"),
    *map(processes_at_most, (1, 5, 6)),
    in_cgroup("pids", "a container with 5 processes", {"pids.max": 5}, fails={"": START}, may_work=True),
    in_cgroup("cpu", "a container with half a CPU", {"cpu.cfs_quota_us": 50_000}),
)


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[Surroundings]:
    row: Surroundings = request.param
    if missing := row.needs():
        pytest.skip(missing)
    yield row
    for place in Path("/sys/fs/cgroup").glob(f"*/amlsched-odd-{os.getpid()}"):
        until(partial(is_empty, place))
        place.rmdir()


def is_empty(cgroup: Path) -> bool:
    return not (cgroup / "cgroup.procs").read_text()


def marked(mark: str) -> list[int]:
    """Processes that have this in their environment."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has exited
            continue
    return found


def rows_and_kinds() -> list[Any]:
    """Each row on each executor, but only one of the contexts of multiprocessing, in turns: they share our pool."""
    contexts = ("forkserver", "spawn", "fork")
    return [
        pytest.param(row, kind, id=f"{row.name}-{kind}")
        for number, row in enumerate(TABLE)
        for kind in KINDS
        if THOROUGH or kind not in contexts or kind == contexts[number % 3]
    ]


@pytest.mark.parametrize(("odd", "kind"), rows_and_kinds(), indirect=["odd"])
def test_it_works_or_says_why_and_leaves_nothing(odd: Surroundings, kind: str, tmp_path: Path) -> None:
    if kind == "loky":
        pytest.importorskip("loky")
    folder = tmp_path / odd.folder
    temporary = tmp_path / (odd.env.get("TMPDIR") or "temporary")
    for place in (folder, temporary):
        place.mkdir()
    for place in (folder, temporary, *folder.parents[:3]):
        place.chmod(0o777)
    (folder / "program.py").write_text(PROGRAM)
    before = set(os.listdir("/dev/shm"))  # pids repeat
    mark = f"AMLSCHED_TEST_{os.getpid()}_{abs(hash((odd.name, kind)))}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), mark: "1", **odd.env, "TMPDIR": str(temporary)}
    program = [sys.executable, "program.py", kind, odd.after_use]
    with subprocess.Popen(
        [*odd.prefix, "bash", "-c", f'exec "$@" {odd.shell}', "bash", *program],
        cwd=folder,
        env={name: value for name, value in env.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as started:
        try:
            said = started.communicate(timeout=LIMIT_S)[1].decode(errors="replace")
        finally:
            for pid in marked(mark) if started.returncode is None else ():
                os.kill(pid, signal.SIGKILL)
    assert started.returncode == 0, said
    results, errors = json.loads((folder / "outcomes").read_text())

    fails = odd.fails.get(kind, odd.fails.get("", ""))
    if not fails:
        assert (results, errors) == ([0, 1, 4], []), said
    elif not odd.may_work:
        assert results == []
        assert errors
    else:
        assert len(results) + len(errors) == 3 or (len(errors) == 1 and "the pool was lost" in errors[0])
    for error in errors:
        assert re.fullmatch(fails, error), error
    if not errors and not odd.may_work:
        assert said == "" or (odd.after_use and "DeprecationWarning" in said)
    elif kind != "loky":  # whose own threads may print a traceback
        assert "Traceback" not in said
    until(lambda: not marked(mark))
    assert os.listdir(temporary) == []
    assert [name for name in set(os.listdir("/dev/shm")) - before if f"-{started.pid}-" in name] == []


# -------------------------------------------------------------------------------------- main modules that go wrong

UNGUARDED = """
print("a guard somewhere is not a guard of the pool:", __name__ == "__main__")
found = outcomes(sys.argv[1])
with open("outcomes-" + __name__, "w") as file:
    json.dump(found, file)
"""
RAISING = """
if __name__ != "__main__":
    raise LookupError("only on Sundays")
with open("outcomes", "w") as file:
    json.dump(outcomes(sys.argv[1]), file)
"""


def run_main(ending: str, kind: str, folder: Path) -> str:
    (folder / "program.py").write_text(PROGRAM.partition("if __name__")[0] + ending)
    done = subprocess.run(
        [sys.executable, "program.py", kind],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", ["processes", "forkserver", "spawn"])
def test_a_main_module_without_a_guard_is_named(kind: str, tmp_path: Path) -> None:
    said = run_main(UNGUARDED, kind, tmp_path)
    assert "The main module starts a pool of processes while a worker imports it" in said
    assert "ConnectionResetError" not in said
    assert "EOFError" not in said
    assert json.loads((tmp_path / "outcomes-__main__").read_text()) == [[0, 1, 4], []]
    assert json.loads((tmp_path / "outcomes-__mp_main__").read_text()) == [[], []]


@pytest.mark.parametrize("kind", ["processes", "forkserver", "spawn"])
def test_what_a_main_module_raises_in_workers_is_the_error_of_the_calls(kind: str, tmp_path: Path) -> None:
    assert run_main(RAISING, kind, tmp_path) == ""
    results, errors = json.loads((tmp_path / "outcomes").read_text())
    assert results == []
    assert errors == 3 * ["square was lost: its worker could not start: LookupError: only on Sundays"]
