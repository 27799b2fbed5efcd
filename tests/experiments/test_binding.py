"""GPUs and CPUs of repetitions, end to end; the GPUs are only names, as `CUDA_VISIBLE_DEVICES` has them."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from amlsched.experiments import ExperimentRun, Plan
from amlsched.experiments._running.repetition import Repetition
from amlsched.experiments._running.summary import Ended
from tests.experiments.conftest import Project
from tests.pretended_slurm import PretendedSlurm

EXPERIMENT = """
import os, signal, time
SEEN = os.environ.get("CUDA_VISIBLE_DEVICES")        # when it is imported
from pathlib import Path

def bound(params, rep, log):
    if params.get("dies") == rep and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    log(at_import=SEEN, now=os.environ.get("CUDA_VISIBLE_DEVICES"), threads=os.environ.get("OMP_NUM_THREADS"),
        cpus=" ".join(map(str, sorted(os.sched_getaffinity(0)))), pid=os.getpid())
    Path(f"here_{rep}").touch()
    end = time.monotonic() + 30                      # until all that run at a time have been here
    while params.get("meet") and len(list(Path(".").glob("here_*"))) < params["meet"]:
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.02)

from amlsched.experiments import Experiment
class Cores(Experiment):
    def run(self, cw_config, rep, logger):
        logger.process({"cores": sorted(cw_config["cpu_cores"])})
