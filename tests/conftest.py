"""What every test shares."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import pytest

from amlsched import Scheduler
from tests.backends import BACKENDS, GIVEN, THOROUGH, Backend, MakesScheduler
from tests.expected_skips import ExpectedSkips
from tests.faults.driver import HANDLED
from tests.groups import scheduling
from tests.systems import BatchSystems, environment, path_without_systems, wanted


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(BatchSystems())
    if os.environ.get("CI") and not hasattr(config, "workerinput"):  # pytest-xdist reports to its controller
        config.pluginmanager.register(ExpectedSkips(Path(__file__).with_name("expected_skips.txt")))


@pytest.hookimpl(optionalhook=True)  # pytest-xdist calls it
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    return scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport:
    """As pytest does. In Python 3.11 it fails, and ends the session, if a thread that logs a traceback parses source at
    the same moment: "AST constructor recursion depth mismatch".
    """
    for _ in range(10):
        with contextlib.suppress(SystemError):
            return pytest.TestReport.from_item_and_call(item, call)
    return pytest.TestReport.from_item_and_call(item, call)


_NODES_OF_SLURM = Path(tempfile.gettempdir()) / f"amlsched-nodes-of-slurm-{os.getuid()}"


@pytest.hookimpl(wrapper=True, tryfirst=True)  # so that the wait does not count towards the time of the test
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """While a test takes nodes of Slurm away, no other one has jobs there: those of PBS run there as well."""
    if not {"slurm", "pbs"} & set(wanted(item)):
        return (yield)
    alone = item.get_closest_marker("takes_nodes") is not None
    with _NODES_OF_SLURM.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # children that were forked may have it open


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the test modules with their assertions rewritten, which takes seconds in each process, for the next run."""
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Over batch systems and executors of others run the tests that a `Backend` says: the others would take an hour."""
    left_out = {item for item in items if not _worth_its_time(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _worth_its_time(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    rows = [row for row in given if isinstance(row, Backend)]
    if item.get_closest_marker("quick_workers") and any(row.capabilities.remote for row in rows) and not THOROUGH:
        return False
    suite = item.path.parts[-2:] == ("conformance", "test_scheduler.py")
    return "given_backend" in fixtures or all(
        suite and (not row.shared or "scheduler" in fixtures) for row in rows if row.jobs or row.given is not None
    )


def _over(which: Callable[[Backend], bool], rows: Iterable[Backend] = BACKENDS) -> Any:
    """A fixture that walks the rows of the table for which this holds."""

    def chosen(request: pytest.FixtureRequest) -> Backend:
        backend: Backend = request.param
        backend.skip_if_absent()
        return backend

    return pytest.fixture(params=[row.parameter() for row in rows if which(row)])(chosen)


backend = _over(lambda row: True, (*BACKENDS, *GIVEN))
given_backend = _over(lambda row: True, GIVEN)
inline_backend = _over(lambda row: row.capabilities.inline)
fixed_backend = _over(lambda row: row.fixed)
concurrent_backend = _over(lambda row: not row.capabilities.inline)
this_machines_backend = _over(lambda row: not row.capabilities.remote)
local_backend = _over(lambda row: row.processes and not row.capabilities.remote)
# A driver that is killed or hurried says nothing to workers on other hosts: they end when they notice.
this_machines_pool = _over(lambda row: not row.capabilities.remote and not row.capabilities.inline)
# These are programs of their own, and each would need a Ray of its own, which takes seconds (see test_ray.py).
driven_backend = _over(lambda row: not row.shared_service)
driven_processes = _over(lambda row: row.processes and not row.shared_service)
driven_pool = _over(lambda row: not row.capabilities.inline and not row.shared_service)
pickling_backend = _over(lambda row: row.capabilities.pickles)
# dask tries a call again whose worker dies, and the others wait for that.
mortal_backend = _over(lambda row: row.processes and not row.capabilities.reruns_lost_calls)
robust_backend = _over(lambda row: row.capabilities.survives_lost_workers and not row.capabilities.reruns_lost_calls)


@pytest.fixture(scope="session", autouse=True)
def _no_ignored_signals() -> Iterator[None]:
    """Programs that tests start would ignore what this one ignores, as under `nohup`."""
    ignored = [number for number in HANDLED if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests kill leave their temporary folders behind: these lie in one that is removed."""
    folder = tmp_path_factory.mktemp("left")
    # Ray's sockets lie four folders further down, and the path of a socket has at most 107 bytes.
    short = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_TMPDIR", short)
        patch.setattr(tempfile, "tempdir", None)
        yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    shutil.rmtree(short, ignore_errors=True)
    own = Path(get_temp_dir())  # of this process: multiprocessing removes it at the exit, and wants to find it then
    for left in folder.iterdir():
        if left != own:
            shutil.rmtree(left, ignore_errors=True)


@pytest.fixture(scope="session")
def _path_without_systems(tmp_path_factory: pytest.TempPathFactory) -> str:
    return path_without_systems(os.environ["PATH"], tmp_path_factory.mktemp("commands"))


@pytest.fixture(autouse=True)
def _batch_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _path_without_systems: str) -> None:
    """A test of a batch system finds that one's commands first; any other finds none, even where some are installed."""
    names = wanted(request.node)
    for name in names:
        for key, value in environment(name).items():
            monkeypatch.setenv(key, value)
    if not names:
        monkeypatch.setenv("PATH", _path_without_systems)


@pytest.fixture(scope="session")
def shared_executors() -> Iterator[dict[str, Executor]]:
    """Executors that many tests use, by the name of their backend."""
    executors: dict[str, Executor] = {}
    yield executors
    for executor in executors.values():
        executor.shutdown()


@pytest.fixture
def shared_scheduler(shared_executors: dict[str, Executor]) -> MakesScheduler:
    """Makes a new scheduler; where workers are slow to start, over an executor that all tests of that row share.

    For tests that leave no call in it for longer than a moment, and do not end its workers.
    """

    def make(backend: Backend, **options: Any) -> Scheduler:
        return over_shared(backend, shared_executors, **options) if backend.slow else backend.scheduler(**options)

    return make


@pytest.fixture
def scheduler(backend: Backend, shared_scheduler: MakesScheduler) -> Scheduler:
    """A new scheduler over each backend."""
    return shared_scheduler(backend)


@pytest.fixture
def given_scheduler(given_backend: Backend, shared_executors: dict[str, Executor]) -> Scheduler:
    """A new scheduler over each executor of somebody else."""
    return over_shared(given_backend, shared_executors)


def over_shared(backend: Backend, shared_executors: dict[str, Executor], **options: Any) -> Scheduler:
    """A scheduler over the executor that all tests of this row share."""
    executor = shared_executors.get(backend.name)
    try:
        if executor is None or executor.submit(abs, -1).result(90) != 1:
            raise RuntimeError
    except (RuntimeError, BrokenExecutor):  # none so far, or a test has ended its workers
        executor = shared_executors[backend.name] = backend.scheduler().executor
    return Scheduler(executor, **options)
