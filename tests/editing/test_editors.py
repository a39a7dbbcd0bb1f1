"""Other editors, against diffusers' pipelines called by hand, on the tiny model; the wording of instructions."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
import yaml
from conftest import make_image
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    UNet2DConditionModel,
)

from locinv_pl.api import invert
from locinv_pl.configs import CONFIGS
from locinv_pl.editing import pipelines
from locinv_pl.editing.pipelines import EDITORS, Editor, EditorSettings, changed_phrases, instruction, load_editor
from locinv_pl.editing.prompt_to_prompt import edit
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone

SOURCE, TARGET = "a red cat and a dog", "a red dog and a dog"
CHANNELS = {"inpaint": 9, "instruct_pix2pix": 8, "diffedit": 4, "ledits_pp": 4}


def write_model(folder: Path, base: Path, channels: int) -> Path:
    """The tiny model with a UNet that takes so many channels."""
    shutil.copytree(base, folder)
    torch.manual_seed(channels)
    config = UNet2DConditionModel.load_config(base / "unet")
    UNet2DConditionModel.from_config({**config, "in_channels": channels}).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def tiny_folder(deep_folder):
    """With three levels."""
    return deep_folder


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    """With three levels."""
    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="module")
def folders(tiny_folder, tmp_path_factory) -> dict[int, Path]:
    """By their UNets' input channels."""
    root = tmp_path_factory.mktemp("models")
    return {4: tiny_folder} | {n: write_model(root / str(n), tiny_folder, n) for n in (8, 9)}


@pytest.fixture(scope="module")
def backbones(folders) -> dict[int, Backbone]:
    return {channels: load_backbone(str(folder), for_editors=True) for channels, folder in folders.items()}


def make_prior() -> torch.Tensor:
    prior = torch.zeros(32, 32)
    prior[4:14, 2:16] = 1
    return prior


def make_editor(backbone: Backbone, **values) -> Editor:
    settings = EditorSettings(**{"num_steps": 3, **values})
    return EDITORS[settings.editor](settings, backbone)


def run(editor: Editor, image: torch.Tensor | None = None) -> torch.Tensor:
    return editor(make_image() if image is None else image, SOURCE, TARGET, make_prior())


class TestEveryEditor:
    """What holds for all editors of Stable Diffusion."""

    @pytest.mark.parametrize("name", CHANNELS)
    def test_an_image_of_the_same_size_and_the_same_twice(self, backbones, folders, name):
        editor = make_editor(backbones[CHANNELS[name]], editor=name)
        edited = run(editor)
        assert edited.shape == (3, 32, 32) and edited.dtype == torch.float32 and edited.device.type == "cpu"
        assert edited.isfinite().all() and edited.min() >= 0 and edited.max() <= 1 and edited.std() > 0
        run(editor, make_image(seed=1))
        torch.rand(3)
        assert torch.equal(run(editor), edited)
        loaded = make_editor(backbones[4], editor=name, model=str(folders[CHANNELS[name]]))
        assert torch.equal(run(loaded), edited)
        assert not torch.equal(run(make_editor(backbones[CHANNELS[name]], editor=name, seed=1)), edited)

    @pytest.mark.parametrize("name", CHANNELS)
    def test_images_that_are_not_square(self, backbones, name):
        image = make_image(64)[:, :32]
        edited = make_editor(backbones[CHANNELS[name]], editor=name)(image, SOURCE, TARGET, torch.ones(32, 64))
        assert edited.shape == (3, 32, 64)

    @pytest.mark.parametrize("name", CHANNELS)
    def test_half_precision(self, backbones, folders, name):
        folder = str(folders[CHANNELS[name]])
        edited = run(make_editor(backbones[4], editor=name, model=folder, dtype="bfloat16", num_steps=2))
        assert edited.dtype == torch.float32 and edited.isfinite().all()

    @pytest.mark.parametrize("name", CHANNELS)
    def test_the_guidance_scale_counts(self, backbones, name):
        weak, strong = (make_editor(backbones[CHANNELS[name]], editor=name, guidance_scale=w) for w in (2.0, 9.0))
        assert not torch.equal(run(weak), run(strong))

    def test_a_prior_may_be_soft_or_bool(self, backbones):
        editor, prior = make_editor(backbones[9], editor="inpaint"), make_prior()
        edited = [editor(make_image(), SOURCE, TARGET, p) for p in (prior, prior > 0, prior * 0.4 + 0.2)]
        assert torch.equal(edited[0], edited[1]) and torch.equal(edited[0], edited[2])

    @pytest.mark.parametrize("name", ["instruct_pix2pix", "diffedit", "ledits_pp"])
    def test_no_prior_is_needed(self, backbones, name):
        editor = make_editor(backbones[CHANNELS[name]], editor=name)
        assert torch.equal(editor(make_image(), SOURCE, TARGET), run(editor))

    @pytest.mark.parametrize("name", ["instruct_pix2pix", "ledits_pp"])
    def test_nothing_but_an_article_changes(self, backbones, name):
        edited = make_editor(backbones[CHANNELS[name]], editor=name)(make_image(), "a cat", "the cat")
        assert edited.isfinite().all()


