"""What batch systems are told, and how what they say is read."""

from __future__ import annotations

import asyncio
import math
import shlex
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlsched import BatchSystemError, ConfigError
from amlsched.batch_systems import SYSTEMS, WORKER_SYSTEMS, ArrayJob, Element, Stage, commands
from amlsched.batch_systems.system import filled, ranges
from amlsched.units import clock
from tests.processes import alive, until
from tests.readers import directives, submit_file

JOB = ArrayJob(
    name="digits",
    command=("/opt/my python/bin/python", "-m", "amlsched", "element", "/data/results/_arrays/0001", "0", "20"),
    count=20,
    folder=Path("/home/ada/my code"),
    logs=Path("/data/logs"),
    at_once=4,
    partition="gpu",
    account="p1",
    time_s=5400,
    memory_bytes=2 * 2**30,
    cpus=3,
    lines=("module load cuda",),
    after=("11", "12"),
)


def lines(name: str, job: ArrayJob = JOB) -> list[str]:
    return SYSTEMS[name].script(job).splitlines()


def test_slurm_is_told_everything() -> None:
    assert lines("slurm") == [
        "#!/bin/bash",
        "#SBATCH --job-name=digits",
        "#SBATCH --array=0-19%4",
        '#SBATCH --chdir="/home/ada/my code"',
        "#SBATCH --open-mode=append",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=p1",
        "#SBATCH --time=1:30:00",
        "#SBATCH --mem-per-cpu=2048M",
        "#SBATCH --signal=B:USR1@60",
        "#SBATCH --dependency=afterany:11:12",
        "#SBATCH --output=/data/logs/out_%A_%a.log",
        "#SBATCH --error=/data/logs/err_%A_%a.log",
        "#SBATCH --requeue",
        "",
        "export AMLSCHED_END_TIME=$(($(date +%s) + 5400))",
        "cd '/home/ada/my code' || exit",
        "module load cuda",
        "exec '/opt/my python/bin/python' -m amlsched element /data/results/_arrays/0001 0 20 \"$SLURM_ARRAY_TASK_ID\"",
    ]


def test_what_is_not_asked_for_is_not_told() -> None:
    told = lines("slurm", ArrayJob("x", ("true",), 1, Path("/a"), Path("/b"), warn_s=0, requeue=False))
    words = ("partition", "account", "time", "mem-per-cpu", "signal", "dependency")
    assert not [line for line in told if line.startswith(tuple(f"#SBATCH --{word}" for word in words))]
    assert "#SBATCH --array=0-0" in told
    assert "#SBATCH --no-requeue" in told


def test_options_of_sbatch_stand_in_place_of_ours() -> None:
    options = {"gres": "gpu:1", "exclusive": None, "signal": "B:USR1@5", "comment": "two words", "spread-job": False}
    told = lines("slurm", ArrayJob("x", ("true",), 1, Path("/a"), Path("/b"), time_s=math.inf, options=options))
    assert "#SBATCH --gres=gpu:1" in told
    assert "#SBATCH --exclusive" in told
    assert '#SBATCH --comment="two words"' in told
    assert "#SBATCH --time=UNLIMITED" in told
    assert [line for line in told if "signal" in line or "spread" in line] == ["#SBATCH --signal=B:USR1@5"]


def test_grid_engine_is_told_everything() -> None:
    assert lines("sge")[1:16] == [
        "#$ -N digits",
        "#$ -t 1-20",
        "#$ -tc 4",
        '#$ -wd "/home/ada/my code"',
        "#$ -o /data/logs/out_$JOB_ID.$TASK_ID.log",
        "#$ -e /data/logs/err_$JOB_ID.$TASK_ID.log",
        "#$ -V",
        "#$ -notify",
        "#$ -r y",
        "#$ -q gpu",
        "#$ -P p1",
        "#$ -l h_rt=1:30:00",
        "#$ -l h_vmem=2048M",
        "#$ -pe smp 3",
        "#$ -hold_jid 11,12",
    ]


