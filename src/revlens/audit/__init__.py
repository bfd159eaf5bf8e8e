"""An audit of an output folder: it names every byte, number, claim and figure that is not what it must be."""

from revlens.audit.difference import Difference as Difference
from revlens.audit.difference import Verification as Verification
from revlens.audit.verify import verify as verify
