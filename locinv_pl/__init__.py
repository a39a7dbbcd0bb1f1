"""LocInv: localization-aware inversion of real images for text-guided editing."""

from pathlib import Path

# In a checkout datamodules/, callbacks/ and configs/ lie beside this folder; a wheel has them inside it.
if (_checkout := Path(__file__).resolve().parents[1] / "pyproject.toml").is_file():
    __path__.append(str(_checkout.parent))

from locinv_pl.api import invert
from locinv_pl.editing.prompt_to_prompt import EditSettings, edit, reconstruct
from locinv_pl.errors import InputError
from locinv_pl.method.policies import Method, load_method
from locinv_pl.networks.backbone import Backbone, load_backbone
from locinv_pl.types import Edit, EditSample, Inversion, Noun

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Edit",
    "EditSample",
    "EditSettings",
    "InputError",
    "Inversion",
    "Method",
    "Noun",
    "edit",
    "invert",
    "load_backbone",
    "load_method",
    "reconstruct",
]