def test_pbs_and_torque_are_told_everything_in_their_dialects() -> None:
    assert "#PBS -J 0-19%4" in lines("pbs")
    assert "#PBS -l select=1:ncpus=3:mem=6144mb" in lines("pbs")
    assert "#PBS -W depend=afterany:11[]:12[]" in lines("pbs")
    assert "#PBS -t 0-19%4" in lines("torque")
    assert "#PBS -l nodes=1:ppn=3" in lines("torque")
    assert "#PBS -W depend=afteranyarray:11[]:12[]" in lines("torque")
    for name in ("pbs", "torque"):
        assert "#PBS -l walltime=1:30:00" in lines(name)
        assert [line for line in lines(name) if line.startswith('exec >>/data/logs/"out_${PBS_JOBID%%[*}_')]


def test_an_array_of_one_has_two_elements_where_one_is_refused() -> None:
    assert "#PBS -J 0-1" in lines("pbs", ArrayJob("x", ("true",), 1, Path("/a"), Path("/b")))


def test_htcondor_is_told_everything_in_a_file_of_its_own() -> None:
    job = ArrayJob("x", ("true",), 20, Path("/a"), Path("/b"), at_once=4, time_s=60, cpus=3, memory_bytes=2**30)
    assert not [line for line in lines("htcondor", job) if line.startswith("#") and line != "#!/bin/bash"]
    told = SYSTEMS["htcondor"].description(job, Path("/c/part_0.sh")).splitlines()
    assert told[0] == "executable = /c/part_0.sh"
    assert told[-1] == "queue 20"
    assert {"arguments = $(Process)", "max_materialize = 4", "request_cpus = 3", "request_memory = 3072M"} <= set(told)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_scripts_are_shell(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(SYSTEMS[name].script(JOB))
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_a_value_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match=r"job-name='x\\n#SBATCH.*a directive of Slurm is one line"):
        lines("slurm", ArrayJob("x\n#SBATCH --uid=0", ("true",), 1, Path("/a"), Path("/b")))


TEMPLATE = """#!/bin/bash
#SBATCH -p %%partition%%
# #SBATCH -A %%account%%
#SBATCH -J %%job-name%%
#SBATCH --array 0-%%last_job_idx%%%%%num_parallel_jobs%%
#SBATCH -D %%experiment_execution_dir%%
#SBATCH -o %%slurm_log%%/out_%A_%a.log
#SBATCH -t %%time%%
%%sbatch_args%%
%%venv%%
%%sh_lines%%
python3 %%python_script%% %%path_to_yaml_config%% -j $SLURM_ARRAY_TASK_ID %%cw_args%%
"""


def test_a_template_of_cw2_is_filled() -> None:
    job = replace(JOB, options={"gres": "gpu:1"})
    told = filled(TEMPLATE, SYSTEMS["slurm"], job).splitlines()
    assert told[:5] == [
        "#!/bin/bash",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@60",
        "#SBATCH --dependency=afterany:11:12",
        "#SBATCH --requeue",
    ]
    assert {"#SBATCH -p gpu", "#SBATCH --array 0-19%4", "#SBATCH -t 1:30:00", "#SBATCH --gres=gpu:1"} <= set(told)
    assert {"#SBATCH --mem-per-cpu=2048M", "module load cuda", lines("slurm")[-1]} <= set(told)
    assert "%%" not in "".join(told)


