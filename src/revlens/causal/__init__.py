"""Causality at inference: patching between checkpoints, interventions along v_rev, its vocabulary readout."""

from revlens.causal.displacement import displacement as displacement
from revlens.causal.intervention import Action as Action
from revlens.causal.intervention import Intervention as Intervention
from revlens.causal.intervention import action_label as action_label
from revlens.causal.intervention_effects import site_label as site_label
from revlens.causal.interventions import intervene as intervene
from revlens.causal.patch_part import PARTS as PARTS
from revlens.causal.patch_passes import FallbackWarning as FallbackWarning
from revlens.causal.patch_sweep import PatchSweep as PatchSweep
from revlens.causal.patching import patch_between as patch_between
from revlens.causal.patching import patch_heads_between as patch_heads_between
from revlens.causal.readout import VocabularyReadout as VocabularyReadout
from revlens.causal.readout import vocabulary_readout as vocabulary_readout
from revlens.causal.refusal_logit_difference import RefusalLogitDifference as RefusalLogitDifference

#: The short name of `RefusalLogitDifference`, for scripts: its tokens are the openings of answers.
Openings = RefusalLogitDifference
