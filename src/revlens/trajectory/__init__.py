"""Motion along v_rev over the steps of a fine-tune, and its association with behaviour."""

from revlens.trajectory.association import auroc_over_runs as auroc_over_runs
from revlens.trajectory.association import spearman_over_runs as spearman_over_runs
from revlens.trajectory.drift import Drift as Drift
from revlens.trajectory.drift import drift as drift
