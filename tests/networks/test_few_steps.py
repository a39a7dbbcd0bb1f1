"""Few-step models: LCM, Turbo and Lightning folders against diffusers' own schedulers and pipelines."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import make_two_objects
from diffusers import UNet2DConditionModel

from locinv_pl.api import invert
from locinv_pl.editing.prompt_to_prompt import edit, reconstruct
from locinv_pl.errors import InputError
from locinv_pl.method.policies import Method, load_method
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import collect, invert_step
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.generation import generate
from locinv_pl.networks.loading import load_as, load_backbone
from locinv_pl.networks.schedule import guidance_embedding
from locinv_pl.types import Inversion

LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = {
    "turbo": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "steps_offset": 1}),
    "lightning": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "epsilon"}),
    "v": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    "lcm": ("LCMScheduler", {"original_inference_steps": 50}),
}


def with_scheduler(folder: Path, to: Path, name: str, **config: Any) -> Path:
    """A copy of a model's folder with another scheduler, as diffusers writes it."""
    shutil.copytree(folder, to)
    getattr(diffusers, name)(**{**LEVELS, **config}).save_pretrained(to / "scheduler")
    return to


def learn_guidance(folder: Path) -> Path:
    """Give the UNet of a folder an embedding of the guidance scale."""
    torch.manual_seed(1)
    plain = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    unet = UNet2DConditionModel.from_config(plain.config, time_cond_proj_dim=32)
    unet.load_state_dict(plain.state_dict(), strict=False)
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module", params=["turbo", "lightning", "v", "lcm"])
def few(request, tiny_folder, tmp_path_factory) -> Backbone:
    """A model of each kind."""
    name, config = KINDS[request.param]
    folder = with_scheduler(tiny_folder, tmp_path_factory.mktemp("few") / request.param, name, **config)
    return load_backbone(str(learn_guidance(folder) if request.param == "lcm" else folder))


@pytest.fixture(scope="module")
def lcm(tiny_folder, tmp_path_factory) -> Backbone:
    """One whose UNet has learned guidance."""
    folder = with_scheduler(tiny_folder, tmp_path_factory.mktemp("few") / "lcm", "LCMScheduler")
    return load_backbone(str(learn_guidance(folder)))


