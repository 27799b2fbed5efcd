"""The workers of a dask cluster as nodes: what each has, and which come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from amlsched.executors._dask.worker import describe
from amlsched.executors.capabilities import NodeNow
from amlsched.resources.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from amlsched.executors._dask.calls import Calls
    from amlsched.executors._dask.clusters import ClusterProvider

__all__ = ["DaskNodes"]

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
_REMIND_S = 12.0
_COST = 50.0
"""Looking takes this part of the time at most."""
_GPU = "GPU"
"""The resource of dask that counts GPUs, by convention."""


class DaskNodes:
    """Looks at the workers of a cluster twice a second.

    Args:
        client: A connected `distributed.Client` whose loop runs in its own thread.
        provider: Provides its cluster.
        calls: The calls of which those of lost workers fail.

    Attributes:
        now: The nodes by the address of their worker. Replaced, never changed.
    """

    def __init__(self, client: Any, provider: ClusterProvider, calls: Calls) -> None:
        self.now: Mapping[str, NodeNow] = {}
        self._client, self._provider, self._calls = client, provider, calls
        self._changed: Callable[[], object] = bool
        self._task: asyncio.Task[None] | None = None
        self._remind_at = 0.0

    def watch(self, changed: Callable[[], object]) -> None:
        """Look once, and from now on; `changed` is called in the client's thread when workers have come or gone."""
        self._changed = changed
        if self._task is None:
            self._client.sync(self._look)
            self._client.loop.add_callback(self._start)

    def close(self) -> None:
        """Look no longer."""
        self._changed = bool
        if self._task is not None:
            self._client.loop.add_callback(self._task.cancel)

    # In the thread of the client's loop

    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._keep_looking())

    async def _keep_looking(self) -> None:
        while self._client.status in ("running", "connecting"):
            began = time.monotonic()
            with contextlib.suppress(OSError, TimeoutError):  # the connection is lost, or being renewed
                await self._look()
            await asyncio.sleep(max(_EVERY_S, _COST * (time.monotonic() - began)))

    async def _look(self) -> None:
        found: dict[str, dict[str, Any]] = (await self._client.scheduler.identity())["workers"]
        here = {address: each for address, each in found.items() if each["status"] in ("running", "paused")}
        new = [address for address in here if address not in self.now]
        described: dict[str, Any] = {}
        if new:
            described = await self._client._run(describe, workers=new, on_error="return")
        kept = {address: node for address, node in self.now.items() if address in here}
        for address in new:
            node = self._node(address, here[address], described.get(address))
            if node is not None:
                kept[address] = node
        gone = self.now.keys() - kept.keys()
        if gone or len(kept) > len(self.now) or time.monotonic() > self._remind_at:
            self.now = kept
            self._remind_at = time.monotonic() + _REMIND_S
            self._changed()
        self._calls.lose_all_but(found.keys())

    def _node(self, address: str, registered: Mapping[str, Any], described: Any) -> NodeNow | None:
        """What a worker has: what it registered, less the memory that it takes by itself."""
        if described is None or isinstance(described, BaseException):
            if described is not None:
                logger.warning("the worker %s gets no calls with requests: %r", address, described)
            return None
        threads, limit = int(registered["nthreads"]), registered["memory_limit"]
        resources = dict(registered["resources"])
        gpus: list[str] = described["gpus"]
        if _GPU in resources:
            counted = int(resources.pop(_GPU))
            gpus = gpus[:counted] or [str(number) for number in range(counted)]
        name, host = str(registered["name"]), str(described["host"])
        memory = max(1, int(limit) - int(described["memory"])) if limit else None
        amounts: list[int] = described["gpu_memory"]
        gpu_memory = [f"{amount} B" for amount in amounts[: len(gpus)]] if len(amounts) >= len(gpus) else []
        pool = Pool(
            threads if self._provider.cpus is None else max(threads, self._provider.cpus),
            None if memory is None else f"{memory} B",
            gpus,
            gpu_memory or None,
            resources,
            name=f"{address if name == address else name} on {host}",
        )
        lasts = self._provider.lasts_s
        ends = None if lasts is None else time.monotonic() - float(described["age_s"]) + lasts
        return NodeNow(pool, threads, "worker" if threads == 1 else "nothing", ends, lasts)
