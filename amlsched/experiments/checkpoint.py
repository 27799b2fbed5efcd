"""Save the state of a repetition, from which its next attempt resumes."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from amlsched.errors import ExperimentError
from amlsched.experiments import layout
from amlsched.experiments.atomic import replace_file

__all__ = ["Checkpoint", "is_there", "load", "save"]

_STATE = "state.pkl"


class Checkpoint(NamedTuple):
    """The saved state of a repetition.

    Attributes:
        rows: How many rows had been logged.
        state: The state that the experiment passed.
        generators: States of the global random number generators.
    """

    rows: int
    state: Any
    generators: Mapping[str, Any] = MappingProxyType({})


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the saved checkpoint atomically.

    Args:
        folder: The folder of the repetition.
        checkpoint: The new checkpoint.

    Raises:
        OSError: It cannot be written; the earlier checkpoint is unchanged.
    """
    place = folder / layout.CHECKPOINT
    place.mkdir(exist_ok=True)
    replace_file(place / _STATE, pickle.dumps((checkpoint.rows, checkpoint.state, dict(checkpoint.generators))))


def load(folder: Path) -> Checkpoint | None:
    """The checkpoint that was saved last; `None` if there is none.

    Raises:
        ExperimentError: It cannot be loaded, for example because the code of its classes has changed.
    """
    path = folder / layout.CHECKPOINT / _STATE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Checkpoint(*pickle.loads(data))
    except Exception as error:
        problem = f"cannot be loaded: {type(error).__name__}: {error}"
        raise ExperimentError(f"checkpoint {path}", problem, "--rerun NAME or -o starts from scratch") from error


def is_there(folder: Path) -> bool:
    """Whether a repetition has saved any state, with `save` or by itself."""
    with contextlib.suppress(OSError), os.scandir(folder / layout.CHECKPOINT) as entries:
        return any(not entry.name.startswith(".") for entry in entries)
    return False
