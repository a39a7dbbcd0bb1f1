"""The benchmark: the authors' way equals ours, and what is counted is what is run."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import make_two_objects
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from locinv_pl.benchmark.counting import count
from locinv_pl.benchmark.growth import draw_growth, measure_growth, r_squared
from locinv_pl.benchmark.memory import kept_of, memory_of, weights_of
from locinv_pl.benchmark.modes import Mode, spread, time_modes, with_steps
from locinv_pl.benchmark.phases import drawn_samples
from locinv_pl.benchmark.published import PUBLISHED, random_model, random_part
from locinv_pl.benchmark.reference import NONE, SAVINGS, Savings, ladder, with_savings, without
from locinv_pl.cli.main import main
from locinv_pl.method.dynamic_tokens import token_context, token_losses
from locinv_pl.method.policies import load_method
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context, CrossAttentionMaps
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.tuning import Tuning
from locinv_pl.words.tokens import prompt_batch

RESOLUTION = 8
STEPS = [(3, 3)] * 2
METHOD = with_steps(load_method("locinv"), 3, 3)
LESS = [NONE, *without().values()]
NAMES = ["none", *SAVINGS]


@pytest.fixture(scope="module")
def task(tiny):
    samples = [make_two_objects("a", seed=0), make_two_objects("b", seed=1)]
    return Mode.prepare(tiny, Savings(), METHOD, samples, 2, RESOLUTION).task


def close(found, wanted, relative=1e-5):
    """Within a share of the largest value."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=relative * wanted.abs().max().item())


def gradients(backbone, task):
    """Maps, losses and ∂/∂V of a token step, z_{t-1} before its step and ∂/∂∅ of a null-text step."""
    z_t, t = task.trajectory[-1], task.schedule.timesteps[0]
    prefix = backbone.prefix(z_t, t)
    V = task.embeddings.detach().clone().requires_grad_()
    A = backbone.attention_maps(z_t, t, token_context(backbone, task, V), task.grid, prefix)
    losses = token_losses(A, task, only=task.method.tokens.active).nan_to_num(0)
    losses.sum().backward()
    with torch.no_grad():
        context = token_context(backbone, task, V)
        eps_cond, _ = backbone.predict_with_maps(z_t, t, context, task.grid, prefix)
    null = task.empty.keys.repeat(len(z_t), 1, 1).requires_grad_()
    eps_null = backbone.predict(z_t, t, Context.of(null), prefix=prefix)
    (eps_cond + eps_null).square().sum().backward()
    return [x.detach() for x in (A, losses, V.grad, eps_cond, eps_null, null.grad)]


@pytest.mark.parametrize("savings", LESS, ids=NAMES)
def test_no_saving_changes_maps_losses_or_gradients(tiny, task, savings):
    wanted = gradients(tiny, task)
    with with_savings(tiny, savings) as limited:
        found = gradients(limited, task)
    for a, b in zip(found, wanted, strict=True):
        close(a, b)


@pytest.mark.parametrize("savings", LESS, ids=NAMES)
def test_no_saving_changes_an_inversion(tiny, task, savings):
    record = wanted = task.start()
    for i in range(2):
        wanted = invert_step(tiny, task, i, wanted)
        with with_savings(tiny, savings) as limited:
            record = invert_step(limited, task, i, record)
        for key in ("latent", "tokens", "null", "maps"):
            close(getattr(record, key), getattr(wanted, key), 1e-3)


