"""Loading a model of Stable Diffusion's layout, and what its networks are asked."""

import json
import shutil
import socket

import huggingface_hub
import pytest
import torch
import transformers
from conftest import LENGTH, make_image, write_tiny_model
from diffusers import DDIMScheduler, PNDMScheduler
from safetensors.torch import load_file, save_file

from locinv_pl.assets import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.networks.attention import Context, CrossAttentionMaps
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.loading import load_backbone


@pytest.fixture(scope="module")
def tiny_folder(deep_folder):
    """With three levels."""
    return deep_folder


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    """With three levels."""
    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="module")
def v_model(tmp_path_factory) -> Backbone:
    return load_backbone(str(write_tiny_model(tmp_path_factory.mktemp("v"), "v_prediction")))


def random_inputs(B: int = 2) -> tuple[torch.Tensor, Context]:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(B, 4, 16, 16, generator=generator)
    return z, Context.of(torch.randn(B, LENGTH, 32, generator=generator))


def token_ids(backbone: Backbone, *prompts: str) -> torch.Tensor:
    coded = backbone.tokenizer(list(prompts), padding="max_length", return_tensors="pt")
    return coded.input_ids


class TestLoading:
    """Folders that load."""

    def test_a_local_folder(self, tiny, tiny_folder):
        assert tiny.name == str(tiny_folder)
        assert (tiny.dtype, tiny.device.type) == (torch.float32, "cpu")
        assert (tiny.downsampling, tiny.image_size) == (2, 32)
        networks = (tiny.unet, tiny.vae, tiny.text_encoder)
        assert not any(p.requires_grad for net in networks for p in net.parameters())
        assert not any(net.training for net in networks)

    def test_the_embedded_model_is_computed_in_float32(self, embedded):
        assert embedded.name == "embedded"
        assert embedded.image_size == 128
        networks = (embedded.unet, embedded.vae, embedded.text_encoder)
        assert {p.dtype for net in networks for p in net.parameters()} == {torch.float32}
        for path in EMBEDDED.rglob("*.safetensors"):
            assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}, path

    def test_a_hub_name_in_the_cache_needs_no_network(self, tiny_folder, tiny, tmp_path, monkeypatch):
        model = tmp_path / "models--me--tiny"
        (model / "refs").mkdir(parents=True)
        (model / "refs/main").write_text("0" * 40)
        shutil.copytree(tiny_folder, model / "snapshots" / ("0" * 40))
        for module in (huggingface_hub.constants, huggingface_hub.file_download, transformers.utils.hub):
            for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
                monkeypatch.setattr(module, name, str(tmp_path), raising=False)
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
        weights = {"unet.conv_in.lora_A.weight": torch.randn(2, 36), "unet.conv_in.lora_B.weight": torch.randn(16, 2)}
        save_file(weights, model / "snapshots" / ("0" * 40) / "pytorch_lora_weights.safetensors")
        backbone = load_backbone("me/tiny")
        assert backbone.name == "me/tiny"
        changed = load_backbone("me/tiny", lora="me/tiny")
        change = (weights["unet.conv_in.lora_B.weight"] @ weights["unet.conv_in.lora_A.weight"]).view(16, 4, 3, 3)
        torch.testing.assert_close(changed.unet.conv_in.weight - tiny.unet.conv_in.weight, change)
        assert torch.equal(backbone.encode_null().keys, tiny.encode_null().keys)

    @pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
    def test_dtype(self, tiny_folder, dtype):
        backbone = load_backbone(str(tiny_folder), dtype)
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        networks = (backbone.unet, backbone.vae, backbone.text_encoder)
        assert {p.dtype for net in networks for p in net.parameters()} == {kind}
        z, context = random_inputs(1)
        eps = backbone.predict(z, torch.tensor(500), context)
        assert eps.dtype == backbone.encode(make_image()[None]).dtype == torch.float32
        assert eps.isfinite().all()

    @pytest.mark.parametrize("dtype", ["foo", "int64", "Tensor"])
    def test_no_dtype(self, dtype):
        with pytest.raises(InputError, match=f"model.dtype={dtype}"):
            load_backbone("embedded", dtype)

    def test_the_scheduler_that_stable_diffusion_ships(self, own_folder, tiny):
        PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ).save_pretrained(own_folder / "scheduler")
        assert "clip_sample" not in json.loads((own_folder / "scheduler/scheduler_config.json").read_text())
        backbone = load_backbone(str(own_folder))
        assert isinstance(backbone.scheduler, DDIMScheduler)
        assert not backbone.scheduler.config.clip_sample
        ours, same = backbone.schedule(10), tiny.schedule(10)
        assert torch.equal(ours.timesteps, same.timesteps)
        assert torch.equal(ours.signal, same.signal)

    def test_the_tokenizer_files_that_stable_diffusion_ships(self, own_folder, tiny):
        folder = own_folder / "tokenizer"
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        marks = {
            name: {"__type": "AddedToken", "content": token, "lstrip": False, "normalized": True, "rstrip": False}
            for name, token in {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}.items()
        }
        config = {**marks, "model_max_length": LENGTH, "pad_token": "<|endoftext|>", "do_lower_case": True}
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "CLIPTokenizer"}))
        prompts = ["a red cat and a dog", "A Zebra on grass.", ""]
        assert torch.equal(token_ids(load_backbone(str(own_folder)), *prompts), token_ids(tiny, *prompts))

    def test_bin_weights_do(self, own_folder, tiny):
        for part in ("unet", "vae"):
            (own_folder / part / "diffusion_pytorch_model.safetensors").unlink()
            weights = getattr(tiny, part).state_dict()
            torch.save(weights, own_folder / part / "diffusion_pytorch_model.bin")
        z, context = random_inputs(1)
        t = torch.tensor(500)
        loaded = load_backbone(str(own_folder)).predict(z, t, context)
        assert torch.equal(loaded, tiny.predict(z, t, context))


