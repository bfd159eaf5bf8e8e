"""What every experiment leaves: an output folder, its configuration, tables, and claims with verdicts."""

from revlens.results.claim import MIN_RUNS as MIN_RUNS
from revlens.results.claim import NEGLIGIBLE_SHARE as NEGLIGIBLE_SHARE
from revlens.results.claim import OVER_REFUSAL as OVER_REFUSAL
from revlens.results.claim import PERPLEXITY_FACTOR as PERPLEXITY_FACTOR
from revlens.results.claim import Claim as Claim
from revlens.results.claim import to_records as to_records
from revlens.results.config_json import read_plain as read_plain
from revlens.results.config_json import to_plain as to_plain
from revlens.results.fields import fit_fields as fit_fields
from revlens.results.layout import Layout as Layout
from revlens.results.output import save_results as save_results
from revlens.results.tables import Tables as Tables
