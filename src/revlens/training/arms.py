"""The optimizer-matched arms: same start, data order, optimizer and schedule; only the added term differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformer_lens.model_bridge import TransformerBridge

from revlens.direction import ReversionDirection
from revlens.direction.nulls import isotropic_directions
from revlens.errors import ConfigError
from revlens.training.objectives import Block, Guard, ProbeMotion, Push

#: baseline: the task alone; block, push: along v_rev; random: block along random unit directions.
ARMS = ("baseline", "block", "push", "random")


def make_guard(
    arm: str, v_rev: ReversionDirection, aligned: TransformerBridge, prompts: Sequence[str], *, strength: float, seed: int
) -> Guard | None:
    """The guard of an arm; None for the baseline.

    Args:
        arm: one of `ARMS`.
        v_rev: the reversion direction.
        aligned: the model at step 0.
        prompts: the guard probes.
        strength: weight of the added term, the same for every guarded arm.
        seed: draws the random directions.

    Raises:
        ConfigError: on an unknown arm or a strength that is not positive.
    """
    if arm not in ARMS:
        raise ConfigError(f"Unknown arm {arm!r}; expected one of {', '.join(ARMS)}.")
    if arm == "baseline":
        return None
    if not strength > 0:
        raise ConfigError(f"Guard strength {strength} must be positive; use the baseline arm for no guard.")
    if arm == "random":
        v_rev = replace(v_rev, unit=isotropic_directions(1, *v_rev.unit.shape, seed=seed)[0])
    motion = ProbeMotion.along(v_rev, aligned, prompts)
    return Push(motion, strength) if arm == "push" else Block(motion, strength)
