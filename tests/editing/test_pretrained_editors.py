"""Editors that are pipelines of diffusers as a whole, tiny and random, and editors of Stable Diffusion XL."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from conftest import make_image
from PIL import Image
from tiny_editors import qwen_processor, write_tiny_klein, write_tiny_kontext, write_tiny_qwen, write_tiny_z_image
from tiny_pipelines import write_tiny_xl

from locinv_pl.comparison.runs import Comparison, Variant
from locinv_pl.configs import CONFIGS, presets
from locinv_pl.drawing import to_array
from locinv_pl.editing.editors import Name
from locinv_pl.editing.pipelines import EDITORS, EditorSettings, make_editor
from locinv_pl.editing.recipes import PAINTERS, RECIPES
from locinv_pl.errors import InputError
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone

ROOT = Path(__file__).resolve().parents[2]
SOURCE, TARGET, OTHER = "a red cat and a dog", "a red dog and a dog", "a cat on grass"
ORDER = "replace cat with dog"
SIZE, SCALED = 96, (96, 64)  # the latter of an image of 40x24
WRITERS = {"kontext": write_tiny_kontext, "qwen": write_tiny_qwen, "klein": write_tiny_klein, "z": write_tiny_z_image}
STRONG = {"strength": 1.0}


@pytest.fixture(scope="module", autouse=True)
def small_qwen() -> Any:
    """Qwen's pipelines take images of a megapixel alone; here of as many pixels as the others', without torchvision."""
    from transformers import Qwen2VLProcessor

    with pytest.MonkeyPatch.context() as patch:
        for name in ("edit", "edit_plus", "edit_inpaint"):
            module = import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")
            sides = functools.partial(lambda sizes, area, ratio: sizes(SIZE**2, ratio), module.calculate_dimensions)
            patch.setattr(module, "calculate_dimensions", sides)
        patch.setattr(Qwen2VLProcessor, "from_pretrained", lambda *_, **__: qwen_processor())
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an editor's model."""
    root = tmp_path_factory.mktemp("editors")

    @functools.cache
    def folder(kind: str) -> Path:
        if kind == "plus":
            return write_tiny_qwen(root / kind, "QwenImageEditPlusPipeline")
        return WRITERS[kind](root / kind)

    return lambda name: folder("plus" if name == "qwen_edit_plus" else name.split("_")[0])


@pytest.fixture(scope="module")
def make(folders: Any, tiny: Backbone) -> Callable[..., Any]:
    """Makes an editor of a name."""

    def make(name: str, on_pass: Callable[[], None] = lambda: None, **values: Any) -> Any:
        options = STRONG if name in PAINTERS else {}
        if not name.startswith("qwen"):
            options = {**options, "max_sequence_length": 64}
        own = {"model": str(folders(name)), "num_steps": 2, "guidance_scale": 3.0, "size": SIZE, "options": options}
        return make_editor(EditorSettings(name, **{**own, **values}), tiny, on_pass)

    return make


IMAGE = make_image(40)[:, :, :24]
PRIOR = torch.zeros(40, 24)
PRIOR[8:26, 4:16] = 1