"""

UUIDS = "GPU-8932f937-d72c,MIG-5c89852c-d268"
CPUS = sorted(os.sched_getaffinity(0))
needs_two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="there is one CPU only")


@pytest.fixture
def bound(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    (project.folder / "bound.py").write_text(EXPERIMENT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS)
    for name in ("SLURM_JOB_ID", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return project


def lasts(project: Project) -> list[dict[str, object]]:
    return [record["last"] for record in project.records().values()]


def run(project: Project, *words: str, name: str = "bound"):
    return project.call("run", f"bound.py:{name}", "config.yml", *words)


@pytest.mark.parametrize("executor", ["processes", "loky"])
def test_each_repetition_has_a_device_of_its_own_before_anything_is_imported(bound: Project, executor: str) -> None:
    bound.config("{name: e, path: results, repetitions: 2, gpus_per_rep: 1, params: {meet: 2}}")
    done = run(bound, "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert {last["now"] for last in lasts(bound)} == set(UUIDS.split(","))
    assert [last["at_import"] for last in lasts(bound)] == [last["now"] for last in lasts(bound)]
    if len(CPUS) >= 2:
        seen = [set(str(last["cpus"]).split()) for last in lasts(bound)]
        assert not seen[0] & seen[1]
        assert [last["threads"] for last in lasts(bound)] == [str(len(CPUS) // 2)] * 2


def test_two_halves_run_on_one_device(bound: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    bound.config("{name: e, path: results, repetitions: 2, gpus_per_rep: 0.5, params: {meet: 2}}")
    assert run(bound).returncode == 0
    assert [last["now"] for last in lasts(bound)] == ["7", "7"]
    assert len({last["pid"] for last in lasts(bound)}) == 2


@needs_two_cpus
def test_cpus_are_bound_and_the_threads_with_them(bound: Project) -> None:
    bound.config("{name: e, path: results, repetitions: 2, cpus_per_rep: 1, params: {meet: 2}}")
    assert run(bound).returncode == 0
    assert sorted(str(last["cpus"]) for last in lasts(bound)) == sorted(map(str, CPUS[:2]))
    assert [last["threads"] for last in lasts(bound)] == ["1", "1"]
    assert [last["now"] for last in lasts(bound)] == [UUIDS, UUIDS]


def test_the_config_names_the_cores(bound: Project) -> None:
    bound.config("{name: e, path: results, cpus_per_rep: 1}")
    assert run(bound, name="Cores").returncode == 0
    [last] = lasts(bound)
    assert str(last["cores"]) == str([CPUS[0]])


def test_a_killed_repetition_gives_its_device_back(bound: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 11: it keeps it in cw2, whose scheduler then waits for ever."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-only")
    bound.config("{name: e, path: results, repetitions: 4, gpus_per_rep: 1, params: {dies: 1}}")
    run(bound)
    assert run(bound, "--rerun", "failed").returncode == 0
    assert [last["now"] for last in lasts(bound)] == ["MIG-only"] * 4


def test_it_is_refused_before_anything_runs_if_it_fits_nowhere(bound: Project) -> None:
    bound.config("name: small\npath: results\n---\nname: big\npath: results\ngpus_per_rep: 3")
    done = run(bound)
    assert done.returncode == 2
    assert f"big, a repetition: requests 3 GPUs, but there are 2 ({UUIDS})" in done.stderr
    assert not (bound.folder / "results").exists()


@pytest.mark.parametrize("first", ["free", "one"])
def test_what_a_search_adds_gets_what_its_own_experiment_asks_for(bound: Project, monkeypatch, first: str) -> None:
    monkeypatch.chdir(bound.folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS)
    bound.config("name: one\npath: results\ngpus_per_rep: 1\n---\nname: free\npath: results")
    search = ExperimentRun("bound.py:bound", "config.yml", initial=False)
    for name in sorted(("free", "one"), key=first.__ne__):
        search.on_start(partial(search.submit, {"x": 1}, experiment=name))

    @search.on_result
    def once_more(repetition: Repetition, _: Ended) -> None:
        if repetition.record.params["x"] == 1:
            search.submit({"x": 2}, experiment=repetition.record.name)

    assert search.run().states == {"completed": 4}
    seen = {name: [r["last"]["now"] for r in bound.records().values() if r["name"] == name] for name in ("free", "one")}
    assert seen["free"] == [UUIDS, UUIDS]
    assert set(seen["one"]) <= set(UUIDS.split(","))


def test_experiments_that_ask_for_different_things_run_one_after_the_other(bound: Project) -> None:
    bound.config(
        "name: one\npath: results\ngpus_per_rep: 1\n---\nname: two\npath: results\ngpus_per_rep: 2\n"
        "---\nname: free\npath: results"
    )
    assert run(bound).returncode == 0
    seen = {place.split("/")[0]: record["last"]["now"] for place, record in bound.records().items()}
    assert seen == {"one": UUIDS.split(",")[0], "two": UUIDS, "free": UUIDS}


def test_one_after_the_other_in_this_process_is_bound_to_the_first(bound: Project) -> None:
    bound.config("{name: e, path: results, repetitions: 2, gpus_per_rep: 1}")
    assert run(bound, "--executor", "sequential").returncode == 0
    assert [last["at_import"] for last in lasts(bound)] == [UUIDS.split(",")[0]] * 2


def test_threads_cannot_be_bound(bound: Project) -> None:
    bound.config("{name: e, path: results, gpus_per_rep: 1}")
    done = run(bound, "--executor", "threads")
    assert done.returncode == 2
    assert "executor threads: cannot bind its workers, and e requests 1 GPUs for each repetition" in done.stderr


SECTION = "name: SLURM\ngpus_per_rep: 1\n---\nname: e\npath: results"


def test_a_section_for_the_batch_system_counts_here_if_there_is_enough(bound: Project) -> None:
    bound.config(SECTION)
    assert run(bound).returncode == 0
    assert lasts(bound)[0]["now"] == UUIDS.split(",")[0]


def test_and_is_left_out_if_there_is_not_but_not_in_a_job(bound: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    bound.config(SECTION)
    assert run(bound).returncode == 0
    assert lasts(bound)[0]["now"] == ""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "SGE_TASK_ID", "_CONDOR_JOB_AD"):
        with monkeypatch.context() as job:
            job.setenv(name, "7")
            done = run(bound, "-o")
        assert done.returncode == 2, name
        assert "requests 1 GPUs, but there are none" in done.stderr, name


def test_this_process_is_as_before_afterwards(bound: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bound.folder)
    bound.config("{name: e, path: results, gpus_per_rep: 1, cpus_per_rep: 1}")
    before = dict(os.environ), os.sched_getaffinity(0)
    for executor in ("processes", "sequential"):
        ExperimentRun(f"{bound.folder}/bound.py:Cores", Plan("config.yml", results=executor), executor=executor).run()
        record = json.loads((Path(executor) / "e/log/rep_00/record.json").read_text())
        assert str(record["last"]["cores"]) == str([CPUS[0]])
    assert (dict(os.environ), os.sched_getaffinity(0)) == before


def test_the_repetitions_of_an_element_share_what_its_job_was_given(bound: Project, monkeypatch, tmp_path) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    slurm = PretendedSlurm(tmp_path / "bin")
    section = "name: SLURM\npartition: main\ntime: 10\ngpus_per_rep: 1\nsbatch_args: {gres: 'gpu:2'}\n---\n"
    bound.config(
        section + "{name: e, path: results, repetitions: 4, reps_per_job: 4, reps_in_parallel: 2, params: {meet: 2}}"
    )
    done = run(bound, "-s")
    assert done.returncode == 0, done.stderr
    assert slurm.sizes() == [1]
    assert [slurm.run(*place) for place in slurm.pending()] == [0]
    assert {last["at_import"] for last in lasts(bound)} == set(UUIDS.split(","))
    assert "Nothing to run" in run(bound).stdout
