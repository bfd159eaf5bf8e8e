"""revlens: measure, explain and guard against the reversion of alignment under fine-tuning.

The public names are listed in `__init__.pyi` and load on first use, so that `import revlens` stays light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
