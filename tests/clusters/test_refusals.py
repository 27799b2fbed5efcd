"""Jobs that are refused, never start, or die at once: each is an error, in the words of the batch system."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from amlsched import Scheduler
from amlsched.errors import BatchSystemError
from tests import calls
from tests.clusters.site import Site
from tests.processes import until


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit_s


def error_of(scheduler: Scheduler, display: bool = False) -> BatchSystemError:
    """What ends a run with one call."""
    task = scheduler.task(calls.double)
    scheduler.on_start(lambda: task.submit(1))
    with pytest.raises(BatchSystemError) as caught:
        scheduler.run(display=display)
    return caught.value


def test_a_queue_that_does_not_exist(queued: Site) -> None:
    site = queued
    with within(20):  # 10 for the refusal; the rest for a busy machine
        error = error_of(site.scheduler(2, queue="nowhere"))
    assert error.command == site.kind.submit
    assert {"slurm": "invalid partition", "sge": "unknown queue", "pbs": "partition"}[site.name] in str(error).lower()
    assert f"{site.folder / 'jobs'}/{site.name}-job-" in str(error)
    assert site.jobs() == []


def test_more_than_there_is(slurm: Site) -> None:
    with within(20):
        error = error_of(slurm.scheduler(2, cores=1000))
    assert "More processors requested than permitted" in str(error)


NEVER: dict[str, dict[str, Any]] = {
    "slurm": {"job_extra_directives": ["--begin=now+1hour"]},
    "sge": {"job_extra_directives": ["-a 203001010000"]},
    "htcondor": {"job_extra_directives": {"requirements": "false"}},
    "pbs": {"job_extra_directives": ["-h"]},
}


def test_jobs_that_never_start(site: Site) -> None:
    with within(40):
        error = error_of(site.scheduler(2, start_timeout=5, **NEVER[site.name]))
    assert "no worker came within 5 s" in str(error) or "held" in str(error).lower()
    assert {"slurm": "BeginTime", "sge": "qw", "htcondor": "idle", "pbs": "2 jobs Q"}[site.name] in str(error)
    until(lambda: not site.jobs(), 15)


def test_the_display_says_why_jobs_do_not_start(
    slurm: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("amlsched.display.live.LINE_S", 0.5)
    error_of(slurm.scheduler(2, start_timeout=5, **NEVER["slurm"]), display=True)
    assert "1 queued, 0 results" in (shown := capsys.readouterr().out)
    assert "; 0 of 2 workers: 2 jobs PENDING (BeginTime)" in shown


def test_jobs_that_die_at_once(site: Site) -> None:
    with within(60):
        error = error_of(site.scheduler(2, job_script_prologue=["echo no luck >&2", "exit 3"]))
    assert "ended before their worker started" in str(error)
    assert "no luck" in str(error)
    until(lambda: not site.jobs(), 15)


def test_no_commands(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, within(10):
        patch.setenv("PATH", str(site.folder))
        with pytest.raises(BatchSystemError, match=f"{site.kind.submit}: there is no such command here"):
            site.scheduler(2)