class TestTimesteps:
    """Timesteps and noise levels are those of the folder's own scheduler."""

    @pytest.mark.parametrize("num_steps", [1, 4, 8])
    @pytest.mark.parametrize("spacing", ["trailing", "leading"])
    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"])
    def test_spacings(self, tiny_folder, tmp_path, name, spacing, num_steps):
        folder = with_scheduler(tiny_folder, tmp_path / "m", name, timestep_spacing=spacing, steps_offset=1)
        schedule = load_backbone(str(folder)).schedule(num_steps)
        own = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
        own.set_timesteps(num_steps)
        assert schedule.timesteps.tolist() == own.timesteps.tolist()
        torch.testing.assert_close(schedule.signal.square()[:-1], own.alphas_cumprod[own.timesteps.long()])
        if name != "DDIMScheduler":  # ᾱ = 1 / (1 + σ²)
            torch.testing.assert_close(
                schedule.signal.square(), 1 / (1 + own.sigmas.float() ** 2), rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("num_steps", [4, 7])
    def test_linspace_is_rounded(self, tiny_folder, tmp_path, num_steps):
        folder = with_scheduler(tiny_folder, tmp_path / "m", "EulerDiscreteScheduler", timestep_spacing="linspace")
        path = folder / "scheduler/scheduler_config.json"
        content = json.loads(path.read_text())
        content.pop("timestep_spacing")  # Euler's default; DDIM's is another
        path.write_text(json.dumps(content))
        own = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
        own.set_timesteps(num_steps)
        ours = load_backbone(str(folder)).schedule(num_steps).timesteps
        assert (ours - own.timesteps).abs().max() <= 0.5

    @pytest.mark.parametrize("final", ["zero", "sigma_min"])
    def test_the_last_level_in_sigma(self, tiny_folder, tmp_path, final):
        folder = with_scheduler(
            tiny_folder, tmp_path / "m", "EulerDiscreteScheduler", timestep_spacing="trailing", final_sigmas_type=final
        )
        schedule = load_backbone(str(folder)).schedule(4)
        own = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
        own.set_timesteps(4)
        torch.testing.assert_close(schedule.signal.square()[-1], 1 / (1 + own.sigmas[-1] ** 2), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("to_one", [True, False])
    def test_the_last_level_of_ddim(self, tiny_folder, tmp_path, to_one):
        folder = with_scheduler(
            tiny_folder, tmp_path / "m", "DDIMScheduler", timestep_spacing="trailing", set_alpha_to_one=to_one
        )
        own = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        assert load_backbone(str(folder)).schedule(4).signal[-1] == own.final_alpha_cumprod.sqrt()

    @pytest.mark.parametrize("original", [50, 100])
    @pytest.mark.parametrize("num_steps", [1, 4, 6])
    def test_lcm_has_its_own(self, tiny_folder, tmp_path, original, num_steps):
        folder = with_scheduler(tiny_folder, tmp_path / "m", "LCMScheduler", original_inference_steps=original)
        own = diffusers.LCMScheduler.from_pretrained(folder, subfolder="scheduler")
        own.set_timesteps(num_steps)
        schedule = load_backbone(str(folder)).schedule(num_steps)
        assert schedule.timesteps.tolist() == own.timesteps.tolist()
        torch.testing.assert_close(schedule.signal.square()[:-1], own.alphas_cumprod[own.timesteps])
        assert schedule.signal.square()[-1] == 1

    @pytest.mark.parametrize(
        ("name", "config"),
        [
            ("LCMScheduler", {"original_inference_steps": 100}),
            ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ],
    )
    def test_another_scheduler_by_an_option(self, tiny_folder, tmp_path, name, config):
        """As for a LoRA of few steps: what diffusers' ``from_config`` makes of the folder's own."""
        changed = load_backbone(str(tiny_folder), scheduler={"_class_name": name, **config})
        plain = diffusers.DDIMScheduler.from_pretrained(tiny_folder, subfolder="scheduler")
        own = getattr(diffusers, name).from_config(plain.config, **config)
        own.set_timesteps(4)
        assert changed.schedule(4).timesteps.tolist() == own.timesteps.tolist()
        torch.testing.assert_close(
            changed.schedule(4).signal.square()[:-1], own.alphas_cumprod[own.timesteps.long()], rtol=1e-6, atol=1e-7
        )
        assert changed.schedule(4).timesteps.tolist() != load_backbone(str(tiny_folder)).schedule(4).timesteps.tolist()
        assert changed.origin == {"scheduler": {"_class_name": name, **config}}

    def test_an_inversion_keeps_its_scheduler(self, tiny, tiny_folder, tmp_path):
        how = {"_class_name": "LCMScheduler"}
        sample, method = make_two_objects("two", seed=0), load_method("direct")
        backbone = load_backbone(str(tiny_folder), scheduler=how)
        made = invert(backbone, sample.image, sample.prompt, method=method, num_steps=2, resolution=8)
        made.save(tmp_path / "a.safetensors")
        again = Inversion.load(tmp_path / "a.safetensors")
        assert again.settings["scheduler"] == how
        assert torch.equal(
            load_as({**again.settings, "dtype": "float32"}).schedule(2).timesteps, backbone.schedule(2).timesteps
        )
        with pytest.raises(InputError, match="made with model.scheduler=.*LCMScheduler.*, not None"):
            edit(tiny, again, ["a dog"])

    def test_a_folder_s_unknown_scheduler_counts_as_ddim_s(self, tiny, tiny_folder, tmp_path):
        """As it always did: nobody asked for another one."""
        shutil.copytree(tiny_folder, tmp_path / "m")
        path = tmp_path / "m/scheduler/scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "MyScheduler"}))
        assert torch.equal(load_backbone(str(tmp_path / "m")).schedule(4).timesteps, tiny.schedule(4).timesteps)

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ({"_class_name": "Linear"}, "model.scheduler._class_name=Linear: diffusers has no such scheduler"),
            ({"spacing": "trailing"}, "model.scheduler.spacing: no setting of DDIMScheduler; choose from num_train"),
            ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is a flow model"),
        ],
    )
    def test_no_such_scheduler(self, tiny_folder, how, says):
        with pytest.raises(InputError, match=re.escape(says)):
            load_backbone(str(tiny_folder), scheduler=how)

    def test_lcm_has_no_more_than_it_was_distilled_at(self, lcm):
        assert len(lcm.schedule(50)) == 50
        with pytest.raises(InputError, match=r"model.num_steps=51: must lie between 1 and 50"):
            lcm.schedule(51)


@pytest.mark.parametrize("w", [1.0, 7.5, 8.5])
@pytest.mark.parametrize("width", [4, 32, 256])
def test_the_guidance_embedding_is_the_pipelines(w, width):
    own = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.tensor([w - 1]), width)
    torch.testing.assert_close(guidance_embedding(w, width), own, rtol=1e-4, atol=1e-4)


def pipeline_of(backbone: Backbone) -> Any:
    """Diffusers' own, with DDIM at trailing timesteps."""
    pipeline = diffusers.StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        scheduler=diffusers.DDIMScheduler(
            **LEVELS,
            clip_sample=False,
            timestep_spacing="trailing",
            prediction_type=backbone.scheduler.config.prediction_type,
            set_alpha_to_one=True,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("w", [1.0, 4.0])
def test_four_steps_are_those_of_diffusers_pipeline(few, monkeypatch, w):
    pipeline = pipeline_of(few)
    if isinstance(few.scheduler, diffusers.LCMScheduler):  # whose timesteps diffusers' DDIM doesn't take
        pipeline.scheduler = _Fixed(pipeline.scheduler, torch.tensor([999, 759, 499, 259]))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    made = pipeline(
        ["a red cat"], num_inference_steps=4, guidance_scale=w, latents=latents, output_type="latent", eta=0.0
    ).images
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Backbone, "decode", lambda self, z: seen.append(z) or z)
    generate(few, ["a red cat"], guidance_scale=w, num_steps=4, seed=3)
    torch.testing.assert_close(seen[0], made, rtol=1e-5, atol=1e-5)


