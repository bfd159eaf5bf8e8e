"""Fine-tuning: the loop, the terms a guard adds to its loss, and the arms that are compared."""

from revlens.training.arms import ARMS as ARMS
from revlens.training.arms import make_guard as make_guard
from revlens.training.loop import FinetuneConfig as FinetuneConfig
from revlens.training.loop import finetune as finetune
from revlens.training.loop import task_loss as task_loss
from revlens.training.objectives import Block as Block
from revlens.training.objectives import Guard as Guard
from revlens.training.objectives import ProbeMotion as ProbeMotion
from revlens.training.objectives import Push as Push
