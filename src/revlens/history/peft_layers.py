"""LoRA layers inside a Hugging Face model."""

from __future__ import annotations

import copy
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from revlens.errors import HistoryError


def inject(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put fresh LoRA layers into a model, in place; random numbers come from torch's global state.

    Raises:
        HistoryError: if the model has no module of the configuration's target modules.
    """
    config = copy.deepcopy(config)  # peft resolves target_modules in place
    config.base_model_name_or_path = model.name_or_path or None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft corrects it by itself
        # peft asks for it
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise HistoryError(f"No adapter can be put into {type(model).__name__}: {error}") from error


def base_of(peft_model: PeftModel) -> PreTrainedModel:
    """The Hugging Face model that holds the adapter's layers."""
    model = peft_model.get_base_model()
    assert isinstance(model, PreTrainedModel)
    return model


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether a model holds layers of a peft adapter."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())
