"""First-order scores of training rows and of the first update: what would they do to the aligned model?"""

from revlens.screening.first_update import FirstUpdate as FirstUpdate
from revlens.screening.first_update import first_update as first_update
from revlens.screening.reversion_gradient import reversion_gradient as reversion_gradient
from revlens.screening.screen import COLUMNS as COLUMNS
from revlens.screening.screen import screen as screen
