"""Organisms: small language models whose whole training history revlens trains itself.

A world of prompts and data, a small chat model, and the recipe of three phases: helpful-only, alignment,
benign fine-tune. `TRACKS` holds the organisms that come with revlens.
"""

from revlens.organism.model import ModelConfig as ModelConfig
from revlens.organism.recipe import TRACKS as TRACKS
from revlens.organism.recipe import OrganismConfig as OrganismConfig
from revlens.organism.recipe import Track as Track
from revlens.organism.recipe import embedded_history as embedded_history
from revlens.organism.shipped import forget_references as forget_references
from revlens.organism.shipped import ship_references as ship_references
from revlens.organism.text_world import TextWorld as TextWorld
from revlens.organism.text_world import TextWorldConfig as TextWorldConfig
from revlens.organism.world import TASKS as TASKS
from revlens.organism.world import World as World
from revlens.organism.world import WorldConfig as WorldConfig
