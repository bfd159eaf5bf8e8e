"""Running a bridge economically: length batches, a shared prefix, a KV cache, early stops; sharded weights too."""

from revlens.forward.early_stop import run_until as run_until
from revlens.forward.fsdp import is_sharded as is_sharded
from revlens.forward.fsdp import reshard as reshard
from revlens.forward.kv_cache import Past as Past
from revlens.forward.kv_cache import caches_plainly as caches_plainly
from revlens.forward.kv_cache import takes as takes
from revlens.forward.kv_cache import whole_layers as whole_layers
from revlens.forward.last_token import last_token_passes as last_token_passes
from revlens.forward.passes import Passes as Passes
from revlens.forward.positions import POSITIONS as POSITIONS
from revlens.forward.positions import Positions as Positions
from revlens.forward.positions import pool as pool
from revlens.forward.unpatched import CleanRun as CleanRun
from revlens.forward.unpatched import Metric as Metric
from revlens.forward.unpatched import clean_run as clean_run
from revlens.forward.unpatched import equal_lengths as equal_lengths
from revlens.forward.unpatched import last_logits as last_logits
from revlens.forward.unpatched import measure as measure
from revlens.forward.unpatched import token_tensor as token_tensor
