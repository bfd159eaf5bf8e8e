"""The embedded organism: a small language model with a real training history, grown here from scratch.

Its world, its chat model, and the recipe of its phases (helpful-only, alignment, benign fine-tune).
"""

from revlens.organism.model import ModelConfig as ModelConfig
from revlens.organism.recipe import CAPTURE_STEPS as CAPTURE_STEPS
from revlens.organism.recipe import OrganismConfig as OrganismConfig
from revlens.organism.recipe import embedded_history as embedded_history
from revlens.organism.recipe import text_organism as text_organism
from revlens.organism.text import TextWorld as TextWorld
from revlens.organism.text import TextWorldConfig as TextWorldConfig
from revlens.organism.world import TASKS as TASKS
from revlens.organism.world import World as World
from revlens.organism.world import WorldConfig as WorldConfig
