"""Files in a folder of results that are no longer what amlsched wrote: each is named, and the rest is shown."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from amlsched._files import file_bytes
from amlsched.cli import main
from amlsched.experiments import iterations
from amlsched.experiments._arrays.submission import Work, create

EXPERIMENT = """
def train(params, rep, log):
    for i in range(2):
        log(loss=params["lr"] * i + rep, **params.get("more", {}))
"""
CONFIG = "{name: digits, path: results, repetitions: 2, grid: {lr: [1, 2]}}\n"
RUN = ("run", "train.py:train", "train.yml", "--executor", "sequential")
PLACE = Path("results/digits/digits__l1/log/rep_00")
RECORD, CSV, CONFIG_FILE = PLACE / "record.json", PLACE / "rep_0.csv", Path("results/digits/config.yml")

Damage = Callable[[Path], object]


def written(content: str | bytes) -> Damage:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def changed(old: str, new: str) -> Damage:
    def change(path: Path) -> None:
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text, count=1))

    return change


def replaced_by(make: Damage) -> Damage:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


RECORDS: dict[str, tuple[Damage, str]] = {
    "torn": (written('{"format": 1,'), "Expecting property name enclosed in double quotes: line 1 column 14"),
    "empty": (written(""), "Expecting value: line 1 column 1"),
    "a list": (written("[]"), "not a record of amlsched (TypeError"),
    "no text": (written(b"\xff\xfe\x00"), "UnicodeDecodeError"),
    "deep": (written("[" * 100_000), "RecursionError"),
    "another format": (
        changed('"format": 1', '"format": 2'),
        "it has format 2, and this version of amlsched reads format 1",
    ),
    "no number": (changed('"rep": 0', '"rep": 1e999'), "OverflowError"),
    "no time": (changed('"started": "[^"]*"', '"started": "soon"'), "Invalid isoformat string: 'soon'"),
    "no zone": (changed('"ended": "[^"]*"', '"ended": "2024-01-01"'), "the time '2024-01-01' has no time zone"),
    "no mapping": (changed('"params": {', '"params": 5, "x": {'), "TypeError: params is 5"),
    "no name": (changed('"name": "digits"', '"name": null'), "TypeError: name is None"),
    "no process": (changed('"pid": [0-9]*', '"pid": "one"'), "TypeError: pid is 'one'"),
    "a folder": (replaced_by(Path.mkdir), "cannot be read (Is a directory)"),
    "a pipe": (replaced_by(os.mkfifo), "cannot be read (it is no file, and no data came from it for 0 s)"),
    "a loop of links": (replaced_by(lambda path: path.symlink_to(path.name)), "cannot be read (Too many levels of"),
}
CONFIGS: dict[str, tuple[Damage, str]] = {
    "no YAML": (written("a: [1\nb: 2\n"), "config.yml:2: this is not YAML"),
    "no text": (written(b"\xff\xfe\x00"), "config.yml:1: the text is not UTF-8"),
    "no mapping": (written("- a\n"), "config.yml:1 (document 1): a document must be a mapping"),
    "no document": (written(""), "config.yml: there is no experiment in this config"),
    "a folder": (replaced_by(Path.mkdir), "config.yml: this is a folder"),
}


ROWS: dict[str, tuple[Damage, str]] = {
    "too many cells": (
        changed(r"\n", "\n1,2,3,4,5,6\n"),
        "rep_0.csv:2: these rows cannot be read, and are left out: there",
    ),
    "too few cells": (changed(r"\Z", "1,2\n"), "rep_0.csv:4: these rows cannot be read, and are left out: there are 4"),
    "lines of no rows": (written("a\n" * 9 + "b,c\n"), "rep_0.csv:10: these rows cannot be read"),
    "no text": (written(b"\xff\xfe,a\n1,2\n"), "rep_0.csv:1: these rows cannot be read"),
    "a column twice": (written("a,a\n1,2\n"), "rep_0.csv:1: these rows cannot be read, and are left out: two columns"),
    "a folder": (replaced_by(Path.mkdir), "rep_0.csv: these rows cannot be read, and are left out: Is a directory"),
    "a loop of links": (
        replaced_by(lambda path: path.symlink_to(path.name)),
        "left out: Too many levels of symbolic links",
    ),
    "missing": (Path.unlink, "rep_0.csv is missing"),
    "empty": (written(""), "rep_0.csv is empty"),
}


@pytest.fixture
def told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in a folder with results: the exit code, what it printed, and its messages."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(EXPERIMENT)
    Path("train.yml").write_text(CONFIG)
    assert main([*RUN, "-q"]) == 0

    def tell(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        caplog.clear()
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err + caplog.text

    return tell


def test_records_that_cannot_be_read(told: Callable[..., tuple[int, str, str]]) -> None:
    shutil.copytree("results", "whole")
    for kind, (damage, message) in RECORDS.items():
        shutil.rmtree("results")
        shutil.copytree("whole", "results")
        damage(RECORD)
        for words, expected in (
            (("status", "results"), 0),
            (("results", "results"), 0),
            (("results", "results", "--by", "lr"), 0),
            (RUN, 1),
        ):
            code, out, err = told(*words)
            assert (code, err.count(str(RECORD)), message in err, "Traceback" in err) == (expected, 1, True, False), (
                f"{kind}, {words[0]}: {err}"
            )
            assert "digits__l2" in out or "--by" in words
            if words[0] != "results":
                assert "4 repetitions: 3 completed, 1 unknown." in out
                assert "--rerun unknown runs them again" in err
    assert told(*RUN, "--rerun", "unknown")[0] == 0
    code, out, err = told("status", "results")
    assert (code, "4 repetitions: 4 completed." in out, err) == (0, True, "")


@pytest.mark.parametrize("quoted", [False, True])
def test_rows_that_cannot_be_read(told: Callable[..., tuple[int, str, str]], quoted: bool) -> None:
    if quoted:  # files with quotes are read in another way
        assert told(*RUN, "-o", "--set", "+params.more={text: 'a, b'}")[0] == 0
    shutil.copytree("results", "whole")
    whole = iterations("results")
    assert len(whole) == 8
    for kind, (damage, message) in ROWS.items():
        shutil.rmtree("results")
        shutil.copytree("whole", "results")
        damage(CSV)
        if quoted:
            message = message.replace("there are 4", "there are 5")
        code, out, err = told("plot", "results", "--metric", "loss", "--out", "x.svg")
        assert (code, out, message in err) == (0, "Learning curves: x.svg\n", True), f"{kind}: {err}"
        assert told("results", "results")[0] == 0
        rows = iterations("results")
        left = whole[~((whole["run"] == "digits__l1") & (whole["r"] == 0))].reset_index(drop=True)
        pandas.testing.assert_frame_equal(rows, left)


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_that_cannot_be_read(told: Callable[..., tuple[int, str, str]], kind: str) -> None:
    damage, message = CONFIGS[kind]
    damage(CONFIG_FILE)
    for command in ("status", "results"):
        code, out, err = told(command, "results")
        assert (code, message in err, "only listed by their records" in err) == (0, True, True), err
        assert out.count("digits__l1") == (1 if command == "status" else 2)
    code, out, err = told(*RUN)
    if CONFIG_FILE.is_dir():
        assert (code, "results/digits/config.yml: Is a directory" in err) == (2, True)
    else:
        assert (code, "4 repetitions: 4 completed." in out) == (0, True)
        assert told("status", "results")[2] == "", "the run has written it again"


@pytest.mark.parametrize(("damage", "message"), [(Path.unlink, "is missing"), (written(""), "is empty")])
def test_rows_that_were_deleted(told: Callable[..., tuple[int, str, str]], damage: Damage, message: str) -> None:
    damage(CSV)
    for words in (("status", "results"), RUN):
        code, out, err = told(*words)
        assert (code, "4 repetitions: 4 completed." in out) == (0, True)
        assert f"digits__l1 rep 0: {Path.cwd() / CSV} {message}" in err
        assert "--rerun digits__l1 runs it again" in err
    assert told(*RUN, "--rerun", "digits__l1")[2] == ""
    assert CSV.stat().st_size


def test_a_config_that_is_no_file(told: Callable[..., tuple[int, str, str]]) -> None:
    Path("folder.yml").mkdir()
    Path("loop.yml").symlink_to("loop.yml")
    for name, message in (("folder.yml", "this is a folder"), ("loop.yml", "the file cannot be read: Too many levels")):
        code, out, err = told("config", "check", name)
        assert (code, out.startswith(f"{name}: {message}"), err) == (2, True, "")


def test_a_pipe_is_read_if_somebody_writes_to_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"it is no file, and no data came from it for 0\.01 s"):
        file_bytes(pipe, wait_s=0.01)
    content = b"name: digits\n" * 10_000
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    try:
        assert file_bytes(pipe) == content
    finally:
        writer.join()


SUBMISSIONS: dict[str, tuple[str, Damage]] = {
    "torn": ("submission.json", written('{"format": 1')),
    "another system": ("submission.json", changed('"slurm"', '"slrum"')),
    "no work": ("submission.json", changed('"work": ', '"work": 5, "x": ')),
    "no index": ("submission.json", changed(r"\[0\]", '["0"]')),
    "a torn part": ("part_0.json", written("{")),
    "a part of nothing": ("part_0.json", written("[]")),
    "no numbers": ("dropped.json", written('["a"]')),
}


def test_submissions_that_cannot_be_read(told: Callable[..., tuple[int, str, str]]) -> None:
    work = [Work(0, "digits", {"digits__l1": [0]})]
    rest = dict.fromkeys(("debug", "at_once", "logs")) | {"capture": True, "array": {}, "command": [], "work": work}
    one = create(Path("results").absolute(), CONFIG, system="slurm", target="train.py:train", **rest | {"debug": False})
    one.settle(one.ask([0]), "17")
    one.drop([0])
    shutil.copytree("results", "whole")
    for kind, (name, damage) in SUBMISSIONS.items():
        shutil.rmtree("results")
        shutil.copytree("whole", "results")
        damage(one.folder / name)
        code, out, err = told("status", "results")
        assert (code, "4 repetitions: 4 completed." in out, "submission.json: is not a sub" in err) == (
            0,
            True,
            True,
        ), kind
        code, out, err = told("cancel", "results")
        assert (code, out, err.count("submission.json: is not a submission of arrays")) == (2, "", 1), kind
