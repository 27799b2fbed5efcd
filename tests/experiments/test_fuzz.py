"""Random mistakes in arguments, configs, files and the environment: each ends with one message, and no traceback.

More of them: AMLSCHED_FUZZ=SEED:COUNT pytest tests/experiments/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amlsched import _files
from amlsched.cli import main

SEED, COUNT = map(int, os.environ.get("AMLSCHED_FUZZ", "1:40").split(":"))

EXPERIMENT = """
def train(params, rep, log):
    for i in range(2):
        log(loss=params["lr"] * i + rep, note="x")
"""
CONFIG = """\
name: DEFAULT
path: results
repetitions: 2
params: {lr: 0.5, opt: {name: sgd}}
---
name: digits
grid: {lr: [1, 2]}
---
name: other
extra_keys: [mine]
mine: {a: [1]}
seed: 3
---
name: SLURM
partition: cpu
time: "1:00:00"
"""
COMMANDS = [
    "run train.py:train train.yml --executor sequential -q",
    "run train.py:train train.yml --executor sequential -e digits --set params.lr=2 --rerun failed",
    "run train.py:train train.yml --executor threads --max-workers 2 --metric loss",
    "run train.py:train train.yml --dry-run --debug",
    "config check train.yml train.py:train",
    "config explain train.yml -e digits --all",
    "status results --all",
    "results results --by params.lr --metric loss --sort mean",
    "results results -e digits --where lr=1 --rep 0 1 --csv out.csv",
    "plot results --metric loss --out out.svg --by lr --band range",
    "cancel results digits",
    "doctor --executor nothing",
]
WORDS = [
    *(
        "",
        "-",
        "--",
        "=",
        ":",
        ".",
        "..",
        "/",
        "~",
        "~nobody_here",
        "a" * 5000,
        "\udcff",
        "ü",
        "\n",
        "-1",
        "1e999",
        "nan",
    ),
    *(
        "null",
        "[",
        "{}",
        "*",
        "%s",
        "{0}",
        "0",
        "9" * 400,
        "/dev/null",
        "/proc/self/mem",
        "train.py",
        "train.yml",
        "results",
    ),
    *(
        "--nothing",
        "-j",
        "--rep",
        "--set",
        "--where",
        "-e",
        "--metric",
        "--by",
        "--results",
        "--executor",
        "--logger",
        "--help=",
    ),
]
VALUES = [
    *("", "null", "[", "]", "{", "}", "[]", "{}", "- a", "a: b", "&a [*a]", "*nothing", "!!python/object:os.system x"),
    *(
        "!!binary x",
        "0",
        "-1",
        "1e400",
        ".nan",
        "9" * 5000,
        "2147483648",
        "yes",
        "~",
        '"',
        "'",
        "\t",
        "|",
        ">",
        "%",
        "@",
        "`",
    ),
    *(
        "${env:NOTHING}",
        "${env:",
        "'\\0'",
        '"\\0"',
        '"\\ud800"',
        "../..",
        "/proc/nothing",
        "train.py",
        "[" * 100,
        "? a",
        "<<: 3",
    ),
    *(
        "2024-01-01",
        "1_0",
        "0x",
        "0o9",
        "+.inf",
        "!!set {a}",
        "!!int x",
        "name: DEFAULT",
        "---",
        "...",
        "\x01",
        "\ufeff",
    ),
]
VARIABLES = {
    "AMLSCHED_TERM_GRACE_S": ["soon", "nan", "-1"],
    "AMLSCHED_END_TIME": ["soon", "nan", "inf", "0", "1e300"],
    "AMLSCHED_SLOT": ["x", "-1", ""],
    "AMLSCHED_CODE_COPY": ["x", ":", "a:/nowhere", "a:/proc"],
    "SLURM_RESTART_COUNT": ["x", "-1", "9" * 5000],
    "SLURM_JOB_END_TIME": ["x", "nan"],
    "SLURM_JOB_ID": ["x", ""],
    "SLURM_CPUS_PER_TASK": ["x"],
    "CUDA_VISIBLE_DEVICES": ["x", ",", "-1"],
    "OMP_NUM_THREADS": ["x", "0"],
    "COLUMNS": ["x", "-1", "0"],
    "TERM": ["", "nothing"],
    "HOME": ["", "/nowhere"],
    "TMPDIR": ["/nowhere"],
    "MPLBACKEND": ["nothing", "module://nothing"],
    "MPLCONFIGDIR": ["/dev/null"],
    "LANG": ["nothing"],
}
EDITED = ["train.yml", "train.yml", "train.yml", "train.py", "results/digits/config.yml"]


def files(chance: random.Random) -> Path:
    places = [one for one in sorted(Path().rglob("*")) if one.name != "__pycache__"]
    return chance.choice(places)


def misspelt(text: str, chance: random.Random) -> str:
    if not text:
        return "x"
    place = chance.randrange(len(text))
    before, letter, after = text[:place], text[place], text[place + 1 :]
    return chance.choice(
        [
            before + after,
            before + letter + letter + after,
            before + after[:1] + letter + after[1:],
            before + "x" + after,
        ]
    )


def in_arguments(words: list[str], chance: random.Random) -> str:
    place = chance.randrange(len(words))
    kind = chance.choice(["misspelt", "left out", "doubled", "swapped", "replaced", "added", "added"])
    if kind == "misspelt":
        words[place] = misspelt(words[place], chance)
    elif kind == "left out":
        del words[place]
    elif kind == "doubled":
        words.insert(place, words[place])
    elif kind == "swapped":
        other = chance.randrange(len(words))
        words[place], words[other] = words[other], words[place]
    else:
        words[place : place + (kind == "replaced")] = [chance.choice(WORDS)]
    return f"an argument {kind}"


def in_a_text(_: list[str], chance: random.Random) -> str:
    path = Path(chance.choice(EDITED))
    text = path.read_text()
    lines = text.splitlines()
    place = chance.randrange(len(lines))
    kind = chance.choice(
        ["value", "value", "value", "word", "line out", "line twice", "indent", "cut", "bytes", "letter"]
    )
    if kind == "value":
        lines[place] = re.sub(r"[^:]*$", lambda _: f" {chance.choice(VALUES)}", lines[place], count=1)
    elif kind == "word":
        words = re.split(r"\b", lines[place])
        words[chance.randrange(len(words))] = chance.choice(VALUES)
        lines[place] = "".join(words)
    elif kind == "line out":
        del lines[place]
    elif kind == "line twice":
        lines.insert(place, lines[place])
    elif kind == "indent":
        lines[place] = chance.choice(["  ", "\t", " "]) + lines[place]
    elif kind == "letter":
        lines[place] = misspelt(lines[place], chance)
    content = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    if kind == "cut":
        content = content[: chance.randrange(len(content))]
    elif kind == "bytes":
        content = chance.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\0", chance.randbytes(20)]) + content
    path.write_bytes(content)
    return f"{path}: {kind}, line {place + 1}"


def in_a_record(_: list[str], chance: random.Random) -> str:
    path = chance.choice(sorted(Path().rglob("record.json")))
    record = json.loads(path.read_text())
    here: Any = record
    while True:
        key = chance.choice(list(here) if isinstance(here, dict) else range(len(here)))
        if not isinstance(here[key], dict | list) or not here[key] or chance.random() < 0.2:
            break
        here = here[key]
    if chance.random() < 0.2:
        del here[key]
        kind = "left out"
    else:
        here[key] = chance.choice(
            [None, True, -1, 10**30, 1.5, float("inf"), "", "x", "\ud800", [], {}, [[]], {"a": {}}]
        )
        kind = f"{here[key]!r}"
    path.write_text(json.dumps(record))
    return f"{path}: {key} is {kind}"


def in_a_file(_: list[str], chance: random.Random) -> str:
    path = files(chance)
    kinds: dict[str, Callable[[Path], object]] = {
        "missing": lambda _: None,
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a link to nothing": lambda it: it.symlink_to("nothing"),
        "a loop of links": lambda it: it.symlink_to(it.name),
        "a link to what cannot be read": lambda it: it.symlink_to("/proc/self/mem"),
        "a link to an endless file": lambda it: it.symlink_to("/dev/zero"),
        "empty": lambda it: it.write_bytes(b""),
        "another file": lambda it: it.write_bytes(Path(__file__).read_bytes()),
        "random": lambda it: it.write_bytes(chance.randbytes(500)),
        "half of it": lambda it: it.write_bytes(before[: len(before) // 2]),
        "a letter": lambda it: it.write_bytes(misspelt(before.decode(), chance).encode()),
    }
    kind = chance.choice([*kinds, "half of it", "a letter"])
    before = path.read_bytes() if path.is_file() else b"{}"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    kinds[kind](path)
    return f"{path}: {kind}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in which all is done."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(EXPERIMENT)
    (folder / "train.yml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "train.py:train", "train.yml", "--executor", "sequential", "-q"]) == 0
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", range(COUNT))
def test_a_mistake_is_one_message(
    number: int,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    chance = random.Random(f"{SEED}:{number}")
    folder = tmp_path / "project"
    shutil.copytree(results, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(_files, "PIPE_S", 0.05)
    words = chance.choice(COMMANDS).split()
    what = []
    for _ in range(chance.choice([1, 1, 2])):
        mistake = chance.choice([in_arguments, in_a_text, in_a_file, in_a_record, "environment"])
        if callable(mistake):
            with contextlib.suppress(OSError, ValueError, IndexError):  # an earlier one has taken the file away
                what.append(mistake(words, chance))
        else:
            name = chance.choice(sorted(VARIABLES))
            value = chance.choice(VARIABLES[name])
            monkeypatch.setenv(name, value)
            what.append(f"{name}={value!r:.40}")
    told = f"amlsched {' '.join(words)!r:.300}\n{what}"
    code = main(words)
    out, err = capfd.readouterr()
    told += f"\ncode {code}\n{out[-2000:]}\n{err[-2000:]}"
    assert code in (0, 1, 2), told
    assert "Traceback" not in out + err, told
    errors = re.findall(r"^amlsched.*: error: .*$", err, re.MULTILINE)
    by_check = words[:2] == ["config", "check"] and re.search(r"^\d+ problems?\.$", out, re.MULTILINE)
    assert len(errors) == (code == 2 and not by_check) or (code == 1 and len(errors) <= 1), told
    assert all(len(line) < 1500 for line in errors), told
