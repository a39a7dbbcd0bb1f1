"""The command that edits an image of a run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from locinv_pl.api import edit_run
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.measures.edits import MeasureSettings
from locinv_pl.run.store import RunFolder


def edit(
    run: Path,
    image: str = "",
    prompt: str | list[str] = "",
    edit: EditSettings = EditSettings(),
    region: Path | None = None,
    device: str = "cpu",
    measures: MeasureSettings = MeasureSettings(),
) -> None:
    """Edit an image that a run has inverted; the results lie in the run's folder, under edits/.

    Args:
        run: the run's folder, its output=.
        image: the image's id, as its files in inversions/ are named.
        prompt: the target prompt, or several in one batch: prompt='["a blue car", "a red bus"]'.
        edit: how to edit; edit=NAME takes configs/edit/NAME.yaml, edit.KEY=VALUE overrides.
        region: a mask of the image's size, white where edits may change it; it takes the place of edit.blend.
        device: the device to compute on, as torch names it: cpu, cuda, cuda:1.
        measures: the networks that choose among the strengths of an edit, with edit.candidates above 1.

    Raises:
        InputError: no such run or inversion, or a prompt that is the source's own or doesn't fit.
    """
    for key, value in (("image", image), ("prompt", prompt)):
        if not value:
            raise InputError(f"edit: has no {key}; name it in {key}=")
    for path in edit_run(run, image, prompt, edit, region, device, measures):
        print(path)
    import_module("locinv_pl.callbacks.edits").sum_up(RunFolder(run))  # known by name alone, as in the configs
