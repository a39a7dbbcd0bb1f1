"""What is computed once a timestep, and the fast path as a whole, against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from conftest import LENGTH, make_two_objects
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor

from locinv_pl.method.policies import LossTerm, Method, NullTextPolicy, TokenPolicy
from locinv_pl.method.task import prepare
from locinv_pl.method.timestep import invert_step
from locinv_pl.networks.attention import Context, CrossAttentionMaps
from locinv_pl.networks.backbone import Backbone
from locinv_pl.networks.forwards import use_forwards
from locinv_pl.networks.loading import load_backbone
from locinv_pl.networks.schedule import guided

GRID = (8, 8)


@pytest.fixture(scope="module", params=["plain block first", "attention first"])
def backbone(request, tiny_folder) -> Backbone:
    """The tiny model, and one of Stable Diffusion's own order of blocks, with two layers each."""
    backbone = load_backbone(str(tiny_folder))
    if request.param == "attention first":
        torch.manual_seed(1)
        backbone.denoiser = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=[16, 32, 32],
            layers_per_block=2,
            down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=4,
        ).requires_grad_(False)
        backbone.unet.eval()
    return backbone


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 16, 16, generator=generator)
    return z, torch.tensor(500), torch.randn(3, LENGTH, 32, generator=generator)


def ran(backbone: Backbone, run) -> list[str]:
    """The names of the innermost modules that a pass has compute something, in order."""
    names: list[str] = []

    def recorder(name: str, forward):
        return lambda *args, **kwargs: names.append(name) or forward(*args, **kwargs)

    leaves = {name: module for name, module in backbone.unet.named_modules() if not list(module.children())}
    with use_forwards({module: recorder(name, module.forward) for name, module in leaves.items()}):
        run()
    return names


@torch.no_grad()
def test_passes_with_a_prefix_are_the_passes_without(backbone, inputs):
    z, t, context = inputs
    prefix = backbone.prefix(z, t)
    for text in (context, -context):  # the first fills it
        at = z, t, Context(text, context)
        maps = [backbone.attention_maps(*at, GRID, known) for known in (prefix, None)]
        assert torch.equal(*maps)
        assert torch.equal(backbone.predict(*at, prefix=prefix), backbone.predict(*at))
        mean = CrossAttentionMaps(GRID)
        backbone.predict(*at, mean, prefix)
        torch.testing.assert_close(mean.A, maps[0])


def test_gradients_with_a_prefix_are_those_without(backbone, inputs):
    z, t, context = inputs
    prefix, grads = backbone.prefix(z, t), []
    for known in (prefix, prefix, None):
        text = context.clone().requires_grad_()
        backbone.predict(z, t, Context.of(text), prefix=known).square().sum().backward()
        grads.append(text.grad)
    assert torch.equal(grads[0], grads[2]) and torch.equal(grads[1], grads[2])


@torch.no_grad()
def test_some_rows_of_a_prefix_are_the_prefix_of_these_rows(backbone, inputs):
    z, t, context = inputs
    rows = torch.tensor([2, 0])
    at = z[rows], t, Context.of(context[rows])
    prefix = backbone.prefix(z, t)
    backbone.attention_maps(z, t, Context.of(context), GRID, prefix)  # fills a part of it
    assert 0 < len(prefix.outputs) < len(prefix.modules)
    picked = prefix.pick(rows)
    for _ in range(2):
        again = backbone.predict(*at, prefix=picked)
        torch.testing.assert_close(again, backbone.predict(*at), rtol=1e-5, atol=1e-5)
    assert len(picked.outputs) == len(picked.modules)


@torch.no_grad()
def test_what_needs_no_text_runs_once(backbone, inputs):
    z, t, context = inputs
    prefix = backbone.prefix(z, t)

    def work():
        backbone.predict(z, t, Context.of(context), prefix=prefix)

    first, others = ran(backbone, work), ran(backbone, work)
    once = set(first) - set(others)
    text = next(name for name in first if name.endswith("attn2.to_q") and name.startswith("down_blocks"))
    assert {"conv_in", "time_embedding.linear_1", text, text.replace("attn2.to_q", "norm2")} <= once
    assert {name for name in first if name.endswith("time_emb_proj")} <= once
    assert any(name.endswith("attn1.to_out.0") for name in once)
    assert not any("attn2.to_out" in name or name.startswith("conv_out") for name in once)


def test_modules_are_restored_also_after_an_exception(backbone, inputs):
    z, t, context = inputs
    prefix = backbone.prefix(z, t)
    with torch.no_grad():
        before = backbone.predict(z, t, Context.of(context), prefix=prefix)
    with pytest.raises(RuntimeError, match="on purpose"), prefix.replay():
        assert prefix.outputs and all("forward" in vars(module) for module in prefix.outputs)
        raise RuntimeError("on purpose")
    with pytest.raises(RuntimeError):
        backbone.predict(z[:, :3], t, Context.of(context), prefix=backbone.prefix(z, t))
    assert not any("forward" in vars(module) for module in backbone.unet.modules())
    with torch.no_grad():
        assert torch.equal(backbone.predict(z, t, Context.of(context)), before)


