"""v_rev from captured activations: its estimator, its reliability, the drift along it, and nulls."""

from revlens.direction import nulls as nulls
from revlens.direction.drift import Drift as Drift
from revlens.direction.drift import drift as drift
from revlens.direction.locate import ReversionDirection as ReversionDirection
from revlens.direction.locate import locate as locate
from revlens.direction.locate import unit_vectors as unit_vectors
from revlens.direction.nulls import isotropic_directions as isotropic_directions
from revlens.direction.nulls import isotropic_quantile as isotropic_quantile
from revlens.direction.participation import participation_ratio as participation_ratio
from revlens.direction.reliability import Reliability as Reliability
from revlens.direction.reliability import reliability as reliability
