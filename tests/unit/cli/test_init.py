"""`amlsched init` creates what runs at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amlsched.cli import main
from amlsched.experiments import Plan, load


@pytest.mark.parametrize("flags", [[], ["--class"], ["--slurm"], ["--class", "--slurm"]])
def test_what_is_created_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my project", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    monkeypatch.chdir(tmp_path / "my project")
    commands = [line.partition("#")[0].split() for line in lines if line.startswith("amlsched")]
    if "--slurm" in flags:
        assert main(commands.pop()[1:]) == 0
        assert "an array of 9 elements to Slurm, at most 10 at a time" in capsys.readouterr().out
    run = commands[0][1:]
    assert main([*run, "--executor", "sequential", "-q"]) == 0
    assert len(load("results")) == 9
    assert main(["config", "check", "train.yml"]) == 0
    for command in commands[1:]:
        assert main(command[1:]) == 0
    assert Path("curves.png").exists()
    assert (Plan("train.yml").resolved.checked_cluster() is not None) is ("--slurm" in flags)


def test_its_files_replace_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.yml").write_text("mine")
    assert main(["init"]) == 2
    assert "train.yml: exists already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.yml"]
    assert Path("train.yml").read_text() == "mine"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands_but_not_the_internal_one(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "doctor" in script
    assert "keep-changed" in script
    assert "element" not in script.replace("elements", "")


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "script"
    code = "from amlsched.cli import main; main(['completion', 'bash'])"
    script.write_text(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    ask = 'source "$1"; COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); _shtab_amlsched; echo "${COMPREPLY[@]}"'
    for words, found in ((["amlsched", "do"], "doctor"), (["amlsched", "run", "--keep"], "--keep-changed")):
        done = subprocess.run(["bash", "-c", ask, "bash", script, *words], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [found]
