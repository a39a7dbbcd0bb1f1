"""The recipe by its command: every stage for a few steps, going on after a stop, evaluation of what it makes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from locinv_pl.cli.main import main
from locinv_pl.measures.judge import load_judge
from locinv_pl.networks.generation import generate
from locinv_pl.networks.loading import load_backbone
from locinv_pl.pretrain.flow import FlowModule
from locinv_pl.pretrain.optimization import Optimization
from locinv_pl.scenes.drawing import COLORS, NOUNS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The tiny recipe run by its command, in two goes."""
    output = tmp_path_factory.mktemp("pretrain")
    main(["pretrain", "recipe=tiny", f"output={output}", 'stages=["vae"]'])
    assert (output / "embedded/vae/config.json").is_file() and not (output / "judge").exists()
    main(["pretrain", "recipe=tiny", f"output={output}"])
    return output


def test_recipe_gives_a_model_and_a_judge(pretrained):
    backbone, judge = load_backbone(str(pretrained / "embedded")), load_judge(pretrained / "judge")
    images = generate(backbone, ["a red cat", "a dog"], num_steps=2)
    assert images.shape == (2, 3, 32, 32) and images.isfinite().all()
    assert len(judge.see(images)) == 2
    assert judge.nouns == tuple(NOUNS) and judge.colors == tuple(COLORS)
    assert judge.clip_score(images, ["a red cat", "a dog"]).shape == (2,)
    for model in ("embedded", "embedded_sd3"):
        assert json.loads((pretrained / model / "training.json").read_text()) == {"samples_seen": 16}


