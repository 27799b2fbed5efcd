"""What runs in the nannies of dask's workers that are ours."""

from __future__ import annotations

from typing import Any

from amlsched.executors._hash_seed import VARIABLE, hash_seed

__all__ = ["dask_setup"]


def dask_setup(nanny: Any) -> None:
    """What dask calls where this module is a preload of a nanny, before that starts its worker.

    dask gives workers a `PYTHONHASHSEED` of its own, also where the user has set one.
    """
    nanny.pre_spawn_env[VARIABLE] = nanny.env[VARIABLE] = hash_seed()
