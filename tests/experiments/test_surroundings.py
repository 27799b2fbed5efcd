"""The command line where something is missing: a standard stream, UTF-8, a home, a name of the user, a display."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command

TRAIN = """
import os
def f(params, rep, log):
    print("größe")
    os.system("echo child")
    for n in range(3):
        log(a=n, empty=float("nan"))
"""
CONFIG = '{name: enc, path: results, grid: {p: ["größe", "$HOME/a_$USER", _c]}}'
RUN = ("run", "train.py:f", "c.yml", "--max-workers", "1")
NO_UTF8 = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "c.yml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def call(*words: str, shell: str = "", prefix: tuple[str, ...] = (), env: dict[str, str] | None = None) -> tuple:
    """Exit code, output and errors of the program; `shell` is what a shell adds, such as `>&-`."""
    command = [*prefix, sys.executable, "-m", "amlsched", *words]
    line = f'exec "$@" {shell}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | (env or {}),
        timeout=100,
        check=False,
    )
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err + out
    assert "Exception ignored" not in err
    return done.returncode, out, err


@pytest.mark.parametrize("env", NO_UTF8, ids=["ascii", "latin-1", "C"])
def test_what_a_stream_cannot_show_is_replaced(env: dict[str, str]) -> None:
    code, out, err = call(*RUN, env=env)
    assert (code, err) == (0, "")
    assert "3 repetitions: 3 completed." in out
    log = next(path for path in Path("results").rglob("out.log") if "size" not in str(path))
    assert log.read_text(encoding="utf-8") == "größe\nchild\n"
    for words in (["status", "results"], ["results", "results"], ["config", "explain", "c.yml"]):
        assert call(*words, env=env)[0] == 0


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_change_nothing(shell: str, executor: str) -> None:
    code, _, err = call(*RUN, "--executor", executor, shell=shell)
    assert code == 0
    assert err == "" or (executor == "threads" and err.startswith("there were child processes"))
    for log in Path("results").rglob("out.log"):
        assert log.read_text(encoding="utf-8") == ("größe\n" if executor == "threads" else "größe\nchild\n")
    if executor == "sequential":  # these commands have no executor
        assert call("status", "results", shell=shell)[0] == 0
        assert call("nonsense", shell=shell)[0] == 2


def test_a_full_disk_behind_the_output_is_said_and_ends_no_run() -> None:
    code, _, err = call(*RUN, shell=">/dev/full")
    assert code in (1, 2)
    assert "No space left on device" in err
    assert len(err.splitlines()) == 1
    assert call("status", "results")[1].endswith("3 repetitions: 3 completed.\n")


def test_a_reader_that_goes_away_ends_no_run() -> None:
    assert call(*RUN, shell="> >(exec true)")[2] == ""
    assert call("status", "results")[1].endswith("3 repetitions: 3 completed.\n")


def test_a_library_program_with_closed_streams_writes_nothing_into_files_of_others(project: Path) -> None:
    (project / "main.py").write_text(
        "import os\nfrom amlsched import Scheduler\n"
        "def f(): os.system('echo child'); print('x', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    s = Scheduler.with_processes(1)\n    t = s.task(f)\n    s.on_start(t.submit)\n"
        "    s.run(display=True)\n    open('ended', 'w').write(str(t.on_result.count))\n"
    )
    command = f"exec {sys.executable} main.py <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], timeout=100, check=False).returncode == 0
    assert Path("ended").read_text() == "1"


NOBODY = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")
CAPABLE = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and the command setpriv"
)


@needs_setpriv
def test_without_a_home_a_tilde_is_refused_and_the_user_goes_by_number(project: Path) -> None:
    for place in (project, *project.parents[:2]):
        place.chmod(0o777)
    (project / "bin").mkdir()
    for name, says in {
        "sbatch": "echo 4711",
        "squeue": "exit 0",
        "sacct": "exit 0",
        "scontrol": 'echo "MaxArraySize = 1001"',
    }.items():
        (project / "bin" / name).write_text(f"#!/bin/sh\n{says}\n")
        (project / "bin" / name).chmod(0o755)
    (project / "c.yml").write_text(
        "{name: SLURM, partition: main, time: 10}\n---\n{name: e, path: out}\n---\n{name: h, path: ~/results}"
    )
    path = f"PATH={project / 'bin'}:/usr/bin:/bin"
    prefix = (*NOBODY, *CAPABLE, "env", "-i", path, f"PYTHONPATH={Path(__file__).parents[2]}")
    for words in (["config", "check", "c.yml", "-e", "h"], ["run", "train.py:f", "c.yml", "-e", "h"]):
        code, _, err = call(*words, prefix=prefix)
        assert code == 2
        assert "c.yml, path ~/results: ~ cannot be expanded: HOME is not set" in err
    for words in (["status", "~/x"], ["run", "train.py:f", "c.yml", "-e", "e", "--results", "~/x"]):
        code, _, err = call(*words, prefix=prefix)
        assert code == 2
        assert "~/x: ~ cannot be expanded" in err
    code, out, err = call("run", "train.py:f", "c.yml", "-e", "e", "-s", prefix=prefix)
    assert (code, err) == (0, "")
    assert "Submitted array 4711" in out
    assert '"user": "12345"' in next(Path("out").rglob("submission.json")).read_text()


def test_a_tilde_in_quotes_is_the_home_folder(project: Path) -> None:
    assert call(*RUN)[0] == 0
    code, out, _ = call("status", "~/results", env={"HOME": str(project)})
    assert (code, out.endswith("3 repetitions: 3 completed.\n")) == (0, True)


def test_a_working_folder_that_was_removed_is_named() -> None:
    program = Path(sys.executable).parent / "amlsched"
    line = f"mkdir gone; cd gone; rmdir ../gone; exec {program} run train.py:f c.yml"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "the working folder was removed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bytes_in_the_environment_that_are_no_text_are_no_value_of_a_config(project: Path) -> None:
    odd = {"ODD": os.fsdecode(b"a\xff")}
    assert call(*RUN, env=odd)[0] == 0
    (project / "c.yml").write_text('{name: e, path: results, params: {x: "${env:ODD}"}}')
    code, _, err = call(*RUN, env=odd)
    assert code == 2
    assert "the environment variable ODD is not valid UTF-8: b'a\\xff' (set it to text in UTF-8)" in err


# -------------------------------------------------------------------------------------------------------------- plots


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the project."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    (folder / "c.yml").write_text(CONFIG, encoding="utf-8")
    assert run_command((*RUN, "--executor", "sequential"), folder, [], 100).returncode == 0
    return folder / "results"


@pytest.fixture
def results(ran: Path) -> None:
    shutil.copytree(ran, "results")


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "module://nowhere.at.all", "tkagg"])
def test_a_picture_needs_no_backend(backend: str) -> None:
    code, out, err = call("plot", "results", "--metric", "a", "--out", "x.png", env={"MPLBACKEND": backend})
    assert (code, out, err) == (0, "Learning curves: x.png\n", "")


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("style", ["text.usetex: True", "text.parse_math: True", ""])
def test_names_and_values_are_drawn_as_they_are(project: Path, style: str) -> None:
    (project / "matplotlibrc").write_text(style)
    code, _, err = call("plot", "results", "--metric", "a", "--by", "params.p", "--out", "y.svg")
    assert (code, err) == (0, "")


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("out", "written"), [("noext", "noext.png"), ("a/b/c.PNG", "a/b/c.PNG"), ("x.pdf", "x.pdf"), ("~/home", "home.png")]
)
def test_the_picture_that_is_named_is_the_one_that_was_written(project: Path, out: str, written: str) -> None:
    words = ("plot", "results", "--metric", "a", "--out", out)
    done = run_command(words, project, [], 100, HOME=str(project))
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(written)
    assert Path(written).is_file()


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--metric", "a", "--out", "x.xyz"),
            "--out x.xyz: matplotlib cannot write .xyz files (use one of",
        ),
        (("--metric", "a", "--out", "folder.png"), "folder.png"),
        (("--metric", "empty", "--out", "x.png"), "empty has no finite values, so there is nothing to draw"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_in_a_line(
    project: Path, words: tuple[str, ...], message: str
) -> None:
    Path("folder.png").mkdir()
    done = run_command(("plot", "results", *words), project, [], 100)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("x.png").exists()
