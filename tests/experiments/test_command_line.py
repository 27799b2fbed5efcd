"""What the command line does, end to end."""

from __future__ import annotations

import csv
import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amlsched import __version__
from amlsched.cli import main
from tests.experiments.conftest import Project, members, wait_until
from tests.processes import read_until

EXECUTORS = ("sequential", "threads", "processes", "loky")
EVERYWHERE = pytest.mark.parametrize("executor", EXECUTORS)


def rows_without_times(folder: Path) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for path in sorted(folder.rglob("rep_*.csv")):
        header, *rows = csv.reader(io.StringIO(path.read_text()))
        time = header.index("ts")
        found[str(path.relative_to(folder))] = [row[:time] + row[time + 1 :] for row in (header, *rows)]
    return found


# ------------------------------------------------------------------------------------------------------ what is run


def test_the_same_config_gives_the_same_rows_on_every_executor(project: Project) -> None:
    found = []
    for executor in EXECUTORS:
        assert project.run("--executor", executor, "--results", executor).returncode == 0
        found.append(rows_without_times(project.folder / executor))
    assert len(found[0]) == 4
    assert found == [found[0]] * len(EXECUTORS)


@EVERYWHERE
def test_what_a_repetition_prints_lands_in_its_own_files(project: Project, executor: str) -> None:
    done = project.run("--executor", executor)
    place = project.folder / "results/sums/sums__a2/log/rep_01"
    assert done.returncode == 0
    assert "hello from 1\n" in (place / "out.log").read_text()
    assert "goodbye None\n" in (place / "out.log").read_text()
    assert (place / "err.log").read_text() == "trouble in 1\n"
    assert "hello" not in done.stdout
    on_console = executor == "threads"
    assert ("child of 1\n" in (place / "out.log").read_text()) is not on_console
    assert ("child of 1\n" in done.stdout) is on_console
    assert ("there were child processes" in done.stderr) is on_console
    assert done.stdout.count("completed    sums__a") == 4


def test_without_child_processes_threads_have_nothing_to_tell_of_them(project: Project) -> None:
    done = project.run("--executor", "threads", target="experiment.py:function")
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_of_dask_catch_child_processes_too(project: Project) -> None:
    pytest.importorskip("distributed")
    done = project.run("--executor", "dask", "-e", "sums", "--set", "grid.a=[2]")
    place = project.folder / "results/sums/sums__a2/log/rep_01"
    assert done.returncode == 0, done.stderr
    assert (place / "out.log").read_text() == "hello from 1\nchild of 1\ngoodbye None\n"
    assert (place / "err.log").read_text() == "trouble in 1\n"
    assert "child of" not in done.stdout


HANDS_ON = """
import subprocess, sys

def experiment(params, rep, log):
    command = f"echo out {rep}; echo err {rep} >&2"
    subprocess.run(["sh", "-c", command], stdout=sys.stdout, stderr=sys.stderr, check=True)
"""


def test_child_processes_of_threads_can_be_given_the_files_of_their_repetition(project: Project) -> None:
    (project.folder / "experiment.py").write_text(HANDS_ON)
    assert project.run("--executor", "threads", target="experiment.py:experiment").returncode == 0
    for place in (project.folder / "results/sums").glob("sums__a*/log/rep_01"):
        assert [(place / name).read_text() for name in ("out.log", "err.log")] == ["out 1\n", "err 1\n"]


WAITS = """
import subprocess, time
from pathlib import Path

def experiment(params, rep, log):
    subprocess.run(["echo", "from a child"], check=True)
    log(value=17.25)
    while not Path("go").exists():
        time.sleep(0.01)
"""


