"""What is special about calls on Ray; the conformance suite does the rest, in one Ray for all of its tests."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from amlsched import ResourcesError, Scheduler, WorkerLostError
from amlsched.executors._ray_executor import unchanged_process
from amlsched.resources import Resources
from tests.backends import THOROUGH, needs, start_ray
from tests.processes import alive, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = needs("ray")


@pytest.fixture(autouse=True)
def _one_ray() -> None:
    start_ray()


def _first(scheduler: Scheduler, function: Any, *args: Any) -> Any:
    task = scheduler.task(function)
    results: list[Any] = []
    scheduler.on_start(lambda: task.submit(*args))
    task.on_result(lambda _, result: results.append(result))
    scheduler.run()
    return results[0]


def test_a_call_has_the_resources_that_it_asks_for() -> None:
    def assigned() -> dict[str, float]:
        import ray

        return dict(ray.get_runtime_context().get_assigned_resources())

    assert _first(Scheduler.with_ray(num_cpus=2), assigned)["CPU"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_cpus": 64}, "requests 64 CPU, but the cluster has 4"),
        ({"resources": {"tpu-of-mine": 1}}, "requests 1 tpu-of-mine, but the cluster has 0"),
    ],
)
def test_what_the_cluster_can_never_give_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _first(Scheduler.with_ray(**options), abs, -1)


def test_as_many_calls_run_as_fit() -> None:
    scheduler = Scheduler.with_ray(num_cpus=2)
    assert _first(scheduler, abs, -1) == 1
    with Scheduler.with_ray(num_cpus=2) as kept:
        _first(kept, abs, -1)
        assert kept.executor.max_workers == 2  # type: ignore[attr-defined]


def test_a_ray_that_the_program_started_is_left_as_it_is() -> None:
    import ray

    _first(Scheduler.with_ray(), abs, -1)
    assert ray.is_initialized()


def test_a_worker_that_is_killed_is_a_worker_lost_with_what_ray_says() -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLostError, match=r"die was lost.*Ray reports"):
        _first(Scheduler.with_ray(), die)


def _held() -> set[Any]:
    """What this program refers to in Ray's store."""
    import ray

    gc.collect()

    return set(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


def test_shared_data_is_in_the_store_as_long_as_its_handle_lives() -> None:
    before = _held()
    with Scheduler.with_ray() as scheduler:
        handles = [scheduler.scatter(bytes(1_000_000))]
        task = scheduler.task(_size)
        scheduler.on_start(lambda: task.submit(handles[0]))
        scheduler.run()
        assert task.on_result.count == 1
        until(lambda: len(_held() - before) == 1)
        handles.clear()
        until(lambda: not _held() - before)


def test_shared_data_leaves_the_store_with_the_run() -> None:
    before = _held()
    scheduler = Scheduler.with_ray()
    handle = scheduler.scatter(bytes(1_000_000))
    assert _first(scheduler, len, handle) == 1_000_000
    until(lambda: not _held() - before)
    assert len(handle.value) == 1_000_000


def test_workers_of_a_host_share_the_memory_of_an_array() -> None:
    numpy = pytest.importorskip("numpy")
    scheduler = Scheduler.with_ray()
    assert _first(scheduler, _is_writable, scheduler.scatter(numpy.zeros(1_000_000))) is False


def _size(data: Any) -> int:
    return len(data)


def _is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


PROGRAM = """
    import os, sys, time
    from amlsched import Scheduler

    if __name__ == "__main__":
        path, seconds = sys.argv[1:]
        def call(path=path, seconds=float(seconds)):
            with open(path + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".part", path)
            time.sleep(seconds)
        scheduler = Scheduler.with_ray(max_workers=1)
        task = scheduler.task(call)
        scheduler.on_start(lambda: task.submit())
        print(scheduler.run().code.name)
"""


def _program(tmp_path: Path, seconds: float) -> tuple[subprocess.Popen[str], Path]:
    program, pid = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, str(program), str(pid), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True), pid


def test_a_ray_of_its_own_ends_with_the_run(tmp_path: Path) -> None:
    running, pid = _program(tmp_path, 0)
    out, _ = running.communicate(timeout=90)
    assert "EXHAUSTED" in out
    until(lambda: not alive(int(pid.read_text())))


def test_nothing_is_left_of_a_driver_that_is_killed(tmp_path: Path) -> None:
    running, pid = _program(tmp_path, 600)
    with running:
        until(pid.exists, 90)
        running.kill()
    until(lambda: not alive(int(pid.read_text())), 60)


def _session(number: int) -> set[int]:
    """The processes of a session, zombies aside."""
    found: set[int] = set()
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == number and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


@pytest.mark.parametrize(
    ("send", "number", "raised"),
    [
        pytest.param(os.killpg, signal.SIGINT, "KeyboardInterrupt", id="Ctrl-C to the group"),
        pytest.param(os.kill, signal.SIGINT, "KeyboardInterrupt", id="SIGINT to the driver"),
        pytest.param(os.kill, signal.SIGTERM, "", id="SIGTERM"),
    ][:: 1 if THOROUGH else 2],
)
def test_a_signal_ends_the_run_and_all_that_it_started(
    tmp_path: Path, send: Callable[[int, int], None], number: int, raised: str
) -> None:
    running, pid = _program(tmp_path, 600)
    with running:
        until(pid.exists, 90)
        assert {int(pid.read_text()), running.pid} < _session(running.pid)  # and what Ray is made of
        send(running.pid, number)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[signal.Signals(number)], errors
    assert raised in errors
    until(lambda: not _session(running.pid))


def test_a_program_that_is_ended_while_ray_starts_has_the_exit_code_of_others() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, unchanged_process():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is former


def test_ray_leaves_the_program_as_it_is(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            from amlsched import Scheduler

            def state():
                return signal.getsignal(signal.SIGTERM), sys.breakpointhook, os.environ.get("PYTHONBREAKPOINT")

            before = state()
            with Scheduler.with_ray(max_workers=1) as scheduler:
                assert scheduler.executor.submit(abs, -1).result(60) == 1
                assert state() == before, state()
            assert state() == before, state()
            """
        )
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


def test_calls_that_request_resources_are_sent_to_a_node_of_ray_and_ray_counts_them() -> None:
    def assigned(cpus: float) -> tuple[float, float, str, str | None]:
        import ray

        from amlsched.resources import current_allocation

        got = current_allocation()
        assert got is not None
        counted = ray.get_runtime_context().get_assigned_resources()["CPU"]
        return counted, got.cpus, got.node, os.environ.get("OMP_NUM_THREADS")

    scheduler = Scheduler.with_ray()
    task = scheduler.task(assigned, resources=lambda cpus: Resources(cpus))
    results: list[Any] = []
    errors: list[str] = []
    task.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    def start() -> None:
        for cpus in (3, 1, 0.5):
            task.submit(cpus)
        with pytest.raises(
            ResourcesError, match="with 4 CPUs, .* which is short of CPUs: 5 requested, 4 there"
        ) as raised:
            task.submit(5)
        errors.append(str(raised.value))

    scheduler.run()
    assert sorted((counted, cpus, threads) for counted, cpus, _, threads in results) == [
        (0.5, 0.5, "1"),
        (1, 1, "1"),
        (3, 3, "3"),
    ]
    (node,) = {node for _, _, node, _ in results}
    assert node in errors[0]