def test_flow_model_is_diffusers_own_pipeline(pretrained):
    """What it learned from is what the pipeline gives it, and its images are the pipeline's."""
    from diffusers import StableDiffusion3Pipeline

    folder, prompts = pretrained / "embedded_sd3", ["a red cat", "a dog"]
    model = load_backbone(str(folder))
    none = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, **none
    )
    pipeline.set_progress_bar_config(disable=True)
    module = FlowModule(
        pipeline.transformer,
        model.text.networks,
        torch.zeros(24, dtype=torch.long),
        Optimization(max_steps=10, batch_size=2),
    )
    ids = torch.tensor(model.tokenizer(prompts, padding="max_length").input_ids)
    context, pooled = module.encode(ids)
    own, ours = pipeline.encode_prompt(prompts, None, None, max_sequence_length=24), model.encode_text(ids)
    assert torch.equal(context, own[0]) and torch.equal(pooled, own[2])
    assert torch.equal(ours.keys, own[0][:, :24]) and torch.equal(ours.pooled, own[2])
    noise = torch.stack([torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    how = {"guidance_scale": 7.5, "num_inference_steps": 2, "max_sequence_length": 24, "height": 32, "width": 32}
    images = generate(model, prompts, num_steps=2)
    assert torch.allclose(images, pipeline(prompts, latents=noise, output_type="pt", **how).images, atol=1e-4)
    assert torch.allclose(images, generate(model, prompts, num_steps=2, batch_size=1), atol=1e-4)
    scenes = torch.rand(2, 3, 32, 32)
    z = model.encode(scenes)
    mean = pipeline.vae.encode(scenes * 2 - 1).latent_dist.mean
    config = pipeline.vae.config
    assert torch.allclose(z, (mean - config.shift_factor) * config.scaling_factor, atol=1e-6)
    assert torch.allclose(model.decode(z), (pipeline.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_a_distilled_model_is_the_teacher_with_peft_own_lora(pretrained):
    """Added to the weights, the exported LoRA does what peft's adapter does in diffusers' pipeline."""
    from diffusers import StableDiffusionPipeline

    folder, lora = str(pretrained / "embedded"), str(pretrained / "embedded_lcm")
    plain, distilled = load_backbone(folder), load_backbone(folder, lora=lora)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.load_lora_weights(lora)
    z, t, context = torch.randn(2, 4, 8, 8), torch.tensor(499), torch.randn(2, 24, plain.widths[0])
    theirs = pipeline.unet(z, t, context).sample
    assert torch.allclose(distilled.unet(z, t, context).sample, theirs, atol=1e-5)
    assert not torch.equal(plain.unet(z, t, context).sample, theirs)


def test_a_shipped_model_tells_no_paths(pretrained):
    for file in [*pretrained.glob("embedded/*/*.json"), *pretrained.glob("judge/*/*.json")]:
        assert str(pretrained) not in file.read_text(), file


def test_latents_have_unit_variance_with_the_exported_scale(pretrained):
    for stage, channels in (("diffusion", 4), ("flow", 6)):
        latents = torch.load(pretrained / f"latents-{stage}.pt").float()
        assert latents.shape == (96, channels, 8, 8)  # every scene, and its mirror image
        assert latents.std().item() == pytest.approx(1, abs=0.02)
        assert stage == "diffusion" or latents.mean().item() == pytest.approx(0, abs=0.02)


def test_a_stage_goes_on_from_its_checkpoint(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "embedded/unet")
    before = torch.load(tmp_path / "diffusion/last.ckpt", weights_only=True)
    assert before["global_step"] == 4
    main(["pretrain", "recipe=tiny", f"output={tmp_path}", "recipe.diffusion.optimization.max_steps=6"])
    assert torch.load(tmp_path / "diffusion/last.ckpt", weights_only=True)["global_step"] == 6
    assert (tmp_path / "embedded/unet/config.json").is_file()


def test_the_flow_goes_on_from_an_earlier_model(pretrained, tmp_path):
    """Its weights are the start's, and the samples that it has seen are counted on."""
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
    for done in ("flow", "embedded_sd3/transformer"):
        shutil.rmtree(tmp_path / done)
    start = pretrained / "embedded_sd3"
    keys = [
        f"recipe.flow.start={start}",
        "recipe.flow.optimization.learning_rate=0",
        "recipe.flow.optimization.ema_decay=0",
    ]
    main(["pretrain", "recipe=tiny", f"output={tmp_path}", "stages=[flow]", *keys])
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        (before,), (after,) = ((root / part).glob("*.safetensors") for root in (start, tmp_path / "embedded_sd3"))
        before, after = load_file(before), load_file(after)
        assert all(torch.equal(after[name], weight) for name, weight in before.items()) and before
    assert json.loads((tmp_path / "embedded_sd3/training.json").read_text()) == {"samples_seen": 32}


def test_evaluation_by_command(pretrained, tmp_path, capsys):
    scores = tmp_path / "scores.json"
    words = [str(pretrained / "embedded"), "--json", str(scores), "num_prompts=2", "num_scenes=3"]
    main(["evaluate-backbone", *words, f"judge={pretrained / 'judge'}", f"sheet={tmp_path / 'sheet.png'}"])
    found = json.loads(scores.read_text())
    rates = {"judge_accuracy", "noun_accuracy", "color_accuracy", "two_noun_accuracy", "two_color_accuracy", "ddim_iou"}
    rates |= {"three_noun_accuracy", "edit_targets"}
    assert rates | {"vae_psnr", "color_delta_e", "color_delta_e_p90", "package_mib", "samples_seen"} <= set(found)
    assert found["samples_seen"] == 16
    assert all(0 <= found[key] <= 1 for key in rates)
    assert (tmp_path / "sheet.png").is_file() and "vae_psnr" in capsys.readouterr().out


def test_evaluation_of_few_steps(pretrained, tmp_path, monkeypatch):
    """Images are drawn by what the model is loaded with, in so many steps, at that guidance."""
    seen = []

    def drawn(backbone, prompts, guidance_scale, num_steps, seed, batch_size):
        seen.append((backbone.origin, guidance_scale, num_steps))
        return generate(backbone, prompts, guidance_scale, num_steps, seed, batch_size=batch_size)

    monkeypatch.setattr("locinv_pl.measures.backbones.generate", drawn)
    lora, words = str(pretrained / "embedded_lcm"), ["num_prompts=1", "num_scenes=2", f"judge={pretrained / 'judge'}"]
    few = ["num_steps=2", "guidance_scale=1", f"model.lora={lora}", "model.scheduler._class_name=LCMScheduler"]
    main(["evaluate-backbone", str(pretrained / "embedded"), *words, *few])
    assert seen == [({"lora": lora, "scheduler": {"_class_name": "LCMScheduler"}}, 1.0, 2)]
    with pytest.raises(SystemExit, match="num_steps=0: must be 1 or more"):
        main(["evaluate-backbone", str(pretrained / "embedded"), *words, "num_steps=0"])


def test_evaluation_of_a_flow_model(pretrained, tmp_path):
    words = [str(pretrained / "embedded_sd3"), f"json={tmp_path / 'scores.json'}", "num_prompts=1", "num_scenes=2"]
    main(["evaluate-backbone", *words, f"judge={pretrained / 'judge'}"])
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["ddim_iou"] is None and 0 < found["vae_psnr"] < 50
