"""The measures of one edit, against what transformers' networks say when asked directly."""

import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import make_image, make_tokenizer
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from locinv_pl.errors import InputError
from locinv_pl.measures import metrics
from locinv_pl.measures.edits import Measures, MeasureSettings, ViT, edit_region
from locinv_pl.measures.judge import Judge, load_judge
from locinv_pl.measures.metrics import background_mse, background_psnr, background_ssim, with_border
from locinv_pl.types import Edit, EditSample

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
NAMES = [
    "structure_distance",
    "background_psnr",
    "background_mse",
    "background_ssim",
    "clip_target",
    "clip_edited",
    "dino_similarity",
    "success",
]
PROMPT = "a red cat on grass"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP and a random ViT, in transformers' layout; copy them before changing them."""
    root, tokenizer = tmp_path_factory.mktemp("measures"), make_tokenizer()
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextConfig(
        **size, **marks, vocab_size=len(tokenizer), max_position_embeddings=20, initializer_factor=9.0
    )
    vision = CLIPVisionConfig(**size, image_size=24, patch_size=8, initializer_factor=9.0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(root / "clip")
    images = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    CLIPProcessor(images, tokenizer).save_pretrained(root / "clip")
    ViTModel(ViTConfig(**size, image_size=32, patch_size=8, initializer_range=0.3)).save_pretrained(root / "vit")
    ViTImageProcessorPil(image_mean=MEAN, image_std=STD).save_pretrained(root / "vit")
    return root


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def by_judge() -> Measures:
    return Measures(MeasureSettings())


@pytest.fixture(scope="module")
def by_others(folder: Path) -> Measures:
    return Measures(MeasureSettings(clip=str(folder / "clip"), vit=str(folder / "vit")))


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image, an edit of it with other colours in a region, and the region."""
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[4:14, 2:16] = True
    source = to_8_bit(make_image(seed=1))
    edited = to_8_bit((source + 0.03 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))).clamp(0, 1))
    edited[:, region] = edited.flip(0)[:, region]
    return source, edited, region


def to_8_bit(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round() / 255


@torch.no_grad()
def vit_directly(folder: Path, image: torch.Tensor, white: float = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Last keys, computed from the last block's input, and the CLS feature."""
    network = ViTModel.from_pretrained(folder / "vit").eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    out = network((white * image[None] - mean) / std, output_hidden_states=True)
    last = network.layers[-1]
    return last.attention.k_proj(last.layernorm_before(out.hidden_states[-2]))[0], out.last_hidden_state[0, 0]


def distance_directly(keys: torch.Tensor, others: torch.Tensor) -> float:
    one, other = (torch.cosine_similarity(k[:, None], k[None], dim=-1) for k in (keys, others))
    return (one - other).square().mean().item()


@torch.no_grad()
def clip_directly(folder: Path, image: torch.Tensor, prompt: str) -> float:
    """From transformers' own similarity, exp(s) cos."""
    network, processor = (kind.from_pretrained(folder / "clip") for kind in (CLIPModel, CLIPProcessor))
    image = Image.fromarray((image * 255).round().byte().movedim(0, -1).numpy())
    out = network.eval()(**processor(text=[prompt], images=image, return_tensors="pt"))
    return 100 * max(0.0, (out.logits_per_image / network.logit_scale.exp()).item())


class TestOthers:
    """A CLIP and a ViT from folders."""

    def test_structure_and_dino(self, folder, by_others, images):
        source, edited, _ = images
        (keys, one), (others, other) = (vit_directly(folder, image) for image in (source, edited))
        assert keys.shape == (17, 32)
        scores = by_others.score(source, edited, PROMPT)
        assert scores["structure_distance"] == pytest.approx(distance_directly(keys, others), rel=1e-4)
        assert scores["structure_distance"] > 1e-3
        assert scores["dino_similarity"] == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), abs=1e-5)

    def test_the_range_that_the_vit_sees(self, folder, by_others, images):
        source, edited, _ = images
        wide = Measures(MeasureSettings(vit=str(folder / "vit"), vit_range=255)).score(source, edited, PROMPT)
        keys, others = (vit_directly(folder, image, white=255)[0] for image in (source, edited))
        assert wide["structure_distance"] == pytest.approx(distance_directly(keys, others), rel=1e-4)
        usual = by_others.score(source, edited, PROMPT)
        assert wide["structure_distance"] != pytest.approx(usual["structure_distance"], rel=0.1)

    @pytest.mark.parametrize("prompt", [PROMPT, "a dog", "a dog and a dog and a dog"])
    def test_clip(self, folder, by_others, images, prompt):
        source, edited, region = images
        scores = by_others.score(source, edited, prompt, region)
        assert scores["clip_target"] == pytest.approx(clip_directly(folder, edited, prompt), abs=1e-3)
        part = edited * with_border(region)
        assert scores["clip_edited"] == pytest.approx(clip_directly(folder, part, prompt), abs=1e-3)
        assert scores["clip_edited"] != pytest.approx(scores["clip_target"], abs=1e-2)

    def test_clip_is_never_negative(self, by_others):
        noise = torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(3))
        found = [by_others.score(image, image, text)["clip_target"] for image in noise for text in ("a dog", PROMPT)]
        assert min(found) == 0 < max(found)

    def test_a_prompt_beyond_the_text_encoder(self, by_others, images):
        source, edited, _ = images
        assert by_others.score(source, edited, "a dog " * 40)["clip_target"] is not None

    def test_another_size_and_shape(self, by_others):
        scores = by_others.score(make_image(64)[:, :40], make_image(64, seed=1)[:, :40], PROMPT)
        assert scores["structure_distance"] > 0

    def test_the_judge_is_not_asked(self, by_others, images):
        assert by_others.score(*images[:2], "a red cat")["success"] is None

    def test_the_hook_goes_even_after_an_error(self, by_others):
        with pytest.raises(RuntimeError):
            by_others.vit(torch.rand(1, 4, 32, 32))
        assert not by_others.vit.key._forward_hooks


