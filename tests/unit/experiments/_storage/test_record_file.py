"""The record of a repetition: what is written is read, and what is not good is not read as good."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.experiments._code.files import Code
from amlsched.experiments._config.values import restored
from amlsched.experiments._storage import claims, record_file
from amlsched.experiments._storage.record import Attempt, ErrorNote, Process, Record, State, Used, decoded, encoded, now
from amlsched.experiments._storage.record_file import end, read

FRESH = Record("mlp", "mlp__lr0.1", 3, seed=7, params={"lr": 0.1, "opt": {"name": "sgd"}}, config_hash="abc")
GONE = Process("nowhere.invalid", 1)


def attempt(run_id: str = "one", worker: Process | None = None) -> Attempt:
    return Attempt(run_id, Process.this(), worker or Process.this(), "threads", now())


def dead() -> Process:
    """A process that started at another time than the one that has its number now."""
    return replace(Process.this(), start_ticks=1)


def begin(folder: Path, fresh: Record, attempt: Attempt, seen: int | None = None) -> Record | None:
    """As a worker that dies at once, and that the driver sees die; `None` where it was not begun."""
    record, claim, _ = record_file.begin(folder, fresh, attempt, seen)
    if claim is not None:
        claim.release()
    return record if claim is not None else None


def test_a_folder_without_a_record_is_a_repetition_that_was_never_begun(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere").state is State.PENDING
    assert read(tmp_path).state is State.PENDING


def test_a_process_keeps_its_keys_in_files(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt(worker=replace(GONE, start_ticks=17)))
    raw = json.loads((tmp_path / "record.json").read_text())["attempts"][0]
    assert raw["worker"] == {"host": "nowhere.invalid", "pid": 1, "born": 17, "space": ""}
    assert raw["driver"].keys() == raw["worker"].keys()
    assert read(tmp_path).attempts[0].worker == replace(GONE, start_ticks=17)
    (tmp_path / "claimed").mkdir()
    claim = claims.take(tmp_path / "claimed", "run")
    assert json.loads((tmp_path / "claimed/claim.1").read_text())["process"].keys() == raw["worker"].keys()
    assert isinstance(claim, claims.Claim)
    claim.release()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "log/rep_03"
    begun = begin(folder, FRESH, attempt())
    assert begun is not None
    assert read(folder) == begun
    assert (begun.state, begun.attempts[0].outcome) == (State.RUNNING, None)
    ended = end(folder, "one", State.COMPLETED, last={"a": 1, "b": math.inf}, rows=4)
    assert read(folder) == ended
    assert (ended.state, ended.attempts[0].outcome, ended.attempts[0].rows) == (State.COMPLETED, State.COMPLETED, 4)
    assert ended.last == {"a": 1, "b": math.inf}
    assert ended.params == FRESH.params
    assert ended.seconds is not None
    assert ended.state.done


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_settings_survive_the_file(value: object) -> None:
    record = replace(FRESH, params={"value": value})
    text = json.dumps(encoded(record), allow_nan=False)
    assert decoded(json.loads(text, object_hook=restored)) == record


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b'{"format": 1}',
        b'{"format": 99, "state": "completed"}',
        b'{"state": "completed"}',
        b"\xff\xfe",
    ],
)
def test_what_is_torn_or_foreign_is_unknown_and_says_where(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    record = read(tmp_path)
    assert record.state is State.UNKNOWN
    assert not record.state.done
    assert str(tmp_path / "record.json") in record.problem


def test_every_cut_of_a_record_is_unknown(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt())
    end(tmp_path, "one", State.COMPLETED)
    whole = (tmp_path / "record.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "record.json").write_bytes(whole[:length])
        assert read(tmp_path).state is State.UNKNOWN


def test_a_record_that_cannot_be_read_is_put_aside_when_it_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    assert begin(tmp_path, FRESH, attempt()) is not None
    assert (tmp_path / "earlier/00/record.json").read_text() == "{"


def test_writing_leaves_nothing_beside_the_record(tmp_path: Path) -> None:
    (tmp_path / ".record.json.1.2").write_text("of a worker that was killed while it wrote")
    begin(tmp_path, FRESH, attempt())
    end(tmp_path, "one", State.FAILED)
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_write_that_fails_leaves_the_earlier_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, FRESH, attempt())
    before = (tmp_path / "record.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        end(tmp_path, "one", State.COMPLETED)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("record.json", before)]


def test_the_first_to_say_how_it_ended_is_right(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt())
    end(tmp_path, "one", State.CANCELLED)
    late = end(tmp_path, "one", State.COMPLETED)
    assert (late.state, late.attempts[0].outcome) == (State.CANCELLED, State.CANCELLED)


def test_another_run_cannot_end_it(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt())
    assert end(tmp_path, "two", State.FAILED).state is State.RUNNING
    assert end(tmp_path / "nowhere", "two", State.FAILED).state is State.PENDING


def test_one_that_runs_is_left_alone(tmp_path: Path) -> None:
    claim = record_file.begin(tmp_path, FRESH, attempt("one")).claim
    assert claim is not None
    known, other, _ = record_file.begin(tmp_path, FRESH, attempt("two"))
    assert (other, known.attempts[-1].run_id) == (None, "one")
    claim.release()
    assert begin(tmp_path, FRESH, attempt("two")) is not None


def test_one_that_another_run_has_ended_meanwhile_is_left_alone(tmp_path: Path) -> None:
    seen = len(read(tmp_path).attempts)
    begin(tmp_path, FRESH, attempt("one"), seen)
    end(tmp_path, "one", State.COMPLETED)
    assert begin(tmp_path, FRESH, attempt("two"), seen) is None
    assert [one.run_id for one in read(tmp_path).attempts] == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert begin(tmp_path, FRESH, attempt("two"), 1) is not None, "asked for, in the knowledge of the first"


def test_one_that_another_run_has_given_up_meanwhile_is_run(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt("one"), 0)
    end(tmp_path, "one", State.CANCELLED)
    assert begin(tmp_path, FRESH, attempt("two"), 0) is not None


def test_one_whose_worker_died_is_taken_over(tmp_path: Path) -> None:
    begin(tmp_path, FRESH, attempt("one", worker=dead()))
    taken = begin(tmp_path, FRESH, attempt("two"))
    assert taken is not None
    assert [(one.run_id, one.outcome) for one in taken.attempts] == [("one", State.FAILED), ("two", None)]
    assert taken.attempts[0].error is not None
    assert taken.attempts[0].error.type == "WorkerLostError"


def test_one_that_lost_its_claim_does_not_end_what_is_another_s_now(tmp_path: Path) -> None:
    claim = record_file.begin(tmp_path, FRESH, attempt("one")).claim
    assert claim is not None
    (tmp_path / "claim.1").unlink()  # as who takes over does
    begin(tmp_path, FRESH, attempt("two"))
    assert claim.lost
    assert end(tmp_path, "one", State.COMPLETED, claim=claim).state is State.RUNNING
    claim.release()


def test_the_same_run_may_begin_it_again(tmp_path: Path) -> None:
    """As when the executor gives a call whose worker died to another worker."""
    begin(tmp_path, FRESH, attempt("one"))
    again = begin(tmp_path, FRESH, attempt("one"))
    assert again is not None
    assert [one.outcome for one in again.attempts] == [State.FAILED, None]


@pytest.mark.parametrize("again", [True, False], ids=["begun again", "never begun again"])
def test_one_that_was_lost_keeps_what_its_attempts_died_of(tmp_path: Path, again: bool) -> None:
    begin(tmp_path, FRESH, attempt("one", worker=dead()))
    record_file.lose(tmp_path, "one", ErrorNote("WorkerKilledError", "by SIGKILL"), Used(peak_memory_bytes=5))
    assert read(tmp_path).state is State.RUNNING, "its run has not given it up"
    if again:
        begin(tmp_path, FRESH, attempt("one"))
        record = end(tmp_path, "one", State.COMPLETED, used=Used(1.5, 3))
    else:
        record = end(tmp_path, "one", State.CANCELLED)
    first = record.attempts[0]
    assert first.error is not None
    assert (first.outcome, first.error.type) == (State.FAILED, "WorkerKilledError")
    assert record.state is (State.COMPLETED if again else State.CANCELLED)
    assert record.used == (Used(1.5, 5) if again else Used(0.0, 5))
    assert read(tmp_path) == record


def test_output_of_earlier_attempts_is_put_aside(tmp_path: Path) -> None:
    for name in ("one", "two"):
        begin(tmp_path, FRESH, attempt(name))
        (tmp_path / "out.log").write_text(name)
        (tmp_path / "rep_3.csv").write_text(name)
        (tmp_path / "model.bin").write_text(name)
        end(tmp_path, name, State.FAILED)
    begin(tmp_path, FRESH, attempt("three"))
    assert (tmp_path / "earlier/01/out.log").read_text() == "one"
    assert (tmp_path / "earlier/02/rep_3.csv").read_text() == "two"
    assert not (tmp_path / "out.log").exists()
    assert (tmp_path / "model.bin").read_text() == "two"


@pytest.mark.parametrize(
    ("process", "alive"),
    [
        (Process.this(), True),
        (dead(), False),
        (Process(Process.this().host, 2**22 + 1), False),
        (GONE, None),
        (replace(Process.this(), pid=2**22 + 1, space="another container"), None),
    ],
    ids=["this one", "another of this number", "none of this number", "on another host", "in another container"],
)
def test_whether_a_process_is_alive(process: Process, alive: bool | None) -> None:
    assert process.alive() is alive


def test_an_error_is_noted_in_words() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert str(ErrorNote.of(ValueError("bad"))) == "ValueError: bad"
    assert str(ErrorNote.of(KeyError())) == "KeyError"
    assert ErrorNote.of(ValueError("one\ntwo")).line == "ValueError: one"
    assert ErrorNote.of(Rude()).message == "<str() of the exception raised RuntimeError>"
    assert len(ErrorNote.of(ValueError("x" * 10_000)).message) < 2100


@pytest.mark.parametrize("place", ["", "used", "error", "code"])
def test_a_record_of_a_newer_version_with_a_further_key_is_read(tmp_path: Path, place: str) -> None:
    begin(tmp_path, FRESH, replace(attempt(), code=Code("abc", dirty=True)))
    written = end(tmp_path, "one", State.FAILED, error=ErrorNote("ValueError", "no"), used=Used(1.5, 3))
    path = tmp_path / "record.json"
    raw = json.loads(path.read_text())
    (raw["attempts"][0][place] if place else raw["attempts"][0])["newer"] = 7
    path.write_text(json.dumps(raw))
    assert read(tmp_path) == written
