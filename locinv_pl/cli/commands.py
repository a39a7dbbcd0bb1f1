"""The commands beside fit and validate: functions whose arguments are the command line's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from locinv_pl.errors import InputError
from locinv_pl.io.files import located, read_json, write_json
from locinv_pl.networks.options import LoadOptions

if TYPE_CHECKING:
    from locinv_pl.pretrain.settings import Recipe


def table(runs: Sequence[str]) -> None:
    """Print finished runs as a Markdown table, a row for each.

    Args:
        runs: the folders that were the runs' output=.

    Raises:
        InputError: none is named, or one has no summary.json.
    """
    from locinv_pl.run.summary import Summary, runs_table

    if not runs:
        raise InputError("table: name the folders of one run or more")
    print(runs_table([read_json(located(run) / "summary.json", Summary) for run in runs]))


def compare(words: Sequence[str]) -> None:
    """Run several methods over the same images, and write a table and figures.

    A run that has ended is not made again.

    Args:
        words: these keys; all others go to the runs, as data= and trainer.devices= do.
            methods=NAME[:PRIOR][+EDIT],…   the rows; presets of configs/method or configs/editor, or YAML files
            experiment=NAME                 takes keys from configs/experiment/NAME.yaml
            output=DIR                      the comparison's folder, outputs/compare by default
            edits=true|false                whether images are edited and scored, too; true by default
            vary='{KEY: [VALUE, …], …}'     runs every row with each of these values
            reference=ROW                   the row that others are compared with, nti by default
            resamples=N                     of the bootstrap behind the intervals, 2000 by default
            generate=N                      images of each target prompt from noise, 2 by default; 0 leaves that row out

    Raises:
        InputError: a word isn't understood, or a run failed.
    """
    from locinv_pl.comparison.runs import Comparison
    from locinv_pl.comparison.tables import to_markdown

    comparison = Comparison.parse(words)
    content = comparison.run()
    print(f"\n{to_markdown(content)}\n")
    for path in import_module("locinv_pl.callbacks.comparison").draw(comparison, content):
        print(path)
    print(f"Results: {comparison.output}")


def evaluate_backbone(
    backbone: str,
    json: Path | None = None,
    sheet: Path | None = None,
    judge: Path | None = None,
    num_prompts: int = 200,
    num_scenes: int = 500,
    seed: int = 0,
    device: str = "cpu",
    model: LoadOptions = LoadOptions(),
    num_steps: int = 50,
    guidance_scale: float = 5.0,
) -> None:
    """Measure a text-to-image model of the drawn world: its VAE, its images as the judge sees them, its maps.

    Args:
        backbone: "embedded", "embedded_sd3", or the folder of a model in Stable Diffusion's, SD3's or FLUX's layout.
        json: where to write the scores.
        sheet: where to draw the first images with what the judge saw, a PNG.
        judge: the folder of another judge than the package's.
        num_prompts: how many prompts with one object, and as many with two, with three and of edits; 1 or more.
        num_scenes: how many unseen scenes the judge is measured on; 1 or more.
        seed: of scenes, prompts and noise; another seed measures on others.
        device: the device to compute on, as torch names it: cpu, cuda, cuda:1.
        model: what the model is loaded with, as in train.py: model.lora=embedded_lcm.
        num_steps: T of the images that it draws, and of the inversions behind its maps; 1 or more.
        guidance_scale: w of the images that it draws; 1 leaves guidance out.

    Raises:
        InputError: a number is below 1, or there is no such model, judge or device.
    """
    from locinv_pl.measures.backbones import draw_sheet, samples_seen
    from locinv_pl.measures.backbones import evaluate_backbone as evaluate
    from locinv_pl.measures.judge import load_judge
    from locinv_pl.networks.loading import load_backbone

    for key, number in (("num_prompts", num_prompts), ("num_scenes", num_scenes), ("num_steps", num_steps)):
        if number < 1:
            raise InputError(f"{key}={number}: must be 1 or more")
    networks, seen = load_backbone(backbone, device=device, **model.given), samples_seen(backbone)
    scores, generated = evaluate(
        networks, load_judge(judge, device), num_prompts, num_scenes, seed, seen, num_steps, guidance_scale
    )
    for key, value in scores.to_dict().items():
        print(f"{key:20} {'-' if value is None else f'{value:.3f}'}")
    if json is not None:
        write_json(json, scores.to_dict())
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(generated).save(sheet)


def pretrain(recipe: Recipe, output: Path = Path("outputs/pretrain"), stages: list[str] | None = None) -> None:
    """Make the embedded model and its judge from drawn scenes; run again to go on where it stopped.

    Args:
        recipe: the stages' settings; recipe=NAME takes configs/recipe/NAME.yaml, recipe.KEY=VALUE overrides.
        output: the run's folder; embedded/, embedded_lcm/, embedded_sd3/, judge/ and curves.png appear in it.
        stages: some of vae, clip, recognizer, diffusion, consistency, flow_vae, flow; all that the recipe has by
            default.

    Raises:
        InputError: a stage or a setting that there isn't.
    """
    from locinv_pl.pretrain.curves import draw_curves
    from locinv_pl.pretrain.pretraining import STAGES, Pretraining

    Pretraining(recipe, output).run(stages or ())
    draw_curves(output, STAGES).savefig(output / "curves.png", dpi=120)


def status(run: str) -> None:
    """Say how a run stands: images done, running and failed, its speed, and whether it lives.

    Args:
        run: the run's folder, its output=.

    Raises:
        InputError: it holds no run.
    """
    from locinv_pl.run.status import status, to_text

    print(to_text(run, status(run)))