class TestJudge:
    """The networks inside the package."""

    @torch.no_grad()
    def test_clip(self, judge, by_judge, images):
        source, edited, region = images
        scores = by_judge.score(source, edited, PROMPT, region)
        for name, image in (("clip_target", edited), ("clip_edited", edited * with_border(region))):
            pixels = torch.nn.functional.interpolate(image[None], (128, 128), mode="bilinear", antialias=True) * 2 - 1
            words = judge.tokenizer([PROMPT], return_tensors="pt")
            out = judge.clip(input_ids=words.input_ids, pixel_values=pixels)
            expected = (out.logits_per_image / judge.clip.logit_scale.exp()).item()
            assert scores[name] == pytest.approx(100 * max(0.0, expected), abs=1e-3)

    @torch.no_grad()
    def test_structure_and_features(self, judge, by_judge):
        source, edited = (make_image(128, seed) for seed in (0, 1))
        tower = judge.clip.vision_model
        outs = [tower(pixel_values=2 * p[None] - 1, output_hidden_states=True) for p in (source, edited)]
        last = tower.encoder.layers[-1]
        keys = [last.self_attn.k_proj(last.layer_norm1(out.hidden_states[-2]))[0] for out in outs]
        scores = by_judge.score(source, edited, PROMPT)
        assert scores["structure_distance"] == pytest.approx(distance_directly(*keys), rel=1e-4)
        cosine = torch.cosine_similarity(*(out.pooler_output[0] for out in outs), dim=0)
        assert scores["dino_similarity"] == pytest.approx(cosine.item(), abs=1e-5)

    def test_success(self, by_judge, images, monkeypatch):
        said = {"a dog": True, "a red cat": False, "a bus": None}
        monkeypatch.setattr(by_judge.clip, "agrees", lambda images, prompts: [said[prompt] for prompt in prompts])
        found = [by_judge.score(*images[:2], prompt)["success"] for prompt in said]
        assert found == [1.0, 0.0, None]

    def test_autocast_changes_nothing(self, by_judge, images):
        exact = by_judge.score(*images[:2], PROMPT, images[2])
        with torch.autocast("cpu", torch.bfloat16):
            assert by_judge.score(*images[:2], PROMPT, images[2]) == exact


