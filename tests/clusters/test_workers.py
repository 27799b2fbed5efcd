"""Calls on workers in the jobs of each batch system."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from amlsched import BatchSystemError, Scheduler, WorkerLostError
from amlsched.doctor import Verdict, examine
from tests import calls
from tests.clusters.site import Site, said
from tests.processes import until


def results_of(scheduler: Scheduler, count: int) -> list[int]:
    """What calls give through `on_result`."""
    results: list[int] = []
    task = scheduler.task(calls.double)

    @task.on_result
    def _keep(_: object, result: int) -> None:
        results.append(result)

    @scheduler.on_start
    def _submit() -> None:
        for number in range(count):
            task.submit(number)

    scheduler.run()
    return results


def test_all_results_arrive_the_queue_is_empty_and_an_option_stays_with_its_workers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = site.recorder()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    scheduler = site.scheduler(4, submit_command=f"{site.kind.submit} {site.kind.extra}")
    assert sorted(results_of(scheduler, 200)) == [2 * number for number in range(200)]
    until(lambda: not site.jobs(), 15)
    submitted = record.read_text().splitlines()
    assert len(submitted) >= 4
    assert all(site.kind.extra in line for line in submitted)

    record.write_text("")
    assert results_of(site.scheduler(1), 1) == [0]
    assert site.kind.extra not in record.read_text()
    until(lambda: not site.jobs(), 15)


def test_a_folder_and_a_name_with_blanks_and_quotes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program is, where the logs are, and on Slurm what the job is called. Grid Engine holds no quotes."""
    name = "jobs of mine" if site.name == "sge" else "jobs of 'mine' # \"1\" 100%"
    folder = site.folder / "here" / "my 'own\" files"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (site.folder / "jobs").mkdir()  # of the submit command for PBS
    if site.name == "slurm":
        site.label += " 'a \"b"
    options = {"log_directory": str(site.folder / name)}
    assert sorted(results_of(site.scheduler(2, **options), 5)) == [0, 2, 4, 6, 8]
    until(lambda: not site.jobs(), 15)
    if site.name != "pbs":  # Slurm takes no note of where its script wants the output
        assert any(path.suffix != ".sh" and path.is_file() for path in (site.folder / name).iterdir())
    findings = list(examine(site.name, {**site.options(**options), "interface": None}, timeout_s=90))
    assert [found for found in findings if found.verdict is Verdict.FAULT] == []


def test_adaptive_jobs_come_with_load_and_go_though_results_are_held(site: Site) -> None:
    scheduler = site.scheduler(2, adaptive={"interval": "200ms", "wait_count": 2})
    with scheduler.executor as executor:
        assert site.jobs() == []
        futures = [executor.submit(time.sleep, 0.2) for _ in range(20)]
        until(site.jobs, 60)
        assert [future.result(90) for future in futures] == [None] * 20
        until(lambda: not site.jobs(), 60)
        assert executor.submit(calls.double, 4).result(90) == 8  # and they come again