def test_a_display_goes_on_while_a_sequential_repetition_has_the_descriptors(project: Project) -> None:
    (project.folder / "experiment.py").write_text(WAITS)
    words = ("run", "experiment.py:experiment", "config.yml", "--executor", "sequential")
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm"}
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "amlsched", *words],
            cwd=project.folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                read_until(ours, "value 17.25")
                (project.folder / "go").touch()
                seen = read_until(ours, "4 completed")
            finally:
                (project.folder / "go").touch()
            assert process.wait(30) == 0
    finally:
        os.close(ours)
    assert "4/4" in seen
    for place in (project.folder / "results/sums").glob("sums__a*/log/rep_*"):
        assert [(place / name).read_text() for name in ("out.log", "err.log")] == ["from a child\n", ""]


def test_a_debugger_works_where_output_is_left_on_the_console(project: Project) -> None:
    (project.folder / "experiment.py").write_text("def experiment(params, rep, log):\n    breakpoint()\n")
    words = ("run", "experiment.py:experiment", "config.yml", "--debug", "--executor", "sequential", "--no-capture")
    done = subprocess.run(
        [sys.executable, "-m", "amlsched", *words],
        cwd=project.folder,
        input="p 'a is', params['a']\nc\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "('a is', 1)" in done.stdout


def test_nothing_is_run_again_once_all_is_done(project: Project) -> None:
    first = project.run()
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*")}
    second = project.run()
    assert "Ran 4 in" in first.stdout
    assert (second.returncode, "Nothing to run: all repetitions are done" in second.stdout) == (0, True)
    after = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*") if path.is_file()}
    assert after.items() <= before.items()


def test_more_repetitions_and_more_values_run_only_what_is_new(project: Project) -> None:
    project.run()
    project.config("{name: sums, path: results, repetitions: 3, iterations: 3, params: {b: 2}, grid: {a: [1, 2, 3]}}")
    done = project.run()
    assert done.returncode == 0
    assert "Ran 5 in" in done.stdout
    assert project.completions() == [1] * 9


CHANGED = "{name: sums, path: results, repetitions: 2, iterations: 4, params: {c: 1}, grid: {a: [1, 2, 3]}}"


def test_other_settings_under_the_same_name_are_refused_and_shown(project: Project) -> None:
    project.run()
    project.config(CHANGED)
    before = {path: path.read_bytes() for path in (project.folder / "results").rglob("*") if path.is_file()}
    done = project.run()
    assert done.returncode == 2
    assert "4 repetitions were run with other settings under the same name" in done.stderr
    assert "  sums__a1 and 1 more:\n" in done.stderr
    for line in ("iterations: 3 → 4", "params.b: 2 → nothing", "params.c: nothing → 1"):
        assert f"    {line}\n" in done.stderr
    assert "params.a" not in done.stderr
    assert "--keep-changed" in done.stderr
    assert before == {path: path.read_bytes() for path in (project.folder / "results").rglob("*") if path.is_file()}
    assert "4 repetitions were run with other settings" in project.run("--dry-run").stdout


def test_what_was_run_with_other_settings_can_be_kept(project: Project) -> None:
    project.run()
    project.config(CHANGED)
    done = project.run("--keep-changed")
    assert (done.returncode, "Ran 2 in" in done.stdout) == (0, True)
    assert "4 repetitions were run with other settings" in done.stderr
    assert project.completions() == [1] * 6
    assert [record["config"]["iterations"] for record in project.records().values()] == [3, 3, 3, 3, 4, 4]


def test_what_was_run_with_other_settings_can_be_run_again(project: Project) -> None:
    project.run()
    project.config(CHANGED)
    assert project.run("--rerun", "sums__a1").returncode == 2, "the other run has changed, too"
    done = project.run("-o")
    assert (done.returncode, "Ran 6 in" in done.stdout) == (0, True)
    assert {record["config"]["iterations"] for record in project.records().values()} == {4}


def test_a_trial_is_run_again_when_the_settings_change(project: Project) -> None:
    project.run("--debug")
    assert "Nothing to run" in project.run("--debug").stdout
    project.config(CHANGED)
    assert "Ran 1 in" in project.run("--debug").stdout


def test_the_record_says_which_code_ran(project: Project) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *words], cwd=project.folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def codes() -> list[dict[str, object]]:
        return [record["attempts"][-1]["code"] for record in project.records().values()]

    project.run("-e", "sums")
    assert codes() == [None] * 4
    git("init", "-q")
    git("add", "experiment.py")
    git("commit", "-qm", "first")
    project.run("-o")
    commit = git("rev-parse", "HEAD")
    assert codes() == [{"commit": commit, "dirty": False}] * 4
    with (project.folder / "experiment.py").open("a") as file:
        file.write("# changed")
    project.run("-o")
    assert codes() == [{"commit": commit, "dirty": True}] * 4