class TestBackground:
    """What lies outside the region."""

    def test_values(self, by_judge, images):
        source, edited, region = images
        scores = by_judge.score(source, edited, PROMPT, region)
        assert list(scores) == NAMES
        framed = with_border(region)
        for name, measure in (("psnr", background_psnr), ("mse", background_mse), ("ssim", background_ssim)):
            assert scores[f"background_{name}"] == pytest.approx(measure(edited, source, framed).item())

    def test_the_frame_is_left_out(self, by_judge, images):
        source, _, region = images
        edited = source.clone()
        edited[:, 0], edited[:, :, -1] = 0, 1
        assert by_judge.score(source, edited, PROMPT, region)["background_mse"] == 0

    def test_none_without_a_region(self, by_judge, images):
        scores = by_judge.score(*images[:2], PROMPT)
        assert {name for name in NAMES if scores[name] is None} == {*NAMES[1:4], "clip_edited"}

    def test_none_where_all_is_edited(self, by_judge, images):
        scores = by_judge.score(*images[:2], PROMPT, torch.ones(32, 32, dtype=torch.bool))
        assert {name for name in NAMES if scores[name] is None} == set(NAMES[1:4])
        assert scores["clip_edited"] == pytest.approx(scores["clip_target"])

    def test_lpips_where_asked_for(self, images, monkeypatch):
        monkeypatch.setattr(metrics, "find_spec", lambda name: name)
        monkeypatch.setattr(metrics, "learned_perceptual_image_patch_similarity", lambda *_, **__: torch.tensor(0.25))
        measures = Measures(MeasureSettings(lpips=True))
        scores = measures.score(*images[:2], PROMPT, images[2])
        assert list(scores) == [*NAMES[:4], "background_lpips", *NAMES[4:]] and scores["background_lpips"] == 0.25
        assert measures.score(*images[:2], PROMPT)["background_lpips"] is None


class TestRegion:
    """Where an edit changes the image."""

    def test_the_data_says_it(self, sample, tiny):
        region = torch.rand(32, 32) > 0.5
        given = EditSample("two", sample.image, sample.prompt, sample.nouns, region=region)
        assert torch.equal(edit_region(given, tiny.tokenizer, Edit("a red dog and a dog", "edit")), region)

    @pytest.mark.parametrize(
        "prompt, changed",
        [
            ("a red zebra and a dog", ["cat"]),
            ("a cat and a dog", ["cat"]),
            ("a red cat and a blue dog", ["dog"]),
            ("a red dog and a cat", ["cat", "dog"]),
            ("a red cat", ["dog"]),
            ("a red cat and a dog on grass", []),
        ],
    )
    def test_the_nouns_that_change(self, sample, tiny, prompt, changed):
        masks = [noun.mask for noun in sample.nouns if noun.word in changed]
        found = edit_region(sample, tiny.tokenizer, Edit(prompt, "edit"))
        assert (found is None) == (not masks)
        assert found is None or torch.equal(found, torch.stack(masks).any(0))


class TestRefusals:
    """What can't be is one line that names the key."""

    @pytest.mark.parametrize("value", [0, -1, float("nan")])
    def test_range(self, value):
        with pytest.raises(InputError, match=f"measures.vit_range={value}: must be more than 0"):
            MeasureSettings(vit_range=value)

    def test_lpips_without_torchvision(self, monkeypatch):
        monkeypatch.setattr(metrics, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r'pip install "locinv_pl\[lpips\]"'):
            MeasureSettings(lpips=True)

    @pytest.mark.parametrize("part", ["clip", "vit"])
    @pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
    def test_no_such_folder(self, part, name):
        with pytest.raises(InputError, match=f"measures.{part}={name}: no such folder"):
            Measures(MeasureSettings(**{part: name}))

    @pytest.mark.parametrize("part, kind", [("clip", "vit"), ("vit", "clip")])
    def test_another_kind(self, folder, part, kind):
        with pytest.raises(InputError, match=f"is a model of kind {kind}; give one of kind {part}"):
            Measures(MeasureSettings(**{part: str(folder / kind)}))

    @pytest.mark.parametrize("part", ["clip", "vit"])
    @pytest.mark.parametrize("file", ["config.json", "model.safetensors", "p*r_config.json"])
    def test_damage(self, folder, tmp_path, part, file):
        own = Path(shutil.copytree(folder / part, tmp_path / part))
        for path in own.glob(file):
            path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(InputError, match=f"measures.{part}=.*{part}: can't be loaded") as caught:
            Measures(MeasureSettings(**{part: str(own)}))
        assert "\n" not in str(caught.value)

    def test_the_hub_is_out_of_reach(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match="measures.vit=nobody/nothing: .* the hub can't be reached"):
            Measures(MeasureSettings(vit="nobody/nothing"))


def test_images_are_prepared_without_torchvision(folder, by_others):
    assert type(by_others.clip.processor.image_processor) is CLIPImageProcessorPil
    assert isinstance(by_others.vit, ViT) and np.allclose(by_others.vit.mean.flatten(), MEAN)
