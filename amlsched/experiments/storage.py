"""The files of a results folder, for the command line and for cw2's names."""

from amlsched._files import replace_file
from amlsched.experiments._storage import cells, layout
from amlsched.experiments._storage.record import State

__all__ = ["State", "cells", "layout", "replace_file"]
