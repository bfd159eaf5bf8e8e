"""An experiment: a subject and a plan of fine-tunes, stages over both, tables on disk, and the claims that
they bear out.

What the room offers is listed in `__init__.pyi` and loads on first use, so that the command line can read the
registry of plans at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
