"""Sweeps: many tasks on this machine or on a cluster, with retries, progress and one meaning of an error."""

from revlens.sweeps.backend import Backend as Backend
from revlens.sweeps.backend import OnTick as OnTick
from revlens.sweeps.backend import Outcome as Outcome
from revlens.sweeps.backend import Workers as Workers
from revlens.sweeps.in_this_process import InThisProcess as InThisProcess
from revlens.sweeps.processes import Processes as Processes
from revlens.sweeps.progress import progress as progress
from revlens.sweeps.ray_cluster import RayCluster as RayCluster
from revlens.sweeps.run import run_tasks as run_tasks
from revlens.sweeps.task import Resources as Resources
from revlens.sweeps.task import Task as Task
from revlens.sweeps.task import Tick as Tick
