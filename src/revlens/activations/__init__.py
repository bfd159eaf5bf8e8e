"""Read activations at sites and positions; capture them across a history into a store on disk."""

from revlens.activations.capture import capture as capture
from revlens.activations.manifest import MANIFEST as MANIFEST
from revlens.activations.reading import Endpoints as Endpoints
from revlens.activations.reading import read_batch as read_batch
from revlens.activations.reading import read_endpoints as read_endpoints
from revlens.activations.reading import read_prompts as read_prompts
from revlens.activations.sites import COMPONENTS as COMPONENTS
from revlens.activations.sites import Sites as Sites
from revlens.activations.store import Activations as Activations
from revlens.activations.streaming import read_moments as read_moments
from revlens.forward import POSITIONS as POSITIONS
from revlens.forward import Positions as Positions
from revlens.forward import PositionsOrAll as PositionsOrAll
