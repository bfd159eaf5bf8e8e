"""The command line: `revlens VERB`."""

from revlens.cli.main import entry_point as entry_point
from revlens.cli.main import main as main
