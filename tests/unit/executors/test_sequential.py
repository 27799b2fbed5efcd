"""The executor that runs a call in the caller's thread and stack.

What holds of every executor is in tests/conformance; here is what is its own.
"""

from __future__ import annotations

import inspect
import os
import pty
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlsched import Scheduler, SequentialExecutor
from tests.processes import read_until


def names_of_the_stack() -> list[str]:
    return [frame.function for frame in inspect.stack()]


def depth_of_the_stack() -> int:
    frame, depth = inspect.currentframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_a_call_runs_at_submission_in_the_callers_thread_and_stack() -> None:
    future = SequentialExecutor().submit(names_of_the_stack)
    assert future.done()
    assert inspect.stack()[0].function in future.result()
    assert SequentialExecutor().submit(threading.get_ident).result() == threading.get_ident()


def test_a_base_exception_of_the_function_is_in_the_future() -> None:
    future = SequentialExecutor().submit(sys.exit, 3)
    assert isinstance(future.exception(), SystemExit)


def test_ctrl_c_in_the_function_is_raised_to_the_caller() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SequentialExecutor().submit(interrupted)


def test_map_takes_its_input_when_it_is_called() -> None:
    seen: list[int] = []
    results = SequentialExecutor().map(seen.append, [1, 2, 3])
    assert seen == [1, 2, 3]
    assert list(results) == [None] * 3


@pytest.mark.parametrize("use", [SequentialExecutor.submit, SequentialExecutor.execute, SequentialExecutor.map])
def test_nothing_is_run_after_the_shutdown(use: Callable[..., Any]) -> None:
    executor = SequentialExecutor()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        use(executor, print, ("a",), ("b",))


# Under a scheduler


def test_the_stack_does_not_grow_with_a_chain_of_submissions() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(depth_of_the_stack)
    depths: list[int] = []
    scheduler.on_start(task.submit)

    @task.on_result(max_calls=5000)
    def again(_: Any, depth: int) -> None:
        depths.append(depth)
        task.submit()

    scheduler.run()
    assert len(depths) == 5000
    assert max(depths) == min(depths)


def test_the_function_runs_below_run_in_the_stack() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(names_of_the_stack)
    stacks: list[list[str]] = []
    task.on_result(lambda _, result: stacks.append(result))
    scheduler.on_start(task.submit)
    scheduler.run()
    assert inspect.stack()[0].function in stacks[0]


def test_a_time_out_acts_between_two_calls() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(time.sleep)
    scheduler.on_start(lambda: [task.submit(0.1) for _ in range(200)])
    begun = time.monotonic()
    state = scheduler.run(timeout=0.1, on_cancelled="continue")
    assert state.code is state.Code.TIMEOUT
    assert time.monotonic() - begun < 15  # all of them take 20 s
    assert task.on_result.count + task.on_cancelled.count == 200
    assert task.on_cancelled.count > 0


def test_stop_acts_between_two_calls() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(abs)
    scheduler.on_start(lambda: [task.submit(x) for x in range(10)])
    task.on_result(scheduler.stop, when=lambda: task.on_result.count == 3)
    state = scheduler.run()
    assert state.code is state.Code.STOPPED
    assert (task.on_result.count, task.on_cancelled.count) == (3, 7)


# The debugger

PROGRAM = textwrap.dedent("""
    from amlsched import Scheduler

    def function(x):
        secret = 40 + x
        breakpoint()
        return secret

    scheduler = Scheduler.with_sequential()
    task = scheduler.task(function)
    scheduler.on_start(lambda: task.submit(2))
    task.on_result(lambda future, result: print("result", result))
    print(scheduler.run())
""")


#: Look at a variable, look at the stack, change the variable, go on.
ANSWERS = ("p secret", "w", "!secret = 43", "c")


def check_session(output: str) -> None:
    assert "42" in output  # the variable
    assert "print(scheduler.run())" in output  # the caller is in the stack
    assert "result 43" in output
    assert "The run finished: no calls remained." in output


def test_a_breakpoint_in_the_function_stops_there(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        input="\n".join((*ANSWERS, "")),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    check_session(done.stdout)


def test_a_breakpoint_works_on_a_terminal(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    ) as process:
        os.close(theirs)
        output = ""
        for answer in ANSWERS:
            output += read_until(ours, "(Pdb) ")
            os.write(ours, f"{answer}\n".encode())
        output += read_until(ours, "no calls remained.")
        assert process.wait(30) == 0
    os.close(ours)
    check_session(output)
