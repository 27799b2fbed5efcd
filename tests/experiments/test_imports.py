"""Files of users that cannot be imported, or whose import does something to the program."""

from __future__ import annotations

import pytest

from tests.experiments.conftest import Project

FUNCTION = "def f(params, rep, log):\n    log(a=1)\n"


def run(project: Project, target: str, *words: str, code: int) -> str:
    process = project.start("run", target, "config.yml", "--max-workers", "1", *words)  # which has imported nothing yet
    out = "".join(process.communicate(timeout=60))
    assert (process.returncode, "Traceback" in out, "Interrupted" in out) == (code, False, False), out
    return " ".join(out.split())


@pytest.fixture
def files(project: Project) -> Project:
    project.config("name: e\npath: results\n")
    return project


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import sys\nsys.exit('set DATA')\n", "cannot be imported: SystemExit: set DATA (line 2) (it exits when"),
        ("raise SystemExit(0)\n", "cannot be imported: SystemExit: 0 (line 1)"),
        ("import quits\n", "quits.py, line 1) (it exits when"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args()\n",
            "cannot be imported: SystemExit: 2 (line 4) (it parses the command line when",
        ),
        ("class Stop(BaseException): pass\nraise Stop('no')\n", "cannot be imported: Stop: no (line 2)"),
        ("x = 1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero (line 1)"),
        ("from . import other\n", "it is part of a package: write "),
    ],
)
def test_an_import_that_fails_is_one_message(files: Project, text: str, told: str) -> None:
    (files.folder / "quits.py").write_text("raise SystemExit(3)\n")
    (files.folder / "train.py").write_text(text + FUNCTION)
    out = run(files, "train.py:f", code=2)
    assert told in out
    assert f"{files.folder}/train.py: cannot be imported" in out
    assert not files.records()


def test_a_logger_whose_file_exits_is_one_message(files: Project) -> None:
    (files.folder / "quits.py").write_text("raise SystemExit(3)\n")
    assert "SystemExit: 3 (line 1)" in run(files, "experiment.py:function", "--logger", "quits.py:Mine", code=2)


def test_a_module_of_a_package_is_named_as_it_works(files: Project) -> None:
    (files.folder / "package").mkdir()
    (files.folder / "package/__init__.py").touch()
    (files.folder / "package/train.py").write_text("from . import train\n" + FUNCTION)
    assert "write package.train:NAME" in run(files, "package/train.py:f", code=2)
    run(files, "package.train:f", code=0)


@pytest.mark.parametrize("name", ["secrets", "numbers", "numpy"])
def test_a_file_that_hides_a_module_is_named(files: Project, name: str) -> None:
    (files.folder / f"{name}.py").write_text("API_KEY = 1\n")
    (files.folder / "train.py").write_text(FUNCTION)
    out = run(files, "train.py:f", code=2)
    assert f"{files.folder}/{name}.py hides the module {name}: rename it" in out
    assert "pip install" not in out


def test_a_file_that_hides_an_installed_package_is_named(files: Project) -> None:
    (files.folder / "train.py").write_text(FUNCTION)
    run(files, "train.py:f", code=0)
    (files.folder / "pandas.py").touch()  # `python -m` finds the modules of the working directory first
    process = files.start("plot", "results", "--metric", "a", "--out", "a.svg")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("error: "), "Traceback" in err) == (2, 1, False), err
    assert f"{files.folder}/pandas.py hides the module pandas: rename it" in err


ANY_NAME = ("train_v1.2", "train 1", "2train", "träin", "train-it", "test", "random", "yaml")


@pytest.mark.parametrize(
    ("name", "executor"),
    [
        *((name, "processes") for name in ANY_NAME),
        *((ANY_NAME[0], executor) for executor in ("threads", "loky", "dask")),  # the same code as on processes
    ],
)
def test_files_may_have_any_name(files: Project, name: str, executor: str) -> None:
    if executor in ("loky", "dask"):
        pytest.importorskip("loky" if executor == "loky" else "distributed")
    folder = files.folder / "code"
    folder.mkdir()
    (folder / f"{name}.py").write_text("class Value(float): pass\n" + FUNCTION.replace("a=1", "a=Value(1)"))
    run(files, f"code/{name}.py:f", "--executor", executor, code=0)
    assert files.states() == ["completed"]


@pytest.mark.parametrize("executor", ["sequential", "processes"])
def test_a_relative_path_starts_where_the_command_was_given(files: Project, executor: str) -> None:
    """Though the file goes elsewhere when it is imported; its repetitions are there."""
    (files.folder / "code/data").mkdir(parents=True)
    (files.folder / "code/data/numbers.txt").write_text("1.5")
    (files.folder / "code/train.py").write_text(
        "import os\nos.chdir(os.path.join(os.path.dirname(__file__), 'data'))\n"
        "def f(params, rep, log):\n    log(a=float(open('numbers.txt').read()))\n"
    )
    run(files, "code/train.py:f", "--executor", executor, code=0)
    assert files.states() == ["completed"]
    assert "0 to run. Results: results" in run(files, "code/train.py:f", "--dry-run", code=0)
    checked = files.call("config", "check", "config.yml", "code/train.py:f")
    assert (checked.returncode, checked.stdout) == (0, "No problems: 1 experiment, 1 repetition, 1 job.\n"), checked
