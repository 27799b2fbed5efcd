"""The files of a results folder, for the command line and for cw2's names."""

from amlsched._files import replace_file
from amlsched.experiments._storage import cells, layout
from amlsched.experiments._storage.record import State
from amlsched.experiments._storage.record_file import read as read_record

__all__ = ["State", "cells", "layout", "read_record", "replace_file"]
