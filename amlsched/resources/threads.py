"""The environment variables that native libraries read when they are loaded."""

from __future__ import annotations

__all__ = ["check_threads", "thread_environment"]

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def thread_environment(max_threads: int) -> dict[str, str]:
    """The environment variables that bound the threads of a process which has not loaded its libraries yet.

    For `with_loky(env=…)`, for the script of a batch job, or for a program of your own.

    Args:
        max_threads: Number of threads for each library, at least 1.

    Returns:
        The variables of OpenMP, MKL, OpenBLAS, NumExpr, BLIS and Accelerate.

    Raises:
        ValueError: The number is below 1.
    """
    check_threads(max_threads)
    return dict.fromkeys(_VARIABLES, str(max_threads))


def check_threads(max_threads: int) -> None:
    """Refuse what is no number of threads.

    Raises:
        ValueError: The number is below 1.
    """
    if isinstance(max_threads, bool) or max_threads < 1:
        raise ValueError(f"max_threads={max_threads!r}: must be a number of at least 1")
