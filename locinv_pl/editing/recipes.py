"""What diffusers' pipelines of today take from us: a table, which needs no library to be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How one of diffusers' pipelines is called.

    Args:
        pipeline: its class in diffusers.
        folders: the classes that a model's model_index.json may name; the components are the same.
        instructed: whether it is told what to change, in words; else what the image is to become.
        paints: whether it takes a mask, and changes the image inside it alone.
        guidance: its name of the guidance scale.
        negative: the prompt that guidance leads away from.
    """

    pipeline: str
    folders: tuple[str, ...]
    instructed: bool
    paints: bool = False
    guidance: str = "guidance_scale"
    negative: str = ""


KONTEXT = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")
QWEN = ("QwenImageEditPipeline", "QwenImageEditInpaintPipeline")
QWEN_PLUS = ("QwenImageEditPlusPipeline",)
KLEIN = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")
Z_IMAGE = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
TRUE = "true_cfg_scale"

RECIPES = {
    "kontext": Recipe("FluxKontextPipeline", KONTEXT, instructed=True),
    "kontext_inpaint": Recipe("FluxKontextInpaintPipeline", KONTEXT, instructed=True, paints=True),
    "qwen_edit": Recipe("QwenImageEditPipeline", QWEN, True, guidance=TRUE, negative=" "),
    "qwen_edit_plus": Recipe("QwenImageEditPlusPipeline", QWEN_PLUS, True, guidance=TRUE, negative=" "),
    "qwen_inpaint": Recipe("QwenImageEditInpaintPipeline", QWEN, False, True, guidance=TRUE, negative=" "),
    "klein": Recipe("Flux2KleinPipeline", KLEIN, instructed=True),
    "klein_inpaint": Recipe("Flux2KleinInpaintPipeline", KLEIN, instructed=False, paints=True),
    "z_image_inpaint": Recipe("ZImageInpaintPipeline", Z_IMAGE, instructed=False, paints=True),
}
"""By the name of the editor."""

PAINTERS = {"inpaint", *(name for name, recipe in RECIPES.items() if recipe.paints)}
"""The editors that paint in a prior, and need one."""