def test_fused_attention_saves_memory():
    q = torch.randn(1, 2, 256, 8, requires_grad=True)
    fused = count(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    explicit = count(lambda: ((q @ q.transpose(-1, -2)).softmax(-1) @ q).sum().backward())
    assert fused.peak < explicit.peak / 4


def test_weights_have_gradients_only_inside(tiny, task):
    with pytest.raises(RuntimeError, match="here"), with_savings(tiny, NONE) as limited:
        gradients(limited, task)
        weights = dict(tiny.unet.named_parameters())
        assert weights["conv_in.weight"].grad.abs().sum() > 0 and weights["conv_out.weight"].grad.abs().sum() > 0
        frozen = [name for name, weight in weights.items() if weight.grad is None]
        assert frozen and all(".to_" in name for name in frozen)
        raise RuntimeError("here")
    for net in (tiny.unet, tiny.text_encoder):
        assert all(weight.grad is None and not weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("frozen", [True, False])
def test_operations_by_hand(device, frozen):
    linear, conv = nn.Linear(5, 7, device=device), nn.Conv2d(3, 4, 3, padding=1, device=device)
    for net in (linear, conv):
        net.requires_grad_(not frozen)
    passes = 2 if frozen else 3  # forward, the input's gradient, the weights'
    x = torch.ones(11, 5, device=device, requires_grad=True)
    assert count(lambda: linear(x).sum().backward()).flops == passes * 2 * 11 * 5 * 7
    x = torch.ones(2, 3, 6, 8, device=device, requires_grad=True)
    assert count(lambda: conv(x).sum().backward()).flops == passes * 2 * (2 * 6 * 8) * 3 * 4 * 9
    q, k = (torch.ones(2, 4, n, 8, device=device, requires_grad=True) for n in (9, 13))
    product = 2 * (2 * 4) * 9 * 13 * 8
    assert count(lambda: F.scaled_dot_product_attention(q, k, k)).flops == 2 * product
    assert count(lambda: F.scaled_dot_product_attention(q, k, k, scale=0.1).sum().backward()).flops == 7 * product
    assert count(lambda: ((q @ k.transpose(-1, -2)).softmax(-1) @ k).sum().backward()).flops == 6 * product


def test_operations_agree_with_pytorchs_counter(tiny, task):
    z_t, t = task.trajectory[-1], task.schedule.timesteps[0]
    with with_savings(tiny, NONE) as plain, torch.no_grad():  # explicit attention: PyTorch counts no other on a CPU

        def work():
            plain.predict(z_t, t, task.plain, CrossAttentionMaps(task.grid))

        with FlopCounterMode(display=False) as theirs:
            work()
        assert count(work).flops == theirs.get_total_flops()


def test_memory_by_hand():
    def work():
        kept = torch.zeros(1000) + 1  # one dies
        for _ in range(5):
            kept = kept * 2  # the one before lives until there is a new one
        return kept.view(10, 100)[0]  # no new memory

    assert count(work).peak == 2 * 4000


@pytest.mark.parametrize("savings", [NONE, Savings()], ids=["reference", "ours"])
def test_phases_add_up_to_what_the_engine_runs(tiny, task, savings):
    mode = Mode(tiny, savings, task, 0.0)

    def whole():
        with with_savings(tiny, replace(savings, frozen_weights=True)) as limited:
            prepare(limited, task.samples, METHOD, 2, RESOLUTION)
        record = task.start()
        for i in range(2):
            with with_savings(tiny, savings) as limited:
                record = invert_step(limited, task, i, record)

    assert len(task.samples) * mode.flops(mode.costs(), STEPS) == pytest.approx(
        count(whole).flops, rel=2e-4
    )  # priors are products, too, on two grids


def test_counts_are_the_same_on_the_meta_device(tiny_folder, task):
    there, here = (load_backbone(str(tiny_folder), device=device) for device in ("meta", "cpu"))
    costs = [Mode.prepare(b, NONE, METHOD, task.samples, 2, RESOLUTION).costs() for b in (there, here)]
    assert costs[0] == costs[1]


def test_steps_of_a_mode(tiny, task):
    assert spread(50, 5) == [0, 12, 24, 37, 49] and spread(3, 5) == [0, 1, 2]
    shipped = load_method("locinv")
    modes = {"fixed": Mode(tiny, NONE, task, 1.0), "shipped": Mode(tiny, Savings(), task, 1.0).with_method(shipped)}
    assert modes["shipped"].stops_early and not modes["fixed"].stops_early
    timings = time_modes(modes, timesteps=1, repeats=2)
    assert timings["fixed"].steps(0) == [(3, 3)] and len(timings["shipped"].steps(1)) == 2
    assert all(timing.seconds > 0.5 for timing in timings.values())  # of the batch's one second before, an image's half
    costs = modes["fixed"].costs()
    fewer = modes["fixed"].flops(costs, [(3, 3), (1, 0)])
    saved = 2 * costs["token"].flops - costs["maps"].flops + 3 * costs["null"].flops
    assert modes["fixed"].flops(costs, STEPS) - fewer == pytest.approx(saved / 2)


@pytest.mark.slow
def test_stable_diffusion_has_its_real_sizes():
    backbone = random_model("sd15-random", torch.bfloat16, "meta")
    sizes = [sum(w.numel() for w in net.parameters()) for net in (backbone.unet, backbone.text_encoder, backbone.vae)]
    assert sizes == [859_520_964, 123_060_480, 83_653_863]
    assert backbone.image_size == 512 and backbone.dtype == torch.bfloat16
    assert backbone.tokenizer("", padding="max_length").input_ids[76] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "billions", "tflop", "others"),
    [("sdxl-random", 2.567, 6.76, [0.123, 0.695]), ("sd35-random", 2.243, 11.25, [0.124, 0.695, 4.762])],
)
@torch.no_grad()
def test_larger_architectures_have_their_real_sizes(name, billions, tflop, others):
    backbone = random_model(name, torch.bfloat16, "meta")
    nets = [backbone.denoiser, *backbone.text.networks]
    sizes = [sum(weight.numel() for weight in net.parameters()) / 1e9 for net in nets]
    assert sizes == pytest.approx([billions, *others], abs=6e-4) and backbone.image_size == 1024
    z, t = torch.zeros(1, backbone.widths[1], 128, 128, device="meta"), backbone.schedule(50).timesteps[0]
    null = backbone.encode_null()
    assert count(lambda: backbone.predict(z, t, null)).flops / 1e12 == pytest.approx(tflop, abs=6e-3)


