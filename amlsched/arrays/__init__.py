"""Arrays of jobs: one description of each batch system."""

from amlsched.arrays.condor import HTCONDOR
from amlsched.arrays.job import ArrayJob, Element, Stage, Syntax, System
from amlsched.arrays.pbs import PBS, TORQUE
from amlsched.arrays.sge import GRID_ENGINE
from amlsched.arrays.slurm import SLURM

__all__ = ["ArrayJob", "Element", "SYSTEMS", "Stage", "Syntax", "System"]

SYSTEMS: dict[str, System] = {system.name: system for system in (SLURM, GRID_ENGINE, PBS, TORQUE, HTCONDOR)}
"""The batch systems, by their names in a config and on the command line."""
