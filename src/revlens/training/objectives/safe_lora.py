"""Safe LoRA: projects weight changes onto what alignment changed, after training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from revlens.errors import ConfigError, GuardError
from revlens.families import Linear, outputs_first
from revlens.history import hugging_face_name
from revlens.training.guard import Guard
from revlens.training.model_parts import decoder_layers
from revlens.training.state import State, matched

#: A weight matrix with output features in rows.
_Matrix = Float[Tensor, "out in"]


@dataclass(frozen=True)
class SafeLoRA(Guard):
    """At the end, dW <- C dW for every weight matrix with cos(dW, C dW) < threshold.

    V = W_aligned - W_reference is what alignment did to the matrix, and C = V V^T / s(V)^2 with s the largest
    singular value. Hsu et al. (2024, arXiv 2405.16833) have V V^T / ||V||_F: the same up to a factor, which
    depends on the units of the weights there; here C shrinks nothing along V's leading direction. dW is the
    change of the matrix since the aligned model, or scaling * B A of an adapter, whose B is projected.
    Nothing happens before the end, so checkpoints before the last update are not projected.

    Attributes:
        alignment: V by the name of the linear module, output features in rows.
        start: the aligned weights, as the modules store them; empty for adapters.
        threshold: on cos(dW, C dW); 1 projects every matrix.

    Raises:
        ConfigError: if the threshold is not above 0 and at most 1.
    """

    alignment: Mapping[str, _Matrix] = field(repr=False)
    start: Mapping[str, Tensor] = field(repr=False)
    threshold: float

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"threshold={self.threshold} on a cosine must be above 0 and at most 1.")

    @classmethod
    @torch.no_grad()
    def between(cls, reference: nn.Module, aligned: nn.Module, threshold: float) -> SafeLoRA:
        """Prepare the projection, from the models before and after the alignment phase.

        Args:
            reference: the unaligned model, of the same kind (bridge or Hugging Face) as ``aligned``.
            aligned: the model about to be trained, with its adapter if it gets one.
            threshold: see the class.

        Raises:
            GuardError: if ``aligned`` trains no linear module of its layers, or ``reference`` lacks one of
                them or has equal weights there.
        """
        unaligned = dict(_linear_modules(reference))
        alignment, start = {}, {}
        for name, module in _linear_modules(aligned):
            if not any(parameter.requires_grad for parameter in module.parameters()):
                continue
            if name not in unaligned or _weight(unaligned[name]).shape != _weight(module).shape:
                raise GuardError(
                    f"The reference has no {name} of the aligned model's shape; "
                    "give the same kind of model for both."
                )
            alignment[name] = _matrix(module) - _matrix(unaligned[name]).to(_weight(module).device)
            if not alignment[name].any():
                raise GuardError(
                    f"Reference and aligned have equal weights at {name}, which does not say what alignment "
                    "changed there; give the models before and after the alignment phase."
                )
            if not isinstance(module, LoraLayer):
                start[name] = _weight(module).clone()
        if not alignment:
            raise GuardError("The model trains no linear module of its layers, so SafeLoRA would do nothing.")
        return cls(alignment, start, threshold)

    @cached_property
    def _fingerprint(self) -> Tensor:
        """SHA-256 of all that the projection was prepared from, in place of copies in every checkpoint."""
        digest = hashlib.sha256()
        for tensors in (self.alignment, self.start):
            for name in sorted(tensors):
                digest.update(name.encode())
                digest.update(tensors[name].contiguous().view(torch.uint8).cpu().numpy().data)
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def state_dict(self) -> dict[str, Tensor]:
        return {"fingerprint": self._fingerprint}

    def load_state_dict(self, state: State) -> None:
        if not torch.equal(matched(self, state)["fingerprint"], self._fingerprint):
            raise GuardError(
                "SafeLoRA was prepared from other weights than in the training that is resumed; "
                "prepare it from the same two models: the reference, and the aligned model before any update."
            )

    @torch.no_grad()
    def end(self, model: nn.Module) -> None:
        """Project.

        Raises:
            GuardError: if the model lacks a matrix that the projection was prepared for.
        """
        modules = dict(_linear_modules(model))
        missing = self.alignment.keys() - modules.keys()
        if missing:
            raise GuardError(
                f"The model has no {min(missing)}; prepare SafeLoRA with the model that is trained."
            )
        for name, v in self.alignment.items():
            module = modules[name]
            if isinstance(module, LoraLayer):
                for adapter in module.active_adapters:
                    a, b = (_weight(factors[adapter]) for factors in (module.lora_A, module.lora_B))
                    b.copy_(self._projected(v, b.float(), b.float() @ a.float()))
            else:
                weight = _weight(module)
                start = self.start[name].to(weight.device)
                change = _rows_out(module, weight - start).float()
                weight.copy_(start + _rows_out(module, self._projected(v, change, change)).to(start))

    def _projected(
        self, v: _Matrix, factor: Float[Tensor, "out k"], change: _Matrix
    ) -> Float[Tensor, "out k"]:
        """C times ``factor`` if C turns ``change`` by more than the threshold allows; else ``factor``."""
        v = v.float().to(factor.device)
        v = v / torch.linalg.matrix_norm(v, 2)
        projected = v @ (v.T @ change)
        cosine = torch.cosine_similarity(projected.flatten(), change.flatten(), dim=0)
        return v @ (v.T @ factor) if cosine < self.threshold else factor


def _linear_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear module of the decoder layers, or the adapter around it.

    Its name is that of the bare Hugging Face model, also in a bridge or under an adapter.
    """
    for layer, block in enumerate(decoder_layers(model)):
        adapted: tuple[str, ...] = ()
        for path, module in block.named_modules():
            if path.startswith(adapted):  # within an adapter that has been listed
                continue
            if isinstance(module, LoraLayer):
                adapted = (*adapted, f"{path}.")
            if isinstance(module, LoraLayer | Linear):
                assert isinstance(module, nn.Module)  # peft's LoraLayer is a mixin
                yield hugging_face_name(f"{layer}.{path}"), module


def _weight(module: nn.Module) -> Tensor:
    weight = (module.get_base_layer() if isinstance(module, LoraLayer) else module).weight
    assert isinstance(weight, Tensor)
    return weight


def _matrix(module: nn.Module) -> _Matrix:
    return _rows_out(module, _weight(module))


def _rows_out(module: nn.Module, weight: Float[Tensor, "a b"]) -> Float[Tensor, "c d"]:
    """Output features in rows, also of a module inside an adapter. Its own inverse."""
    return outputs_first(module.get_base_layer() if isinstance(module, LoraLayer) else module, weight)
