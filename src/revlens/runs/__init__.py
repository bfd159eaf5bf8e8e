"""What an experiment is run on: the subject (a history's start, prompts, benign task), its fine-tunes, and their cache."""

from revlens.runs.benign import BenignRun as BenignRun
from revlens.runs.benign import benign_start as benign_start
from revlens.runs.benign import check_steps as check_steps
from revlens.runs.cache import cache_key as cache_key
from revlens.runs.cache import cache_root as cache_root
from revlens.runs.cache import source_digest as source_digest
from revlens.runs.own import OwnHistory as OwnHistory
from revlens.runs.own_material import ProbeFiles as ProbeFiles
from revlens.runs.subject import Material as Material
from revlens.runs.subject import Subject as Subject
from revlens.runs.subject import WorldProbes as WorldProbes
