"""Which checkpoints make up a training history, in which phase, and how to load and save one."""

from revlens.history.checkpoint import Checkpoint as Checkpoint
from revlens.history.checkpoint import boot as boot
from revlens.history.checkpoint import save as save
from revlens.history.training_history import TrainingHistory as TrainingHistory
