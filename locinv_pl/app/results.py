"""What is taken home of an edit: its files, and how the same is made without the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image
from torch import Tensor

from locinv_pl import __version__
from locinv_pl.app.places import REGION
from locinv_pl.app.store import MadeEdit
from locinv_pl.drawing import to_array, to_png
from locinv_pl.editing.rows import as_edit
from locinv_pl.editing.settings import EditSettings, changed
from locinv_pl.method.policies import load_method
from locinv_pl.networks.options import LoadOptions
from locinv_pl.photo import Photo, PhotoEdit, command_of, composite, save_photo, snippet_of
from locinv_pl.run.edits import EditResult, save_edits
from locinv_pl.run.store import RunFolder
from locinv_pl.types import Inversion

if TYPE_CHECKING:
    from locinv_pl.app.page import Asked

REGION_FILE = "region.png"
MAP_STEPS = 10  # timesteps whose maps the report shows
BY_FILE = """from locinv_pl import EditSettings, Inversion, edit, load_backbone

backbone = load_backbone({loaded})
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


class Kept(NamedTuple):
    """An edit with all that it was made of.

    Args:
        made: the edit, at one strength or several.
        shot: the photograph that it is of.
        inversion: of the photograph; None where it is no longer kept.
        asked: what the page was asked for.
    """

    made: MadeEdit
    shot: Photo
    inversion: Inversion | None
    asked: Asked

    @property
    def name(self) -> str:
        """What its files are called, without suffix."""
        return re.sub(r"\W+", "-", self.made.about["target"])[:60].strip("-") or "edit"

    @property
    def codes(self) -> list[Code]:
        """How it is made without the page, by strength."""
        is_foreign = self.inversion is not None and self.inversion.fingerprint != self.shot.sample.fingerprint
        code = _by_file if is_foreign else _code
        return [code(self, n) for n in range(len(self.made.images))]

    def before_and_after(self, n: int) -> tuple[Tensor, Tensor]:
        """The photograph without and with the n-th strength, (3, H, W) in [0, 1]; as the model sees it without mask."""
        made = self.made
        if not len(made.masks):
            return made.before, made.images[n]
        return self.shot.pixels, composite(self.shot, made.images[n], made.masks[n])

    @property
    def region(self) -> Tensor | None:
        """Where it may change the image, (H, W); None where no region was drawn."""
        opened = self.asked.opened
        if not self.made.about["region"] or opened is None:
            return None
        return self.asked.places.prior(REGION, opened.frame)


def written(edit: Kept, n: int, photograph: Tensor, report: bytes, folder: Path) -> list[Path]:
    """Write an edit's files.

    Args:
        edit: the edit.
        n: which of its strengths.
        photograph: with the edit in it, (3, H, W) in [0, 1], from :meth:`Kept.before_and_after`.
        report: from :func:`report_of`.
        folder: where the files are written.

    Returns:
        the image as PNG, the photograph with the edit in it, the inversion, which isn't written where there is none,
        the report, and the photograph as a zipped folder for ``data=folder``.
    """
    made, shot = edit.made, edit.shot
    files = [folder / f"{edit.name}{suffix}" for suffix in (".png", "-photo.png", ".safetensors", ".html", ".zip")]
    image, whole, inversion, page, archive = files
    image.write_bytes(png_of(made, made.images[n], n))
    whole.write_bytes(png_of(made, photograph, n))
    if edit.inversion is not None:
        edit.inversion.save(inversion)
    page.write_bytes(report)
    data = folder / "data"
    save_photo(shot, data, [made.about["target"]])
    if made.about["region"]:
        height, width = shot.pixels.shape[-2:]
        region = Image.fromarray(edit.asked.places.whole(REGION, (width, height)))
        (data / REGION_FILE).write_bytes(to_png(region))
    shutil.make_archive(str(archive.with_suffix("")), "zip", data)
    return files


def report_of(edit: Kept) -> bytes:
    """The report of an edit at all its strengths, as a run with this edit alone has it; one HTML file.

    Args:
        edit: the edit. The server's folders aren't named.
    """
    pages = import_module("locinv_pl.callbacks.edits")  # known by name alone, as in the configs
    made, sample, about = edit.made, edit.shot.sample, edit.made.about
    target, region = as_edit(about["prompt"], about["target"]), edit.region
    commands: dict[str, list[str]] = {}
    method: dict[str, Any] = {"method": load_method(edit.asked.method).to_dict(), "num_steps": edit.asked.steps}
    method |= {} if edit.inversion is None else {key: edit.inversion.settings[key] for key in method}
    loaded = {"backbone": about["backbone"]} | about["model"]
    named = {key: Path(value).name if isinstance(value, str) else value for key, value in loaded.items()}
    how = {"resolution": about["resolution"], "dtype": about["dtype"], "data": {"name": "photo"}}
    with TemporaryDirectory() as folder:
        run = RunFolder(folder)
        run.claim({**method, **named, **how})
        for n, (code, settings) in enumerate(zip(edit.codes, about["settings"], strict=True)):
            (path,) = save_edits(
                run,
                sample.id,
                prompt=about["prompt"],
                fingerprint=sample.fingerprint,
                settings=settings if region is None else {**settings, "blend": "prior"},
                source=None if n else made.before,
                reconstruction=made.reconstruction,
                edits=[target],
                images=made.images[n : n + 1],
                region=region,
                masks=made.masks[n : n + 1],
            )
            commands[path.name] = [code.command, code.python]
        shown = EditResult(sample, edit.inversion, {}, made.reconstruction, [target], made.images)
        pages.save_maps(run, shown, MAP_STEPS)
        return bytes(pages.write_report(run, commands).read_bytes())


def _code(edit: Kept, n: int) -> Code:
    """The same from the photograph, whose files lie in the zipped folder."""
    about, shot, asked = edit.made.about, edit.shot, edit.asked
    told = PhotoEdit(
        shot,
        [about["target"]],
        shot.image_file,
        {noun: [shot.mask_file(noun, number) for number in numbers] for noun, numbers in shot.masks.items()},
        EditSettings(**about["settings"][n]),
        region=REGION_FILE if about["region"] else None,
        backbone=about["backbone"],
        model=LoadOptions(**about["model"]),
        dtype=about["dtype"],
        method=asked.method,
        num_steps=None if asked.steps == load_method(asked.method).num_steps else asked.steps,
        resolution=about["resolution"],
    )
    where = '# in the folder of the download "Data folder"'
    return Code(f"{where}\n{snippet_of(told)}", f"{where}\n{command_of(told)}")


def _by_file(edit: Kept, n: int) -> Code:
    """The same from an inversion that was opened."""
    about = edit.made.about
    told = ", ".join(f"{key}={value!r}" for key, value in changed(about["settings"][n]).items())
    loaded = {"dtype": about["dtype"]} if about["dtype"] != "float32" else {}
    words = [repr(about["backbone"]), *(f"{key}={value!r}" for key, value in (loaded | about["model"]).items())]
    python = BY_FILE.format(loaded=", ".join(words), file=f"{edit.name}.safetensors", target=about["target"], made=told)
    return Code(python, "# the photograph of this inversion isn't here, so that no command makes it again; see Python")


def png_of(made: MadeEdit, image: Tensor, n: int) -> bytes:
    """What an edit has made at one of its strengths as PNG, with what it was made of."""
    about = made.about
    texts = {"prompt": about["prompt"], "target": about["target"], "settings": json.dumps(about["settings"][n])}
    texts |= {"backbone": Path(about["backbone"]).name, "Software": f"locinv_pl {__version__}"}
    return to_png(Image.fromarray(to_array(image)), texts)
