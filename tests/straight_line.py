"""An independent implementation of LocInv: one image, one line after the other."""

import math

import torch
import torch.nn.functional as F

T, R = 4, 8


class StraightLine:
    """LocInv on one image, written out with diffusers' and transformers' own calls."""

    def __init__(self, bb, sample, how):
        self.bb, self.sample, self.how = bb, sample, how
        self.tok = bb.tokenizer(sample.prompt, padding="max_length", max_length=20, return_tensors="pt").input_ids
        words = bb.tokenizer.convert_ids_to_tokens(self.tok[0].tolist())
        self.at = {w: words.index(w + "</w>") for w in ("red", "cat", "dog")}
        self.table = bb.text_encoder.get_input_embeddings().weight.detach()
        self.plain = bb.text_encoder(self.tok).last_hidden_state.detach()
        null = bb.tokenizer("", padding="max_length", max_length=20, return_tensors="pt").input_ids
        self.empty = bb.text_encoder(null).last_hidden_state.detach()
        bb.scheduler.set_timesteps(T)
        self.ts = bb.scheduler.timesteps.tolist()
        abar = bb.scheduler.alphas_cumprod
        self.abar = [abar[t].item() for t in self.ts] + [abar[0].item()]
        self.S = [F.adaptive_avg_pool2d(n.prior[None], R)[0] for n in sample.nouns]

    def encode(self, V):
        """The text encoder by its parts, from input embeddings."""
        model = getattr(self.bb.text_encoder, "text_model", self.bb.text_encoder)
        x = V + model.embeddings.position_embedding.weight[None]
        L = x.shape[1]
        mask = torch.full((L, L), -math.inf).triu(1)
        for layer in model.encoder.layers:
            a, h = layer.self_attn, layer.layer_norm1(x)
            split = (1, L, a.num_heads, -1)
            q, k, v = (p(h).view(split).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
            w = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
            x = x + a.out_proj((w @ v).transpose(1, 2).reshape(1, L, -1))
            x = x + layer.mlp(layer.layer_norm2(x))
        return model.final_layer_norm(x)

    def unet(self, z, t, context):
        """Noise and maps: queries caught on the way, keys from the context."""
        caught = []
        layers = [m for n, m in self.bb.unet.named_modules() if n.endswith("attn2")]
        hooks = [m.register_forward_pre_hook(lambda m, args: caught.append((m, args[0]))) for m in layers]
        eps = self.bb.unet(z, t, encoder_hidden_states=context).sample
        for hook in hooks:
            hook.remove()
        maps = []
        for m, hidden in caught:
            if hidden.shape[1] == R * R:
                q, k = (
                    p(x).unflatten(-1, (m.heads, -1)).transpose(1, 2) for p, x in ((m.to_q, hidden), (m.to_k, context))
                )
                maps.append((q @ k.transpose(-1, -2) * m.scale).softmax(-1)[0].mean(0))
        return eps, torch.stack(maps).mean(0).T.unflatten(-1, (R, R))

    def losses(self, A):
        nouns = [A[self.at["cat"]], A[self.at["dog"]]]
        cos = lambda a, b: (a * b).sum() / (a.norm() * b.norm())  # noqa: E731
        sim = sum(1 - cos(a, s) for a, s in zip(nouns, self.S, strict=True)) / 2
        ovl = sum(1 - (a * s).sum() / a.sum() for a, s in zip(nouns, self.S, strict=True)) / 2
        return torch.stack([sim, ovl, 1 - cos(A[self.at["red"]], nouns[0])])

    def step(self, z, t_from, t_to, eps):
        return math.sqrt(t_to) * (z - math.sqrt(1 - t_from) * eps) / math.sqrt(t_from) + math.sqrt(1 - t_to) * eps

    def run(self, steps):
        with torch.no_grad():
            z = self.bb.vae.encode(self.sample.image[None] * 2 - 1).latent_dist.mean * self.bb.vae.config.scaling_factor
            path = [z]
            for i in reversed(range(T)):
                path.append(
                    self.step(path[-1], self.abar[i + 1], self.abar[i], self.unet(path[-1], self.ts[i], self.plain)[0])
                )
        z, dynamic = path[-1], list(self.at.values())
        V, null = self.table[self.tok[0, dynamic]].clone(), self.empty.clone()
        terms = [self.how.tokens.similarity, self.how.tokens.overlap, self.how.tokens.adjective]
        p, n, w = self.how.tokens, self.how.null_text, self.how.guidance_scale
        out = []
        for i in range(steps):
            V = V.detach().requires_grad_()
            adam = torch.optim.AdamW([V], lr=p.lr, weight_decay=p.weight_decay)
            taken = 0
            for _ in range(p.max_steps if p.policy == "optimize" else 0):
                loss = self.losses(self.unet(z, self.ts[i], self.context(V, dynamic))[1])
                below = [
                    L.item() < t.beta * math.exp(-i / t.alpha) for L, t in zip(loss, terms, strict=True) if t.weight
                ]
                if all(below):
                    break
                adam.zero_grad()
                sum(t.weight * L for L, t in zip(loss, terms, strict=True)).backward()
                adam.step()
                taken += 1
            with torch.no_grad():
                eps_cond, A = self.unet(z, self.ts[i], self.context(V, dynamic))
            null = (null if n.carry_over else self.empty).detach().clone().requires_grad_()
            adam = torch.optim.Adam([null], lr=n.lr * (1 - i / 100))
            for j in range(n.max_steps + 1):
                eps_null = self.unet(z, self.ts[i], null)[0]
                z_next = self.step(z, self.abar[i], self.abar[i + 1], eps_null + w * (eps_cond - eps_null))
                fit = F.mse_loss(z_next, path[T - 1 - i])
                if (n.early_stop and fit.item() < 1e-5 + i * 2e-5) or j == n.max_steps:
                    break
                adam.zero_grad()
                fit.backward()
                adam.step()
            z = z_next.detach()
            out.append(
                {"losses": self.losses(A).detach(), "null_loss": fit.item(), "steps": taken, "z": z, "V": V.detach()}
            )
        return out

    def context(self, V, dynamic):
        E = self.table[self.tok]
        E = E.index_copy(1, torch.tensor(dynamic), V[None])
        return self.encode(E)
