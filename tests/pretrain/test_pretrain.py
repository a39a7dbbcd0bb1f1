"""The recipe's parts: losses against formulas, batches, schedules, words."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from locinv_pl.cli.main import main
from locinv_pl.errors import InputError
from locinv_pl.measures.backbones import edit_targets, vae_quality
from locinv_pl.measures.judge import load_judge
from locinv_pl.pretrain.batches import Batches, images, rows
from locinv_pl.pretrain.clip import ClipModule, build_clip, text_config
from locinv_pl.pretrain.consistency import ConsistencyModule
from locinv_pl.pretrain.corpus import CELL, draw_corpus, label_grids
from locinv_pl.pretrain.diffusion import DiffusionModule, build_unet
from locinv_pl.pretrain.flow import FlowModule, build_towers, build_transformer
from locinv_pl.pretrain.optimization import Optimization, PretrainModule, warmup_stable_decay
from locinv_pl.pretrain.recognizer import RecognizerModule, build_recognizer, worsen
from locinv_pl.pretrain.tokenizer import train_tokenizer
from locinv_pl.pretrain.vae import VaeModule, build_vae, reconstruction_loss
from locinv_pl.scenes.drawing import COLORS, NOUNS, draw_scene
from locinv_pl.scenes.words import all_words

STEPS = Optimization(max_steps=10, batch_size=2)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer(all_words())


def test_learning_rate_rises_stays_and_falls():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_stable_decay(optimizer, warmup_steps=4, decay=0.25, progress=lambda step: step / 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:16] == [2.0] * 12
    assert rates[16:] == pytest.approx([1.6, 1.2, 0.8, 0.4])
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_training_is_as_far_as_its_steps_or_its_minutes(monkeypatch):
    module = PretrainModule(Optimization(max_steps=100, batch_size=1, max_minutes=5))
    module._trainer = SimpleNamespace(global_step=30, should_stop=False)
    module._began = 0.0
    for seconds, before, expected in ((0, 0, 0.3), (120, 0, 0.4), (120, 2.5, 0.9)):
        module.on_load_checkpoint({"minutes": before})
        monkeypatch.setattr("time.monotonic", lambda seconds=seconds: float(seconds))
        assert module.progress == pytest.approx(expected)
    module.on_train_batch_end()
    assert not module.trainer.should_stop
    monkeypatch.setattr("time.monotonic", lambda: 150.0)
    module.on_train_batch_end()
    assert module.trainer.should_stop
    with pytest.raises(InputError, match="max_minutes=0"):
        Optimization(max_steps=1, batch_size=1, max_minutes=0)


def test_batches_take_the_same_rows_of_all_columns():
    array = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    batch, labels = next(iter(Batches(5, (images(array), rows(np.arange(5))), 64, seed=3)))
    assert batch.shape == (64, 3, 2, 2) and set(labels.tolist()) == {0, 1, 2, 3, 4}
    expected = torch.from_numpy(array).permute(0, 3, 1, 2)[labels] / 255
    assert torch.equal(batch, expected)
    again = next(iter(Batches(5, (rows(np.arange(5)),), 64, seed=3)))[0]
    assert torch.equal(labels, again)


def test_every_word_is_one_token_and_any_word_can_be_said(tokenizer):
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for word in all_words():
        ids = tokenizer(word).input_ids
        assert len(ids) == 3 and (ids[0], ids[-1]) == (start, end), word
    pieces = tokenizer("two zebras, 7 q!").input_ids
    assert tokenizer.unk_token_id == end and end not in pieces[:-1]
    assert tokenizer.decode(pieces[1:-1]).replace(" ", "") == "twozebras,7q!"


def test_tokenizer_comes_back_from_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "an orange fish and three wooden chairs"
    assert again(text, padding="max_length").input_ids == tokenizer(text, padding="max_length").input_ids
    assert again.model_max_length == 24


def test_cells_belong_to_the_object_that_covers_most_of_them():
    scene = draw_scene(random.Random("cells"), 64, 3)
    nouns, colors = label_grids(scene)
    for row in range(64 // CELL):
        for column in range(64 // CELL):
            cell = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            covered = [thing.mask[cell].sum() for thing in scene.objects]
            free = CELL**2 - sum(covered)
            if max(covered) > free:
                thing = scene.objects[int(np.argmax(covered))]
                assert [*NOUNS][nouns[row, column] - 1] == thing.noun
                assert [*COLORS][colors[row, column] - 1] == thing.color
            elif max(covered) < free:
                assert nouns[row, column] == colors[row, column] == 0


def test_corpus_is_drawn_once_and_anew_for_other_settings(tmp_path):
    corpus = draw_corpus(tmp_path, 6, "a", 32, processes=1)
    assert np.array_equal(corpus.images[3], np.asarray(draw_scene(random.Random("a/3"), 32).image))
    assert corpus.captions[3] == draw_scene(random.Random("a/3"), 32).caption
    stamp = (tmp_path / "images.npy").stat().st_mtime_ns
    assert draw_corpus(tmp_path, 6, "a", 32).captions == corpus.captions
    assert (tmp_path / "images.npy").stat().st_mtime_ns == stamp
    assert draw_corpus(tmp_path, 6, "b", 32, processes=2).captions != corpus.captions
    threes = draw_corpus(tmp_path, 6, "b", 64, counts={3: 1.0}, processes=1)
    assert all(caption.count(" and ") == 2 for caption in threes.captions)


def test_what_is_gone_has_no_label(tmp_path):
    """With the fault of every object known, cells keep their labels only where something of it is left."""
    whole = draw_corpus(tmp_path / "whole", 30, "a", 64, processes=1)
    faulty = draw_corpus(tmp_path / "faulty", 30, "a", 64, fault_rate=1.0, processes=1)
    assert faulty.captions == whole.captions
    labelled, kept = np.asarray(whole.nouns) > 0, np.asarray(faulty.nouns) > 0
    assert not (kept & ~labelled).any()
    assert 0.05 < kept.sum() / labelled.sum() < 0.35  # a third of the objects is half there
    assert not np.array_equal(whole.images, faulty.images)


def make_diffusion(tokenizer, **settings) -> DiffusionModule:
    torch.manual_seed(0)
    unet = build_unet((8, 16, 16), latent_size=8, text_width=16, heads=2)
    null_ids = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    from transformers import CLIPTextModel

    return DiffusionModule(unet, CLIPTextModel(text_config(tokenizer, 16, 1, 2)), null_ids, STEPS, **settings)


def test_diffusion_loss_is_the_weighted_noise_error(tokenizer):
    module = make_diffusion(tokenizer, snr_bounds=(0.5, 5.0)).eval()
    ids = tokenizer(["a red cat", "a dog"], padding="max_length", return_tensors="pt").input_ids
    z_0, eps, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = []
    for b in range(2):
        abar = math.prod((1 - betas[: t[b] + 1]).tolist())
        z_t = math.sqrt(abar) * z_0[b] + math.sqrt(1 - abar) * eps[b]
        context = module.text_encoder(ids[b : b + 1]).last_hidden_state
        with torch.no_grad():
            error = (module.unet(z_t[None], t[b], context).sample[0] - eps[b]).square().mean().item()
        snr = abar / (1 - abar)
        expected.append(min(max(snr, 0.5), 5.0) / snr * error)
    assert module.loss(z_0, ids, t, eps).item() == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_captions_are_left_out_as_often_as_said(tokenizer, probability, monkeypatch):
    module = make_diffusion(tokenizer, null_probability=probability)
    seen = []
    monkeypatch.setattr(module, "loss", lambda z_0, ids, t, eps: seen.append(ids) or z_0.sum())
    monkeypatch.setattr(module, "log", lambda *args: None)
    ids = tokenizer(["a red cat", "a dog"], padding="max_length", return_tensors="pt").input_ids
    module.training_step((torch.zeros(2, 4, 8, 8), ids), 0)
    assert torch.equal(seen[0], module.null_ids.expand(2, -1) if probability else ids)


def test_text_encoder_learns_only_where_it_is_asked_to(tokenizer):
    assert not any(
        p.requires_grad for p in make_diffusion(tokenizer, train_text_encoder=False).text_encoder.parameters()
    )
    assert all(p.requires_grad for p in make_diffusion(tokenizer).text_encoder.parameters())


def test_clip_loss_is_transformers_own_where_captions_differ(tokenizer, monkeypatch):
    torch.manual_seed(0)
    module = ClipModule(build_clip(tokenizer, size=32, patch=8, hidden=16, layers=1), STEPS).eval()
    monkeypatch.setattr(module, "log_dict", lambda *args: None)
    captions = ["a red cat", "a dog", "a blue car"]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    images = torch.rand(3, 3, 32, 32)
    own = module.clip(input_ids=ids, pixel_values=images * 2 - 1, return_loss=True).loss
    assert module.training_step((images, ids), 0).item() == pytest.approx(own.item(), rel=1e-5)

    twice = torch.cat([ids, ids])
    out = module.clip(input_ids=twice, pixel_values=torch.cat([images, images]) * 2 - 1)
    target = torch.eye(3).repeat(2, 2) / 2
    logits = out.logits_per_image
    expected = (
        -(target * logits.log_softmax(1)).sum(1).mean() / 2 - (target * logits.T.log_softmax(1)).sum(1).mean() / 2
    )
    assert module.training_step((torch.cat([images, images]), twice), 0).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_recognizer_learns_colours_from_objects_only(monkeypatch):
    torch.manual_seed(0)
    module = RecognizerModule(build_recognizer(3, 2, size=32, channels=(8, 16)), STEPS)
    monkeypatch.setattr(module, "log_dict", lambda *args: None)
    monkeypatch.setattr("locinv_pl.pretrain.recognizer.worsen", lambda images: images)
    images, nouns = torch.rand(2, 3, 32, 32), torch.randint(0, 4, (2, 8, 8))
    colors = torch.where(nouns > 0, torch.randint(1, 3, (2, 8, 8)), 0)
    noun_logits, color_logits = module.recognizer(images)
    inside = nouns > 0
    of_color = color_logits.movedim(1, -1)[inside].log_softmax(-1)[range(int(inside.sum())), colors[inside] - 1]
    expected = F.cross_entropy(noun_logits.movedim(1, -1).reshape(-1, 4), nouns.flatten()) - of_color.mean()
    assert module.training_step((images, nouns, colors), 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_worse_images_keep_their_shape_and_mean():
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    worse = worsen(images)
    assert worse.shape == images.shape and not torch.equal(worse, images)
    assert worse.mean().item() == pytest.approx(images.mean().item(), abs=0.02)


def test_reconstruction_loss_sees_edges_and_drift():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert reconstruction_loss(x, x).item() == pytest.approx(1.5e-3, rel=1e-4)  # three roots of 1e-6, one halved
    drift = torch.full_like(x, 0.1)
    noise = torch.where(torch.rand_like(x) < 0.5, 0.1, -0.1)
    root = math.sqrt(0.1**2 + 1e-6)
    assert reconstruction_loss(x + drift, x).item() == pytest.approx(root + 2 * 0.01 + 0.5e-3 + 0.1, rel=1e-3)
    d = noise.numpy()
    across, down = np.diff(d, axis=3).ravel(), np.diff(d, axis=2).ravel()
    edges = np.sqrt(np.concatenate([across, down]) ** 2 + 1e-6).mean()
    blocks = np.abs(d.reshape(2, 3, 2, 8, 2, 8).mean((3, 5))).mean()
    assert reconstruction_loss(x + noise, x).item() == pytest.approx(root + 0.02 + edges / 2 + blocks, rel=1e-3)


def make_consistency(tokenizer, **settings) -> ConsistencyModule:
    """With a LoRA that already changes something."""
    plain = make_diffusion(tokenizer)
    module = ConsistencyModule(plain.unet, plain.text_encoder, plain.null_ids, STEPS, rank=2, **settings).eval()
    with torch.no_grad():
        for name, weight in module.unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return module


def test_consistency_loss_compares_with_a_step_of_the_teacher(tokenizer):
    module, teacher = make_consistency(tokenizer), make_diffusion(tokenizer).eval()
    ids = tokenizer(["a red cat", "a dog"], padding="max_length", return_tensors="pt").input_ids
    z_0, eps, w = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), (4.0, 7.0)
    betas = (torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).tolist()
    abar = [math.prod(1 - b for b in betas[: t + 1]) for t in range(1000)]
    empty = teacher.text_encoder(module.null_ids[None]).last_hidden_state
    expected = []
    for b, (t, s) in enumerate(((19, 0), (979, 959))):
        context = teacher.text_encoder(ids[b : b + 1]).last_hidden_state
        z_t = math.sqrt(abar[t]) * z_0[b : b + 1] + math.sqrt(1 - abar[t]) * eps[b : b + 1]
        with torch.no_grad():
            null, cond = (teacher.unet(z_t, t, text).sample for text in (empty, context))
            guided = null + w[b] * (cond - null)
            clean = (z_t - math.sqrt(1 - abar[t]) * guided) / math.sqrt(abar[t])
            z_s = math.sqrt(abar[s]) * clean + math.sqrt(1 - abar[s]) * guided
            ours = (z_t - math.sqrt(1 - abar[t]) * module.unet(z_t, t, context).sample) / math.sqrt(abar[t])
            theirs = (z_s - math.sqrt(1 - abar[s]) * module.unet(z_s, s, context).sample) / math.sqrt(abar[s])
        wanted = theirs if s else z_s  # at the path's end the image itself
        expected.append(((ours - wanted).square() + 0.001**2).sqrt().mean().item() - 0.001)
    loss = module.loss(z_0, ids, torch.tensor([19, 979]), torch.tensor([0, 959]), torch.tensor(w), eps)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-3)


def test_distillation_changes_the_lora_alone(tokenizer, monkeypatch):
    module = make_consistency(tokenizer, guidance_scale=(3.0, 5.0))
    seen = {}
    own = module.loss
    monkeypatch.setattr(module, "log", lambda *args: None)
    monkeypatch.setattr(
        module, "loss", lambda z, ids, t, s, w, eps: seen.update(t=t, s=s, w=w) or own(z, ids, t, s, w, eps)
    )
    module.training_step((torch.randn(64, 4, 8, 8), module.null_ids.expand(64, -1)), 0).backward()
    assert ((seen["t"] + 1) % 20 == 0).all() and torch.equal(seen["s"], (seen["t"] - 20).clamp(min=0))
    assert len(set(seen["t"].tolist())) > 20 and seen["w"].min() >= 3 and seen["w"].max() <= 5 and seen["w"].std() > 0.3
    learns = {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert learns == {name for name, _ in module.named_parameters() if "lora_" in name} and learns


def make_flow(tokenizer, **settings) -> FlowModule:
    torch.manual_seed(0)
    transformer = build_transformer(4, 8, text_width=32, width=16, layers=2, heads=2)
    null_ids = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    return FlowModule(transformer, build_towers(text_config(tokenizer, 16, 2, 2)), null_ids, STEPS, **settings)


def test_flow_loss_is_the_error_of_the_velocity(tokenizer):
    module = make_flow(tokenizer).eval()
    ids = tokenizer(["a red cat", "a dog"], padding="max_length", return_tensors="pt").input_ids
    z_0, eps, sigma = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    expected = []
    for b in range(2):
        z = (1 - sigma[b]) * z_0[b] + sigma[b] * eps[b]
        context, pooled = module.encode(ids[b : b + 1])
        with torch.no_grad():
            u = module.transformer(z[None], context, pooled, 1000 * sigma[b : b + 1]).sample[0]
        expected.append((u - (eps[b] - z_0[b])).square().mean().item())
    assert module.loss(z_0, ids, sigma, eps).item() == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize("train_encoder", [True, False])
def test_decoder_alone_can_be_trained(train_encoder, monkeypatch):
    torch.manual_seed(0)
    module = VaeModule(build_vae((8, 8), 32), STEPS, crop=16, train_encoder=train_encoder)
    monkeypatch.setattr(module, "log_dict", lambda *args: None)
    module.training_step((torch.rand(2, 3, 32, 32),), 0).backward()
    assert all(p.grad is not None for p in module.vae.decoder.parameters())
    assert all((p.grad is not None) == train_encoder for p in module.vae.encoder.parameters())


def test_bad_recipes_end_in_one_line(tmp_path, capsys):
    for words, message in {
        ("recipe=huge",): "recipe=huge: no such config; use one of",
        ("recipe=tiny", 'stages=["unet"]'): "stages=unet: no such stage; choose from vae",
        ("recipe=tiny", 'stages=["diffusion"]'): "run the stage vae first",
        ("recipe=tiny", 'stages=["consistency"]'): "run the stage vae first",
        ("recipe=tiny", "recipe.size=big"): "recipe.size",
    }.items():
        with pytest.raises(SystemExit) as end:
            main(["pretrain", *words, f"output={tmp_path}"])
        assert message in str(end.value) and "\n" not in str(end.value)


def test_colour_distance_is_that_of_the_objects_mean_colours():
    """A codec that turns every red object's pixels by a known step: CIEDE2000 as scikit-image has it, by hand."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    scenes = [draw_scene(random.Random(f"delta/{n}"), 64, 2) for n in range(3)]
    codec = SimpleNamespace(encode=lambda images: images, decode=lambda images: images * 0.9)
    found = vae_quality(codec, scenes)
    apart = []
    for scene in scenes:
        pixels = np.asarray(scene.image) / 255
        for thing in scene.objects:
            mean = pixels[thing.mask].mean(0)
            apart.append(deltaE_ciede2000(rgb2lab(mean), rgb2lab(0.9 * mean)))
    assert found["color_delta_e"] == pytest.approx(np.mean(apart), rel=1e-3)
    assert found["color_delta_e_p90"] == pytest.approx(np.quantile(apart, 0.9), rel=1e-3)


def test_edit_targets_are_of_crowded_scenes():
    targets = edit_targets(seed=4, count=12, size=64)
    assert len(targets) == 12 and targets == edit_targets(4, 12, 64)
    counts = [sum(noun in prompt.split() for noun in NOUNS) for prompt in targets]
    assert set(counts) == {2, 3}


def test_evaluation_without_a_judge_ends_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="holds no judge"):
        main(["evaluate-backbone", "embedded", f"judge={tmp_path}"])
    with pytest.raises(InputError, match="no judge"):
        load_judge(tmp_path)