@pytest.mark.parametrize(
    ("template", "problem"), [("#!/bin/sh\n", "no line with"), (f"{TEMPLATE}%%nodes%%\n", "unknown placeholder")]
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        filled(template, SYSTEMS["slurm"], JOB)


# ------------------------------------------------------------------------------------------------------ blanks, quotes

WORST = "my 'res\"ults' # 100% $(date) `x`"
FOLDERS = {"sge": "my results"}


@pytest.mark.parametrize("name", ["slurm", "sge", "pbs", "torque"])
def test_blanks_and_quotes_reach_the_batch_system_as_they_are(name: str) -> None:
    folder = f"/data/{FOLDERS.get(name, WORST)}"
    text = "a queue" if name == "sge" else 'a \\ "queue\'s"'
    title = "my sweep's # 1" if name == "slurm" else "sweep"
    job = replace(JOB, name=title, folder=Path(folder), logs=Path(folder), partition=text, account=text)
    words = directives(name, SYSTEMS[name].script(job))
    if name == "slurm":
        logs = folder.replace("%", "%%")
        told = {f"--job-name={title}", f"--partition={text}", f"--account={text}", f"--chdir={folder}"}
        assert told | {f"--output={logs}/out_%A_%a.log", f"--error={logs}/err_%A_%a.log"} <= set(words)
    else:
        assert words[words.index("-q") + 1] == words[words.index("-P" if name == "sge" else "-A") + 1] == text
        file = "/out_$JOB_ID.$TASK_ID.log" if name == "sge" else "/"
        assert words[words.index("-o") + 1] == folder + file


def test_blanks_and_quotes_reach_htcondor_as_they_are() -> None:
    folder = Path("/data", WORST)
    job = replace(JOB, name="my sweep's # 1", folder=folder, logs=folder, partition=None)
    values = submit_file(SYSTEMS["htcondor"].description(job, folder / "part_0.sh"))
    assert values["executable"] == f"{folder}/part_0.sh"
    assert values["initialdir"] == str(folder)
    assert values["output"] == f"{folder}/out_$(Cluster)_$(Process).log"
    assert values["batch_name"] == "my sweep's # 1"


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("sge", {"name": "my sweep"}, "job-name='my sweep': Grid Engine takes"),
        ("sge", {"folder": Path("/it's")}, "Grid Engine cannot hold ' here"),
        ("pbs", {"logs": Path("/a:b")}, "slurm_log='/a:b': PBS cannot hold : here"),
        ("torque", {"name": "1"}, "Torque takes up to 15 .*write job-name='j1'"),
        ("htcondor", {"partition": None, "logs": Path("/a\nb")}, "a directive of HTCondor is one line"),
    ],
)
def test_what_a_batch_system_cannot_hold_is_an_error(name: str, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        (SYSTEMS[name].description if name == "htcondor" else SYSTEMS[name].script)(
            replace(JOB, **fields), *([Path("/s")] if name == "htcondor" else [])
        )


SPACED = """
{name: SLURM, partition: gpu, num_parallel_jobs: 3, sbatch_args: {comment: "lr sweep (v2)"}}
---
{name: e, path: my results}
"""


def test_the_name_of_a_config_and_options_of_sbatch_are_quoted_for_workers_too(tmp_path: Path) -> None:
    from amlsched.executors.jobqueue import job_script
    from amlsched.experiments import Plan
    from amlsched.experiments._arrays.cluster_options import worker_options

    config = tmp_path / "my sweep.yml"
    config.write_text(SPACED)
    script = job_script("slurm", **worker_options(Plan(config), "slurm", {}))
    words = directives("slurm", script)
    assert words[words.index("-J") + 1] == "my sweep"
    assert words[words.index("-e") + 1].endswith("/my results/_workers/my sweep-%J.err")
    assert "--comment=lr sweep (v2)" in words
    config.write_text(SPACED.replace(', sbatch_args: {comment: "lr sweep (v2)"}', ""))
    words = directives("sge", job_script("sge", **worker_options(Plan(config), "sge", {})))
    assert words[words.index("-N") + 1] == "my_sweep"
    config.write_text("{name: SLURM, num_parallel_jobs: 3, job-name: my sweep}\n---\n{name: e, path: results}\n")
    with pytest.raises(ConfigError, match=r"my sweep.yml:1 .*key job-name.*write job-name='my_sweep'"):
        worker_options(Plan(config), "sge", {})


def test_the_home_folder_is_expanded_in_the_folder_for_logs_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlsched.experiments import Plan
    from amlsched.experiments._arrays.cluster_options import worker_options

    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "c.yml"
    config.write_text("{name: SLURM, num_parallel_jobs: 3, slurm_log: ~/logs}\n---\n{name: e, path: results}\n")
    assert worker_options(Plan(config), "slurm", {})["log_directory"] == str(tmp_path / "logs")


def test_a_template_is_filled_with_words_for_where_they_stand() -> None:
    job = replace(JOB, name="my 'sweep'", folder=Path("/my code"), logs=Path("/my results/100%"))
    more = """cd %%experiment_execution_dir%%; echo "%%job-name%%" '%%job-name%%'\n"""
    text = filled(f'{TEMPLATE}{more}#SBATCH --comment="of %%job-name%%"\n', SYSTEMS["slurm"], job)
    words = directives("slurm", text)
    assert words[words.index("-J") + 1] == "my 'sweep'"
    assert words[words.index("-D") + 1] == "/my code"
    assert words[words.index("-o") + 1] == "/my results/100%%/out_%A_%a.log"
    assert "--comment=of my 'sweep'" in words
    [line] = [line for line in text.splitlines() if "echo" in line]
    assert shlex.split(line) == ["cd", "/my code;", "echo", "my 'sweep'", "my 'sweep'"]


# ---------------------------------------------------------------------------------------------------- what they say


def test_squeue_is_read() -> None:
    said = "\n".join(
        [
            "2|2|PENDING||JobArrayTaskLimit",
            "2|3|PENDING||JobHeldUser",
            "2|0|RUNNING|n1|None",
            "2|1|COMPLETED|n1|None",
            "2|4|OUT_OF_MEMORY|n1|OutOfMemory",
            "2|5|TIMEOUT|n1|TimeLimit",
            "2|6|NODE_FAIL|n1|None",
            "2|7|FAILED|n1|NonZeroExitCode",
            "2|8|REQUEUE_HOLD||launch failed requeued held",
            "7|N/A|RUNNING|n1|None",
        ]
    )
    assert SYSTEMS["slurm"].states(said) == {
        ("2", 2): Element(Stage.PENDING, "JobArrayTaskLimit"),
        ("2", 3): Element(Stage.STUCK, "JobHeldUser"),
        ("2", 0): Element(Stage.RUNNING, "", "n1"),
        ("2", 1): Element(Stage.ENDED, "COMPLETED", "n1"),
        ("2", 4): Element(Stage.ENDED, "OUT_OF_MEMORY (OutOfMemory)", "n1"),
        ("2", 5): Element(Stage.ENDED, "TIMEOUT", "n1"),
        ("2", 6): Element(Stage.ENDED, "NODE_FAIL", "n1"),
        ("2", 7): Element(Stage.ENDED, "FAILED (NonZeroExitCode)", "n1"),
        ("2", 8): Element(Stage.STUCK, "launch failed requeued held"),
    }


def test_sacct_is_read() -> None:
    said = (
        "12_0|COMPLETED|0:0|n1\n12_1|CANCELLED by 1000|0:15|n1\n12_[2-9]|PENDING|0:0|None assigned\n13|FAILED|1:0|n1\n"
    )
    assert SYSTEMS["slurm"].past_states(said) == {
        ("12", 0): Element(Stage.ENDED, "COMPLETED", "n1"),
        ("12", 1): Element(Stage.ENDED, "CANCELLED by 1000 (exit code 0:15)", "n1"),
        **{("12", index): Element(Stage.PENDING) for index in range(2, 10)},
    }


def test_qstat_of_grid_engine_is_read() -> None:
    def job(state: str, tasks: str, queue: str = "") -> str:
        return (
            f"<job_list><JB_job_number>4</JB_job_number><state>{state}</state>"
            f"<queue_name>{queue}</queue_name><tasks>{tasks}</tasks></job_list>"
        )

    said = (
        f"<?xml version='1.0'?><job_info><queue_info>{job('r', '1', 'all.q@node7')}</queue_info>"
        f"<job_info>{job('qw', '2-4:2')}{job('Eqw', '5')}{job('hqw', '6')}</job_info></job_info>"
    )
    found = SYSTEMS["sge"].states(said)
    assert found["4", 1] == Element(Stage.RUNNING, "", "node7")
    assert found["4", 2] == found["4", 4] == Element(Stage.PENDING, "qw")
    assert found["4", 5].stage is Stage.STUCK
    assert found["4", 6].stage is Stage.PENDING
    assert len(found) == 5


def test_qstat_of_pbs_is_read() -> None:
    said = """{"Jobs": {"12[].srv": {"job_state": "B"},
        "12[0].srv": {"job_state": "R", "exec_host": "node1/0*3+node2/0"},
        "12[1].srv": {"job_state": "Q", "comment": "Not Running: Insufficient ncpus"},
        "12[2].srv": {"job_state": "X", "Exit_status": 271},
        "12[3].srv": {"job_state": "X", "Exit_status": 0},
        "13[0].srv": {"job_state": "H", "Hold_Types": "s", "depend": "afterany:12[].srv@srv"},
        "13[1].srv": {"job_state": "H", "Hold_Types": "us", "depend": "afterany:12[].srv@srv"},
        "13[2].srv": {"job_state": "H", "Hold_Types": "s", "comment": "job held, too many failed attempts to run"}}}"""
    assert SYSTEMS["pbs"].states(said) == {
        ("12", 0): Element(Stage.RUNNING, "", "node1"),
        ("12", 1): Element(Stage.PENDING, "Not Running: Insufficient ncpus"),
        ("12", 2): Element(Stage.ENDED, "exit code 271"),
        ("12", 3): Element(Stage.ENDED),
        ("13", 0): Element(Stage.PENDING, "afterany:12[].srv@srv"),
        ("13", 1): Element(Stage.STUCK, "afterany:12[].srv@srv"),
        ("13", 2): Element(Stage.STUCK, "job held, too many failed attempts to run"),
    }


def test_qstat_of_torque_is_read() -> None:
    def job(index: str, state: str, **fields: str) -> str:
        more = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
        owner = "<Job_Name>digits-0</Job_Name><Job_Owner>ada@login1</Job_Owner>"
        return f"<Job><Job_Id>12[{index}].srv</Job_Id>{owner}<job_state>{state}</job_state>{more}</Job>"

    said = (
        job("0", "R", exec_host="node1/0+node1/1", Hold_Types="n"),
        job("1", "E", exec_host="node2/0"),
        job("2", "C", exec_host="node1/0", exit_status="0"),
        job("3", "C", exec_host="node1/0", exit_status="271"),
        job("4", "C"),  # deleted before it ran
        job("5", "Q", comment="Not Running: Draining system"),
        job("6", "H", Hold_Types="l"),  # beyond the limit of -t 0-20%N
        job("7", "H", Hold_Types="s", depend="afteranyarray:11[].srv"),
        job("8", "H", Hold_Types="u"),
        job("9", "H", Hold_Types="ul"),
        job("10", "W"),
        job("11", "S", exec_host="node3/0"),
        job("", "B"),  # the array as a whole
    )
    assert SYSTEMS["torque"].states(f"<Data>{''.join(said)}</Data>") == {
        ("12", 0): Element(Stage.RUNNING, "", "node1"),
        ("12", 1): Element(Stage.RUNNING, "E", "node2"),
        ("12", 2): Element(Stage.ENDED, "", "node1"),
        ("12", 3): Element(Stage.ENDED, "exit code 271", "node1"),
        ("12", 4): Element(Stage.ENDED),
        ("12", 5): Element(Stage.PENDING, "Not Running: Draining system"),
        ("12", 6): Element(Stage.PENDING, "slot limit"),
        ("12", 7): Element(Stage.PENDING, "afteranyarray:11[].srv"),
        ("12", 8): Element(Stage.STUCK, "held"),
        ("12", 9): Element(Stage.STUCK, "held"),
        ("12", 10): Element(Stage.PENDING),
        ("12", 11): Element(Stage.RUNNING, "S", "node3"),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pbs", "qstat -x -t -f -F json 12[] 13[]"),
        ("torque", "qstat -x -t 12[] 13[]"),
    ],
)
def test_pbs_and_torque_are_asked_for_all_elements(name: str, words: str) -> None:
    assert list(SYSTEMS[name].query(["12", "13"])) == words.split()
    assert list(SYSTEMS[name].cancel_all("12")) == ["qdel", "12[]"]
    assert SYSTEMS[name].forgotten.search("qstat: Unknown Job Id Error 12[].srv")


