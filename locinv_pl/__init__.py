"""LocInv: localization-aware inversion of real images for text-guided editing.

The names of this package stand in ``__init__.pyi``; each one's module is imported when the name is first used.
"""

from pathlib import Path

import lazy_loader

# A wheel has datamodules/, callbacks/ and configs/ inside this folder; in a checkout they lie beside it.
if not ((_here := Path(__file__).resolve().parent) / "configs" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
