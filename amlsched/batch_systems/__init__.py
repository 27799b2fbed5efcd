"""Arrays of jobs: one description of each batch system."""

from amlsched.batch_systems.grid_engine import GRID_ENGINE
from amlsched.batch_systems.htcondor import HTCONDOR
from amlsched.batch_systems.pbs import PBS, TORQUE
from amlsched.batch_systems.slurm import SLURM
from amlsched.batch_systems.system import ArrayJob, Element, Stage, Syntax, System

__all__ = ["ArrayJob", "Element", "SYSTEMS", "Stage", "Syntax", "System"]

SYSTEMS: dict[str, System] = {system.name: system for system in (SLURM, GRID_ENGINE, PBS, TORQUE, HTCONDOR)}
"""The batch systems, by their names in a config and on the command line."""
