"""What every experiment leaves: an output folder, a configuration, tables."""

from revlens.results.config_json import read_plain as read_plain
from revlens.results.config_json import to_plain as to_plain
from revlens.results.fields import fit_fields as fit_fields
from revlens.results.layout import Layout as Layout
from revlens.results.tables import Tables as Tables