def test_overwriting_runs_all_again_and_keeps_what_was_there(project: Project) -> None:
    project.run()
    place = project.folder / "results/sums/sums__a1/log/rep_00"
    first = (place / "rep_0.csv").read_text()
    assert "Ran 4 in" in project.run("-o").stdout
    assert (place / "earlier/01/rep_0.csv").read_text() == first
    assert [len(record["attempts"]) for record in project.records().values()] == [2] * 4


def test_a_function_is_an_experiment_too(project: Project) -> None:
    done = project.run(target="experiment.py:function")
    assert done.returncode == 0
    rows = rows_without_times(project.folder / "results")["sums/sums__a2/log/rep_01/rep_1.csv"]
    assert rows == [["value", "rep", "iter"], ["2", "1", "0"], ["2", "1", "1"]]


def test_a_module_is_found_from_the_working_folder(project: Project) -> None:
    package = project.folder / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (project.folder / "experiment.py").rename(package / "experiment.py")
    assert project.run(target="mine.experiment:Sums").returncode == 0


def test_debug_is_short_and_has_folders_of_its_own(project: Project) -> None:
    done = project.run("--debug")
    assert "Ran 1 in" in done.stdout
    assert list(project.records()) == ["_debug/sums/sums__a1/log/rep_00"]
    assert "Ran 4 in" in project.run().stdout


def test_output_can_be_left_on_the_console(project: Project) -> None:
    done = project.run("--executor", "sequential", "--no-capture")
    assert "hello from 0" in done.stdout
    assert "trouble in 0" in done.stderr


# ------------------------------------------------------------------------------------------------------ what goes wrong

FAILING = "{name: sums, path: results, repetitions: 3, iterations: 2, params: {fails: 1}}"


@pytest.mark.parametrize(
    ("asked", "attempts"),
    [
        (["failed"], [1, 1, 1, 2]),
        (["sums__a2"], [1, 1, 2, 2]),
        (["sums__a1", "failed"], [2, 2, 1, 2]),
        (["sums"], [2, 2, 2, 2]),
        (["all"], [2, 2, 2, 2]),
        (["cancelled"], [1, 1, 1, 1]),
    ],
    ids=["a state", "a run", "a run and a state", "an experiment", "all", "a state that none has"],
)
def test_what_is_asked_for_is_run_again_and_nothing_else(
    project: Project, asked: list[str], attempts: list[int]
) -> None:
    project.run()
    for record in (project.folder / "results/sums/sums__a2/log/rep_01").glob("record.json"):
        record.write_text(record.read_text().replace('"completed"', '"failed"'))
    assert project.run().returncode == 1, "what failed is not done, and not run again unasked"
    project.run("--rerun", *asked)
    assert [len(record["attempts"]) for record in project.records().values()] == attempts


