"""What a function does is its own, on each executor and in each way: no call runs again, and no other one notices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlsched import ExitState, Scheduler
from amlsched.experiments import ExperimentRun
from amlsched.experiments._storage import record_file
from amlsched.experiments._storage.record import State
from amlsched.plugins import Limits
from tests.backends import BACKENDS, Backend
from tests.faults.kinds import KINDS, REASON, act, left, repetition

WAYS: dict[str, dict[str, Any]] = {"alone": {}, "in a batch": {"batch_size": 4}, "under Limits": {"walltime": "10 min"}}


def task_of(scheduler: Scheduler, function: Any, way: str) -> Any:
    options = dict(WAYS[way])
    plugins = [Limits(walltime=options.pop("walltime"))] if "walltime" in options else []
    return scheduler.task(function, plugins=plugins, **options)


@pytest.fixture(autouse=True)
def no_child_stays() -> Iterator[None]:
    yield
    for child in left:  # of calls in this process
        child.kill()
        child.wait()
    left.clear()


@pytest.fixture(params=[row for row in BACKENDS if not row.jobs], ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    found.skip_if_absent()
    return found


def test_calls_end_as_their_functions_do(row: Backend) -> None:
    scheduler = row.scheduler(retries_on_loss=3)
    ends: dict[tuple[str, str], list[Any]] = {}
    again: list[BaseException] = []
    scheduler.on_future_result(lambda future, _: ends.setdefault(future.context, []).append(None))
    scheduler.on_future_exception(lambda future, error: ends.setdefault(future.context, []).append(error))
    scheduler.on_future_retry(lambda future, error, attempt: again.append(error))
    tasks = {way: (task_of(scheduler, act, way), task_of(scheduler, abs, way)) for way in WAYS}

    @scheduler.on_start
    def start() -> None:
        for way, (guilty, innocent) in tasks.items():
            for number, kind in enumerate(KINDS):
                guilty.submit(kind).context = way, kind
                innocent.submit(number).context = way, f"innocent {number}"

    assert scheduler.run(on_exception="continue").code is ExitState.Code.EXHAUSTED
    assert again == []
    assert len(ends) == 2 * len(WAYS) * len(KINDS)
    for (way, kind), found in ends.items():
        wanted = KINDS[kind][1] if kind in KINDS else ()
        assert len(found) == 1, (way, kind)
        if not wanted and found[0] is None:
            continue
        assert type(found[0]).__name__ in wanted, (way, kind, found)
        if "raises" in kind and wanted:
            assert REASON in str(found[0]), (way, kind)


def test_repetitions_end_as_their_functions_do(row: Backend, tmp_path: Path) -> None:
    row.prepare()
    config = {"name": "e", "path": str(tmp_path / "out"), "grid": {"kind": list(KINDS)}}
    driver = os.getpid()
    ended = ExperimentRun(repetition, config, executor=row.name, **row.options).run()
    assert os.getpid() == driver
    assert ended.ran == len(KINDS)
    records = [record_file.read(file.parent) for file in (tmp_path / "out").rglob("record.json")]
    assert len(records) == len(KINDS)
    for record in records:
        kind = record.params["kind"]
        (attempt,) = record.attempts
        assert "process" in record.last, kind
        wanted, error = KINDS[kind][1], str(attempt.error or "")
        assert record.state is (State.FAILED if wanted else State.COMPLETED), (kind, error)
        assert error.startswith(wanted) if wanted else not error, (kind, error)
        assert "raises" not in kind or not wanted or REASON in error, (kind, error)
