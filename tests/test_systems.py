"""Tests that need no batch system find none, whatever is installed on this machine."""

import shutil
from pathlib import Path

import pytest

from tests.systems import path_without_systems


def test_the_commands_of_a_batch_system_are_left_out_of_the_search_path(tmp_path: Path) -> None:
    for name in ("bin/sbatch", "bin/condor_submit", "bin/make", "other/make"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(0o755)
    (tmp_path / "spare").mkdir()
    path = path_without_systems(f"{tmp_path}/bin:{tmp_path}/other:{tmp_path}/nowhere", tmp_path / "spare")
    links, *others = path.split(":")
    assert [file.name for file in Path(links).iterdir()] == ["make"]
    assert (Path(links) / "make").resolve() == tmp_path / "bin" / "make"
    assert others == [f"{tmp_path}/other", f"{tmp_path}/nowhere"]


@pytest.mark.parametrize("command", ["sbatch", "scontrol", "qsub", "condor_q"])
def test_a_test_without_the_mark_of_a_batch_system_finds_no_command_of_one(command: str) -> None:
    assert shutil.which(command) is None
    assert shutil.which("bash") is not None