def test_a_failed_repetition_is_told_and_run_again_on_request_alone(project: Project) -> None:
    """Traps 1 and 2 of cw2: it counts as done there, and the exit code is 0."""
    project.config(FAILING)
    done = project.run()
    place = project.folder / "results/sums/log/rep_01"
    assert done.returncode == 1
    assert project.states() == ["completed", "failed", "completed"]
    assert "ValueError: this one fails" in (place / "err.log").read_text()
    assert 'raise ValueError("this one fails")' in (place / "err.log").read_text()
    assert "goodbye crash" in (place / "out.log").read_text()
    assert "failed: sums rep 1: ValueError: this one fails" in done.stderr
    assert "results/sums/log/rep_01/err.log" in done.stderr

    looked = project.call("status", "results")
    assert "sums rep 1: ValueError: this one fails" in looked.stderr
    assert "2 completed, 1 failed" in looked.stdout

    (project.folder / "mended").touch()
    again = project.run()
    assert (again.returncode, "Nothing to run" in again.stdout) == (1, True)
    mended = project.run("--rerun", "failed")
    assert (mended.returncode, "Ran 1 in" in mended.stdout) == (0, True)
    assert [len(record["attempts"]) for record in project.records().values()] == [1, 2, 1]
    assert (place / "err.log").read_text() == "trouble in 1\n"
    assert "this one fails" in (place / "earlier/01/err.log").read_text()


@EVERYWHERE
def test_an_experiment_that_calls_exit_fails_alone(project: Project, executor: str) -> None:
    project.config("{name: sums, path: results, repetitions: 3, iterations: 2, params: {exits: 0}}")
    done = project.run("--executor", executor)
    assert done.returncode == 1
    assert project.states() == ["failed", "completed", "completed"]
    assert "SystemExit: 3" in done.stderr


def test_a_repetition_whose_worker_is_killed_fails_alone_and_says_why(project: Project) -> None:
    project.config("{name: sums, path: results, repetitions: 3, iterations: 2, params: {dies: 1, sleep: 0.05}}")
    done = project.run()
    assert done.returncode == 1
    assert project.states() == ["completed", "failed", "completed"]
    attempts = project.records()["sums/log/rep_01"]["attempts"]
    assert [attempt["error"]["type"] for attempt in attempts] == ["WorkerKilledError"] * 4  # it is run again
    assert [attempt["outcome"] for attempt in attempts] == ["failed"] * 4
    assert len({attempt["worker"]["pid"] for attempt in attempts}) == 4
    assert "SIGKILL" in (project.folder / "results/sums/log/rep_01/err.log").read_text()


def test_what_repetitions_used_is_in_their_records_and_told_in_the_end(project: Project) -> None:
    project.config("{name: sums, path: results, repetitions: 2, iterations: 2}")
    done = project.run()
    used = [record["attempts"][-1]["used"] for record in project.records().values()]
    assert len(used) == 2
    assert all(one["cpu_s"] > 0 and one["peak_memory_bytes"] > 2**20 for one in used)
    assert "of CPU time, at most" in done.stdout
    assert "MiB of memory. Results:" in done.stdout


def test_an_experiment_that_surrenders_is_done(project: Project) -> None:
    project.config("{name: sums, path: results, repetitions: 2, iterations: 3, params: {surrenders: 1}}")
    done = project.run()
    assert done.returncode == 0
    assert project.states() == ["completed", "surrendered"]
    last = (project.folder / "results/sums/log/rep_01/rep_1.csv").read_text().splitlines()[-1]
    assert last.startswith("-1.0,,")
    assert "Nothing to run" in project.run().stdout