class CountingTokenizer:
    """Counts tokens without their padding, as the tokenizers did that LEDITS++ was written for."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **kwargs):
        coded = self.tokenizer(*args, **kwargs)
        if "length" in coded:
            coded["length"] = coded.attention_mask.sum(1)
        return coded


class TestAgainstThePipelines:
    """The same images as diffusers' pipelines give, put together and called here."""

    @pytest.fixture
    def parts(self, backbones):
        def make(channels: int) -> dict:
            backbone = backbones[channels]
            parts = {name: getattr(backbone, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
            nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            self.noise = DDIMScheduler.from_config(backbone.scheduler.config)
            return {**parts, **nothing, "scheduler": self.noise}

        return make

    image = make_image()[None]

    @property
    def common(self) -> dict:
        return {"generator": torch.Generator().manual_seed(5), "output_type": "pt"}

    def assert_same(self, edited: torch.Tensor, output) -> None:
        # The pipeline's weights are in another memory layout, and convolutions round differently.
        torch.testing.assert_close(edited, output.images[0].clamp(0, 1), rtol=0, atol=5e-5)

    @pytest.mark.parametrize("channels", [4, 9])
    def test_inpaint(self, backbones, parts, channels):
        pipe = diffusers.StableDiffusionInpaintPipeline(**parts(channels))
        inputs = {"prompt": TARGET, "image": self.image, "mask_image": make_prior()[None, None]}
        output = pipe(
            **inputs, height=32, width=32, num_inference_steps=4, strength=0.8, guidance_scale=3.0, **self.common
        )
        options = {"editor": "inpaint", "num_steps": 4, "seed": 5, "guidance_scale": 3.0}
        editor = make_editor(backbones[channels], **options, options={"strength": 0.8})
        self.assert_same(run(editor), output)

    def test_instruct_pix2pix(self, backbones, parts):
        pipe = diffusers.StableDiffusionInstructPix2PixPipeline(**parts(8))
        pipe.scheduler = EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        )
        order = {"prompt": "replace cat with dog", "image": self.image}
        output = pipe(**order, num_inference_steps=3, image_guidance_scale=1.2, **self.common)
        options = {"image_guidance_scale": 1.2}
        self.assert_same(run(make_editor(backbones[8], editor="instruct_pix2pix", seed=5, options=options)), output)

    def test_diffedit(self, backbones, parts):
        pipe = diffusers.StableDiffusionDiffEditPipeline(**parts(4), inverse_scheduler=None)
        pipe.inverse_scheduler = DDIMInverseScheduler.from_config(self.noise.config)
        steps = {"num_inference_steps": 4}
        mask = pipe.generate_mask(
            image=self.image, source_prompt=SOURCE, target_prompt=TARGET, num_maps_per_mask=3, **steps,
            generator=self.common["generator"],
        )  # fmt: skip
        assert 0 < mask.mean() < 1
        inverted = pipe.invert(
            prompt="",
            image=self.image,
            guidance_scale=1,
            inpaint_strength=0.5,
            **steps,
            generator=self.common["generator"],
        )
        output = pipe(
            TARGET, mask_image=mask, image_latents=inverted.latents, inpaint_strength=0.5, **steps, **self.common
        )
        options = {"num_maps_per_mask": 3, "inpaint_strength": 0.5}
        self.assert_same(
            run(make_editor(backbones[4], editor="diffedit", num_steps=4, seed=5, options=options)), output
        )

    @pytest.mark.parametrize("masks", [True, False])
    def test_ledits_pp(self, backbones, parts, masks):
        own = parts(4)
        own |= {
            "tokenizer": CountingTokenizer(own["tokenizer"]),
            "unet": UNet2DConditionModel.from_config(own["unet"].config),
        }
        own["unet"].load_state_dict(backbones[4].unet.state_dict())
        solver = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
        own["scheduler"] = DPMSolverMultistepScheduler.from_config(self.noise.config, **solver)
        pipe = diffusers.LEditsPPPipelineStableDiffusion(**own)
        pipe.invert(self.image, num_inversion_steps=4, skip=0.5, generator=self.common["generator"])
        output = pipe(
            editing_prompt=["cat", "dog"],
            reverse_editing_direction=[True, False],
            edit_threshold=0.7,
            edit_guidance_scale=4.0,
            use_intersect_mask=masks,
            **self.common,
        )
        options = {"skip": 0.5, "edit_threshold": 0.7, "use_intersect_mask": masks}
        settings = {"editor": "ledits_pp", "num_steps": 4, "seed": 5, "guidance_scale": 4.0}
        self.assert_same(run(make_editor(backbones[4], **settings, options=options)), output)


class TestWhatLeditsGuidesBy:
    """Phrases that go are guided away from; a noun that is described anew stays."""

    @pytest.mark.parametrize(
        "target, phrases, away",
        [
            ("a red dog and a dog", ["cat", "dog"], [True, False]),
            ("a green cat and a dog", ["green cat"], [False]),
            ("a cat and a dog", ["red"], [True]),
            ("a red cat", ["dog"], [True]),
            ("a red cat and a dog on grass", ["on grass"], [False]),
        ],
    )
    def test_phrases(self, backbones, monkeypatch, target, phrases, away):
        editor, calls = make_editor(backbones[4], editor="ledits_pp"), {}

        def record(call: str, **given) -> SimpleNamespace:
            calls[call] = given
            return SimpleNamespace(images=torch.zeros(1, 3, 32, 32))

        monkeypatch.setattr(editor, "_run", record)
        editor(make_image(), SOURCE, target)
        assert calls["__call__"] == {"editing_prompt": phrases, "reverse_editing_direction": away}


class TestProcessors:
    """The UNet's attention is as it was, whatever the pipeline did to it."""

    @pytest.mark.parametrize("name", ["diffedit", "ledits_pp"])
    def test_restored(self, tiny, name):
        before = tiny.unet.attn_processors
        run(make_editor(tiny, editor=name))
        after = tiny.unet.attn_processors
        assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)

    @pytest.mark.parametrize("call", ["invert", "__call__"])
    def test_restored_after_an_exception(self, tiny, monkeypatch, call):
        editor, before, inside = make_editor(tiny, editor="ledits_pp"), tiny.unet.attn_processors, {}

        def fail(*_, **__):
            inside.update(tiny.unet.attn_processors)
            raise RuntimeError("no more memory")

        if call == "invert":
            monkeypatch.setattr(editor.pipe, "encode_image", fail)
        else:
            monkeypatch.setattr(editor.pipe.scheduler, "step", fail)
        with pytest.raises(RuntimeError, match="no more memory"):
            run(editor)
        after = tiny.unet.attn_processors
        assert all(after[name] is before[name] and inside[name] is not before[name] for name in before)

    def test_the_backbone_reconstructs_as_before(self, backbones):
        backbone = backbones[4]
        config, steps = dict(backbone.scheduler.config), backbone.schedule(4).timesteps
        ids = torch.tensor(backbone.tokenizer([SOURCE], padding="max_length").input_ids)
        states = backbone.encode_text(ids).keys
        for name in ("inpaint", "diffedit", "ledits_pp"):
            run(make_editor(backbone, editor=name))
        assert dict(backbone.scheduler.config) == config
        assert torch.equal(backbone.scheduler.timesteps, steps.cpu())
        assert torch.equal(backbone.encode_text(ids).keys, states)


