"""What the JSON files of a run's folder hold, as far as it is read."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

Measure = float | None
OPEN = with_config(ConfigDict(extra="allow"))  # further keys are kept


@OPEN
class _Method(TypedDict):
    name: str


@OPEN
class Settings(TypedDict):
    """The content of settings.json, as far as it is read."""

    backbone: str
    method: _Method
    num_steps: Annotated[int, Field(ge=1, le=10**6)]
    dtype: str
    data: dict[str, Any]


class Total(TypedDict):
    """The content of pictures.json."""

    total: Annotated[int, Field(ge=0)]


class Skipped(TypedDict):
    """The content of a file in skipped/."""

    id: str
    problem: str


class Origin(TypedDict):
    """What a finished image was made of, and with which others it went together."""

    id: NotRequired[str]
    sample: NotRequired[str]
    settings: NotRequired[str]
    batch: list[str]


@OPEN
class InversionScores(TypedDict):
    """The content of a file in inversions/ and validation/, as far as it is read."""

    id: str
    prompt: str
    nouns: list[str]
    iou_initial: list[Measure]
    iou: list[Measure]
    iou_curve: list[list[Measure]]
    psnr: Measure
    ssim: Measure
    psnr_vae: Measure
    seconds: Measure
    frame: NotRequired[Any]
    made_of: NotRequired[Origin]


def _measured(edit: dict[str, Any]) -> dict[str, Any]:
    texts = {"kind", "prompt", "file"}
    if not texts <= edit.keys() or any(isinstance(value, str) != (key in texts) for key, value in edit.items()):
        raise ValueError("an edit has kind, prompt, file and numbers")
    return edit


@OPEN
class EditScores(TypedDict):
    """The content of a file in test/, as far as it is read."""

    id: str
    prompt: str
    reconstruction: dict[str, Measure]
    edits: list[Annotated[dict[str, float | bool | str | None], AfterValidator(_measured)]]


KINDS: dict[str, Any] = {
    "inversions": InversionScores,
    "validation": InversionScores,
    "test": EditScores,
    "skipped": Skipped,
}
