"""Matched controls of block take away what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from revlens.activations import read_prompts
from revlens.direction import unit_vectors
from revlens.experiment import CONTROLS, Arms, ExperimentConfig, FineTune
from revlens.experiment.arms.controls import baseline_drift, matched_block, penalty
from revlens.experiment.arms.plan import ARMS, MATCHED, REFERENCE
from revlens.experiment.engine import tasks
from revlens.experiment.guarded import own_v_rev
from revlens.results import Layout
from revlens.sweeps import Resources
from revlens.training import Block, ProbeMotion

#: A seed whose baseline moves forward along v_rev, and another one.
SEED, OTHER, STRENGTH = 1, 0, 5.0


@pytest.fixture(scope="module")
def motion(config: ExperimentConfig, layout: Layout) -> ProbeMotion:
    aligned = config.subject.start(SEED).aligned.load()
    return ProbeMotion.along(own_v_rev(layout, SEED), aligned, config.subject.material().probes()["guard"])


def control_of(config: ExperimentConfig, layout: Layout, name: str, seed: int = SEED) -> Block:
    arm = FineTune(seed, name, config.steps, config.steps[-1], "", "block", STRENGTH, control=name)
    return matched_block(config, layout, arm, config.subject.start(seed).aligned.load())


@pytest.mark.parametrize("name", CONTROLS)
def test_the_baseline_pays_as_much_along_a_control_as_along_v_rev(
    name: str, config: ExperimentConfig, layout: Layout, motion: ProbeMotion
) -> None:
    drift = baseline_drift(config, SEED, motion)
    guard = control_of(config, layout, name)
    unit, blocked = guard.motion.unit, [motion.layers.index(layer) for layer in guard.motion.layers]
    paid = guard.strength * penalty(drift[blocked], unit)
    torch.testing.assert_close(paid, STRENGTH * penalty(drift, motion.unit), rtol=1e-4, atol=0)
    assert float(paid) > 0
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(len(unit)))
    assert ((drift[blocked] * unit).sum(-1) >= 0).all()  # backward motion would be free
    torch.testing.assert_close(guard.motion.start, motion.start[blocked])
    torch.testing.assert_close(guard.motion.gap, motion.gap[blocked])
    assert blocked == [*range(len(motion.layers))][-1 if name == "late" else 0 :]


def test_directions_are_what_their_names_say(
    config: ExperimentConfig, layout: Layout, motion: ProbeMotion
) -> None:
    units = {name: control_of(config, layout, name).motion.unit for name in CONTROLS}
    drift = baseline_drift(config, SEED, motion)
    assert (units["orthogonal"] * motion.unit).sum(-1).abs().max() < 1e-4
    rest = drift - (drift * motion.unit).sum(-1, keepdim=True) * motion.unit
    torch.testing.assert_close((units["orthogonal"] * rest).sum(-1), rest.norm(dim=-1), rtol=1e-4, atol=1e-6)
    aligned = config.subject.start(OTHER).aligned.load()
    theirs = ProbeMotion.along(own_v_rev(layout, OTHER), aligned, config.subject.material().probes()["guard"])
    cosine = torch.cosine_similarity(units["foreign"], baseline_drift(config, OTHER, theirs), dim=-1)
    torch.testing.assert_close(cosine.abs(), torch.ones(len(cosine)))
    assert not torch.allclose(units["random"], units["shuffled"], atol=0.1)
    assert (units["second"] * motion.unit).sum(-1).abs().max() < 1e-4
    assert (units["third"] * motion.unit).sum(-1).abs().max() < 1e-4
    assert (units["third"] * units["second"]).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close((units["late"] * motion.unit[-1:]).sum(-1).abs(), torch.ones(1))
    probes, start = config.subject.material().probes(), config.subject.start(SEED)
    harmful, harmless = (
        read_prompts(start.reference.load(), probes[split]).mean(0)
        - read_prompts(start.aligned.load(), probes[split]).mean(0)
        for split in ("direction", "harmless")
    )
    difference = read_prompts(start.reference.load(), probes["direction"]) - read_prompts(
        start.aligned.load(), probes["direction"]
    )
    # No direction beside v_rev is wider than the second, none beside both than the third.
    other = units["random"]
    for name, beside in {"second": motion.unit, "third": units["second"]}.items():
        other = unit_vectors(other - (other * beside).sum(-1, keepdim=True) * beside)
        wide, less = ((difference * unit).sum(-1).square().sum(0) for unit in (units[name], other))
        assert (wide > less).all()
    cosine = torch.cosine_similarity(units["specific"], harmful - harmless, dim=-1)
    torch.testing.assert_close(cosine.abs(), torch.ones(len(cosine)))


def test_a_control_and_the_reference_are_fine_tunes_of_their_own(config: ExperimentConfig) -> None:
    arms = (*ARMS, *(name for name in MATCHED if name not in ARMS))
    full = config.with_plan(Arms(arms=arms))
    assert tuple(CONTROLS) == MATCHED
    by_label = {unit.label: unit for unit in full.fine_tunes() if unit.seed == SEED}
    assert tuple(by_label) == (*arms, REFERENCE)
    assert all(by_label[name].control == name and by_label[name].strength == STRENGTH for name in MATCHED)
    assert by_label[REFERENCE].start == "reference"
    assert by_label[REFERENCE].kinds == ("fine-tune",)


def test_a_control_waits_for_the_baselines_that_it_is_matched_with(
    config: ExperimentConfig, layout: Layout
) -> None:
    full = config.with_plan(Arms(arms=("baseline", "block", *MATCHED)))
    after = {task.name: set(task.after) for task in tasks(full, layout.out, None, Resources())}
    for name in MATCHED:
        assert after[f"seed {SEED}, {name}"] == {"seed 0, baseline", "seed 1, baseline"}
    assert after[f"seed {SEED}, block"] == {f"seed {SEED}"}


def test_without_another_seed_there_is_no_foreign_arm(config: ExperimentConfig) -> None:
    alone = replace(config, seeds=(0,), plan=Arms(arms=ARMS))
    assert isinstance(alone.plan, Arms)
    assert "foreign" not in alone.plan.arms_of(alone)
    assert {unit.label for unit in alone.fine_tunes()} == {*ARMS, REFERENCE} - {"foreign"}