class TestPromptToPrompt:
    """Our own inversion and edit, by the functions that a notebook has."""

    short = {"method": "locinv", "num_steps": 2, "resolution": 8}

    @pytest.mark.parametrize("settings", [EditSettings(), EditSettings(blend="prior", direct=True)])
    def test_a_region_may_be_bool_and_gives_the_same_twice(self, tiny, settings):
        image, prior = make_image(), make_prior()
        inversions = [
            invert(tiny, image, SOURCE, {"cat": plane}, adjectives=[("red", "cat")], **self.short)
            for plane in (prior, (prior > 0).float())
        ]
        edited = [
            edit(tiny, inversion, TARGET, settings, region=region)[0]
            for inversion, region in zip(inversions, (prior, prior > 0), strict=True)
        ]
        assert torch.equal(*edited)
        assert torch.equal(edit(tiny, inversions[0], TARGET, settings, region=prior)[0], edited[0])
        assert not torch.equal(edit(tiny, inversions[0], TARGET, settings, region=torch.ones(32, 32))[0], edited[0])

    def test_no_prior_no_nouns(self, tiny):
        inversion = invert(tiny, make_image(), SOURCE, **self.short)
        assert inversion.nouns == () and inversion.noun_positions == ()
        assert torch.equal(edit(tiny, inversion, TARGET), edit(tiny, inversion, TARGET))