def test_condor_q_is_read_with_what_it_has_not_made_yet() -> None:
    said = """[{"ClusterId": 8, "ProcId": 0, "JobStatus": 2, "RemoteHost": "slot1_1@node3",
                "JobMaterializeNextProcId": 3, "TotalSubmitProcs": 5},
               {"ClusterId": 8, "ProcId": 1, "JobStatus": 5, "HoldReason": "no such folder"},
               {"ClusterId": 8, "ProcId": 2, "JobStatus": 1},
               {"ClusterId": 9, "ProcId": 1, "JobStatus": 1, "TotalSubmitProcs": 2}]"""
    assert SYSTEMS["htcondor"].states(said) == {
        ("8", 0): Element(Stage.RUNNING, "", "node3"),
        ("8", 1): Element(Stage.STUCK, "no such folder"),
        ("8", 2): Element(Stage.PENDING, "idle"),
        ("8", 3): Element(Stage.PENDING, "max_materialize"),
        ("8", 4): Element(Stage.PENDING, "max_materialize"),
        ("9", 1): Element(Stage.PENDING, "idle"),
    }


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_nothing_in_the_queue_is_read_as_such(name: str) -> None:
    assert SYSTEMS[name].states("") == {}


@pytest.mark.parametrize(
    ("name", "said", "job"),
    [
        ("slurm", "8\n", "8"),
        ("slurm", "8;north\n", "8"),
        ("sge", "4.1-20:1\n", "4"),
        ("pbs", "12[].srv\n", "12"),
        ("torque", "12[].srv\n", "12"),
        ("torque", "12\n", "12"),
        ("htcondor", "8.0 - 8.19\n", "8"),
    ],
)
def test_the_id_is_found_in_what_the_submit_command_says(name: str, said: str, job: str) -> None:
    found = SYSTEMS[name].submitted.search(said)
    assert found is not None
    assert found[1] == job


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slurm", "scancel 8_[0-2,5]"),
        ("sge", "qdel 8.0-2 8.5"),
        ("pbs", "qdel 8[0-2] 8[5]"),
        ("torque", "qdel -t 0-2,5 8[]"),
        ("htcondor", "condor_rm 8.0 8.1 8.2 8.5"),
    ],
)
def test_elements_are_cancelled_by_their_indices(name: str, words: str) -> None:
    assert list(SYSTEMS[name].cancel("8", [0, 1, 2, 5])) == words.split()


