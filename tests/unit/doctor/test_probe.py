"""The line between the doctor and its probe, and the probe itself."""

import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil", reason="distributed brings psutil")

from amlsched.doctor import probe
from amlsched.doctor.probe import main
from amlsched.doctor.trial import Line, addresses


def asked(line: Line, folder: Path, token: str | None = None) -> str:
    wanted = {
        "token": token or line.token,
        "addresses": [each for each in line.offered if each[0] == "lo"],
        "folder": str(folder),
        "project": str(folder),
    }
    return base64.b64encode(json.dumps(wanted).encode()).decode()


def test_loopback_comes_last() -> None:
    assert list(addresses().values())[-1].startswith("127.")


def test_a_probe_reports_over_the_network_and_in_the_folder(tmp_path: Path) -> None:
    with Line() as line:
        (tmp_path / "token").write_text(line.token)
        main(asked(line, tmp_path))
        assert line.report is not None
        assert line.report["folder"]
        assert line.report["project"] == ["token"]
        assert line.report["reached"]["lo"]["took_s"] >= 0
    assert json.loads((tmp_path / "report").read_text()) == line.report


def test_a_probe_that_sees_no_folder_reports_over_the_network(tmp_path: Path) -> None:
    with Line() as line:
        main(asked(line, tmp_path / "nowhere"))
    assert line.report is not None
    assert not line.report["folder"]
    assert line.report["project"] is None


def test_a_probe_whose_report_is_not_received_leaves_it_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = probe._talk

    def deaf(host: str, port: int, said: dict[str, Any]) -> dict[str, Any]:
        if "report" in said:
            raise TimeoutError
        return talk(host, port, said)

    monkeypatch.setattr(probe, "_talk", deaf)
    with Line() as line:
        (tmp_path / "token").write_text(line.token)
        main(asked(line, tmp_path))
    assert line.report is None
    assert "error" not in json.loads((tmp_path / "report").read_text())["reached"]["lo"]


def test_who_does_not_know_the_token_gets_no_answer(tmp_path: Path) -> None:
    with Line() as line:
        main(asked(line, tmp_path, token="wrong"))
        _, host, port = line.offered[-1]
        for said in (b"[]\n", b"nothing\n", b'{"token": 3}\n', b""):
            with socket.create_connection((host, port), 5) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(100) == b""
    assert line.report is None


def test_the_wanted_interface_comes_first() -> None:
    with Line("lo") as line:
        assert line.offered[0][0] == "lo"