@pytest.mark.parametrize(
    "source, target, order",
    [
        ("a cat and a dog", "a tiger and a dog", "replace cat with tiger"),
        ("a cat", "an owl", "replace cat with owl"),
        ("the cat", "a big dog", "replace cat with big dog"),
        ("a red car", "a blue truck", "replace red car with blue truck"),
        ("a red car on a road", "a blue car on a road", "make the car blue"),
        ("a car on a road", "a blue car on a road", "make the car blue"),
        ("a cat and a dog", "a cat and an old black dog", "make the dog old black"),
        ("a red cat and a red dog", "a red cat and a blue dog", "make the dog blue"),
        ("a red cat", "a cat", "make the cat not red"),
        ("a cat", "a cat and a dog", "add dog"),
        ("a cat", "a cat with a hat", "add hat"),
        ("a cat", "a cat on a table", "add on a table"),
        ("a cat and a dog", "a dog", "remove cat"),
        ("a cat, a dog.", "a cat.", "remove dog"),
        ("a dog standing on grass", "a dog sitting on grass", "replace standing with sitting"),
        ("a red cat and a dog", "a blue cat and a fox", "make the cat blue and replace dog with fox"),
        ("a cat and a dog in a park", "a tiger and a dog", "replace cat with tiger and remove in a park"),
        ("A Cat", "a cat", ""),
        ("a cat", "the cat", ""),
    ],
)
def test_instruction(source, target, order):
    assert instruction(source, target) == order


def test_changed_phrases():
    found = changed_phrases("a red cat and a dog", "a blue cat and a fox with the hat")
    assert found == [("red", "blue", "cat"), ("dog", "fox with the hat", "")]


class TestPresets:
    """YAML files, by name or path."""

    def test_by_name(self, tiny, backbones, monkeypatch):
        loaded = []
        monkeypatch.setattr(
            pipelines, "load_backbone", lambda *names, for_editors: loaded.append(names) or backbones[8]
        )
        names = {path.stem for path in (CONFIGS / "editor").glob("*.yaml")}
        assert names == set(EDITORS) | {"sdxl_inpaint", "ledits_pp_xl"}
        for name in CHANNELS:
            editor = load_editor(name, tiny)
            assert isinstance(editor, EDITORS[name]) and editor.settings.num_steps == 50
        assert loaded == [("timbrooks/instruct-pix2pix", "float32", tiny.device)]

    def test_a_file(self, tiny, tmp_path):
        (tmp_path / "my.yaml").write_text("editor: diffedit\nnum_steps: 2\noptions:\n")
        editor = load_editor(tmp_path / "my.yaml", tiny)
        assert torch.equal(run(editor), run(make_editor(tiny, editor="diffedit", num_steps=2)))

    @pytest.mark.parametrize(
        "text, message",
        [
            ("", "names no editor; give editor: one of inpaint, instruct_pix2pix, diffedit, ledits_pp"),
            ("- inpaint", "names no editor; give editor: one of"),
            ("editor: [", "is no YAML"),
            ("editor: masactrl", "editor=masactrl: no such editor; choose one of inpaint, instruct_pix2pix, diffedit"),
            ("{editor: inpaint, steps: 3}", "unknown key 'steps'; an editor has editor, model, num_steps"),
            ("{editor: inpaint, num_steps: 0}", "editor=inpaint: num_steps=0 must be 1 or more"),
            ("{editor: inpaint, num_steps: many}", "editor=inpaint: num_steps=many must be 1 or more"),
            (
                "{editor: inpaint, options: {strenth: 1}}",
                "editor=inpaint: unknown option 'strenth'; .* has eta, strength",
            ),
            ("{editor: inpaint, options: {strength: a}}", "option strength=a must be a number, true or false"),
            ("{editor: inpaint, options: {guidance_scale: 3}}", "unknown option 'guidance_scale'"),
            ("{editor: ledits_pp, options: {return_dict: false}}", "unknown option 'return_dict'"),
            (
                "{editor: diffedit, options: {strength: 1}}",
                "'strength'; .* has eta, inpaint_strength, lambda_auto_corr",
            ),
            ("{editor: instruct_pix2pix}", "takes 4 channels, this editor needs one that takes 8; give another model"),
        ],
    )
    def test_bad_files(self, tiny, tmp_path, text, message):
        (tmp_path / "my.yaml").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            load_editor(tmp_path / "my.yaml", tiny)
        assert "\n" not in str(caught.value)

    def test_no_such_preset(self, tiny):
        with pytest.raises(
            InputError, match="editor=nothing: no such preset; use one of diffedit, inpaint, instruct_pix"
        ):
            load_editor("nothing", tiny)