# -- the fast path against diffusers' own attention, full passes and weights' gradients ------------


class Plain:
    """One pass of the whole UNet, all gradients on, explicit softmax; keeps the maps that it makes."""

    def __init__(self, backbone: Backbone):
        self.backbone, self.maps = backbone, []

    def __enter__(self):
        unet = self.backbone.unet.requires_grad_(True)
        self.before = unet.attn_processors
        unet.set_attn_processor(AttnProcessor())
        self.layers = [module for module in unet.modules() if isinstance(module, Attention)]
        for layer in self.layers:
            layer.get_attention_scores = self._keeping(layer, layer.get_attention_scores)
        return self

    def __exit__(self, *_):
        for layer in self.layers:
            del layer.get_attention_scores
        self.backbone.unet.set_attn_processor(self.before)
        self.backbone.unet.requires_grad_(False).zero_grad()

    def _keeping(self, layer, scores):
        def keep(q, k, mask=None):
            probs = scores(q, k, mask)
            if k.shape[1] == LENGTH and q.shape[1] == GRID[0] * GRID[1]:
                self.maps.append(probs.unflatten(0, (-1, layer.heads)).mean(1))
            return probs

        return keep

    def __call__(self, z, t, context):
        self.maps.clear()
        eps = self.backbone.unet(z, t, encoder_hidden_states=context).sample
        return eps, torch.stack(self.maps).mean(0).unflatten(1, GRID)


def relative(ours: torch.Tensor, plain: torch.Tensor) -> float:
    return ((ours - plain).norm() / plain.norm()).item()


def test_maps_noise_and_gradients_equal_the_plain_path_s(backbone, inputs):
    z, t, context = inputs
    ours, plain = context.clone().requires_grad_(), context.clone().requires_grad_()
    prefix = backbone.prefix(z, t)
    weights = torch.rand(*GRID, LENGTH, generator=torch.Generator().manual_seed(5))
    A = backbone.attention_maps(z, t, Context.of(ours), GRID, prefix)
    (of_maps,) = torch.autograd.grad((A * weights).sum(), ours)
    eps = backbone.predict(z, t, Context.of(ours), prefix=prefix)
    (of_noise,) = torch.autograd.grad((eps * z).sum(), ours)
    with Plain(backbone) as path:
        eps_plain, A_plain = path(z, t, plain)
        (of_maps_plain,) = torch.autograd.grad((A_plain * weights).sum(), plain, retain_graph=True)
        (of_noise_plain,) = torch.autograd.grad((eps_plain * z).sum(), plain)
    assert relative(A, A_plain) < 1e-5 and relative(eps, eps_plain) < 1e-5
    assert relative(of_maps, of_maps_plain) < 1e-5 and relative(of_noise, of_noise_plain) < 1e-5


def test_a_whole_inversion_equals_the_plain_path_s(backbone):
    """Tokens, ∅ and latents, with the conditional half computed anew for every pass."""
    terms = dict.fromkeys(("similarity", "overlap"), LossTerm(1.0, 50.0, 0.0)) | {"adjective": LossTerm(0.0)}
    tokens = TokenPolicy(values="dynamic", max_steps=3, lr=1e-3, **terms)
    how = Method("test", 7.5, tokens, NullTextPolicy(max_steps=3, early_stop=False))
    task = prepare(backbone, [make_two_objects("one", 0)], how, 3, 8)
    record, z, null = task.start(), task.trajectory[-1], task.empty.keys
    where, S, nouns = task.prompts.dynamic, task.priors[0].flatten(1), task.prompts.nouns[0]
    rows = task.embeddings[where]

    def text():
        V = task.embeddings.masked_scatter(where[..., None].expand_as(task.embeddings), rows)
        return backbone.encode_text(task.prompts.ids, V).keys

    for i in range(3):
        record = invert_step(backbone, task, i, record)
        t = task.schedule.timesteps[i]
        rows, null = rows.detach().clone().requires_grad_(), null.detach().clone().requires_grad_()
        with Plain(backbone) as path:
            adam = torch.optim.AdamW([rows], lr=1e-3, weight_decay=tokens.weight_decay)
            for _ in range(3):
                A = (path(z, t, text())[1][0].flatten(0, 1) @ nouns.T).T
                loss = (1 - F.cosine_similarity(A, S)).mean() + (1 - (A * S).sum(-1) / A.sum(-1)).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
            adam = torch.optim.Adam([null], lr=how.null_text.lr * (1 - i / 100))
            for step in range(4):
                eps = path(z.repeat(2, 1, 1, 1), t, torch.cat([null, text().detach()]))[0]
                z_s = task.schedule.step(z, guided(eps[1:], eps[:1], 7.5), i)
                loss = F.mse_loss(z_s, task.trajectory[2 - i])
                if step < 3:
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
        z = z_s.detach()
        assert relative(record.tokens[where] - task.embeddings[where], rows.detach() - task.embeddings[where]) < 1e-3
        assert relative(record.null, null.detach()) < 1e-3
        assert relative(record.latent, z) < 1e-3
