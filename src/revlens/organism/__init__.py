"""The embedded organism: a small language model with a real training history, grown here from scratch.

Its world, its chat model, and the recipe of its phases (helpful-only, alignment, benign fine-tune).
"""

from revlens.organism.model import ModelConfig as ModelConfig
from revlens.organism.recipe import CAPTURE_STEPS as CAPTURE_STEPS
from revlens.organism.recipe import BenignRun as BenignRun
from revlens.organism.recipe import OrganismConfig as OrganismConfig
from revlens.organism.recipe import Start as Start
from revlens.organism.recipe import cache_key as cache_key
from revlens.organism.recipe import check_steps as check_steps
from revlens.organism.recipe import embedded_history as embedded_history
from revlens.organism.recipe import source_digest as source_digest
from revlens.organism.recipe import train_start as train_start
from revlens.organism.world import World as World
from revlens.organism.world import WorldConfig as WorldConfig
from revlens.organism.world import WorldProbes as WorldProbes
