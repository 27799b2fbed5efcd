"""What a repetition saves, so that its next attempt goes on from there."""

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
    """What was saved.

    Attributes:
        rows: How many rows had been logged.
        state: What the experiment gave.
        generators: States of the global generators of random numbers.
    """

    rows: int
    state: Any
    generators: Mapping[str, Any] = MappingProxyType({})


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Put this in place of what was saved before, as a whole.

    Args:
        folder: The folder of the repetition.
        checkpoint: What to save.

    Raises:
        OSError: It cannot be written; what was saved before is untouched.
    """
    place = folder / layout.CHECKPOINT
    place.mkdir(exist_ok=True)
    replace_file(place / _STATE, pickle.dumps((checkpoint.rows, checkpoint.state, dict(checkpoint.generators))))


def load(folder: Path) -> Checkpoint | None:
    """What was saved last, `None` if nothing was.

    Raises:
        ExperimentError: It cannot be read back, as when the code of its classes has changed.
    """
    path = folder / layout.CHECKPOINT / _STATE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Checkpoint(*pickle.loads(data))
    except Exception as error:
        problem = f"cannot be read back: {type(error).__name__}: {error}"
        raise ExperimentError(f"checkpoint {path}", problem, "--rerun NAME or -o begins anew") from error


def is_there(folder: Path) -> bool:
    """Whether a repetition saved something, in whatever way."""
    with contextlib.suppress(OSError), os.scandir(folder / layout.CHECKPOINT) as entries:
        return any(not entry.name.startswith(".") for entry in entries)
    return False
