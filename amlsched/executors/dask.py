"""Executors on dask clusters: given ones, or clusters of processes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amlsched._surroundings import import_extra
from amlsched.executors.capabilities import kinds_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from amlsched.executors._dask.executor import DaskExecutor
    from amlsched.resources.binding import WorkerThreads

__all__ = ["dask", "in_place_of"]


def dask(
    client: Any = None, n_workers: int | None = None, *, native_threads: WorkerThreads = "auto", **options: Any
) -> DaskExecutor:
    """Runs calls on a dask cluster.

    Args:
        client: A `distributed.Client`, a cluster object, or the address of a dask scheduler; `None` for a cluster of
            processes on this machine, which is closed with the run. A given client or cluster is left open.
        n_workers: Number of processes of that cluster, each with one thread; `None` for the number of CPUs that this
            process may use.
        native_threads: How many threads BLAS and OpenMP start in each worker of that cluster; `"auto"` for its share
            of the CPUs, unless variables such as `OMP_NUM_THREADS` are set; `None` for dask's configuration, which is
            1 by default. dask's own `threads_per_worker` is how many calls a worker runs at a time.
        **options: Other arguments of `distributed.LocalCluster`, such as `memory_limit`; or of `distributed.Client`,
            such as `security`, if an address or a cluster is given.

    Raises:
        MissingExtraError: dask is not installed.
        TypeError: An argument has the wrong type, or an option is unknown.
        ValueError: `n_workers` is less than 1, or is given together with a cluster; or the client is asynchronous.
    """
    distributed = import_extra("distributed", "with_dask", "distributed", "dask")
    from amlsched.executors._dask.clusters import GivenAddress, GivenClient, LocalProvider
    from amlsched.executors._dask.executor import DaskExecutor  # here, to keep `import amlsched` light
    from amlsched.resources.binding import worker_threads

    if client is None:
        return DaskExecutor(LocalProvider(n_workers, worker_threads(native_threads, "native_threads"), options))
    if n_workers is not None:
        raise ValueError(f"n_workers={n_workers}: a given cluster has its own number of workers")
    if isinstance(client, distributed.Client):
        if options:
            raise ValueError(f"{', '.join(options)}: a given client has its own options")
        _refuse_asynchronous(client)
        return DaskExecutor(GivenClient(client))
    if not isinstance(client, str) and not hasattr(client, "scheduler_address"):
        remedy = "; set the number of workers by n_workers=" if isinstance(client, int) else ""
        raise TypeError(f"client={client!r}: must be a distributed.Client, a cluster or an address{remedy}")
    return DaskExecutor(GivenAddress(client, options))


def in_place_of(executor: Executor) -> Callable[[], DaskExecutor] | None:
    """A factory of the executor that runs calls on behalf of a `distributed.Client`'s; `None` for other executors.

    Raises:
        ValueError: The client is asynchronous.
    """
    if ("distributed.cfexecutor", "ClientExecutor") not in kinds_of(executor):
        return None
    given: Any = executor
    _refuse_asynchronous(given._client)

    def make() -> DaskExecutor:
        from amlsched.executors._dask.executor import InPlaceOf

        return InPlaceOf(given)

    return make


def _refuse_asynchronous(client: Any) -> None:
    if client.asynchronous:
        raise ValueError("a scheduler needs a client with its own loop: Client(..., asynchronous=False)")
