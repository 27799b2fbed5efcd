"""A preload for the nannies of our dask workers."""

from __future__ import annotations

from typing import Any

from amlsched.executors._dask.worker import forget_tls_errors
from amlsched.executors.worker_setup import HASH_SEED_VARIABLE, hash_seed

__all__ = ["dask_setup"]


def dask_setup(nanny: Any) -> None:
    """Called by dask before the nanny starts its worker.

    dask sets its own `PYTHONHASHSEED` for workers, even if the user has set one.
    """
    forget_tls_errors()
    nanny.pre_spawn_env[HASH_SEED_VARIABLE] = nanny.env[HASH_SEED_VARIABLE] = hash_seed()
