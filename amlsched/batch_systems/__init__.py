"""Batch systems: one description of each, for arrays, for the jobs of workers and for the doctor."""

from amlsched.batch_systems.grid_engine import GRID_ENGINE
from amlsched.batch_systems.htcondor import HTCONDOR
from amlsched.batch_systems.lsf import LSF
from amlsched.batch_systems.oar import OAR
from amlsched.batch_systems.pbs import MOAB, PBS, TORQUE
from amlsched.batch_systems.slurm import SLURM
from amlsched.batch_systems.system import ArrayJob, Element, Stage, Syntax, System

__all__ = ["ArrayJob", "Element", "SYSTEMS", "Stage", "Syntax", "System", "WORKER_SYSTEMS"]

SYSTEMS: dict[str, System] = {system.name: system for system in (SLURM, GRID_ENGINE, PBS, TORQUE, HTCONDOR)}
"""The batch systems that run arrays, by their names in a config and on the command line."""
WORKER_SYSTEMS: dict[str, System] = {one.name: one for one in (SLURM, GRID_ENGINE, PBS, MOAB, HTCONDOR, LSF, OAR)}
"""The batch systems that run workers in jobs, by the names of their executors."""
