"""Claims: one owner at a time, whoever dies, and whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from amlsched.experiments._storage import claims
from amlsched.experiments._storage.claims import Claim, Owner, holder, take
from amlsched.experiments._storage.record import Process, attributes_by_key
from tests.processes import until

ELSEWHERE = Process("nowhere.invalid", 1)
DEAD = replace(Process.this(), start_ticks=1)


def taken(folder: Path, run_id: str = "run") -> Claim:
    claim = take(folder, run_id)
    assert isinstance(claim, Claim), claim
    return claim


def left_behind(folder: Path, owner: Owner, age_s: float = 0.0, number: int = 1) -> Path:
    """The claim of somebody who is not this process."""
    path = folder / f"claim.{number}"
    path.write_text(json.dumps(attributes_by_key(owner)))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_has_it_until_it_is_released(tmp_path: Path) -> None:
    claim = taken(tmp_path)
    assert names(tmp_path) == ["claim.1"]
    other = take(tmp_path, "other")
    assert isinstance(other, Owner)
    assert (other.run_id, other.process) == ("run", Process.this())
    assert holder(tmp_path) == other
    claim.release()
    assert (names(tmp_path), holder(tmp_path)) == ([], None)
    taken(tmp_path, "other").release()


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "nowhere") is None


def test_a_dead_process_of_this_host_holds_nothing(tmp_path: Path) -> None:
    left_behind(tmp_path, Owner("old", DEAD))
    assert holder(tmp_path) is None
    claim = taken(tmp_path)
    assert names(tmp_path) == ["claim.2"]
    claim.release()
    assert names(tmp_path) == []


def test_a_process_of_this_host_that_lives_holds_it_however_long_it_was_silent(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        parent = Process.this()
        owner = Owner("old", replace(parent, pid=process.pid, start_ticks=0))
        left_behind(tmp_path, owner, age_s=1e6)
        assert take(tmp_path, "new") == owner
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize(
    ("process", "age_s", "held"),
    [
        (ELSEWHERE, 0, True),
        (ELSEWHERE, claims.BEAT_S * claims.MISSED - 5, True),
        (ELSEWHERE, claims.BEAT_S * claims.MISSED + 5, False),
        (replace(Process.this(), pid=2**22 + 1, space="another container"), 0, True),
        (replace(Process.this(), pid=2**22 + 1, space="another container"), 1e6, False),
    ],
)
def test_elsewhere_an_owner_is_gone_when_it_missed_its_beats(
    tmp_path: Path, process: Process, age_s: float, held: bool
) -> None:
    owner = Owner("old", process)
    left_behind(tmp_path, owner, age_s)
    assert holder(tmp_path) == (owner if held else None)
    claim = take(tmp_path, "new")
    assert (claim == owner) is held
    if isinstance(claim, Claim):
        claim.release()


def test_the_age_of_a_claim_does_not_depend_on_this_host_s_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner("old", ELSEWHERE)
    left_behind(tmp_path, owner)
    at = time.time()
    for wrong in (at - 86400, at + 86400):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert take(tmp_path, "new") == owner


def test_a_batch_job_that_was_started_again_takes_its_own_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    left_behind(tmp_path, Owner("old", ELSEWHERE))
    assert isinstance(take(tmp_path, "new"), Owner)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    taken(tmp_path).release()


def test_a_run_takes_the_claim_of_its_own_lost_worker(tmp_path: Path) -> None:
    left_behind(tmp_path, Owner("run", ELSEWHERE))
    taken(tmp_path, "run").release()


def test_a_torn_claim_counts_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "claim.1"
    path.write_text("{")
    assert isinstance(take(tmp_path, "new"), Owner)
    os.utime(path, (1, 1))
    taken(tmp_path).release()


def test_an_owner_is_heard_of_while_it_lives(tmp_path: Path) -> None:
    claim = take(tmp_path, "run", beat_s=0.05)
    assert isinstance(claim, Claim)
    path = tmp_path / "claim.1"
    os.utime(path, (1, 1))
    until(lambda: path.stat().st_mtime > 1)
    claim.release()


def test_an_owner_that_was_taken_over_knows(tmp_path: Path) -> None:
    claim = taken(tmp_path)
    assert not claim.lost
    (tmp_path / "claim.1").unlink()
    left_behind(tmp_path, Owner("new", ELSEWHERE), number=1)
    assert claim.lost
    claim.release()
    assert names(tmp_path) == ["claim.1"], "the claim of the other one is not removed"


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    claim = taken(tmp_path)
    assert isinstance(take(tmp_path, "other"), Owner)
    claim.release()
    taken(tmp_path).release()


def test_a_link_whose_answer_was_lost_is_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again, and is told that the name is taken: by itself."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    taken(tmp_path).release()


def test_what_killed_ones_left_beside_it_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name, age_s in (("old", 1e5), ("new", 0)):
        (tmp_path / f".claim.{name}").touch()
        os.utime(tmp_path / f".claim.{name}", (time.time() - age_s,) * 2)
    taken(tmp_path).release()
    assert names(tmp_path) == [".claim.new"]


CONTENDER = """
import os, sys, time
from pathlib import Path
from amlsched.experiments._storage.claims import Claim, take

folders, name = Path(sys.argv[1]), sys.argv[2]
(folders / f"ready-{name}").touch()
while not (folders / "go").exists():
    time.sleep(0.001)
for number in range(int(sys.argv[3])):
    folder = folders / f"{number:03d}"
    claim = take(folder, name)
    if isinstance(claim, Claim):
        (folder / f"begun-{name}").touch()
        if len(list(folder.glob("done-*"))) == 0:  # as a record would say
            os.mkdir(folder / "inside")  # fails if another one is
            time.sleep(0.001)
            os.rmdir(folder / "inside")
            (folder / f"done-{name}").touch()
        claim.release()
"""


@pytest.mark.parametrize("abandoned", [False, True], ids=["free", "left behind by the dead"])
def test_of_several_processes_that_want_the_same_each_is_had_by_one(tmp_path: Path, abandoned: bool) -> None:
    count = 150
    for number in range(count):
        folder = tmp_path / f"{number:03d}"
        folder.mkdir()
        if abandoned:
            left_behind(folder, Owner("old", DEAD))
    words = [sys.executable, "-c", CONTENDER, str(tmp_path)]
    processes = [subprocess.Popen([*words, str(n), str(count)], stderr=subprocess.PIPE, text=True) for n in range(4)]
    try:
        until(lambda: len(list(tmp_path.glob("ready-*"))) == len(processes), 60)
        (tmp_path / "go").touch()
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [len(list((tmp_path / f"{n:03d}").glob("done-*"))) for n in range(count)] == [1] * count
    assert list(tmp_path.glob("*/*claim.*")) == []
