"""LocInv: localization-aware inversion of real pictures for text-guided editing."""

from locinv_pl.api import invert
from locinv_pl.backbone import Backbone, load_backbone
from locinv_pl.editing import EditSettings, edit, reconstruct
from locinv_pl.errors import InputError
from locinv_pl.methods import Method, load_method
from locinv_pl.types import Edit, EditSample, Inversion, Noun

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
