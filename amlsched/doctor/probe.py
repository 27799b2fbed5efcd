"""The program that the doctor runs as a job: it inspects the node and reports, over the network and in a file.

It is passed to the job as text, and the job may have another Python than the driver: this file only uses the standard
library, and runs with Python 3.7.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import shutil
import socket
import sys
import time
from typing import Any

__all__ = ["main", "packages"]

_CONNECT_S = 4.0


def packages() -> dict[str, str]:
    """Versions of the installed packages, by name."""
    from importlib import metadata

    found: dict[str, str] = {}
    for one in metadata.distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), one.version)
    return found


def _look(asked: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {
        "host": socket.gethostname(),
        "started": asked["began"],
        "python": sys.executable,
        "prefix": sys.prefix,
        "version": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "folder": _read(os.path.join(asked["folder"], "token")) == asked["token"],  # noqa: PTH118
        "project": _names(asked["project"]),
        "commands": {name: shutil.which(name) for name in asked.get("commands", ())},
    }
    try:
        seen["packages"] = packages()
    except Exception as error:
        seen["packages"] = {}
        seen["trouble"] = repr(error)
    try:
        import amlsched

        seen["amlsched"] = amlsched.__file__
    except Exception as error:
        seen["amlsched"] = None
        seen["import_error"] = repr(error)
    return seen


def _names(folder: str) -> list[str] | None:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _talk(host: str, port: int, said: dict[str, Any]) -> dict[str, Any]:
    """Send one line, and receive one line."""
    with socket.create_connection((host, port), _CONNECT_S) as line:
        line.sendall(json.dumps(said).encode() + b"\n")
        heard = b""
        while not heard.endswith(b"\n"):
            part = line.recv(65536)
            if not part:
                break
            heard += part
    answer: dict[str, Any] = json.loads(heard)
    return answer


def main(text: str) -> None:
    """Inspect the node and report.

    Args:
        text: The request as JSON in base64: a token, the driver's addresses, a folder, the project.
    """
    asked: dict[str, Any] = json.loads(base64.b64decode(text))
    asked["began"] = time.time()
    seen = _look(asked)
    reached: dict[str, Any] = {}
    for name, host, port in asked["addresses"]:
        before = time.time()
        try:
            answer = _talk(host, port, {"token": asked["token"]})
            reached[name] = {"offset_s": (before + time.time()) / 2 - answer["time"], "took_s": time.time() - before}
        except (OSError, ValueError, KeyError) as error:
            reached[name] = {"error": str(error) or repr(error)}
    seen["reached"] = reached
    for name, host, port in asked["addresses"]:
        if "error" not in reached[name]:
            with contextlib.suppress(OSError, ValueError):  # the driver is busy: another address, or the file
                _talk(host, port, {"token": asked["token"], "report": seen})
                break
    if seen["folder"]:
        path = os.path.join(asked["folder"], "report")  # noqa: PTH118
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(seen, file)
        os.replace(path + ".new", path)  # noqa: PTH105


if __name__ == "__main__":
    main(sys.argv[1])