@pytest.mark.slow
@torch.no_grad()
def test_flux_has_its_real_size():
    net = random_part("FluxTransformer2DModel", PUBLISHED["flux-random"]["transformer"], torch.bfloat16, "meta")
    assert sum(weight.numel() for weight in net.parameters()) / 1e9 == pytest.approx(11.90, abs=6e-3)
    image, text, pooled = (torch.zeros(1, *n, device="meta") for n in ((4096, 64), (512, 4096), (768,)))
    at, one = [torch.zeros(n, 3, device="meta") for n in (4096, 512)], torch.ones(1, device="meta")
    cost = count(lambda: net.float()(image, text, pooled, one, *at, one))
    assert cost.flops / 1e12 == pytest.approx(74.4, abs=0.05)


def test_memory_is_that_of_its_parts(tiny, task):
    mode = Mode(tiny, Savings(), task, 0.0)
    costs, kept = mode.costs(), kept_of(mode, 10)
    found = memory_of(mode, costs, 10)
    assert sum(weights_of(tiny).values()) == sum(w.nbytes for net in tiny._networks for w in net.parameters())
    assert kept["trajectory"] == 11 * task.trajectory[0].nbytes and kept["∅_t"] == 10 * task.plain.keys.nbytes
    direct = replace(METHOD, null_text=replace(METHOD.null_text, policy="direct"))
    assert kept_of(mode.with_method(direct), 10)["∅_t"] == task.empty.keys.nbytes
    step = found["stages"]["gradient steps on ∅_t"]
    assert step["activations_gib"] == costs["null"].peak / 2**30
    without = found["weights_gib"]["text encoders"] + found["weights_gib"]["VAE"]
    assert step["whole_gib"] - step["offload_gib"] == pytest.approx(without)


def test_r_squared():
    assert r_squared([1, 2, 3], [5, 7, 9]) == pytest.approx(1)
    assert r_squared([1, 2, 3], [0, 1, 0]) == pytest.approx(0)


SMALL = ["resolution=8", "num_steps=2", "timesteps=1", "token_steps=2", "null_steps=2"]


@pytest.fixture
def small(tiny_folder, monkeypatch):
    """Options of a short benchmark; the tiny model's words are those of its own images."""
    samples = [make_two_objects(str(n), seed=n) for n in range(4)]
    monkeypatch.setattr("locinv_pl.benchmark.bench.drawn_samples", lambda count, size: samples[:count])
    return [*SMALL, f"backbone={tiny_folder}"]


def test_images_have_words_of_the_embedded_model(embedded):
    one, two = drawn_samples(2, 64)
    assert one.image.shape == (3, 64, 64) and len(one.nouns) == len(two.nouns) == 2 and one.prompt != two.prompt
    adjective = one.adjectives[0]
    assert one.prompt.split().index(adjective.word) < one.prompt.split().index(one.nouns[adjective.noun].word)
    assert prompt_batch(embedded.tokenizer, [one, two], True).dynamic.sum() >= 8


