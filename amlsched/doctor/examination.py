"""The entry point of the doctor; its findings, the check of a first call, and the driver's connection to a probe."""

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
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but may cause problems."""
    FAULT = "FAULT"
    """The executor will not work until this is fixed."""
    SKIPPED = "skipped"
    """It could not be checked, which is not a fault."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked, such as `queue`.
        verdict: The outcome.
        told: A description of what was found.
        remedy: What to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        more = "".join(f"\n{'':18}-> {line}" for line in self.remedy.splitlines())
        text = self.told.replace("\n", f"\n{'':18}")
        return f"{self.verdict:<8}{self.check:<10}{text}{more}"


def first_call(check: str, name: str, options: Mapping[str, Any], timeout_s: float) -> Finding:
    """Run one call on the executor.

    Args:
        check: Name of the check.
        name: Name of the executor, as in `Scheduler.from_name`.
        options: Arguments of its constructor.
        timeout_s: How long the call may take.
    """
    from amlsched.scheduler import Scheduler

    began = time.monotonic()
    try:
        with Scheduler.from_name(name, **options).executor as executor:
            if executor.submit(abs, -1).result(timeout_s) != 1:
                raise ValueError("a call returned a wrong result")
    except (AmlschedError, OSError, RuntimeError, ValueError, TypeError) as error:
        return Finding(check, Verdict.FAULT, f"{type(error).__name__}: {error}")
    return Finding(check, Verdict.OK, f"the first call returned after {time.monotonic() - began:.2f} s")


_LONGEST = 4 * 2**20
_MOST = 8
_ANSWER_S = 10.0


def addresses() -> dict[str, str]:
    """The IPv4 addresses of this host by interface, with loopback last."""
    psutil: Any = importlib.import_module("psutil")  # distributed needs it

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found: dict[str, str] = {}
    for name, kinds in psutil.net_if_addrs().items():
        for one in kinds:
            if one.family == socket.AF_INET and name in up:
                found.setdefault(name, one.address)
    return dict(sorted(found.items(), key=lambda item: ipaddress.ip_address(item[1]).is_loopback))


class Line:
    """Listens for a probe. A client without the token gets no answer.

    Args:
        wanted: The interface that workers should use; `None` for any.
        port: The port to listen on; 0 for a free one.
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
    """The checks of one executor: iterate over it to get each finding as soon as it is available.

    Attributes:
        healthy: Whether no check has found a fault so far.
        line: A line of Python that creates such a scheduler; after the iteration, completed by the findings.
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
        """The line of Python that creates the scheduler."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
        return f"Scheduler.with_{self._executor}({given})"


def examine(executor: str, options: Mapping[str, Any] | None = None, *, timeout_s: float = 300.0) -> Examination:
    """Check an executor. Each check depends on the previous ones.

    Args:
        executor: Its name, as in `Scheduler.from_name`.
        options: Arguments of its constructor.
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