class _Fixed:
    """A DDIM whose timesteps are given, written out: x_0, then the next noise level."""

    def __init__(self, ddim: Any, steps: torch.Tensor):
        self.ddim, self.timesteps, self.order, self.init_noise_sigma, self.config = ddim, steps, 1, 1.0, ddim.config

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        assert num_inference_steps == len(self.timesteps)

    def scale_model_input(self, z: torch.Tensor, t: Any) -> torch.Tensor:
        return z

    def step(self, eps: torch.Tensor, t: Any, z: torch.Tensor, eta: float = 0.0, **_: Any) -> tuple[torch.Tensor]:
        later = self.timesteps[self.timesteps < t]
        abar_t = self.ddim.alphas_cumprod[t]
        abar_s = self.ddim.alphas_cumprod[later[0]] if len(later) else torch.tensor(1.0)
        x = (z - (1 - abar_t) ** 0.5 * eps) / abar_t**0.5
        return (abar_s**0.5 * x + (1 - abar_s) ** 0.5 * eps,)


@pytest.mark.parametrize("name", ["direct", "locinv", "infedit", "renoise"])
def test_inversion_and_edit_in_four_steps(few, name):
    sample = make_two_objects("two", seed=0)
    method = load_method(name)
    task = prepare(few, [sample], method, 4, 8)
    records = []
    for i in range(4):
        records.append(invert_step(few, task, i, records[-1] if records else task.start()))
    inversion = collect(task, records)[0]
    assert inversion.trajectory.isfinite().all() and inversion.null.isfinite().all()
    images = edit(few, inversion, ["a red dog and a dog"], with_source=True)
    assert images.shape == (2, 3, 32, 32)
    assert not torch.equal(images[0], images[1])
    if name in ("direct", "infedit"):
        ceiling = few.decode(few.encode(sample.image[None]))
        torch.testing.assert_close(reconstruct(few, [inversion]), ceiling, rtol=0, atol=1e-5)


def counting(backbone: Backbone, patch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of every pass of the UNet from now on."""
    rows: list[int] = []
    forward = backbone.unet.forward

    def counted(z: torch.Tensor, *args: Any, **options: Any) -> Any:
        rows.append(len(z))
        return forward(z, *args, **options)

    patch.setattr(backbone.unet, "forward", counted)
    return rows


class TestWithoutNull:
    """Where guidance is off, or learned, the null text costs nothing."""

    @pytest.mark.parametrize("learned", [False, True])
    def test_passes(self, tiny, lcm, monkeypatch, learned):
        backbone = lcm if learned else tiny
        method = Method.from_dict({"guidance_scale": 7.5 if learned else 1.0, "tokens": {"policy": "fixed"}})
        assert method.null_text.policy == "optimize"
        sample = make_two_objects("two", seed=0)
        backbone.guided_by(method.guidance_scale).prefix(
            torch.zeros(1, 4, 16, 16), torch.tensor(1)
        )  # looks for it once
        rows = counting(backbone, monkeypatch)
        inversion = invert(
            backbone, sample.image, sample.prompt, {"cat": (2, 4, 14, 10)}, method=method, num_steps=4, resolution=8
        )
        assert rows == [1] * 8  # DDIM there, and back
        assert inversion.null_steps.tolist() == [0] * 4
        rows.clear()
        reconstruct(backbone, [inversion])
        assert rows == [1] * 4
        rows.clear()
        edit(backbone, inversion, ["a red dog and a dog"])
        assert rows == [2] * 4
        rows.clear()
        generate(backbone, ["a cat"], guidance_scale=method.guidance_scale, num_steps=4)
        assert rows == [1] * 4

    def test_the_scale_that_is_learned_counts(self, lcm):
        z, t = torch.randn(1, 4, 16, 16), torch.tensor(259)
        context = lcm.encode_null()
        one, other, same = (lcm.guided_by(w).predict(z, t, context) for w in (2.0, 8.0, 2.0))
        assert torch.equal(one, same) and not torch.allclose(one, other)
        assert lcm.guided_by(2.0) is lcm.guided_by(2.0) is not lcm

    def test_others_are_guided_as_before(self, tiny):
        assert tiny.guided_by(3.0) is tiny
        assert tiny.needs_null(3.0) and not tiny.needs_null(1.0)
        z, t = torch.randn(1, 4, 16, 16), torch.tensor(259)
        null, cond = tiny.encode_null(), torch.randn(1, 4, 16, 16)
        eps_null = tiny.predict(z, t, null)
        assert torch.equal(tiny.guide(cond, z, t, null, 3.0), eps_null + 3.0 * (cond - eps_null))
