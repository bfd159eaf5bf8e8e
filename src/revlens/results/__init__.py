"""What every experiment leaves: an output folder, a configuration, tables."""

from revlens.results.build_config import build_config as build_config
from revlens.results.config_json import config_json as config_json
from revlens.results.config_json import read_config as read_config
from revlens.results.layout import Layout as Layout
from revlens.results.tables import Tables as Tables
