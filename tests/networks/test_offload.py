"""Networks that wait on the CPU, and quantised text encoders: what is where when, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_two_objects
from runs import METHOD, Toy, make_samples, make_trainer
from test_architectures import PROMPT, WRITERS, R, T, length, method, run_inversion

from locinv_pl.editing.pipelines import EditorSettings, make_editor
from locinv_pl.editing.prompt_to_prompt import edit
from locinv_pl.errors import InputError
from locinv_pl.io.files import read_json
from locinv_pl.method.policies import Method, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import settings_of
from locinv_pl.networks.loading import load_as, load_backbone
from locinv_pl.networks.offload import Offload
from locinv_pl.networks.tuning import Tuning
from locinv_pl.run.module import LocInvModule


class Waiting(Offload):
    """A device whose networks are of no use while they wait: their weights are NaN then."""

    def __init__(self, backbone: Any):
        super().__init__("cpu")
        parts = {"vae": backbone.vae, "denoiser": backbone.denoiser}
        parts |= {f"text {n}": net for n, net in enumerate(backbone.text.networks)}
        self.names = {net: name for name, net in parts.items()}
        self.weights = {w: w.data for net in parts.values() for w in net.parameters()}
        self.log: list[str] = []
        self.was_together = False  # denoiser and text encoders
        for net in parts.values():
            self._spoil(net)

    def _spoil(self, net: torch.nn.Module) -> None:
        for w in net.parameters():
            w.data = torch.full_like(w.data, torch.nan)

    def use(self, *networks: torch.nn.Module, beside: bool = False) -> bool:
        before = list(self.there)
        moved = super().use(*networks, beside=beside)
        for net in before:
            if net not in self.there:
                self.log.append(f"- {self.names[net]}")
                self._spoil(net)
        for net in self.there:
            if net not in before:
                self.log.append(f"+ {self.names[net]}")
                for w in net.parameters():
                    w.data = self.weights[w]
        self.was_together |= {"denoiser", "text 0"} <= {self.names[net] for net in self.there}
        return moved


def waiting(folder: Path) -> tuple[Any, Waiting]:
    """A model whose networks wait, and where they do."""
    backbone = load_backbone(str(folder), offload=True)
    _ = backbone.text.units  # read from the tables once, wherever they are
    backbone._wait_for("cpu")
    backbone._offload = there = Waiting(backbone)
    return backbone, there


@pytest.fixture(params=["sd", *WRITERS])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "sd":
        return Path(request.getfixturevalue("tiny_folder"))
    return WRITERS[request.param](tmp_path / "model")


def test_an_inversion_and_its_edit_are_the_same(folder):
    plain, (waits, there) = load_backbone(str(folder), tuning=Tuning(fuse_projections=False)), waiting(folder)
    sample, how = make_two_objects("two", seed=0), method(plain, policy="direct")
    one, other = (run_inversion(each, sample, how) for each in (plain, waits))
    for name in ("trajectory", "tokens", "maps", "latent"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-5)
    texts = [f"text {n}" for n in range(len(plain.text.networks))]
    first = [*(f"+ {text}" for text in texts), *(f"- {text}" for text in texts), "+ vae", "- vae", "+ denoiser"]
    assert there.log[: len(first)] == first and there.was_together  # for the gradients of V_t
    a, b = (edit(each, inversion, ["a red dog and a dog"])[0] for each, inversion in ((plain, one), (waits, other)))
    torch.testing.assert_close(b, a, rtol=0, atol=1e-4)
    assert there.log[-1] == "+ vae" and there.there == [waits.vae]


def test_text_encoders_leave_where_no_token_moves(folder):
    waits, there = waiting(folder)
    how = Method("test", 3.0, TokenPolicy("fixed"), NullTextPolicy("none"))
    assert run_inversion(waits, make_two_objects("two", seed=0), how).latent.isfinite().all()
    assert not there.was_together


def test_a_cpu_has_all_of_it_and_a_run_says_so(tiny_folder, tmp_path):
    backbone = load_backbone(str(tiny_folder), offload=True)
    assert backbone.to("cpu")._offload is None and backbone.offload
    meta = load_backbone(str(tiny_folder), device="meta", offload=True)  # any device but the CPU
    assert meta.device.type == "meta" and meta._weight.device.type == "cpu"
    assert not any("to_keys" in module._buffers for module in meta.denoiser.modules())
    module = LocInvModule(str(tiny_folder), METHOD, num_steps=2, resolution=8, offload=True)
    make_trainer(tmp_path / "run").fit(module, datamodule=Toy(make_samples(1)))
    settings = read_json(tmp_path / "run/settings.json", dict)
    assert settings["rounding"]["offload"] and "quantize" not in settings
    assert load_as(settings).offload and not load_as(settings | {"rounding": {}}).offload
    with pytest.raises(InputError, match="leave out model.offload"):
        make_editor(EditorSettings(editor="diffedit"), backbone)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("int3", "model.quantize=int3: is none of bitsandbytes_4bit, torchao_int8, quanto_int8"),
        ("bitsandbytes_4bit", "needs bitsandbytes accelerate, which isn't installed; pip install bitsandbytes"),
        ("quanto_int8", "needs optimum-quanto accelerate, which isn't installed"),
    ],
)
def test_what_cannot_be_quantised_is_one_line(tiny_folder, monkeypatch, name, says):
    monkeypatch.setattr("locinv_pl.networks.offload.find_spec", lambda library: None)
    with pytest.raises(InputError, match=says) as error:
        load_backbone(str(tiny_folder), quantize=name)
    assert "\n" not in str(error.value)


def test_t5_alone_is_told_how_its_weights_are_quantised(tmp_path, monkeypatch):
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    folder = str(WRITERS["sd3"](tmp_path / "sd3"))
    told = {}
    for kind in (CLIPTextModelWithProjection, T5EncoderModel):
        load = kind.from_pretrained

        def remember(*args: Any, kind: Any = kind, load: Any = load, **how: Any) -> Any:
            told[kind] = how.pop("quantization_config", None)
            return load(*args, **how)

        monkeypatch.setattr(kind, "from_pretrained", remember)
    monkeypatch.setattr("locinv_pl.networks.loading.quantization", lambda name, dtype: (name, dtype))
    made = load_backbone(folder, "bfloat16", quantize="quanto_int8")
    assert told == {CLIPTextModelWithProjection: None, T5EncoderModel: ("quanto_int8", torch.bfloat16)}
    assert settings_of(made, METHOD, T, R)["quantize"] == "quanto_int8"
    plain = load_backbone(folder)
    assert load_as({"backbone": folder, "dtype": "float32", "quantize": "quanto_int8"}).origin == made.origin
    with pytest.raises(InputError, match="made with model.quantize=quanto_int8, not None"):
        edit(plain, run_inversion(made, make_two_objects("two", seed=0), method(made, policy="direct")), ["a red dog"])


@pytest.mark.parametrize(
    ("name", "library", "error"),
    [
        ("torchao_int8", "torchao", 0.05),
        ("quanto_int8", "optimum.quanto", 0.05),
        ("bitsandbytes_4bit", "bitsandbytes", 1.0),
    ],
)
def test_t5_is_quantised(tmp_path, tiny_folder, name, library, error):
    pytest.importorskip(library)
    with pytest.raises(InputError, match="has no T5"):
        load_backbone(str(tiny_folder), quantize=name)
    folder = str(WRITERS["sd3"](tmp_path / "sd3"))
    plain, small = load_backbone(folder), load_backbone(folder, quantize=name)
    made_with = {**settings_of(small, METHOD, T, R), "dtype": "float32"}
    assert made_with["quantize"] == name and load_as(made_with).origin == small.origin
    ids = torch.tensor([plain.tokenizer(PROMPT, padding="max_length", max_length=length(plain)).input_ids])
    V = small.embed(ids).requires_grad_()
    states, exact = small.encode_text(ids, V).keys, plain.encode_text(ids).keys
    clip = plain.text.lengths[0]
    assert torch.equal(states[:, :clip], exact[:, :clip]) and not torch.equal(states, exact)
    torch.testing.assert_close(states, exact, rtol=0, atol=error)
    states[:, clip:].square().sum().backward()
    assert V.grad is not None and V.grad[:, clip:].abs().sum() > 0
