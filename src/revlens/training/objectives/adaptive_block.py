"""Block that finds its strength while it trains, from a budget of reversion."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from revlens.errors import ConfigError
from revlens.training.objectives.motion_guard import MotionGuard
from revlens.training.state import State, matched


@dataclass
class AdaptiveBlock(MotionGuard):
    """Keeps every layer's reversion fraction f_l within a budget b, by dual ascent (augmented Lagrangian).

    The term is sum_l (relu(m_l + r (f_l - b))^2 - m_l^2) / (2 r). At every update the multiplier m_l changes
    by r (f_l - b), but never falls below zero. The penalty r doubles whenever the worst layer is over the
    budget and no nearer to it than at the update before (Nocedal & Wright, Numerical Optimization, 2nd ed.,
    section 17.3). The guard has no effect before a layer is over the budget.

    Attributes:
        motion: on which probes, at which layers, along what.
        budget: b, the highest reversion fraction that is allowed.
        multipliers: m_l in nats per unit of reversion fraction; after training, what the budget costs.
        penalty: r in nats per squared reversion fraction.

    Raises:
        ConfigError: if the budget is not at least 0 and below 1.
    """

    budget: float
    multipliers: Float[Tensor, " layer"] | None = field(default=None, init=False)
    penalty: float = field(default=1.0, init=False)
    _excess: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.budget < 1.0:
            raise ConfigError(
                f"budget={self.budget} is a reversion fraction; it must be at least 0 and below 1."
            )

    def begin(self, model: nn.Module) -> None:
        """Start with multipliers of zero."""
        self.multipliers, self.penalty, self._excess = None, 1.0, 0.0

    def state_dict(self) -> dict[str, Tensor]:
        multipliers = torch.zeros_like(self.motion.gap) if self.multipliers is None else self.multipliers
        return {
            **super().state_dict(),
            "multipliers": multipliers,
            "penalty": torch.tensor(self.penalty, dtype=torch.float64),
            "excess": torch.tensor(self._excess, dtype=torch.float64),
        }

    def load_state_dict(self, state: State) -> None:
        saved = matched(self, state)
        super().load_state_dict(state)
        self.multipliers = saved["multipliers"]
        self.penalty, self._excess = saved["penalty"].item(), saved["excess"].item()

    def term(self, model: nn.Module) -> Float[Tensor, ""]:
        over = self.motion.displacement(model) / self.motion.gap - self.budget
        multipliers = torch.zeros_like(over) if self.multipliers is None else self.multipliers
        worst = float(over.detach().max())
        if worst > 0 and worst >= self._excess > 0:
            self.penalty *= 2
        self._excess = worst
        raised = torch.relu(multipliers + self.penalty * over)
        self.multipliers = raised.detach()
        return (raised.square() - multipliers.square()).sum() / (2 * self.penalty)
