"""The doctor on this host, for executors whose workers run on it."""

import importlib.util
import tempfile
from pathlib import Path

import pytest

from amlsched.cli import main
from amlsched.doctor import Finding, Verdict, examine, host
from amlsched.doctor.cluster import ClusterExamination
from amlsched.resources import detect


@pytest.mark.parametrize("executor", ["sequential", "threads", "processes"])
def test_executors_of_this_host(executor: str) -> None:
    examination = examine(executor)
    findings = {found.check: found for found in examination}
    assert examination.healthy
    assert findings["call"].verdict is Verdict.OK
    assert ("/dev/shm" in findings) == (executor == "processes")
    assert examination.line == f"Scheduler.with_{executor}()"


def test_the_command_ends_with_the_line_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--executor", "threads", "--executor-option", "max_workers=1"]) == 0
    assert capsys.readouterr().out.endswith("    Scheduler.with_threads(max_workers=1)\n")


def test_an_executor_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--executor", "threads", "--executor-option", "max_workers=-1"]) == 1
    assert "FAULT   call" in capsys.readouterr().out


def test_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpus", lambda: (0, 1))
    found = next(iter(examine("processes", {"max_workers": 3})))
    assert (found.check, found.verdict) == ("cores", Verdict.WARNING)
    assert "max_workers=2" in found.remedy


@pytest.mark.parametrize(
    ("words", "cpus"), [("max 100000", None), ("150000 100000", 1.5), ("-1 100000", None), ("", None)]
)
def test_the_quota_of_a_control_group(
    words: str, cpus: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(words)
    monkeypatch.setattr(detect, "cgroups", lambda controller, root: [tmp_path])
    assert min(detect.cpu_quotas(), default=None) == cpus


@pytest.mark.parametrize(("length", "verdict"), [(75, Verdict.OK), (76, Verdict.WARNING)])
def test_a_folder_for_temporary_files_in_which_no_socket_can_be(
    length: int, verdict: Verdict, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_FREE_WARNING", 0)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, "x" * (length - len(short) - 1))
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        found = {found.check: found for found in examine("sequential")}["temporary"]
    assert found.verdict is verdict
    assert ("export TMPDIR=/tmp" in found.remedy) == (verdict is Verdict.WARNING)


def test_workers_in_jobs_need_an_extra_and_the_doctor_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (found,) = ClusterExamination("slurm", {}, 1)._try_a_job()
    assert (found.check, found.verdict) == ("packages", Verdict.FAULT)
    assert found.remedy.startswith("pip install 'amlsched[jobqueue]'\n")


def test_a_finding_shows_what_to_do() -> None:
    text = str(Finding("queue", Verdict.FAULT, "there is none", "ask\nfor one"))
    assert text == f"FAULT   queue     there is none\n{'':18}-> ask\n{'':18}-> for one"
