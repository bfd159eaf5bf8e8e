"""An experiment: configuration, stages over seeds and arms, results on disk, and the claims they bear out or not."""

from revlens.experiment.causal_claims import assess_causality as assess_causality
from revlens.experiment.causal_claims import at_chosen as at_chosen
from revlens.experiment.causal_claims import chosen_layers as chosen_layers
from revlens.experiment.causal_claims import effects_at_chosen as effects_at_chosen
from revlens.experiment.causality import MAIN_ACTION as MAIN_ACTION
from revlens.experiment.causality import PAIRS as PAIRS
from revlens.experiment.causality import REPORT_SPLIT as REPORT_SPLIT
from revlens.experiment.claims import MIN_RUNS as MIN_RUNS
from revlens.experiment.claims import Claim as Claim
from revlens.experiment.claims import assess as assess
from revlens.experiment.config import ExperimentConfig as ExperimentConfig
from revlens.experiment.config import quick as quick
from revlens.experiment.layout import Layout as Layout
from revlens.experiment.pipeline import analyse_and_save as analyse_and_save
from revlens.experiment.pipeline import assess_all as assess_all
from revlens.experiment.provenance import provenance as provenance
from revlens.experiment.results import TABLES as TABLES
from revlens.experiment.results import Results as Results
from revlens.experiment.results import analyse as analyse
from revlens.experiment.run import run as run
from revlens.experiment.source import add_history_options as add_history_options
from revlens.experiment.source import add_opening_options as add_opening_options
from revlens.experiment.source import open_history as open_history
from revlens.experiment.source import read_openings as read_openings
from revlens.experiment.stages import STAGES as STAGES
