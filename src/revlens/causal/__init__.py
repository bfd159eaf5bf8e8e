"""Causality at inference: patching between checkpoints, interventions on v_rev, and lenses that read it."""

from revlens.causal.displacement import displacement as displacement
from revlens.causal.intervention import Action as Action
from revlens.causal.intervention import Intervention as Intervention
from revlens.causal.intervention import action_label as action_label
from revlens.causal.intervention_effects import site_label as site_label
from revlens.causal.interventions import intervene as intervene
from revlens.causal.jacobian_lens import TokenParts as TokenParts
from revlens.causal.jacobian_lens import last_token_lens as last_token_lens
from revlens.causal.jacobian_lens import token_parts as token_parts
from revlens.causal.nearest_features import NearestFeatures as NearestFeatures
from revlens.causal.nearest_features import nearest_features as nearest_features
from revlens.causal.patch_part import PARTS as PARTS
from revlens.causal.patch_passes import FallbackWarning as FallbackWarning
from revlens.causal.patch_sweep import PatchSweep as PatchSweep
from revlens.causal.patching import patch_between as patch_between
from revlens.causal.patching import patch_heads_between as patch_heads_between
from revlens.causal.patchscope import IDENTITY_PROMPT as IDENTITY_PROMPT
from revlens.causal.patchscope import TargetPrompt as TargetPrompt
from revlens.causal.patchscope import patched_logits as patched_logits
from revlens.causal.patchscope import patchscope as patchscope
from revlens.causal.readout import VocabularyReadout as VocabularyReadout
from revlens.causal.readout import carried as carried
from revlens.causal.readout import direction_readout as direction_readout
from revlens.causal.readout import vocabulary_readout as vocabulary_readout
from revlens.causal.refusal_logit_difference import RefusalLogitDifference as RefusalLogitDifference
from revlens.causal.stream_readout import StreamReadout as StreamReadout
from revlens.causal.stream_readout import stream_readout as stream_readout

#: The short name of `RefusalLogitDifference`, for scripts: its tokens are the openings of answers.
Openings = RefusalLogitDifference
