"""One way into all examinations.

What an examination says.

Whether a call comes back from an executor.

The driver's end of the line to a probe: one socket on each address of this host.
"""

from __future__ import annotations

import hmac
import importlib
import ipaddress
import json
import secrets
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from amlsched.errors import AmlschedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Examination", "Finding", "Line", "Verdict", "addresses", "examine", "first_call"]


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should look at it."""
    FAULT = "FAULT"
    """It does not work before this is put right."""
    SKIPPED = "skipped"
    """It could not be checked, and is no fault by itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at, such as `queue`.
        verdict: What became of it.
        told: What was seen.
        remedy: What to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        more = "".join(f"\n{'':18}-> {line}" for line in self.remedy.splitlines())
        told = self.told.replace("\n", f"\n{'':18}")
        return f"{self.verdict:<8}{self.check:<10}{told}{more}"


def first_call(check: str, name: str, options: Mapping[str, Any], timeout_s: float) -> Finding:
    """One call on the real thing.

    Args:
        check: What the finding is called.
        name: Of the executor, as of `Scheduler.from_name`.
        options: Its keywords.
        timeout_s: How long the call may take.
    """
    from amlsched.scheduler import Scheduler

    began = time.monotonic()
    try:
        with Scheduler.from_name(name, **options).executor as executor:
            if executor.submit(abs, -1).result(timeout_s) != 1:
                raise ValueError("a call gave a wrong result")
    except (AmlschedError, OSError, RuntimeError, ValueError, TypeError) as error:
        return Finding(check, Verdict.FAULT, f"{type(error).__name__}: {error}")
    return Finding(check, Verdict.OK, f"a first one came back after {time.monotonic() - began:.2f} s")


_LONGEST = 4 * 2**20
_MOST = 8
_ANSWER_S = 10.0


def addresses() -> dict[str, str]:
    """The IPv4 addresses of this host, by their interfaces: outer ones first, loopback last."""
    psutil: Any = importlib.import_module("psutil")  # distributed needs it

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[str, str] = {}
    for name, kinds in psutil.net_if_addrs().items():
        for one in kinds:
            if one.family == socket.AF_INET and name in up:
                found.setdefault(name, one.address)
    return dict(sorted(found.items(), key=lambda item: ipaddress.ip_address(item[1]).is_loopback))


class Line:
    """Listens for a probe. What does not know the token gets no answer.

    Args:
        wanted: The interface that workers are told to use; `None` for any.
        port: The port to listen at; 0 for a free one.
    """

    def __init__(self, wanted: str | None = None, port: int = 0) -> None:
        self.token = secrets.token_hex(16)
        self.report: dict[str, Any] | None = None
        self.sockets: dict[str, socket.socket] = {}
        self._known = addresses()
        first = {wanted: self._known[wanted]} if wanted in self._known else {}
        for name, address in list((first | self._known).items())[:_MOST]:
            self.sockets[name] = socket.create_server((address, port), backlog=16)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="doctor", daemon=True)

    @property
    def offered(self) -> list[tuple[str, str, int]]:
        """Interface, address and port of each socket."""
        return [(name, *one.getsockname()[:2]) for name, one in self.sockets.items()]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        for one in self.sockets.values():
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (*self.sockets.values(), self._woken):
                selector.register(one, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    ready: socket.socket = key.data
                    if ready is self._woken:
                        return
                    caller, _ = ready.accept()
                    with caller:
                        self._answer(caller)

    def _answer(self, caller: socket.socket) -> None:
        heard = bytearray()
        deadline = time.monotonic() + _ANSWER_S
        try:
            while not heard.endswith(b"\n"):
                caller.settimeout(max(0.01, deadline - time.monotonic()))
                part = caller.recv(65536)
                if not part or len(heard) > _LONGEST or time.monotonic() > deadline:
                    return
                heard += part
            said: dict[str, Any] = json.loads(heard)
            if not hmac.compare_digest(str(said["token"]).encode(), self.token.encode()):
                return
            self.report = said.get("report") or self.report
            caller.sendall(json.dumps({"time": time.time()}).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError):
            return


class Examination:
    """The checks of one executor: iterate over it for the findings, each as soon as it is there.

    Attributes:
        healthy: Whether no check found a fault, so far.
        line: The line of Python that makes such a scheduler; once the iteration is over, with what was found out.
    """

    def __init__(self, executor: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self._executor = executor
        self._options = dict(options)
        self._timeout_s = timeout_s
        self.healthy = True

    def __iter__(self) -> Iterator[Finding]:
        from amlsched.batch_systems import WORKER_SYSTEMS

        if self._executor in WORKER_SYSTEMS:
            from amlsched.doctor.cluster import ClusterExamination

            cluster = ClusterExamination(self._executor, self._options, self._timeout_s)
            findings = iter(cluster)
        else:
            from amlsched.doctor.host import examine_host

            cluster = None
            findings = examine_host(self._executor, self._options)
        for found in findings:
            self.healthy &= found.verdict is not Verdict.FAULT
            yield found
        if cluster is not None:
            self._options = cluster.recommended

    @property
    def line(self) -> str:
        """The line of Python."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
        return f"Scheduler.with_{self._executor}({given})"


def examine(executor: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = 300.0) -> Examination:
    """The checks of an executor, in an order in which each needs those before.

    Args:
        executor: Its name, as in `Scheduler.from_name`.
        options: What its constructor would be given.
        timeout_s: How long a job of a batch system may take to start.

    Example:
        ```python
        from amlsched.doctor import examine

        examination = examine("processes", {"max_workers": 2})
        for finding in examination:
            print(finding)
        assert examination.healthy
        ```
    """
    return Examination(executor, options or {}, timeout_s)