class TestRefusals:
    """One line that names the editor and says what to do."""

    def message(self, backbone: Backbone, **values) -> str:
        with pytest.raises(InputError) as caught:
            make_editor(backbone, **values)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_models_that_cannot_be_loaded(self, tiny, own_folder, tmp_path, monkeypatch):
        missing = self.message(tiny, editor="diffedit", model=str(tmp_path / "nowhere"))
        assert missing.startswith("editor=diffedit: backbone=") and "nowhere: no such folder" in missing
        assert "no such weights" in self.message(tiny, editor="diffedit", model=str(own_folder), dtype="float3")
        weights = own_folder / "unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:999])
        assert "can't be loaded" in self.message(tiny, editor="diffedit", model=str(own_folder))
        (own_folder / "vae/config.json").unlink()
        assert "vae/config.json is missing" in self.message(tiny, editor="inpaint", model=str(own_folder))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        unreachable = self.message(tiny, editor="instruct_pix2pix", model="nobody/nothing")
        assert unreachable.startswith(
            "editor=instruct_pix2pix: backbone=nobody/nothing: no such folder, not in the hub's"
        )
        assert "the hub can't be reached" in unreachable

    @pytest.mark.parametrize(
        "name, channels, wanted", [("inpaint", 8, "4 or 9"), ("instruct_pix2pix", 9, "8"), ("ledits_pp", 9, "4")]
    )
    def test_another_kind_of_model(self, tiny, folders, name, channels, wanted):
        message = self.message(tiny, editor=name, model=str(folders[channels]))
        assert f"takes {channels} channels, this editor needs one that takes {wanted}; give another" in message

    @pytest.mark.parametrize(
        "name, changed, message",
        [
            ("inpaint", {"prior": None}, "editor=inpaint: needs a prior that says where to paint; give one"),
            ("diffedit", {"prior": torch.ones(16, 32)}, r"prior's shape is \(16, 32\), the image's \(32, 32\)"),
            ("diffedit", {"image": torch.zeros(3, 32, 36)}, "the image is 36x32; its sides must be multiples of 8"),
            ("ledits_pp", {"image": torch.zeros(3, 48, 32)}, "the image is 32x48; its sides must be multiples of 32"),
            ("diffedit", {"target": "a zebra on grass with a big hat"}, "tokens, the text encoder takes 20: shorten"),
            ("diffedit", {"target": "A red cat and a dog"}, "is the source prompt; change a word of it"),
        ],
    )
    def test_calls(self, tiny, name, changed, message):
        given = {"image": make_image(), "source": SOURCE, "target": TARGET, "prior": make_prior(), **changed}
        with pytest.raises(InputError, match=message):
            make_editor(tiny, editor=name)(**given)

    def test_an_instruction_that_is_too_long(self, backbones):
        editor = make_editor(backbones[8], editor="instruct_pix2pix")
        with pytest.raises(InputError, match="takes 20: shorten 'replace elephant with crocodile'"):
            editor(make_image(), "a elephant", "a crocodile")

    def test_values_that_the_pipeline_refuses(self, tiny):
        editor = make_editor(tiny, editor="inpaint", options={"strength": 3})
        with pytest.raises(InputError, match="^editor=inpaint: The value of strength should"):
            run(editor)


@pytest.mark.slow
def test_ledits_needs_latents_of_four_channels(embedded):
    with pytest.raises(InputError, match="^editor=ledits_pp: .* latents of 4 channels alone, .* have 8; give another"):
        make_editor(embedded, editor="ledits_pp")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inpaint", "diffedit"])
def test_the_embedded_model(embedded, name):
    image, prior = make_image(128), torch.zeros(128, 128)
    prior[40:90, 40:90] = 1
    settings = yaml.safe_load((CONFIGS / "editor" / f"{name}.yaml").read_text())
    editor = make_editor(embedded, **{**settings, "num_steps": 4})
    edited = editor(image, "a blue cat on the grass", "a red dog on the grass", prior)
    assert edited.shape == (3, 128, 128) and edited.isfinite().all()
    assert torch.equal(editor(image, "a blue cat on the grass", "a red dog on the grass", prior), edited)
    if name == "inpaint":
        rebuilt = embedded.decode(embedded.encode(image[None]))[0]
        change = (edited - rebuilt).abs().mean(0)
        assert change[:16].mean() < 0.02 < change[50:80, 50:80].mean()
