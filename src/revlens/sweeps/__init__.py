"""Sweeps: many tasks on this machine or on a cluster, with retries, progress and one meaning of an error."""

from revlens.sweeps.backend import Backend, OnTick, Outcome, Workers
from revlens.sweeps.in_this_process import InThisProcess
from revlens.sweeps.processes import Processes
from revlens.sweeps.ray_cluster import RayCluster
from revlens.sweeps.run import run_tasks
from revlens.sweeps.task import Resources, Task, Tick

__all__ = [
    "Backend",
    "InThisProcess",
    "OnTick",
    "Outcome",
    "Processes",
    "RayCluster",
    "Resources",
    "Task",
    "Tick",
    "Workers",
    "run_tasks",
]
