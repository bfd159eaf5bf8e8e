"""Count, mean and covariance of vectors that come in pieces, in float64 and constant memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, distributed

from revlens.errors import ProbeError


@dataclass
class RunningMoments:
    """The sufficient statistics of vectors that come in pieces.

    Centred sums are merged, never sums of raw squares, so a mean far larger than the spread costs no digits
    (Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances").

    Attributes:
        count: how many vectors.
        mean: their mean.
        scatter: sum of outer products of their deviations from the mean, or the diagonal of that alone.
    """

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, " d *d"]

    @classmethod
    def empty(cls, width: int, *, covariance: bool, device: torch.device | None = None) -> RunningMoments:
        """Moments of no vectors; with ``covariance``, the whole scatter matrix is kept."""
        shape = (width, width) if covariance else (width,)
        return cls(
            0,
            torch.zeros(width, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
        )

    def update(self, values: Float[Tensor, "n d"], times: int = 1) -> None:
        """Add vectors, each of them ``times`` times."""
        if not len(values):
            return
        values = values.to(self.mean.device).double()
        mean = values.mean(0)
        centred = values - mean
        scatter = centred.square().sum(0) if self.scatter.ndim == 1 else centred.T @ centred
        self.merge(RunningMoments(len(values) * times, mean, scatter * times))

    def merge(self, other: RunningMoments) -> None:
        """Add the vectors of another accumulator of the same width and kind."""
        count = self.count + other.count
        if not count:
            return
        away = other.mean.to(self.mean.device) - self.mean
        self.mean = self.mean + away * (other.count / count)
        between = away.square() if self.scatter.ndim == 1 else torch.outer(away, away)
        self.scatter = (
            self.scatter + other.scatter.to(self.mean.device) + between * (self.count * other.count / count)
        )
        self.count = count

    def reduce(self, accelerator: Accelerator) -> None:
        """Merge over processes, so that each has the moments of all; all of them call this together."""
        if accelerator.num_processes == 1:
            return
        device = accelerator.device
        total = torch.tensor(self.count, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        count = int(total.item())
        if not count:
            return
        # Weighted by shares, so that the mean of all lies within the range of the means.
        mean = self.mean.to(device) * (self.count / count)
        distributed.all_reduce(mean)
        away = self.mean.to(device) - mean
        between = away.square() if self.scatter.ndim == 1 else torch.outer(away, away)
        scatter = self.scatter.to(device) + between * self.count
        distributed.all_reduce(scatter)
        self.count, self.mean, self.scatter = count, mean.to(self.mean.device), scatter.to(self.mean.device)


@dataclass(frozen=True)
class Moments:
    """Mean and spread of activations, or of their coordinates, at each layer, as float64 on the CPU.

    Attributes:
        layers: which, in the order of the layer axis.
        count: number of vectors at each layer.
        mean: of each coordinate.
        scatter: sum of outer products of the deviations from the mean, or of squared deviations alone.
    """

    layers: tuple[int, ...]
    count: int
    mean: Float[Tensor, "layer d"]
    scatter: Float[Tensor, "layer d *d"]

    @classmethod
    def of(cls, running: dict[int, RunningMoments]) -> Moments:
        """Collect the accumulators of layers that have seen equally many vectors."""
        (count,) = {moments.count for moments in running.values()}
        mean = torch.stack([moments.mean.cpu() for moments in running.values()])
        return cls(
            tuple(running), count, mean, torch.stack([moments.scatter.cpu() for moments in running.values()])
        )

    @property
    def variance(self) -> Float[Tensor, "layer d"]:
        """Variance of each coordinate, with n - 1 in the denominator.

        Raises:
            ProbeError: if there are fewer than two vectors.
        """
        scatter = self.scatter if self.scatter.ndim == 2 else self.scatter.diagonal(dim1=1, dim2=2)
        return scatter / self._degrees_of_freedom()

    @property
    def covariance(self) -> Float[Tensor, "layer d d"]:
        """Covariance of the coordinates, with n - 1 in the denominator.

        Raises:
            ProbeError: if only variances were kept, or there are fewer than two vectors.
        """
        if self.scatter.ndim == 2:
            raise ProbeError("Only variances were kept; read the moments again with covariance=True.")
        return self.scatter / self._degrees_of_freedom()

    def _degrees_of_freedom(self) -> int:
        if self.count < 2:
            raise ProbeError(f"A variance needs two vectors or more; these are the moments of {self.count}.")
        return self.count - 1