BAD = (
    (("experiment.py:Nothing", "config.yml"), "has no 'Nothing' (it has: Sums"),
    (("experiment.py:not_an_experiment", "config.yml"), "cannot be called as experiment(params, rep, log)"),
    (("experiment.py:Incomplete", "config.yml"), "iterate must be implemented"),
    (("experiment.py:Local", "config.yml"), "cannot be pickled for another process: it is defined inside a function"),
    (("experiment.py", "config.yml"), "write experiment.py:NAME; it has: Sums, "),
    (("nowhere.py:Sums", "config.yml"), "there is no such file"),
    (("no_such_module:Sums", "config.yml"), "there is no module no_such_module"),
    (("broken.py:Sums", "config.yml"), "cannot be imported: SyntaxError"),
    (("raising.py:Sums", "config.yml"), "cannot be imported: ZeroDivisionError: division by zero (line 2)"),
    (("needy.py:Sums", "config.yml"), "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
    (("experiment.py:Sums", "nowhere.yml"), "nowhere.yml"),
    (("experiment.py:Sums", "broken.yml"), "broken.yml"),
    (("experiment.py:Sums", "typo.yml"), "did you mean"),
    (("experiment.py:Sums", "endless.yml"), "iterations"),
    (("experiment.py:Sums", "config.yml", "-e", "other"), "sums"),
    (("experiment.py:Sums", "config.yml", "--rerun", "sometimes"), "--rerun sometimes: is neither a state nor a name"),
    (("experiment.py:Sums", "config.yml", "--executor", "magic"), "magic"),
    (("experiment.py:Sums", "config.yml", "--executor-option", "fast=1"), "fast"),
    (("experiment.py:Sums", "config.yml", "--executor-option", "fast"), "is not KEY=VALUE"),
    (("experiment.py:Sums", "config.yml", "--max-workers", "0"), "--max-workers: must be a whole number"),
    (("experiment.py:Sums", "config.yml", "--max-workers", "two"), "--max-workers"),
    (("experiment.py:Sums", "config.yml", "--results", "config.yml"), "results folder config.yml: cannot be written"),
)


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_message_before_anything_starts(project: Project, words: tuple[str, ...], told: str) -> None:
    (project.folder / "broken.py").write_text("class Sums\n")
    (project.folder / "raising.py").write_text("\n1 / 0\n")
    (project.folder / "needy.py").write_text("import no_such_package\n")
    (project.folder / "broken.yml").write_text("name: [\n")
    (project.folder / "typo.yml").write_text("{name: sums, path: results, repetitons: 2}")
    (project.folder / "endless.yml").write_text("{name: sums, path: results, repetitions: 2}")
    done = project.call("run", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert project.records() == {}


def test_a_folder_that_cannot_be_read_as_results_is_one_message(project: Project) -> None:
    for command in (["status"], ["results"], ["plot", "--metric", "sum", "--out", "curves.png"]):
        missing = project.call(command[0], "nowhere", *command[1:])
        assert (missing.returncode, "there is no such folder" in missing.stderr) == (2, True)
        empty = project.call(command[0], ".", *command[1:])
        assert (empty.returncode, "no repetitions of amlsched" in empty.stderr) == (2, True)


def test_a_torn_record_is_not_taken_for_a_good_one(project: Project) -> None:
    project.run()
    torn = project.folder / "results/sums/sums__a1/log/rep_00/record.json"
    torn.write_text(torn.read_text()[:100])
    done = project.run()
    assert (done.returncode, str(torn) in done.stderr) == (1, True)
    assert "1 unknown" in project.call("status", "results").stdout
    assert project.run("--rerun", "unknown").returncode == 0
    assert project.states() == ["completed"] * 4


# --------------------------------------------------------------------------------------------------------- interruption

LONG = "{name: sums, path: results, repetitions: 3, iterations: 2, params: {sleep: 0.3}, grid: {a: [1, 2]}}"
ENDLESS = "{name: sums, path: results, repetitions: 4, iterations: 1, params: {sleep: 600}}"


@EVERYWHERE
@pytest.mark.parametrize("to_all", [True, False], ids=["to the group", "to the driver"])
def test_after_ctrl_c_the_same_command_takes_up_what_is_left(project: Project, executor: str, to_all: bool) -> None:
    project.config(LONG)
    words = ("run", "experiment.py:Sums", "config.yml", "--executor", executor, "--max-workers", "2")
    process = project.start(*words)
    wait_until(lambda: project.states().count("completed") >= 2 and "running" in project.states())
    interrupt(process.pid, to_all)
    out, err = process.communicate(timeout=45)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Run the same command again to resume" in err
    assert set(project.states()) == {"completed", "cancelled"}
    wait_until(lambda: not members(process.pid))
    assert project.call(*words).returncode == 0
    assert project.completions() == [1] * 6


@EVERYWHERE
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_even_what_does_not_end(project: Project, executor: str, number: int, code: int) -> None:
    project.config(ENDLESS)
    process = project.start("run", "experiment.py:Sums", "config.yml", "--executor", executor, "--max-workers", "2")
    at_a_time = 1 if executor == "sequential" else 2
    wait_until(lambda: project.states().count("running") == at_a_time)
    process.send_signal(number)
    process.communicate(timeout=45)
    assert process.returncode == code
    assert project.states() == ["cancelled"] * at_a_time
    wait_until(lambda: not members(process.pid))


def interrupt(group: int, to_all: bool) -> None:
    import os

    (os.killpg if to_all else os.kill)(group, signal.SIGINT)


def test_what_ran_when_the_driver_was_killed_is_run_again(project: Project) -> None:
    project.config(LONG)
    words = ("run", "experiment.py:Sums", "config.yml", "--max-workers", "2")
    process = project.start(*words)
    wait_until(lambda: project.states().count("completed") >= 2 and "running" in project.states())
    process.kill()
    process.communicate(timeout=10)
    assert "running" in project.states()
    wait_until(lambda: not members(process.pid))
    status = project.call("status", "results")
    assert "its worker is gone; the next run resumes it" in status.stderr
    assert " lost." in status.stdout
    assert "running" not in status.stdout
    assert project.call(*words).returncode == 0
    assert project.completions() == [1] * 6


# ------------------------------------------------------------------------------------------------------- what is shown


def test_a_dry_run_lists_what_would_be_run_and_makes_nothing(project: Project) -> None:
    done = project.run("--dry-run")
    assert done.stdout.splitlines() == [
        "sums__a1  a=1  to run: rep 0-1",
        "sums__a2  a=2  to run: rep 0-1",
        "4 repetitions, 4 to run. Results: results",
    ]
    assert not (project.folder / "results").exists()


def test_the_table_shows_mean_and_deviation_of_the_last_values(project: Project) -> None:
    done = project.run("--metric", "n")
    line = next(line for line in done.stdout.splitlines() if line.startswith("sums__a1  "))
    assert line.split()[:5] == ["sums__a1", "2/2", "2", "±", "0"]


def test_results_come_as_a_table_and_as_csv(project: Project) -> None:
    project.run()
    table = project.call("results", "results")
    assert table.stdout.splitlines()[2].split()[:4] == ["sums", "0", "sums__a1", "completed"]
    written = project.call("results", "results", "--csv", "all.csv")
    rows = list(csv.DictReader(io.StringIO((project.folder / "all.csv").read_text())))
    assert written.returncode == 0
    assert [(row["name"], row["r"], row["a"], row["b"], row["n"]) for row in rows] == [
        ("sums", "0", "1", "2", "2"),
        ("sums", "1", "1", "2", "2"),
        ("sums", "0", "2", "2", "2"),
        ("sums", "1", "2", "2", "2"),
    ]


def test_learning_curves_are_drawn(project: Project) -> None:
    project.run()
    done = project.call("plot", "results", "--metric", "sum", "--out", "new/curves.png")
    assert done.returncode == 0
    assert (project.folder / "new/curves.png").read_bytes().startswith(b"\x89PNG")
    wrong = project.call("plot", "results", "--metric", "smu", "--out", "curves.png")
    assert wrong.returncode == 2
    assert "sum, n)" in wrong.stderr, "what can be drawn is listed"


def test_looking_makes_no_file(project: Project) -> None:
    project.config(LONG)
    project.run("--debug")
    project.run("-e", "sums", "--results", "results")
    before = sorted((project.folder / "results").rglob("*"))
    project.call("status", "results")
    project.call("results", "results")
    assert sorted((project.folder / "results").rglob("*")) == before


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"amlsched {__version__}\n"


def test_words_that_are_no_command_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sing"]) == 2
    assert "sing" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ jobs

BUNDLED = """
name: sums
path: results
repetitions: 3
iterations: 2
reps_per_job: 4
reps_in_parallel: 2
params: {sleep: 0.1}
grid: {a: [1, 2]}
"""


@EVERYWHERE
def test_one_job_of_the_list_is_run_by_its_number(project: Project, executor: str) -> None:
    project.config(BUNDLED)
    done = project.run("--executor", executor, "-j", "0")
    assert done.returncode == 0
    assert list(project.records()) == [
        *(f"sums/sums__a1/log/rep_0{index}" for index in range(3)),
        "sums/sums__a2/log/rep_00",
    ]
    assert "Ran 2 in" in project.run("-j", "1").stdout
    assert project.completions() == [1] * 6


def test_no_more_of_a_job_run_at_a_time_than_it_says(project: Project) -> None:
    project.config(BUNDLED.replace("reps_per_job: 4", "reps_per_job: 6"))
    assert project.call("run", "experiment.py:Sums", "config.yml", "--max-workers", "4").returncode == 0
    times = []
    for record in project.records().values():
        [attempt] = record["attempts"]
        times += [(attempt["started"], 1), (attempt["ended"], -1)]
    running = peak = 0
    for _, change in sorted(times):
        running += change
        peak = max(peak, running)
    assert peak == 2


def test_a_job_that_is_not_there_is_bad_input(project: Project) -> None:
    done = project.run("-j", "9")
    assert done.returncode == 2
    assert "job 9: there is no such job (there are jobs 0 to 3)" in done.stderr


# ------------------------------------------------------------------------------------------------------ loggers


@EVERYWHERE
def test_a_logger_is_added_by_its_place(project: Project, executor: str) -> None:
    (project.folder / "mine.py").write_text(
        "from pathlib import Path\nfrom amlsched.experiments import AbstractLogger\nclass Mine(AbstractLogger):\n"
        "    def initialize(self, config, rep, rep_log_path): self.file = Path(rep_log_path) / 'mine.txt'\n"
        "    def process(self, data): self.file.open('a').write(f'{data[chr(110)]}\\n')\n"
    )
    done = project.run("--executor", executor, "--logger", "mine.py:Mine", "--logger", "print")
    assert done.returncode == 0, done.stderr
    place = project.folder / "results/sums/sums__a2/log/rep_01"
    assert (place / "mine.txt").read_text() == "0\n1\n2\n"
    assert "'rep': 1" in (place / "out.log").read_text()


@pytest.mark.parametrize(
    ("raised", "words"),
    [("SystemExit('no key')", "SystemExit: no key"), ("ValueError('no key')", "ValueError: no key")],
)
def test_a_logger_that_cannot_be_made_says_where(project: Project, raised: str, words: str) -> None:
    place = project.folder / "mine.py"
    place.write_text(f"class Mine:\n    def __init__(self):\n        raise {raised}\n")
    done = project.run("--logger", "mine.py:Mine")
    assert done.returncode == 2
    assert done.stderr == f"amlsched: error: --logger mine.py:Mine: cannot be created: {words} ({place}, line 3)\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "--logger nonsense: there is no such logger (there are: print, wandb, or path/to/file.py:Class)"),
        ("experiment.py:Sums", "--logger experiment.py:Sums: gives a Sums, which is not a logger"),
        ("experiment.py:function", "--logger experiment.py:function: cannot be created without arguments"),
        ("experiment.py:Nothing", "has no 'Nothing'"),
    ],
)
def test_what_is_no_logger_is_bad_input(project: Project, name: str, message: str) -> None:
    done = project.run("--logger", name)
    assert done.returncode == 2
    assert message in done.stderr
