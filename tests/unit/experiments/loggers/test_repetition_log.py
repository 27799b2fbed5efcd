"""The CSV file of a repetition that goes on where it was: what is torn or was not saved is cut, the rest stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amlsched.errors import ExperimentError
from amlsched.experiments.loggers.repetition_log import RepetitionLog

WHOLE = b'a,text,iter\n1,"x, ""y""\nz",0\n0.5,,1\nnan,last,2\n'


def resumed(folder: Path, content: bytes) -> RepetitionLog:
    (folder / "rep_0.csv").write_bytes(content)
    log = RepetitionLog(folder, 0, 0, resumed=True, discard=(folder / "rep_0.csv").unlink)
    log.initialize({}, 0, str(folder))
    return log


def content(folder: Path) -> bytes:
    return (folder / "rep_0.csv").read_bytes()


def test_rows_up_to_an_iteration_stay_and_others_follow(tmp_path: Path) -> None:
    log = resumed(tmp_path, WHOLE)
    log.keep_until(1)
    assert (log.rows, log.last) == (2, {"a": 0.5, "text": 'x, "y"\nz', "iter": 1})
    log.process({"a": 7, "new": True, "iter": 2})
    log.finalize()
    assert content(tmp_path) == b'a,text,iter,new\n1,"x, ""y""\nz",0,\n0.5,,1,\n7,,2,True\n'


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_whatever_was_cut_off_whole_rows_stay(tmp_path: Path, length: int) -> None:
    log = resumed(tmp_path, WHOLE[:length])
    log.keep_until(99)
    log.finalize()
    rest = content(tmp_path)
    assert WHOLE.startswith(rest)
    ends = [WHOLE.index(end) + len(end) for end in (b"iter\n", b'z",0\n', b",1\n", b",2\n")]
    assert len(rest) == max((end for end in ends if end <= length), default=0)


def test_who_does_not_say_what_to_keep_begins_anew(tmp_path: Path) -> None:
    log = resumed(tmp_path, WHOLE)
    assert not log.began
    log.process({"b": 1})
    log.finalize()
    assert (log.began, content(tmp_path)) == (True, b"b\n1\n")


def test_who_logs_nothing_leaves_what_there_was(tmp_path: Path) -> None:
    log = resumed(tmp_path, WHOLE)
    log.finalize()
    assert (log.began, content(tmp_path)) == (False, WHOLE)


def test_what_was_saved_is_restored_with_the_rows_of_then(tmp_path: Path) -> None:
    first = RepetitionLog(tmp_path, 0, 0)
    assert first.restore() is None
    first.initialize({}, 0, str(tmp_path))
    for n in range(5):
        first(a=n)
        if n == 2:
            first.save({"n": n})
    first.finalize()
    log = resumed(tmp_path, content(tmp_path))
    assert log.restore() == {"n": 2}
    assert (log.rows, log.last["a"]) == (3, 2)
    assert len(content(tmp_path).splitlines()) == 4
    log.finalize()


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\x80\x04"), lambda path: path.write_bytes(b"")])
def test_what_cannot_be_restored_is_an_error_that_says_where(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    log = resumed(tmp_path, WHOLE)
    log.save(1)
    damage(tmp_path / "checkpoint/state.pkl")
    with pytest.raises(ExperimentError, match=r"checkpoint/state\.pkl: cannot be loaded"):
        log.restore()
    log.finalize()


def test_rows_with_long_cells_are_whole(tmp_path: Path) -> None:
    first = RepetitionLog(tmp_path, 0, 0)
    first.initialize({}, 0, str(tmp_path))
    for n in range(3):
        first(text="x" * 200_000, values=np.arange(1500), n=n)
    first(new=1)
    first.save("state")
    first.finalize()
    whole = content(tmp_path)
    assert f'"{list(range(1500))}"'.encode() in whole
    log = resumed(tmp_path, whole)
    assert log.restore() == "state"
    log.finalize()
    assert (log.rows, content(tmp_path)) == (4, whole)
