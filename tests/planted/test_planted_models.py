"""Known weights in, known numbers out: from checkpoints on disk over capture, v_rev and drift to patching."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from planted.models import N_LAYERS, along_axis, axis, planted_history
from revlens.activations import Activations, Sites, capture
from revlens.causal import RefusalLogitDifference, patch_between
from revlens.causal.patch_part import Part
from revlens.direction import ReversionDirection, drift, locate, reliability
from revlens.history import TrainingHistory
from revlens.prompts import Probes

PROBES = Probes(
    {
        "direction": ("Hi.", "What is this?", "Why?", "Tell me more."),
        "drift": ("Go on.", "And then what?", "So?"),
    }
)
#: What each block adds along v_rev: the aligned model nothing, the reference everything, the fine-tune a
#: part.
REFERENCE = torch.tensor([0.2, 0.6, 0.8, 0.4])
FINE_TUNED = torch.tensor([0.1, 0.3, 0.4, 0.2])
#: The fine-tune also moves across v_rev.
ACROSS = torch.tensor([0.0, 0.4, 0.0, 0.8])

assert_close = partial(torch.testing.assert_close, rtol=0, atol=1e-4)


def writes(along: Tensor, across: Tensor | None = None) -> Tensor:
    """Axis 1 is v_rev, axis 2 lies across it."""
    return along[:, None] * axis(1) + (torch.zeros(N_LAYERS) if across is None else across)[:, None] * axis(2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> TrainingHistory:
    return planted_history(
        tmp_path_factory.mktemp("planted"),
        writes(REFERENCE),
        writes(torch.zeros(N_LAYERS)),
        {5: writes(FINE_TUNED, ACROSS)},
    )


@pytest.fixture(scope="module")
def acts(planted: TrainingHistory, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    return capture(planted, PROBES, tmp_path_factory.mktemp("acts"))


@pytest.fixture(scope="module")
def donor(planted: TrainingHistory) -> TransformerBridge:
    return planted.aligned.load()


@pytest.fixture(scope="module")
def recipient(planted: TrainingHistory) -> TransformerBridge:
    return planted[5].load()


def recovered(
    donor: TransformerBridge,
    recipient: TransformerBridge,
    component: str,
    part: Part = "full",
    v: Tensor | None = None,
    read: int = 1,
) -> Tensor:
    """By layer, at the last token."""
    v_rev = None
    if v is not None:
        unit = torch.nn.functional.normalize(v.double(), dim=-1).expand(N_LAYERS, -1)
        v_rev = ReversionDirection(
            unit, torch.ones(N_LAYERS, dtype=torch.float64), tuple(range(N_LAYERS)), "direction", 1
        )
    sweep = patch_between(
        donor, recipient, PROBES["drift"], along_axis(read), sites=Sites(component), part=part, v_rev=v_rev
    )
    return sweep.recovered()[:, 0]


def test_prompts_differ_and_checkpoints_do_not_but_where_planted(acts: Activations) -> None:
    aligned, reference = acts.at("aligned", "direction"), acts.at("reference", "direction")
    assert (aligned.std(0).amax(-1) > 0.1).all()
    difference = reference - aligned
    assert_close(difference[..., 1], REFERENCE.double().cumsum(0).expand(4, -1))
    assert difference[..., [0, *range(2, 16)]].abs().max() < 1e-5


def test_v_rev_gap_and_reliability_are_the_planted_ones(acts: Activations) -> None:
    v_rev = locate(acts)
    assert_close(v_rev.unit, axis(1).double().expand(N_LAYERS, -1))
    assert_close(v_rev.gap, REFERENCE.double().cumsum(0))
    assert_close(
        reliability(acts.at("reference", "direction"), acts.at("aligned", "direction")).full,
        torch.ones(N_LAYERS, dtype=torch.float64),
    )


def test_alignment_displacement_and_fraction_are_the_planted_ones(acts: Activations) -> None:
    motion = drift(acts, locate(acts))
    along, across = FINE_TUNED.double().cumsum(0), ACROSS.double().cumsum(0)
    assert_close(motion.displacement[0], along)
    assert_close(
        motion.fraction[0], torch.full((N_LAYERS,), 0.5, dtype=torch.float64)
    )  # every block went half the way
    assert_close(motion.alignment[0], along / (along.square() + across.square()).sqrt())


def test_the_stream_recovers_what_the_blocks_up_to_the_patch_wrote(
    donor: TransformerBridge, recipient: TransformerBridge
) -> None:
    """Blocks write 0.1, 0.3, 0.4 and 0.2 of the motion; a patch after block l undoes the first l + 1."""
    assert_close(recovered(donor, recipient, "resid_post"), torch.tensor([0.1, 0.4, 0.8, 1.0]))
    assert_close(recovered(donor, recipient, "resid_pre"), torch.tensor([0.0, 0.1, 0.4, 0.8]))


def test_a_component_recovers_what_it_wrote_itself(
    donor: TransformerBridge, recipient: TransformerBridge
) -> None:
    assert_close(recovered(donor, recipient, "mlp_out"), FINE_TUNED)
    assert_close(recovered(donor, recipient, "attn_out"), torch.zeros(N_LAYERS))


def test_along_v_rev_lies_all_that_is_read_there(
    donor: TransformerBridge, recipient: TransformerBridge
) -> None:
    whole, none = torch.tensor([0.1, 0.4, 0.8, 1.0]), torch.zeros(N_LAYERS)
    assert_close(recovered(donor, recipient, "resid_post", "along", axis(1)), whole)
    assert_close(recovered(donor, recipient, "resid_post", "orthogonal", axis(1)), none)
    # Read across v_rev, the same patch does nothing and the rest does it all.
    across = ACROSS.cumsum(0) / ACROSS.sum()
    assert_close(recovered(donor, recipient, "resid_post", "along", axis(1), read=2), none)
    assert_close(recovered(donor, recipient, "resid_post", "orthogonal", axis(1), read=2), across)


def test_a_direction_at_an_angle_carries_the_squared_cosine(
    planted: TrainingHistory, donor: TransformerBridge
) -> None:
    """The reference differs along axis 1 alone. A direction with cosine 0.6 to it picks up and reads 0.6."""
    reference, v = planted.reference.load(), 0.6 * axis(1) + 0.8 * axis(3)
    whole = REFERENCE.cumsum(0) / REFERENCE.sum()
    assert_close(recovered(reference, donor, "resid_post", "along", v), 0.36 * whole)
    assert_close(recovered(reference, donor, "resid_post", "orthogonal", v), 0.64 * whole)


def test_the_opposite_patch_recovers_as_much(donor: TransformerBridge, recipient: TransformerBridge) -> None:
    assert_close(recovered(recipient, donor, "resid_post"), recovered(donor, recipient, "resid_post"))


def test_the_logit_difference_sees_nothing_before_the_one_block_that_differs_and_everything_after(
    tmp_path: Path,
) -> None:
    """The final norm distorts the shares of log-odds; none and all of the motion are still 0 and 1."""
    one_block = torch.tensor([0.0, 0.0, 1.5, 0.0])
    history = planted_history(tmp_path, writes(one_block), writes(torch.zeros(N_LAYERS)), {})
    metric = RefusalLogitDifference(engaging=(1,), refusal=(2, 3))
    sweep = patch_between(history.reference.load(), history.aligned.load(), PROBES["drift"], metric, last=2)
    assert_close(sweep.recovered()[:, -1], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert_close(sweep.recovered()[:, 0], torch.zeros(N_LAYERS))  # no later block reads an earlier token
    # The norm makes gaps differ a little between prompts: the whole stream gives every prompt its own.
    torch.testing.assert_close(sweep.per_prompt_r2()[2:, -1], torch.ones(2), rtol=0, atol=1e-2)
    assert (sweep.per_prompt_r2()[:2, -1] < 0).all()
    assert sweep.result.baseline is not None
    assert float((sweep.donor - sweep.result.baseline).min()) > 0.5