@pytest.mark.slow
def test_command_times_and_counts(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("locinv_pl.benchmark.bench.COUNTED_ON", "cpu")
    main(["benchmark", *small, "batch_size=2", f"json={tmp_path / 'figures.json'}"])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert "of the ceiling" in capsys.readouterr().out
    assert found["device"] == "cpu" and found["size"] == 32
    for key, above in {"speedup_equal_steps": "reference", "speedup_default": "reference"}.items():
        below = {"speedup_equal_steps": "equal_steps", "speedup_default": "default"}[key]
        assert found[key] == pytest.approx(found[f"{above}_seconds"] / found[f"{below}_seconds"])
    assert found["flops_ratio"] > 1.5 and found["weights_gib"] < found["peak_memory_gib"] < 1
    assert 0 < found["share_of_matmul_ceiling"] < 1
    assert math.isclose(found["phases"]["ours"]["ddim"]["passes"], 1)
    assert found["inversions"]["ours, as shipped"]["null_steps"] <= 10


@pytest.mark.slow
def test_ours_alone_is_timed(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("locinv_pl.benchmark.bench.COUNTED_ON", "cpu")
    main(["benchmark", *small, "reference=false", "batch_size=1", "method=direct", f"json={tmp_path / 'figures.json'}"])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["equal_steps_seconds"] > 0 and found["reference_seconds"] is found["speedup_default"] is None
    assert found["flops_ratio"] >= 1 and "gradient steps on" not in capsys.readouterr().out.split("memory, counted")[1]


@pytest.mark.slow
def test_early_stops_of_random_weights_are_not_timed(small, tiny_folder, tmp_path, capsys, monkeypatch):
    def tiny(name, dtype, device, tuning):
        return load_backbone(str(tiny_folder), dtype, device, tuning=tuning)

    monkeypatch.setattr("locinv_pl.benchmark.bench.COUNTED_ON", "cpu")
    monkeypatch.setattr("locinv_pl.benchmark.bench.random_model", tiny)
    main(["benchmark", *small[:-1], "backbone=sd15-random", "batch_size=1", f"json={tmp_path / 'figures.json'}"])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["equal_steps_seconds"] > 0 and found["default_seconds"] is found["speedup_default"] is None
    shipped = found["inversions"]["ours, as shipped"]
    assert shipped["seconds"] is shipped["token_steps"] is shipped["tflop"] is None
    assert "depends on the image" in capsys.readouterr().out


@pytest.mark.slow
def test_command_counts_every_saving_without_a_device(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("locinv_pl.benchmark.bench.COUNTED_ON", "cpu")  # as many, and faster for a tiny model
    main(["benchmark", *small, "device=meta", "ablation=true", "batch_size=1", f"json={tmp_path / 'figures.json'}"])
    rows = json.loads((tmp_path / "figures.json").read_text())["inversions"]
    flops = {name: row["tflop"] for name, row in rows.items()}
    assert flops["reference"] > 1.5 * flops["ours"] == 1.5 * flops["+ fused attention"]
    assert all(flops[name] > flops["ours"] for name in list(without())[:-1])
    assert flops["without: fused attention"] < flops["ours"]  # saves memory, and takes one product more
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*ladder(), *without()])


@pytest.mark.slow
def test_command_counts_other_methods(small, tmp_path, capsys):
    options = ["device=meta", "dtype=bfloat16", "method=nti", "batch_size=1", f"json={tmp_path / 'figures.json'}"]
    main(["benchmark", *small, *options])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["reference_seconds"] is None and found["share_of_matmul_ceiling"] is None
    assert found["inversions"]["ours"]["token_steps"] == 0 and found["flops_ratio"] > 1
    assert "seconds" not in capsys.readouterr().out


def test_checkpointing_trades_operations_for_memory(tiny_folder, task):
    plain, checkpointed = (
        Mode.prepare(
            load_backbone(str(tiny_folder), tuning=Tuning(gradient_checkpointing=on)),
            *(Savings(), METHOD, task.samples, 1, RESOLUTION),
        ).costs()["null"]
        for on in (False, True)
    )
    assert checkpointed.peak < 0.7 * plain.peak and 1.3 * plain.flops < checkpointed.flops < 1.6 * plain.flops


@pytest.mark.slow
def test_growth_is_that_of_its_numbers(tiny, task, monkeypatch):
    monkeypatch.setattr("locinv_pl.benchmark.growth.SWEEPS", {"images": (1, 2), "timesteps": (1, 3)})
    growth = measure_growth(tiny, load_method("nti"), task.samples, RESOLUTION)
    images, timesteps = growth["images"], growth["timesteps"]
    assert images["memory_gib"][0] == images["memory_gib"][1]
    assert timesteps["memory_gib"][0] <= timesteps["memory_gib"][1] < 1.1 * timesteps["memory_gib"][0]
    assert all(seconds > 0 for swept in growth.values() for seconds in swept["seconds"])
    assert [axes.get_xlabel() for axes in draw_growth(growth).axes if axes.get_xlabel()] == ["images", "timesteps"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("device=gpu9", "device=gpu9"),
        ("device=cuda:99", "device=cuda:99"),
        ("dtype=int8", "dtype=int8"),
        ("repeats=0", "repeats=0"),
        ("timesteps=many", "timesteps"),
        ("backbone=nowhere/at/all", "nowhere/at/all"),
        ("method=magic", "method=magic"),
        ("resolution=7", "resolution=7"),
        ("size=100", "25x25"),
    ],
)
def test_bad_options_are_one_line(word, said):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", word, "device=meta"] if not word.startswith("device") else ["benchmark", word])
    assert said in str(stop.value) and "\n" not in str(stop.value)
