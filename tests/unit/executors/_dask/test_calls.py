"""The calls of a dask cluster, with a stand-in for its client."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from amlsched.executors._dask.calls import Calls, DaskCall
from amlsched.executors._dask.clusters import GivenClient


def test_a_failed_call_that_is_cancelled_before_its_error_is_known_raises_nothing() -> None:
    client: Any = SimpleNamespace(status="closed", nthreads=dict, subscribe_topic=lambda *_: None)
    calls = Calls(client, GivenClient(client))
    call = DaskCall(calls, "train", 0, b"")
    call.blob, call.remote = None, SimpleNamespace(status="error", _state=SimpleNamespace(exception=ValueError()))
    calls._open[call.number] = call

    async def fail_and_cancel() -> None:
        await calls._fetch([call])
        assert call.cancel()
        await asyncio.gather(*calls._tasks)

    asyncio.run(fail_and_cancel())
    assert call.cancelled()
