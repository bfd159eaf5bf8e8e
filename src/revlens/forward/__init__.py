"""The engine that runs a bridge economically.

Prompts share passes by length, tokens that all prompts begin with run once, a pass stops after its last read,
and passes over the last tokens go on from cached keys and values. Models sharded by FSDP2 run as well.
"""

from revlens.forward.fsdp import is_sharded as is_sharded
from revlens.forward.fsdp import reshard as reshard
from revlens.forward.last_token import last_logits as last_logits
from revlens.forward.last_token import last_token_passes as last_token_passes
from revlens.forward.length_batches import shortest_first as shortest_first
from revlens.forward.passes import Passes as Passes
from revlens.forward.positions import POSITIONS as POSITIONS
from revlens.forward.positions import Positions as Positions
from revlens.forward.positions import PositionsOrAll as PositionsOrAll
from revlens.forward.positions import run_pooled as run_pooled
from revlens.forward.short_passes import Obstacle as Obstacle
from revlens.forward.short_passes import ShortPasses as ShortPasses
from revlens.forward.unpatched import unpadded_batches as unpadded_batches
from revlens.forward.unpatched import unpatched_run as unpatched_run
