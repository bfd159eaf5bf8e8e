"""Fine-tuning: the loop, the guards that act on it, the arms that are compared, and the same for a Trainer of one's own."""

from revlens.training.arms import ARMS as ARMS
from revlens.training.arms import METHODS as METHODS
from revlens.training.arms import make_guard as make_guard
from revlens.training.callback import ReversionCallback as ReversionCallback
from revlens.training.guard import Guard as Guard
from revlens.training.loop import FinetuneConfig as FinetuneConfig
from revlens.training.loop import finetune as finetune
from revlens.training.loop import task_loss as task_loss
from revlens.training.monitor import Monitor as Monitor
from revlens.training.monitor import Reading as Reading
from revlens.training.motion import ProbeMotion as ProbeMotion
from revlens.training.objectives import L2SP as L2SP
from revlens.training.objectives import AdaptiveBlock as AdaptiveBlock
from revlens.training.objectives import Block as Block
from revlens.training.objectives import ComplementBlock as ComplementBlock
from revlens.training.objectives import ConceptAblation as ConceptAblation
from revlens.training.objectives import Every as Every
from revlens.training.objectives import FreezeLayers as FreezeLayers
from revlens.training.objectives import GradientProjection as GradientProjection
from revlens.training.objectives import HiddenStateAnchor as HiddenStateAnchor
from revlens.training.objectives import KLAnchor as KLAnchor
from revlens.training.objectives import Push as Push
from revlens.training.objectives import RandomDirectionBlock as RandomDirectionBlock
from revlens.training.objectives import Rehearsal as Rehearsal
from revlens.training.objectives import SafeLoRA as SafeLoRA
from revlens.training.objectives import SubspaceBlock as SubspaceBlock