def test_ranges_and_clocks() -> None:
    assert ranges([5, 1, 0, 2]) == ["0-2", "5"]
    assert [clock(59.2), clock(90000)] == ["0:01:00", "25:00:00"]


# --------------------------------------------------------------------------------------------------------- commands


def fake(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_command_that_is_not_here_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchSystemError, match="Slurm: sbatch: there is no such command here"):
        commands.submit(SYSTEMS["slurm"], Path("x"), "1f2e3d4c")


def test_a_refusal_has_the_words_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake(tmp_path, "sbatch", "echo 'sbatch: error: invalid partition specified: nosuch' >&2; exit 1")
    with pytest.raises(BatchSystemError, match="invalid partition specified: nosuch"):
        commands.submit(SYSTEMS["slurm"], Path("x"), "1f2e3d4c")


def test_a_command_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(commands, "ANSWER_S", 0.2)
    fake(tmp_path, "squeue", "exec sleep 60")
    with pytest.raises(BatchSystemError, match=r"did not answer within 0\.2 s"):
        commands.query(SYSTEMS["slurm"], ["1"])


def test_commands_do_not_block_the_loop_that_awaits_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake(tmp_path, "squeue", "sleep 0.3; cat")
    fake(tmp_path, "scancel", "echo no such job >&2; exit 1")
    fake(tmp_path, "sinfo", "sleep 60 & sleep 60")  # its child keeps the pipe open

    async def several() -> None:
        waiting = asyncio.ensure_future(commands.call(SYSTEMS["slurm"], ["squeue"], text="input"))
        with pytest.raises(BatchSystemError, match="Slurm: scancel: no such job"):
            await commands.call(SYSTEMS["slurm"], ["scancel"])
        assert not waiting.done()
        assert await waiting == "input"
        with pytest.raises(BatchSystemError, match=r"sinfo: did not answer within 0\.2 s"):
            await commands.call(SYSTEMS["slurm"], ["sinfo"], limit_s=0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(commands.call(SYSTEMS["slurm"], ["sinfo"], limit_s=2), 0.1)

    began = time.monotonic()
    asyncio.run(several())
    assert time.monotonic() - began < 20


def test_jobs_that_the_queue_has_forgotten_are_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake(tmp_path, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake(tmp_path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert commands.query(SYSTEMS["slurm"], ["1"]) == {}
    assert commands.recorded(SYSTEMS["slurm"], ["1"]) is None


def test_the_answer_about_other_jobs_counts_where_one_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    answer = '{"Jobs": {"2[0].srv": {"job_state": "Q"}}}'
    fake(tmp_path, "qstat", f"echo 'qstat: Unknown Job Id 1[].srv' >&2; echo '{answer}'; exit 153")
    assert commands.query(SYSTEMS["pbs"], ["1", "2"]) == {("2", 0): Element(Stage.PENDING)}
    with pytest.raises(BatchSystemError, match="Unknown Job Id"):
        commands.run(SYSTEMS["pbs"], ["qstat", "1[]"])


def test_an_answer_that_makes_no_sense_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake(tmp_path, "squeue", "echo 'what?'")
    with pytest.raises(BatchSystemError, match="its output cannot be parsed"):
        commands.query(SYSTEMS["slurm"], ["1"])


def test_variables_of_a_job_do_not_reach_the_jobs_that_it_submits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND", "mask_cpu:0x1")
    monkeypatch.setenv("SBATCH_PARTITION", "high")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "SBATCH_PARTITION" in SYSTEMS["slurm"].environment()
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    inside = SYSTEMS["slurm"].environment()
    assert not {"SLURM_CPU_BIND", "SBATCH_PARTITION", "SLURM_JOB_ID"} & inside.keys()
    assert inside["SLURM_CONF"] == "/etc/slurm/slurm.conf"


def test_two_keys_that_do_not_go_together(tmp_path: Path) -> None:
    from amlsched.experiments import Plan
    from amlsched.experiments._arrays.cluster_options import array_options

    config = tmp_path / "c.yml"
    config.write_text("{name: SLURM, sbatch_args: {gres: gpu:1}}\n---\n{name: x, path: results}\n")
    plan = Plan(config)
    assert plan.resolved.cluster is not None
    with pytest.raises(ConfigError, match="sbatch_args are options of Slurm, but this is for Grid Engine"):
        array_options(plan.resolved.cluster, SYSTEMS["sge"], plan.resolved)


# ------------------------------------------------------------------------------------------- marks and lost answers
MARK = "3fa9c1d2-0001"


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("slurm", f"7|/tmp/amlsched.{MARK}.sh\n8|/tmp/amlsched.3fa9c1d2-0002.sh\n9|(null)\n", ["7"]),
        (
            "sge",
            f"<job_list><JB_job_number>7</JB_job_number><JB_name>a.{MARK}</JB_name></job_list>",
            ["7"],
        ),
        ("pbs", f"Job Id: 7.srv\n    Job_Name = a.{MARK}\n    job_state = Q\nJob Id: 8.srv\n    Job_Name = a\n", ["7"]),
        ("moab", f"Job Id:\t7\n\tJob_Name = a.{MARK}\n\n", ["7"]),  # as Slurm's qstat prints it
        ("torque", f"Job Id: 7[].srv\n    Job_Name = a.{MARK}\n", ["7"]),
        ("htcondor", f'[{{"ClusterId": 7, "Cmd": "/bin/sh", "AmlschedMark": "{MARK}"}}]', ["7"]),
        ("lsf", f"7|a|b.{MARK}\n8|{MARK}.a\n9|-\n", ["7"]),
        (
            "oar",
            (
                f"Job_Id: 7\n    job_array_id = 7\n    name = a b.{MARK}\n    state = Running\n"
                f"Job_Id: 8\n    name = a\n    command = sh {MARK}\n"
            ),
            ["7"],
        ),
        ("htcondor", f'[{{"ClusterId": 7, "Cmd": "/x/part.{MARK}.sh"}}, {{"ClusterId": 8, "Cmd": "a"}}]', ["7"]),
    ],
)
def test_a_job_is_found_by_its_mark(name: str, text: str, ids: list[str]) -> None:
    system = {**SYSTEMS, **WORKER_SYSTEMS}[name]
    assert list(system.found(text, MARK)) == ids
    assert list(system.found(text, "abcdef12")) == []


@pytest.mark.parametrize(
    ("name", "text", "job"),
    [
        ("slurm", "7\n", "7"),
        ("slurm", "7;cluster\n", "7"),
        ("slurm", "sbatch: your quota is 95 % full\nSubmitted batch job 7\n", "7"),
        ("slurm", "Submitted batch job 7 on cluster c1\n", "7"),
        ("sge", 'Your job 7 ("a b") has been submitted\n', "7"),
        ("sge", 'Your job-array 7.1-20:1 ("a") has been submitted\n', "7"),
        ("sge", "7.1-20:1\n", "7"),
        ("pbs", "7.server\n", "7"),
        ("pbs", "7[].server\n", "7"),
        ("moab", "\nMoab.7\n", "7"),
        ("moab", "\n7\n", "7"),
        ("htcondor", "Submitting job(s).\n1 job(s) submitted to cluster 7.\n", "7"),
        ("htcondor", "7.0 - 7.19\n", "7"),
        ("lsf", "Job <7> is submitted to queue <normal>.\n", "7"),
        ("oar", "[ADMISSION RULE] 3 rules\nOAR_JOB_ID=7\n", "7"),
    ],
)
def test_the_id_of_a_job_is_read_and_no_other_number(name: str, text: str, job: str) -> None:
    submitted = {**SYSTEMS, **WORKER_SYSTEMS}[name].submitted
    assert [found[1] for found in submitted.finditer(text)] == [job]
    assert not submitted.search("welcome: 12 nodes, 3 of them down\n")


def test_a_command_that_is_stopped_is_killed_with_what_it_started(tmp_path: Path) -> None:
    stop = threading.Event()
    (tmp_path / "ask").write_text(f"#!/bin/sh\nsleep 600 & echo $! > {tmp_path}/pid\necho begun\nwait\n")
    (tmp_path / "ask").chmod(0o755)
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(BatchSystemError, match="was stopped, but printed: begun"):
        commands.completed("Slurm", [str(tmp_path / "ask")], stop=stop)
    until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_query_is_killed_if_its_caller_is_cancelled(tmp_path: Path) -> None:
    asyncio.run(_query_and_cancel(tmp_path))


async def _query_and_cancel(tmp_path: Path) -> None:
    (tmp_path / "ask").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    (tmp_path / "ask").chmod(0o755)
    asking = asyncio.ensure_future(commands.call(SYSTEMS["slurm"], [str(tmp_path / "ask")]))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    asking.cancel()
    pid = int((tmp_path / "pid").read_text())
    while alive(pid):
        await asyncio.sleep(0.01)
