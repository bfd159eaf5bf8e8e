"""Concept ablation: holds the coordinate along v_rev while the task is learned, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import GuardError
from revlens.hooks import moved_to
from revlens.training.guard import Guard
from revlens.training.motion import ProbeMotion
from revlens.training.state import State, matched
from revlens.training.streams import edit_streams
from revlens.training.task_tokens import last_prompt_tokens


@dataclass
class ConceptAblation(Guard):
    """h <- h + (c - <h, v>) v during the task's passes, at every token or at last prompt tokens.

    The task then gains nothing by moving along v_rev there and is learned in other directions (Casademunt et
    al. 2025, arXiv 2507.16795).

    Attributes:
        unit: the direction at each layer, of norm 1.
        coordinates: c at each layer, in activation units; the paper's is 0.
        at_last_prompt: whether it acts at last prompt tokens alone, those that the first token of an answer
            follows. The labels of the task say which they are, so a pass without labels, or with the loss on
            every token, is a GuardError. The paper's acts at every token.
    """

    unit: Mapping[int, Float[Tensor, " d_model"]]
    coordinates: Mapping[int, float]
    at_last_prompt: bool = False

    @classmethod
    def ablating(cls, motion: ProbeMotion) -> ConceptAblation:
        """Project the direction out (c = 0), at every token."""
        return cls(dict(zip(motion.layers, motion.unit, strict=True)), dict.fromkeys(motion.layers, 0.0))

    @classmethod
    def clamping(cls, motion: ProbeMotion) -> ConceptAblation:
        """Hold the coordinate at the aligned model's mean over the guard probes.

        That mean is over last prompt tokens, so it is held at them alone: at other tokens the coordinate has
        other values.
        """
        means = (motion.start * motion.unit).sum(-1).tolist()
        return cls(
            dict(zip(motion.layers, motion.unit, strict=True)),
            dict(zip(motion.layers, means, strict=True)),
            at_last_prompt=True,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "at_last_prompt": torch.tensor(self.at_last_prompt),
            "layers": torch.tensor(list(self.unit)),
            "unit": torch.stack(list(self.unit.values())),
            "coordinates": torch.tensor(
                [self.coordinates[layer] for layer in self.unit], dtype=torch.float64
            ),
        }

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        if saved["layers"].tolist() != list(self.unit):
            raise GuardError(
                f"The training that is resumed ablated at layers {saved['layers'].tolist()}, this guard at "
                f"{list(self.unit)}; make it as there."
            )
        if saved["at_last_prompt"].item() != self.at_last_prompt:
            places = ("last prompt tokens", "every token")
            there, here = places if saved["at_last_prompt"] else places[::-1]
            raise GuardError(
                f"The training that is resumed held the coordinate at {there}, this guard does at {here}; "
                "make it as there."
            )
        self.coordinates = dict(zip(self.unit, saved["coordinates"].tolist(), strict=True))
        self.unit = dict(zip(self.unit, saved["unit"], strict=True))

    def around_task(self, model: nn.Module) -> AbstractContextManager[object]:
        target = {layer: torch.tensor([value]) for layer, value in self.coordinates.items()}
        return edit_streams(
            model,
            {layer: moved_to(unit[None], target[layer]) for layer, unit in self.unit.items()},
            tokens=last_prompt_tokens if self.at_last_prompt else None,
        )
