"""LocInv: localization-aware inversion of real images for text-guided editing."""

from pathlib import Path

# A wheel has datamodules/, callbacks/ and configs/ inside this folder; in a checkout they lie beside it.
if not ((_here := Path(__file__).resolve().parent) / "configs" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

from locinv_pl.api import adjectives, invert, iter_invert, nouns, open_image
from locinv_pl.editing.prompt_to_prompt import Edited, edit, iter_edit, reconstruct
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.grounding import find_priors
from locinv_pl.method.policies import Method, load_method
from locinv_pl.method.progress import Progress
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone
from locinv_pl.types import Edit, EditSample, Inversion, Noun

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Edit",
    "EditSample",
    "EditSettings",
    "Edited",
    "InputError",
    "Inversion",
    "Method",
    "Noun",
    "Progress",
    "adjectives",
    "edit",
    "find_priors",
    "invert",
    "iter_edit",
    "iter_invert",
    "load_backbone",
    "load_method",
    "nouns",
    "open_image",
    "reconstruct",
]
