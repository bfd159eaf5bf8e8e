"""RESTA and WiSE-FT with adapters, and what they refuse; `test_methods` has their formulas."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from revlens.errors import ConfigError, GuardError
from revlens.history import TrainingHistory
from revlens.prompts import Probes
from revlens.training import RESTA, WiSEFT, finetune
from training.fine_tunes import CONFIG, DATA, trained, weights
from training.trainers import Setting


@pytest.fixture(scope="module")
def setting(history: TrainingHistory, probes: Probes) -> Setting:
    return Setting(history, probes)


def test_wise_ft_scales_the_update_of_an_adapter(setting: Setting) -> None:
    model = setting.adapted()
    inputs = setting.collator([{"row": 0}])
    guard = WiSEFT.at(model, 0.25)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.ones_like(parameter).cumsum(-1).cos())
    aligned, tuned = setting.model(), setting.model()
    merged = merged_weights(model)
    guard.end(model)
    for name, repaired in merged_weights(model).items():
        start = aligned.get_parameter(name).detach()
        torch.testing.assert_close(repaired, 0.75 * merged[name] + 0.25 * start)
    assert any(not torch.equal(merged[name], tuned.get_parameter(name)) for name in merged)
    assert model(**inputs).loss.isfinite()


def merged_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights that an adapter acts on, with its product added, by their name without it."""
    return {
        name.removeprefix("base_model.model.") + ".weight": (
            module.base_layer.weight + module.get_delta_weight("default")
        ).detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_resta_of_an_adapter_follows_its_advice(setting: Setting) -> None:
    reference, aligned, model = (
        setting.model(setting.history.reference.path),
        setting.model(),
        setting.adapted(),
    )
    with pytest.raises(GuardError, match=r"merged = model\.merge_and_unload\(\)"):
        RESTA.between(reference, model, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    merged = model.merge_and_unload()
    before = {name: parameter.detach().clone() for name, parameter in merged.named_parameters()}
    RESTA.between(reference, aligned, 0.5).end(merged)
    for name, parameter in merged.named_parameters():
        vector = (aligned.get_parameter(name) - reference.get_parameter(name)).detach()
        torch.testing.assert_close(parameter.detach(), before[name] + 0.5 * vector)


def test_an_adapter_that_cannot_be_interpolated_is_refused_until_its_advice_is_followed(
    setting: Setting,
) -> None:
    dora = get_peft_model(setting.model(), LoraConfig(r=2, use_dora=True, target_modules=["down_proj"]))
    started = setting.adapted()
    with torch.no_grad():
        for name, parameter in started.named_parameters():
            if ".lora_B." in name:
                parameter.add_(0.05)
    for model in (dora, started):
        with pytest.raises(GuardError, match="cannot be interpolated exactly"):
            WiSEFT.at(model, 0.5)
        again = get_peft_model(model.merge_and_unload(), LoraConfig(r=2, target_modules=["down_proj"]))
        assert isinstance(WiSEFT.at(again, 0.5), WiSEFT)


def test_what_repairs_nothing_is_an_error(history: TrainingHistory) -> None:
    aligned, reference = history.aligned.load(), history.reference.load()
    with pytest.raises(GuardError, match="equal weights wherever the model trains"):
        RESTA.between(history.aligned.load(), aligned, 0.5)
    with pytest.raises(GuardError, match="The reference has no weight of the aligned model's shape"):
        RESTA.between(torch.nn.Linear(2, 2), torch.nn.Linear(3, 2), 0.5)
    with pytest.raises(ConfigError, match="share=1.0 of aligned weights"):
        WiSEFT.at(aligned, 1.0)
    for guard in (RESTA.between(reference, aligned, 0.5), WiSEFT.at(aligned, 0.5)):
        with pytest.raises(GuardError, match="The model has no model"):
            guard.end(torch.nn.Linear(2, 2))
    other = RESTA.between(history[3].load(), aligned, 0.5)
    with pytest.raises(GuardError, match="RESTA was prepared from other weights"):
        other.load_state_dict(RESTA.between(reference, aligned, 0.5).state_dict())
    reference.blocks[0].requires_grad_(False)
    aligned.requires_grad_(False)
    with pytest.raises(GuardError, match="WiSEFT would do nothing"):
        WiSEFT.at(aligned, 0.5)


def test_the_weights_change_at_the_end_alone(history: TrainingHistory) -> None:
    seen, model = [], history.aligned.load()

    class Seeing(WiSEFT):
        def end(self, model: torch.nn.Module) -> None:
            seen.append(weights(model))
            super().end(model)

    finetune(model, DATA, CONFIG, seed=0, guard=Seeing.at(model, 0.5))
    assert torch.equal(seen[0], weights(trained(history, None)))
    assert not torch.equal(seen[0], weights(model))
