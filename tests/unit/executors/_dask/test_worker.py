"""What workers of a dask cluster, and the driver, do once."""

import asyncio
import importlib
import socket
import struct
import threading
from typing import Any

from amlsched.executors._dask.worker import forget_tls_errors
from tests.backends import needs

pytestmark = needs("distributed")


async def _echoed_beside_one_that_breaks() -> str:
    distributed: Any = importlib.import_module("distributed")
    comm: Any = importlib.import_module("distributed.comm")
    security = distributed.Security.temporary()
    served: list[Any] = []

    async def serve(stream: Any) -> None:
        served.append(stream)

    arguments = security.get_connection_args("scheduler")
    async with comm.listen("tls://127.0.0.1:0", serve, **security.get_listen_args("scheduler")) as listener:
        dying = await comm.connect(listener.contact_address, **arguments)
        living = await comm.connect(listener.contact_address, **arguments)
        while len(served) < 2:
            await asyncio.sleep(0.01)
        raw = dying._stream.socket if hasattr(dying, "_stream") else dying.stream.socket
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        dying.abort()  # as the kernel does for a process that was killed
        reading = asyncio.ensure_future(served[1].read())
        for _ in range(100):
            try:
                await served[0].write("are you there?")
            except comm.CommClosedError:
                break
            await asyncio.sleep(0.01)
        await living.write("still here")
        found: str = await reading
        living.abort()
        served[1].abort()
    return found


def test_a_tls_connection_that_breaks_does_not_break_others() -> None:
    """On CPython 3.12.9, 3.13.2, 3.14 and later, it does without this."""
    forget_tls_errors()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(_echoed_beside_one_that_breaks())))
    thread.start()
    thread.join(60)
    assert found == ["still here"]
