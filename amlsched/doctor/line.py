"""The driver's end of the line to a probe: one socket on each address of this host."""

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
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Line", "addresses"]

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
