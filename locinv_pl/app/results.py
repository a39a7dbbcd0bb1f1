"""What is taken home of an edit: its files, and how the same is made without the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from locinv_pl import __version__
from locinv_pl.app.places import REGION
from locinv_pl.app.report import report
from locinv_pl.app.store import MadeEdit
from locinv_pl.drawing import to_array, to_png
from locinv_pl.editing.settings import EditSettings
from locinv_pl.method.policies import load_method
from locinv_pl.photo import Photo, command_of, save_photo, snippet_of
from locinv_pl.photo.snippets import changed
from locinv_pl.types import Inversion

if TYPE_CHECKING:
    from locinv_pl.app.page import Asked

REGION_FILE = "region.png"
BY_FILE = """from locinv_pl import EditSettings, Inversion, edit, load_backbone

backbone = load_backbone({backbone!r})
inversion = Inversion.load({file!r})  # the page's download
images = edit(backbone, inversion, [{target!r}], EditSettings({made}))  # (n, 3, H, W), in [0, 1]"""


@dataclass(frozen=True)
class Code:
    """How an edit is made without the page.

    Args:
        python: a snippet.
        command: of the command line.
    """

    python: str
    command: str


def written(
    made: MadeEdit, n: int, shot: Photo, inversion: Inversion | None, asked: Asked, folder: Path
) -> tuple[Code, list[Path]]:
    """Write an edit's files.

    Args:
        made: the edit.
        n: which of its strengths.
        shot: the photograph that it is of.
        inversion: of the photograph; None where it is no longer kept.
        asked: what the page was asked for.
        folder: where the files are written.

    Returns:
        how the edit is made, and the files: the image as PNG, the inversion, which isn't written where there is none, a
        report, and the photograph as a zipped folder for ``data=folder``.
    """
    name = re.sub(r"\W+", "-", made.about["target"])[:60].strip("-") or "edit"
    files = [folder / f"{name}{suffix}" for suffix in (".png", ".safetensors", ".html", ".zip")]
    files[0].write_bytes(png_of(made, n))
    is_foreign = inversion is not None and inversion.fingerprint != shot.sample.fingerprint
    code = _by_file(made, n, files[1].name) if is_foreign else _code(made, n, shot, asked)
    if inversion is not None:
        inversion.save(files[1])
    files[2].write_text(report(made, name, code.python), encoding="utf-8")
    data = folder / "data"
    save_photo(shot, data, [made.about["target"]])
    if made.about["region"]:
        height, width = shot.pixels.shape[-2:]
        region = Image.fromarray(asked.places.whole(REGION, (width, height)))
        (data / REGION_FILE).write_bytes(to_png(region))
    shutil.make_archive(str(files[3].with_suffix("")), "zip", data)
    return code, files


def _code(made: MadeEdit, n: int, shot: Photo, asked: Asked) -> Code:
    """The same from the photograph, whose files lie in the zipped folder."""
    about = made.about
    files = {noun: [shot.mask_file(noun, number) for number in numbers] for noun, numbers in shot.masks.items()}
    steps = None if asked.steps == load_method(asked.method).num_steps else asked.steps
    named = {"image": shot.image_file, "masks": files, "backbone": about["backbone"], "method": asked.method}
    edits, settings = [about["target"]], EditSettings(**about["settings"][n])
    python = snippet_of(shot, edits, settings, **named, num_steps=steps)
    command = command_of(shot, edits, settings, **named, num_steps=steps)
    if about["region"]:
        frame = f"frame_mask(Path({REGION_FILE!r}), photo.sample.frame)"
        python = python.replace("from locinv_pl import", "from pathlib import Path\n\nfrom locinv_pl import", 1)
        python = python.replace(
            "from locinv_pl.photo", "from locinv_pl.io.frames import frame_mask\nfrom locinv_pl.photo", 1
        )
        python = python.replace("))  # (n,", f"), region={frame})  # (n,", 1)
        command += f" region={REGION_FILE}"
    where = '# in the folder of the download "Data folder"'
    return Code(f"{where}\n{python}", f"{where}\n{command}")


def _by_file(made: MadeEdit, n: int, file: str) -> Code:
    """The same from an inversion that was opened."""
    differs = changed(EditSettings(**made.about["settings"][n]))
    told = ", ".join(f"{key}={value!r}" for key, value in differs.items())
    python = BY_FILE.format(backbone=made.about["backbone"], file=file, target=made.about["target"], made=told)
    return Code(python, "# the photograph of this inversion isn't here, so that no command makes it again; see Python")


def png_of(made: MadeEdit, n: int) -> bytes:
    """An edit's image as PNG, with what it was made of."""
    about = made.about
    texts = {"prompt": about["prompt"], "target": about["target"], "settings": json.dumps(about["settings"][n])}
    texts |= {"backbone": Path(about["backbone"]).name, "Software": f"locinv_pl {__version__}"}
    return to_png(Image.fromarray(to_array(made.images[n])), texts)
