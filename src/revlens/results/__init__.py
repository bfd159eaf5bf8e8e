"""What every experiment leaves: an output folder, its configuration, tables, and claims with verdicts."""

from revlens.results.build_config import build_config as build_config
from revlens.results.claim import MIN_RUNS as MIN_RUNS
from revlens.results.claim import NEGLIGIBLE_SHARE as NEGLIGIBLE_SHARE
from revlens.results.claim import OVER_REFUSAL as OVER_REFUSAL
from revlens.results.claim import PERPLEXITY_FACTOR as PERPLEXITY_FACTOR
from revlens.results.claim import Claim as Claim
from revlens.results.claim import headline_first as headline_first
from revlens.results.claim import to_records as to_records
from revlens.results.config_json import config_json as config_json
from revlens.results.config_json import read_config as read_config
from revlens.results.layout import Layout as Layout
from revlens.results.output import save_results as save_results
from revlens.results.tables import Tables as Tables
