"""The objectives, one a file: what each adds to or changes of a fine-tune, and where it comes from."""

from revlens.training.objectives.adaptive_block import AdaptiveBlock as AdaptiveBlock
from revlens.training.objectives.block import Block as Block
from revlens.training.objectives.complement_block import ComplementBlock as ComplementBlock
from revlens.training.objectives.concept_ablation import ConceptAblation as ConceptAblation
from revlens.training.objectives.every import Every as Every
from revlens.training.objectives.freeze_layers import FreezeLayers as FreezeLayers
from revlens.training.objectives.gradient_projection import GradientProjection as GradientProjection
from revlens.training.objectives.hidden_state_anchor import HiddenStateAnchor as HiddenStateAnchor
from revlens.training.objectives.kl_anchor import KLAnchor as KLAnchor
from revlens.training.objectives.l2sp import L2SP as L2SP
from revlens.training.objectives.push import Push as Push
from revlens.training.objectives.random_direction_block import RandomDirectionBlock as RandomDirectionBlock
from revlens.training.objectives.rehearsal import Rehearsal as Rehearsal
from revlens.training.objectives.safe_lora import SafeLoRA as SafeLoRA
from revlens.training.objectives.subspace_block import SubspaceBlock as SubspaceBlock
from revlens.training.objectives.until import Until as Until