class TestRefusals:
    """What can't be loaded is one line that names the backbone and says what to do."""

    def message(self, name: str) -> str:
        with pytest.raises(InputError) as caught:
            load_backbone(name)
        message = str(caught.value)
        assert f"backbone={name}: " in message
        assert "\n" not in message
        return message

    def test_missing_folder(self, tmp_path):
        assert "no such folder" in self.message(str(tmp_path / "nowhere"))
        assert "no such folder" in self.message("./nowhere")

    def test_empty_folder(self, tmp_path):
        assert "is missing or damaged" in self.message(str(tmp_path))

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_no_weights(self, own_folder, part):
        next((own_folder / part).glob("*.safetensors")).unlink()
        assert f"{part}/ has no weights" in self.message(str(own_folder))

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    @pytest.mark.parametrize("keep", [0, 4, 5000])
    def test_truncated_weights(self, own_folder, part, keep):
        path = next((own_folder / part).glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:keep])
        assert "download it again" in self.message(str(own_folder))

    @pytest.mark.parametrize("file", ["unet/config.json", "tokenizer/tokenizer_config.json"])
    @pytest.mark.parametrize("content", ["", '{"sample_size": ', None])
    def test_damaged_configuration(self, own_folder, file, content):
        if content is None:
            (own_folder / file).unlink()
        else:
            (own_folder / file).write_text(content)
        assert f"{file} is missing or damaged" in self.message(str(own_folder))

    def test_weights_of_another_model(self, own_folder):
        config = json.loads((own_folder / "unet/config.json").read_text())
        (own_folder / "unet/config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
        assert "can't be loaded" in self.message(str(own_folder))

    def test_no_vocabulary(self, own_folder):
        (own_folder / "tokenizer/tokenizer.json").unlink()
        assert "tokenizer/ has no vocabulary" in self.message(str(own_folder))

    def test_a_file(self, own_folder):
        assert "is a file, not a model's folder" in self.message(str(own_folder / "unet/config.json"))

    def test_unknown_hub_name_without_network(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert "hub can't be reached; download the model and give its folder" in self.message("nobody/nothing")


class TestImages:
    """Encoding and decoding."""

    def test_encode_is_the_scaled_posterior_mean(self, tiny):
        x = torch.stack([make_image(seed=n) for n in range(2)])
        with torch.no_grad():
            expected = tiny.vae.encode(2 * x - 1).latent_dist.mean * 0.5
        assert tiny.encode(x).shape == (2, 4, 16, 16)
        assert torch.allclose(tiny.encode(x), expected, atol=1e-6)

    def test_decode_is_its_way_back(self, tiny):
        z, _ = random_inputs()
        with torch.no_grad():
            expected = (tiny.vae.decode(z / 0.5).sample / 2 + 0.5).clamp(0, 1)
        assert tiny.decode(z).shape == (2, 3, 32, 32)
        assert torch.allclose(tiny.decode(z), expected, atol=1e-6)

    def test_other_sides_than_the_trained_one(self, tiny):
        z = tiny.encode(torch.rand(1, 3, 48, 32))
        assert z.shape == (1, 4, 24, 16)
        assert tiny.decode(z).shape == (1, 3, 48, 32)

    def test_the_embedded_model_knows_images(self, embedded):
        x = make_image(128)[None]
        error = embedded.decode(embedded.encode(x)) - x
        assert error.square().mean() < 0.3 * x.var()


class TestText:
    """The text encoder, with the table's embeddings and with others."""

    def test_a_prompts_own_embeddings_change_nothing(self, tiny):
        ids = token_ids(tiny, "a red cat", "a dog")
        assert tiny.encode_text(ids).keys.shape == (2, LENGTH, 32)
        assert torch.equal(tiny.encode_text(ids, tiny.embed(ids)).keys, tiny.encode_text(ids).keys)

    def test_others_do_and_later_tokens_see_them(self, tiny):
        ids = token_ids(tiny, "a red cat")
        V = tiny.embed(ids).clone()
        V[:, 3, ::2] += 1
        before, after = tiny.encode_text(ids).keys, tiny.encode_text(ids, V).keys
        assert torch.equal(before[:, :3], after[:, :3])
        assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)

    def test_gradients_reach_the_embeddings_and_not_the_table(self, tiny):
        ids = token_ids(tiny, "a red cat")
        V = tiny.embed(ids).clone().requires_grad_()
        table = tiny.text_encoder.get_input_embeddings().weight
        before = table.clone()
        tiny.encode_text(ids, V).keys.square().sum().backward()
        assert V.grad is not None and V.grad[0, 3].abs().sum() > 0
        assert table.grad is None
        assert torch.equal(table, before)

    def test_an_exception_leaves_the_encoder_as_it_was(self, tiny):
        ids = token_ids(tiny, "a red cat")
        before = tiny.encode_text(ids).keys
        with pytest.raises(RuntimeError):
            tiny.encode_text(ids, torch.zeros(1, LENGTH, 7))
        assert torch.equal(tiny.encode_text(ids).keys, before)

    def test_null_is_the_empty_prompt(self, tiny):
        assert torch.equal(tiny.encode_null().keys, tiny.encode_text(token_ids(tiny, "")).keys)


class TestNoise:
    """Predictions, of whatever kind, and the step that takes them."""

    t = torch.tensor(701)

    def raw(self, backbone: Backbone, z: torch.Tensor, context: Context) -> torch.Tensor:
        with torch.no_grad():
            return backbone.unet(z, self.t, encoder_hidden_states=context.keys).sample

    def test_epsilon_is_the_unets_output(self, tiny):
        z, context = random_inputs()
        with torch.no_grad():
            ours = tiny.predict(z, self.t, context)
        assert torch.allclose(ours, self.raw(tiny, z, context), atol=1e-5)

    def test_v_prediction(self, v_model):
        z, context = random_inputs()
        with torch.no_grad():
            assert torch.allclose(v_model.predict(z, self.t, context), self.raw(v_model, z, context), atol=1e-5)

    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_steps_of_every_kind_are_diffusers(self, tiny_folder, kind):
        backbone = load_backbone(str(tiny_folder))
        backbone.scheduler.register_to_config(prediction_type=kind)
        reference = DDIMScheduler.from_config(backbone.scheduler.config)
        reference.set_timesteps(4)
        schedule, (z, out) = (
            backbone.schedule(4),
            torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        )
        for i, t in enumerate(reference.timesteps):
            expected = reference.step(out, t, z).prev_sample
            torch.testing.assert_close(schedule.step(z, out, i), expected, rtol=1e-4, atol=1e-5)

    def test_values_have_a_context_of_their_own(self, tiny):
        z, context = random_inputs()
        other = Context(context.keys, context.values.flip(0))
        with torch.no_grad():
            assert not torch.allclose(
                tiny.predict(z, self.t, other),
                tiny.predict(z, self.t, context),
                atol=1e-4,
            )

    @pytest.mark.parametrize("grid", [(8, 8), (4, 4)])
    def test_maps_of_a_pass_that_stops_early_are_those_of_a_full_pass(self, tiny_folder, grid):
        backbone = load_backbone(str(tiny_folder))
        z, context = random_inputs()
        maps = CrossAttentionMaps(grid)
        with torch.no_grad():
            backbone.predict(z, self.t, context, maps)
            early = [backbone.attention_maps(z, self.t, context, grid) for _ in range(2)]
        assert early[0].shape == (2, *grid, LENGTH)
        assert all(torch.equal(A, maps.A) for A in early)


class TestGrid:
    """Which attention grids there are."""

    @pytest.mark.parametrize(
        "latent, resolution, grid",
        [((1, 4, 16, 16), 8, (8, 8)), ((4, 16, 16), 4, (4, 4)), ((24, 16), 8, (12, 8)), ((32, 32), 16, (16, 16))],
    )
    def test_grid(self, tiny, latent, resolution, grid):
        assert tiny.map_grid(latent, resolution) == grid

    @pytest.mark.parametrize("resolution", [7, 5, 16, 32, 2, 1, 0, -8])
    def test_a_grid_without_cross_attention_is_refused(self, tiny, resolution):
        with pytest.raises(InputError, match=f"model.resolution={resolution}: .*use one of 8, 4"):
            tiny.map_grid((16, 16), resolution)


class TestSchedule:
    """DDIM's timesteps."""

    def test_ten_steps(self, tiny):
        schedule = tiny.schedule(10)
        assert schedule.timesteps.tolist() == list(range(901, 0, -100))
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        abar = (1 - beta).cumprod(0)
        expected = torch.cat([abar[schedule.timesteps], abar[:1]])
        assert torch.allclose(schedule.signal.double().square(), expected, atol=1e-5)

    @pytest.mark.parametrize("num_steps", [0, -1, 1001])
    def test_out_of_range(self, tiny, num_steps):
        with pytest.raises(InputError, match=f"model.num_steps={num_steps}: must lie between 1 and 1000"):
            tiny.schedule(num_steps)
