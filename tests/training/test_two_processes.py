"""A fine-tune by two processes is that of one: with guards, in revlens' own loop and in a Trainer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from revlens.activations import read_prompts
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError
from revlens.history import TrainingHistory
from revlens.organism import World
from revlens.prompts import Probes
from two_processes import (
    CONFIG,
    SHARDED_STRENGTHS,
    STRENGTHS,
    TRAINER_ARMS,
    Setting,
    finetuned,
    in_two_processes,
    trained_by_trainer,
    weights,
    work,
)

#: Two processes add up the same float32 numbers in another order. Relative to the motion of the weights this
#: moves them by 5e-7 to 4e-6, and a guard by 0.03 or more.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def setting(
    history: TrainingHistory, probes: Probes, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    folder = tmp_path_factory.mktemp("two-processes")
    reference, aligned = (
        read_prompts(c.load(), probes["direction"]) for c in (history.reference, history.aligned)
    )
    ReversionDirection.fit(reference, aligned, split="direction").save(folder / "v_rev.safetensors")
    data = world.helpful(15, seed=0)
    rows = {column: list(data[column]) for column in ("prompt", "answer")}
    rows["answer"] = [" ".join([answer] * (1 + i % 3)) for i, answer in enumerate(rows["answer"])]
    return Setting(history, folder / "v_rev.safetensors", list(probes["guard"]), rows, folder)


@pytest.fixture(scope="module")
def found(setting: Setting) -> list[dict[str, Tensor]]:
    """What each of the two processes found."""
    in_two_processes(work, setting)
    return [load_file(setting.out / f"{rank}.safetensors") for rank in range(2)]


def assert_same(one: Tensor, two: Tensor, start: Tensor) -> None:
    assert (two - one).norm() < ROUNDING * (one - start).norm()


@pytest.mark.parametrize("arm", STRENGTHS)
def test_two_processes_make_the_updates_of_one(
    arm: str, setting: Setting, found: list[dict[str, Tensor]]
) -> None:
    losses: list[float] = []
    one = weights(finetuned(setting, arm, lambda step, loss: losses.append(loss)))
    start = weights(setting.history.aligned.load())
    assert_same(one, found[0][arm], start)
    if arm != "baseline":
        assert (one - found[0]["baseline"]).norm() > 0.01 * (one - start).norm()
    assert found[0][f"{arm} losses"].tolist() == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("arm", STRENGTHS)
def test_both_have_the_same_bits_and_one_of_them_reports(arm: str, found: list[dict[str, Tensor]]) -> None:
    assert found[0][arm].equal(found[1][arm])
    assert (len(found[0][f"{arm} losses"]), len(found[1][f"{arm} losses"])) == (CONFIG.steps, 0)


@pytest.mark.parametrize("arm", TRAINER_ARMS)
def test_a_trainer_of_two_processes_makes_the_updates_of_one(
    arm: str, setting: Setting, found: list[dict[str, Tensor]]
) -> None:
    one = weights(trained_by_trainer(setting, arm)[0])
    assert_same(
        one,
        found[0][f"trainer {arm}"],
        weights(AutoModelForCausalLM.from_pretrained(setting.history.aligned.path)),
    )
    assert found[0][f"trainer {arm}"].equal(found[1][f"trainer {arm}"])


@pytest.mark.parametrize("arm", SHARDED_STRENGTHS)
def test_a_trainer_whose_weights_are_sharded_makes_the_updates_of_one_process(
    arm: str, setting: Setting, found: list[dict[str, Tensor]]
) -> None:
    model, readings = trained_by_trainer(setting, arm)
    one, start = weights(model), weights(AutoModelForCausalLM.from_pretrained(setting.history.aligned.path))
    assert_same(one, found[0][f"sharded {arm}"], start)
    assert_same(readings, found[0][f"sharded {arm} readings"], torch.zeros(()))
    if arm != "baseline":
        assert (one - found[0]["sharded baseline"]).norm() > 0.01 * (one - start).norm()
    for name in (f"sharded {arm}", f"sharded {arm} readings"):
        assert found[0][name].equal(found[1][name])


@pytest.mark.usefixtures("found")
def test_what_cannot_be_shared_is_refused_by_both(setting: Setting) -> None:
    said = [(setting.out / f"{rank}.txt").read_text().splitlines() for rank in range(2)]
    for different, few, broken in said:
        assert different.startswith("ConfigError: Processes start from different weights.")
        assert few == "ConfigError: batch_size=1 is less than the 2 processes; give each at least one row."
        assert broken.startswith("NonFiniteError: Loss is nan (task nan) at update 1 of 2")


@pytest.mark.usefixtures("found")
def test_what_needs_whole_weights_is_refused_by_both_if_they_are_sharded(setting: Setting) -> None:
    said = [(setting.out / f"{rank}-sharded.txt").read_text().splitlines() for rank in range(2)]
    for projection, alien, bridge in said:
        assert projection.startswith(
            "GuardError: Every(GradientProjection) acts on the model itself (before_update, after_update)"
        )
        assert alien.startswith(
            "GuardError: The term of Alien has no gradient at update 1; it would do nothing."
        )
        assert bridge.startswith(
            "ConfigError: finetune needs all weights in every process; fully_shard shards them."
        )


def test_processes_that_do_not_see_one_another_are_refused(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="1 of the 2 processes"):
        finetuned(setting, "baseline", lambda step, loss: None)