def spied(editor: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the editor's pipeline is called with, as it happens."""
    kind, calls = type(editor.pipe), []
    call = kind.__call__

    @functools.wraps(call)
    def record(pipe: Any, **given: Any) -> Any:
        calls.append(given)
        return call(pipe, **given)

    monkeypatch.setattr(kind, "__call__", record)
    return calls


@pytest.mark.parametrize("name", RECIPES)
class TestEveryRecipe:
    """What holds for all of them."""

    def test_images(self, make, name):
        passes: list[int] = []
        editor = make(name, lambda: passes.append(1))
        edited = editor(IMAGE, SOURCE, TARGET, PRIOR)
        assert edited.shape == IMAGE.shape and edited.dtype == torch.float32 and edited.device.type == "cpu"
        assert edited.isfinite().all() and edited.min() >= 0 and edited.max() <= 1
        assert len(passes) in (2, 4)  # steps, and guidance with a pass of its own
        inside = PRIOR.bool().expand(3, -1, -1)
        assert (edited - IMAGE)[inside].abs().mean() > 0.01
        if name in PAINTERS:
            assert torch.equal(edited[~inside], IMAGE[~inside])
        else:
            assert not torch.equal(edited[~inside], IMAGE[~inside])
        assert torch.equal(editor(IMAGE, SOURCE, TARGET, PRIOR), edited)
        assert not torch.equal(editor(IMAGE, SOURCE, OTHER, PRIOR), edited)
        assert not torch.equal(make(name, seed=1)(IMAGE, SOURCE, TARGET, PRIOR), edited)

    def test_what_the_pipeline_is_given(self, make, name, monkeypatch):
        editor, recipe = make(name), RECIPES[name]
        calls = spied(editor, monkeypatch)
        editor(IMAGE, SOURCE, TARGET, PRIOR)
        (given,) = calls
        assert type(editor.pipe).__name__ == recipe.pipeline
        assert given["prompt"] == (ORDER if recipe.instructed else TARGET)
        assert given["image"].size == SCALED[::-1]
        assert (given["num_inference_steps"], given[recipe.guidance]) == (2, 3.0)
        assert given.get("strength") == (1.0 if recipe.paints else None)
        assert ("mask_image" in given) == recipe.paints == (name in PAINTERS)
        if recipe.paints:
            rows, columns = (torch.arange(n) * m // n for n, m in zip(SCALED, PRIOR.shape, strict=True))
            mask = torch.tensor(list(given["mask_image"].getdata())).view(SCALED)
            assert set(mask.unique().tolist()) == {0, 255}
            share = (mask / 255).mean() / PRIOR.mean()
            assert (mask / 255 - PRIOR[rows][:, columns]).abs().mean() < 0.05 and 0.9 < share < 1.1


@pytest.mark.parametrize("name", ["kontext", "qwen_inpaint", "klein_inpaint", "z_image_inpaint"])
def test_half_precision(make, name):
    edited = make(name, dtype="bfloat16", num_steps=1)(IMAGE, SOURCE, TARGET, PRIOR)
    assert edited.dtype == torch.float32 and edited.isfinite().all()


@pytest.mark.parametrize(
    ("size", "image", "scaled"),
    [
        (1024, (512, 512), (1024, 1024)),
        (1024, (427, 427), (1024, 1024)),
        (1024, (480, 640), (864, 1152)),
        (64, (1000, 10), (640, 32)),
        (None, (64, 96), (64, 96)),
    ],
)
def test_sizes(make, size, image, scaled):
    assert make("kontext", size=size)._size(*image) == scaled


def test_an_image_in_its_own_size_is_what_the_pipeline_gives(make, folders):
    """Kontext by hand; its background is then the autoencoder's."""
    from diffusers import FluxKontextPipeline

    image = make_image(64)[:, :, :32]
    edited = make("kontext", size=None, seed=3)(image, SOURCE, TARGET)
    pipe = FluxKontextPipeline.from_pretrained(folders("kontext"))
    pipe.set_progress_bar_config(disable=True)
    output = pipe(
        image=Image.fromarray(to_array(image)),
        prompt=ORDER,
        height=64,
        width=32,
        max_area=64 * 32,
        _auto_resize=False,
        max_sequence_length=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    )
    torch.testing.assert_close(edited, output.images[0], rtol=0, atol=1e-6)


class TestRefusals:
    """One line that names the editor, the problem and the mend."""

    @pytest.mark.parametrize(
        ("name", "values", "says"),
        [
            ("kontext", {"model": None}, "editor=kontext: has networks of its own; give editor.model=, a folder or"),
            ("kontext", {"model": "./nowhere"}, r"editor=kontext: editor.model=./nowhere: no such folder; download"),
            ("kontext", {"dtype": "int8"}, "dtype=int8: no such weights; use float32, bfloat16"),
            ("kontext", {"size": 16}, "editor=kontext: size=16 must be 32 or more"),
            ("kontext", {"size": 0.5}, "editor=kontext: size=0.5 must be 32 or more"),
            ("kontext", {"options": STRONG}, "unknown option 'strength'; FluxKontextPipeline has max_sequence_length"),
            ("kontext", {"options": {"max_area": 9}}, "unknown option 'max_area'"),
            ("qwen_inpaint", {"options": {"true_cfg_scale": 2}}, "unknown option 'true_cfg_scale'"),
        ],
    )
    def test_settings(self, make, name, values, says):
        with pytest.raises(InputError, match=says) as caught:
            make(name, **values)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "other", "says"),
        [
            ("kontext", "klein", "is a Flux2KleinPipeline; give a FluxKontextPipeline or FluxKontextInpaintPipeline"),
            ("klein_inpaint", "z_image", "is a ZImagePipeline; give a Flux2KleinPipeline"),
            ("qwen_edit_plus", "qwen_edit", "is a QwenImageEditPipeline; give a QwenImageEditPlusPipeline"),
        ],
    )
    def test_the_model_of_another_editor(self, make, folders, name, other, says):
        with pytest.raises(InputError, match=f"^editor={name}: editor.model=.*: {says}"):
            make(name, model=str(folders(other)))

    def test_models_that_cannot_be_loaded(self, make, folders, tiny_folder, tmp_path):
        with pytest.raises(InputError, match="is a None; give a|can't be loaded"):
            make("kontext", model=str(tiny_folder))
        damaged = Path(shutil.copytree(folders("kontext"), tmp_path / "damaged"))
        (damaged / "transformer/diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(InputError, match="can't be loaded .*; download it again, whole") as caught:
            make("kontext", model=str(damaged))
        assert "\n" not in str(caught.value)

    def test_a_library_that_is_missing(self, make, monkeypatch):
        from diffusers import QwenImageEditPipeline

        def fail(*_: Any, **__: Any) -> None:
            raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library\nbut it was not found")

        monkeypatch.setattr(QwenImageEditPipeline, "from_pretrained", fail)
        with pytest.raises(InputError, match="needs another library .Qwen2VLVideoProcessor requires the Torchvision"):
            make("qwen_edit")

    def test_calls(self, make):
        editor = make("kontext_inpaint", size=None)
        with pytest.raises(InputError, match="editor=kontext_inpaint: needs a prior that says where to paint"):
            editor(make_image(), SOURCE, TARGET)
        with pytest.raises(InputError, match="the image is 24x40; its sides must be multiples of 32"):
            editor(IMAGE, SOURCE, TARGET, PRIOR)
        with pytest.raises(InputError, match="is the source prompt"):
            editor(make_image(), SOURCE, SOURCE)
        with pytest.raises(InputError, match="editor=kontext_inpaint: .*strength"):
            make("kontext_inpaint", options={"strength": 3.0})(IMAGE, SOURCE, TARGET, PRIOR)


class TestStableDiffusionXL:
    """``inpaint`` and ``ledits_pp`` with a backbone of Stable Diffusion XL's layout, or a model."""

    @pytest.fixture(scope="class")
    def xl_folder(self, tmp_path_factory):
        return write_tiny_xl(tmp_path_factory.mktemp("xl"))

    @pytest.fixture(scope="class")
    def xl(self, xl_folder):
        return load_backbone(str(xl_folder))

    image, prior = make_image()[None], torch.nn.functional.pad(torch.ones(10, 14), (2, 16, 4, 18))

    def by_hand(self, xl: Any, pipeline: str, scheduler: str, **how: Any) -> Any:
        import diffusers

        first, second = xl.text.stretches[0]
        pipe = getattr(diffusers, pipeline)(
            vae=xl.vae,
            text_encoder=first.network,
            tokenizer=first.tokenizer,
            text_encoder_2=second.network,
            tokenizer_2=second.tokenizer,
            unet=xl.unet,
            scheduler=getattr(diffusers, scheduler).from_config(xl.scheduler.config, **how),
            add_watermarker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def test_inpaint(self, xl):
        settings = {"num_steps": 4, "seed": 5, "guidance_scale": 3.0, "options": {"strength": 0.8}}
        edited = make_editor(EditorSettings("inpaint", **settings), xl)(self.image[0], SOURCE, TARGET, self.prior)
        pipe = self.by_hand(xl, "StableDiffusionXLInpaintPipeline", "DDIMScheduler")
        output = pipe(
            prompt=TARGET,
            image=self.image,
            mask_image=self.prior[None, None],
            height=32,
            width=32,
            strength=0.8,
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(5),
            output_type="pt",
        )
        torch.testing.assert_close(edited, output.images[0].clamp(0, 1), rtol=0, atol=5e-5)
        pasted = make_editor(EditorSettings("inpaint", **settings, size=32), xl)(
            self.image[0], SOURCE, TARGET, self.prior
        )
        assert torch.equal(pasted, torch.where(self.prior.bool(), edited, self.image[0]))

    def test_ledits_pp(self, xl):
        before = xl.unet.attn_processors
        options = {"skip": 0.5, "edit_threshold": 0.7}
        settings = EditorSettings("ledits_pp", num_steps=4, seed=5, guidance_scale=4.0, options=options)
        edited = make_editor(settings, xl)(self.image[0], SOURCE, TARGET)
        assert xl.unet.attn_processors.keys() == before.keys()
        assert all(xl.unet.attn_processors[name] is before[name] for name in before)
        solver = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
        pipe = self.by_hand(xl, "LEditsPPPipelineStableDiffusionXL", "DPMSolverMultistepScheduler", **solver)
        noise = {"generator": torch.Generator().manual_seed(5)}
        pipe.invert(self.image, num_inversion_steps=4, skip=0.5, **noise)
        output = pipe(
            editing_prompt=["cat", "dog"],
            reverse_editing_direction=[True, False],
            edit_threshold=0.7,
            edit_guidance_scale=4.0,
            output_type="pt",
        )
        xl.unet.set_attn_processor(before)
        torch.testing.assert_close(edited, output.images[0].clamp(0, 1), rtol=0, atol=5e-5)

    @pytest.mark.parametrize("name", ["inpaint", "ledits_pp"])
    def test_half_precision_leaves_the_backbone_as_it_was(self, xl_folder, name):
        half = load_backbone(str(xl_folder), "bfloat16")
        weights = [half.vae.decoder.conv_in.weight.clone(), half.vae.dtype]
        edited = make_editor(EditorSettings(name, num_steps=2), half)(self.image[0], SOURCE, TARGET, self.prior)
        assert edited.isfinite().all() and edited.dtype == torch.float32
        assert torch.equal(half.vae.decoder.conv_in.weight, weights[0]) and half.vae.dtype == weights[1]

    def test_an_inpainting_model(self, xl_folder, tmp_path, tiny):
        from diffusers import UNet2DConditionModel

        folder = Path(shutil.copytree(xl_folder, tmp_path / "xl"))
        torch.manual_seed(9)
        config = UNet2DConditionModel.load_config(folder / "unet")
        UNet2DConditionModel.from_config({**config, "in_channels": 9}).save_pretrained(folder / "unet")
        editor = make_editor(EditorSettings("inpaint", str(folder), 2), tiny)
        assert editor(self.image[0], SOURCE, TARGET, self.prior).shape == (3, 32, 32)
        with pytest.raises(InputError, match="takes 9 channels, latents have 4: it is an inpainting model"):
            load_backbone(str(folder))
        with pytest.raises(InputError, match="editor=ledits_pp: .* takes 9 channels, this editor needs one that ta"):
            make_editor(EditorSettings("ledits_pp", str(folder), 2), tiny)


class TestPresets:
    """configs/editor, and how a comparison takes them."""

    def test_every_editor_has_one(self):
        names = {name: Variant(name) for name in presets("editor")}
        assert names.keys() == EDITORS.keys() | {"sdxl_inpaint", "ledits_pp_xl"} and get_args(Name) == tuple(EDITORS)
        painters = {name for name, variant in names.items() if variant.knows_place}
        assert painters == PAINTERS | {"sdxl_inpaint"}

    def test_all_models_are_scaled_for(self):
        for path in (CONFIGS / "editor").glob("*.yaml"):
            settings = EditorSettings(**yaml.safe_load(path.read_text()))
            assert (settings.size == 1024) == (path.stem in {*RECIPES, "sdxl_inpaint", "ledits_pp_xl"})
            assert ("size" in settings.to_dict()) == (settings.size is not None)

    def test_a_comparison_tells_each_editor_its_own(self):
        words = ["methods=nti,kontext,klein", "model.num_steps=3", "kontext.model=/a.b", "kontext.num_steps=9"]
        comparison = Comparison.parse(words)
        abouts = [comparison._about(variant)["words"] for variant in comparison.variants]
        shared = ["model.num_steps=3"]
        own = ["editor.model=/a.b", "editor.num_steps=9"]
        assert abouts[0] == [*shared, "method=nti"]
        assert abouts[1] == [*shared, "editor=kontext", "editor.num_steps=3", *own]
        assert abouts[2] == [*shared, "editor=klein", "editor.num_steps=3"]


def test_the_page_s_python_runs(folders, tmp_path, monkeypatch):
    """As it stands in docs/editors.md, but for a size that a tiny model edits at in no time."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/editors.md").read_text(), re.DOTALL | re.MULTILINE)
    assert "size=1024" in code and "num_steps=28" in code
    (tmp_path / "models").mkdir()
    (tmp_path / "models/FLUX.1-Kontext-dev").symlink_to(folders("kontext"))
    Image.fromarray(to_array(make_image(128))).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code.replace("size=1024", "size=32").replace("=28", "=2"), "docs/editors.md", "exec"), names)
    changed = (names["edited"] != names["image"]).any(0)
    assert changed[names["prior"] == 1].float().mean() > 0.9 and not changed[names["prior"] == 0].any()
