"""Saving a bridge as Hugging Face or peft files."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from accelerate import init_empty_weights
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from revlens.errors import HistoryError
from revlens.history.adapter import WEIGHTS_FILE
from revlens.history.fused import fused_projections, hugging_face_name
from revlens.history.peft_layers import has_adapter, inject
from revlens.hooks import the_bridge
from revlens.storage import atomic_directory, seal


def save(bridge: nn.Module, path: Path) -> None:
    """Save a bridge's weights and tokenizer as a Hugging Face directory, which appears whole or not at all.

    A bridge with LoRA layers is saved as a peft adapter, without its base. Checksums are saved with the
    files, and compared when they are loaded.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`.
        HistoryError: if the bridge computes with weights that have no place in the Hugging Face model, or
            that its compatibility mode has folded and centred.
        StorageError: if the directory cannot be written.
    """
    bridge = the_bridge(bridge, hooked=False)
    if getattr(bridge, "_weights_processed", False):
        raise HistoryError(
            "The bridge's weights were processed (enable_compatibility_mode or process_weights), and are no "
            "longer those of the Hugging Face model. Save it before, or process nothing: "
            "bridge.enable_compatibility_mode(no_processing=True)."
        )
    model = bridge.original_model
    assert isinstance(model, PreTrainedModel)
    with atomic_directory(path) as partial:
        if has_adapter(model):
            _save_adapter(model, partial)
        else:
            _save_model(model, partial)
        getattr(bridge, "tokenizer_as_given", bridge.tokenizer).save_pretrained(partial)
        seal(partial)


def _save_model(model: PreTrainedModel, path: Path) -> None:
    skeleton = _skeleton(model)
    clean = _clean(model)
    fused = fused_projections(model)
    tensors = {name: clean[name] for name in skeleton.state_dict()}
    placed = {id(tensor) for tensor in tensors.values()} | {
        id(part) for projection in fused for part in projection.parameters()
    }
    lost = [name for name, parameter in model.named_parameters() if id(parameter) not in placed]
    if lost:
        raise HistoryError(
            f"The bridge computes with weights that {type(model).__name__} has no place for: "
            f"{', '.join(lost)}."
        )
    for projection in fused:
        tensors |= projection.joined()
    # It says, among others, at which tokens a reply stops.
    skeleton.generation_config = copy.deepcopy(model.generation_config)
    skeleton.save_pretrained(path, state_dict=tensors)


def _save_adapter(model: PreTrainedModel, path: Path) -> None:
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    with init_empty_weights(), torch.random.fork_rng(devices=[]):
        skeleton = inject(_skeleton(model), config)
    clean = {f"base_model.model.{name}": tensor for name, tensor in _clean(model).items()}
    wanted = {name: clean[name].detach() for name in skeleton.state_dict()}
    weights = get_peft_model_state_dict(skeleton, state_dict=wanted, save_embedding_layers=False)
    # Copies: tensors that share memory cannot be stored.
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in weights.items()},
        path / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    config = copy.deepcopy(config)
    config.inference_mode = True  # as peft saves them
    config.save_pretrained(str(path))


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """The model without weights and bridge: it has the names that Hugging Face reads."""
    config = copy.deepcopy(model.config)
    # The bridge turns it on, and then plain transformers cannot save the model again.
    config.output_attentions = False
    with init_empty_weights():
        skeleton = type(model)(config)
    return skeleton.to(dtype=model.dtype)  # type: ignore[call-arg]  # save_pretrained writes it into config.json


def _clean(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every weight by its Hugging Face names; a bridge holds each weight under several names."""
    return {hugging_face_name(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