class Provoked:
    """Two hundred calls of half a second on four workers, and all that is told of them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.results: list[int] = []
        self.events: Counter[str] = Counter()
        self.error: BaseException | None = None
        task = scheduler.task(calls.double_slowly)

        @task.on_result
        def _keep(_: object, result: int) -> None:
            self.results.append(result)

        for name in ("submitted", "done", "result", "exception", "cancelled"):
            getattr(task, f"on_{name}")(lambda *_, name=name: self.events.update([name]))

        @scheduler.on_start
        def _submit() -> None:
            for number in range(200):
                task.submit(number)

    def run(self, provoke: Callable[[], None]) -> None:
        """Run, and in another thread `provoke` once some results are here."""

        def later() -> None:
            try:
                until(lambda: len(self.results) > 12, 90)
                provoke()
            except BaseException as error:
                self.error = error

        thread = threading.Thread(target=later)
        thread.start()
        self.scheduler.run()
        thread.join()
        if self.error is not None:
            raise self.error
        assert sorted(self.results) == [2 * number for number in range(200)]
        assert self.events == {"submitted": 200, "done": 200, "result": 200}


def test_jobs_that_are_cancelled_are_replaced_and_no_result_is_lost(slurm_or_sge: Site) -> None:
    site = slurm_or_sge
    provoked = Provoked(site.scheduler(4))

    def cancel_two() -> None:
        first = set(until(lambda: len(site.jobs()) == 4 and site.jobs(), 60))
        gone = sorted(first)[:2]
        site.cancel(*gone)
        until(lambda: len(site.jobs()) == 4 and not set(site.jobs()) & set(gone), 60)

    provoked.run(cancel_two)
    until(lambda: not site.jobs(), 15)


@pytest.mark.takes_nodes
def test_a_node_that_fails_costs_no_result(slurm: Site) -> None:
    # All of them on one node, and not on the first, which the jobs of others would be on.
    provoked = Provoked(slurm.scheduler(4, job_extra_directives=["--exclude=n1"]))

    def fail_a_node() -> None:
        jobs = until(lambda: len(slurm.jobs()) == 4 and slurm.jobs(), 60)
        node = until(lambda: said("squeue", "-h", "-j", jobs[0], "-o", "%N").strip(), 30)
        said("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")  # it comes back by itself
        running = ("squeue", "-h", "-n", slurm.label, "-t", "RUNNING", "-o", "%i")
        until(lambda: len(said(*running).split()) == 4 and jobs[0] not in slurm.jobs(), 90)

    provoked.run(fail_a_node)
    until(lambda: not slurm.jobs(), 15)


def test_jobs_that_die_soon_after_their_worker_came_end_the_run(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.executors._jobqueue.worker_history._PAUSES_S", (0.0, 0.0))
    scheduler = slurm.scheduler(1, worker_extra_args=["--preload", "tests.mortal"])
    task = scheduler.task(time.sleep)
    lost: list[BaseException] = []
    task.on_exception(lambda _, error: lost.append(error))
    scheduler.on_start(lambda: [task.submit(200) for _ in range(20)])
    with pytest.raises(BatchSystemError, match=r"(?s)7 jobs in a row ended .*this node is no good") as caught:
        scheduler.run(on_exception="continue")
    assert str(caught.value).count(": FAILED") == 7
    assert isinstance(lost[0], WorkerLostError)  # after four of them
    assert "this node is no good" in "".join(lost[0].__notes__)
    until(lambda: not slurm.jobs(), 15)


def test_workers_that_die_with_nothing_to_do_end_the_run_sooner(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlsched.executors._jobqueue.worker_history._PAUSES_S", (0.0, 0.0))
    failures: list[BaseException] = []
    with slurm.scheduler(2, worker_extra_args=["--preload", "tests.mortal"]).executor as executor:
        executor.on_failure = failures.append
        assert executor.client is not None  # which submits the jobs
        until(lambda: failures, 120)
    assert "jobs in a row ended before they completed a call" in str(failures[0])
    assert "this node is no good" in str(failures[0])


@pytest.mark.takes_nodes
def test_a_bad_node_beside_good_ones_is_left_out(
    slurm: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("amlsched.executors._jobqueue.worker_history._PAUSES_S", (0.0, 0.0))
    caplog.set_level("INFO", "amlsched.jobs")
    # Two nodes and room for one job on each: the bad one is always free.
    prologue = ['[ "$SLURMD_NODENAME" != n3 ] || { echo a bad node >&2; exit 1; }']
    options = {"cores": 6, "job_script_prologue": prologue, "job_extra_directives": ["--exclude=n1,n4"]}
    with slurm.scheduler(2, **options).executor as executor:
        results = [executor.submit(calls.double_slowly, number) for number in range(40)]
        assert [result.result(120) for result in results] == [2 * number for number in range(40)]
        until(lambda: "job after job ended early on n3, others do not: it is left out" in caplog.text, 60)
    assert "--exclude=n1,n4,n3" in caplog.text
    assert caplog.text.count("a bad node") <= 3
    until(lambda: not slurm.jobs(), 15)


def test_a_lost_job_is_replaced_though_squeue_hangs(
    slurm: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("amlsched.executors._jobqueue.job_monitor._RESTARTED_S", 10.0)
    real, folder = shutil.which("squeue"), slurm.folder / "bin"
    folder.mkdir()
    (folder / "squeue").write_text(f'#!/bin/sh\n[ ! -e {folder}/hang ] || sleep 600\nexec {real} "$@"\n')
    (folder / "squeue").chmod(0o755)
    jobs = slurm.jobs  # asks the real one
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        executor: Any = slurm.scheduler(2).executor
        with executor:
            assert executor.submit(calls.double, 1).result(90) == 2
            first = until(lambda: executor.status.here == 2 and jobs(), 60)
            (folder / "hang").touch()
            slurm.cancel(first[0])
            until(lambda: executor.status.here == 1, 60)
            until(lambda: executor.status.here == 2, 90)
            (folder / "hang").unlink()
            assert not set(jobs()) & {first[0]}
    until(lambda: not slurm.jobs(), 15)
    assert "Event loop is closed" not in capfd.readouterr().err
