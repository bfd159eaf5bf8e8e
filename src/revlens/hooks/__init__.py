"""Read, edit and replace activations at the hook points of any `TransformerBridge`, in your own scripts.

No training history is needed. Directions are unit vectors or orthonormal subspaces per layer. Edits are
computed in float32 at least, and come off when their context closes, after an exception too.
"""

from revlens.hooks.bridges import check_wrappable as check_wrappable
from revlens.hooks.bridges import modules_of as modules_of
from revlens.hooks.bridges import the_bridge as the_bridge
from revlens.hooks.contexts import ablate as ablate
from revlens.hooks.contexts import add as add
from revlens.hooks.contexts import clamp as clamp
from revlens.hooks.contexts import mean_ablate as mean_ablate
from revlens.hooks.contexts import patch as patch
from revlens.hooks.dropout import without_dropout as without_dropout
from revlens.hooks.edits import Edit as Edit
from revlens.hooks.edits import Hook as Hook
from revlens.hooks.edits import ablate_direction as ablate_direction
from revlens.hooks.edits import add_direction as add_direction
from revlens.hooks.edits import as_hook as as_hook
from revlens.hooks.edits import clamp_direction as clamp_direction
from revlens.hooks.edits import moved_to as moved_to
from revlens.hooks.names import check_names as check_names
from revlens.hooks.names import hooked as hooked
from revlens.hooks.names import point_name as point_name
from revlens.hooks.recording import record as record
from revlens.hooks.recording import record_projections as record_projections
from revlens.hooks.subspaces import Basis as Basis
from revlens.hooks.subspaces import Directions as Directions
from revlens.hooks.subspaces import by_layer as by_layer
from revlens.hooks.subspaces import coordinates as coordinates
from revlens.hooks.tokens import Tokens as Tokens
from revlens.hooks.weights import orthogonalise as orthogonalise
