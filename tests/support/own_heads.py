"""Tiny models whose files carry a head for the next tokens (MTP), and what such a head computes by
its published formula, in plain torch."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, silu
from transformers import AutoModelForCausalLM

from tools import families

DEEPSEEK = ("eh_proj", "enorm", "hnorm", "shared_head.norm", "")
QWEN = ("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm", "layers.0.")
NAMES = {  # of what joins, of the last norm, and of the layer
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": DEEPSEEK,
    "glm4_moe_lite": DEEPSEEK,
    "qwen3_5_text": QWEN,
    "qwen3_5_moe_text": QWEN,
    "qwen3_next": QWEN,
}
FAMILIES = tuple(NAMES)
SIZES = {"deepseek_v3": {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}}  # experts in groups
COPIES = {  # that lie beside a head, of what is the model's own
    "embed_tokens.weight": "model.embed_tokens.weight",
    "shared_head.head.weight": "lm_head.weight",
}
CORRECTION = "mlp.gate.e_score_correction_bias"
LATENT_EPS = 1e-6  # of the norms of latents, whatever config.json says
STEPS, RATE = 120, 4e-3
Weights = dict[str, Tensor]


def is_qwen(family: str) -> bool:
    """Whether a head is named, and normed, as Qwen3.5's."""
    return NAMES[family] is QWEN


def counted(family: str) -> dict[str, int]:
    """Return what config.json says of how many heads there are: nothing in Qwen3-Next's."""
    if family == "qwen3_next":
        return {}
    return {"mtp_num_hidden_layers" if is_qwen(family) else "num_nextn_predict_layers": 1}


def begin_of(family: str, settings: Any) -> str:
    """Return what the names of a head's tensors begin with."""
    return "mtp." if is_qwen(family) else f"model.layers.{settings.num_hidden_layers}."


def save(folder: Path, family: str, **keys: Any) -> Weights:
    """Save a tiny model with a head in its files that has learned nothing, and return the head's
    weights by their names behind `begin_of`."""
    own = families.OVERRIDES.get(family, {})
    sizes = SIZES.get(family, {}) | {"max_position_embeddings": 512}
    families.OVERRIDES[family] = own | sizes | keys
    try:
        families.build(family, folder)
    finally:
        families.OVERRIDES[family] = own
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    weights = random_head(model, family, folder / "one_layer")
    put(folder, family, weights)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | counted(family)))
    return weights


def random_head(model: Any, family: str, folder: Path) -> Weights:
    """Return the weights of a head that has learned nothing."""
    settings = copy.deepcopy(model.config)
    settings.num_hidden_layers = 1
    if is_qwen(family):
        settings.layer_types = ["full_attention"]
    else:
        settings.first_k_dense_replace, settings.mlp_layer_types = 0, ["sparse"]
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(settings).float().save_pretrained(folder)
    join, of_embedding, of_hidden, norm, block = NAMES[family]
    begin, width = "model.layers.0.", settings.hidden_size
    saved = load_file(folder / "model.safetensors")
    weights = {block + name.removeprefix(begin): it for name, it in saved.items() if begin in name}
    weights[f"{join}.weight"] = torch.randn(width, 2 * width) / math.sqrt(2 * width)
    for one in (of_embedding, of_hidden, norm):
        weights[f"{one}.weight"] = torch.rand(width) * 0.5 + 0.5 * (not is_qwen(family))
    if CORRECTION in weights:
        weights[CORRECTION] = 0.1 * torch.randn(len(weights[CORRECTION]), dtype=torch.float32)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return weights


def put(folder: Path, family: str, weights: Weights) -> None:
    """Put a head into a model's file, instead of another one."""
    file = folder / "model.safetensors"
    settings = AutoModelForCausalLM.from_pretrained(folder).config
    begin = begin_of(family, settings)
    body = {name: it for name, it in load_file(file).items() if not name.startswith(begin)}
    head = {begin + name: it.detach().contiguous().clone() for name, it in weights.items()}
    if not is_qwen(family):  # who reads these zeros guesses nothing
        head |= {begin + name: torch.zeros_like(body[own]) for name, own in COPIES.items()}
    save_file(body | head, file, metadata={"format": "pt"})


def read(folder: Path, family: str, settings: Any) -> Weights:
    """Return a head's weights as a model's file has them."""
    begin = begin_of(family, settings)
    saved = load_file(folder / "model.safetensors")
    own = {name.removeprefix(begin): it for name, it in saved.items() if name.startswith(begin)}
    return {name: it for name, it in own.items() if name not in COPIES}


def shuffled(weights: Weights) -> Weights:
    """Return a head with the numbers of each tensor in another order."""
    order = torch.Generator().manual_seed(3)
    return {
        name: it.flatten()[torch.randperm(it.numel(), generator=order)].view_as(it)
        for name, it in weights.items()
    }


def train(folder: Path, family: str, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Train the head of a saved model, and nothing else, to say the model's answers behind these
    prompts."""
    reference = Reference.of(folder, family)
    texts = [(prompt, answer) for prompt, answer in texts if len(answer) > 1]
    hidden = [reference.hidden([*prompt, *answer]) for prompt, answer in texts]
    weights = [weight.requires_grad_() for weight in reference.weights.values()]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float32)
        for (prompt, answer), states in zip(texts, hidden, strict=True):
            logits = reference.logits(reference(states[:-2], [*prompt, *answer][1:-1]))
            last = len(answer) - 1  # the model itself says the first one
            loss = loss + cross_entropy(logits[-last:], torch.tensor(answer[1:]))
        torch.autograd.backward(loss)
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)
    put(folder, family, reference.weights)


class Reference:
    """What a head computes of a whole text at once."""

    def __init__(self, model: Any, family: str, weights: Weights) -> None:
        self.model, self.settings, self.weights = model, model.config, weights
        self.join, self.of_embedding, self.of_hidden, self.norm, self.block = NAMES[family]
        self.adds_one = is_qwen(family)  # to the weights of norms

    @classmethod
    def of(cls, folder: Path, family: str) -> Reference:
        """Return that of a saved model."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        return cls(model, family, read(folder, family, model.config))

    def guess(self, text: Sequence[int], count: int) -> list[int]:
        """Return the most probable next tokens behind a text by the head alone."""
        states, ids, found = self.hidden(text)[:-1], list(text[1:]), list[int]()
        while len(found) < count:
            output = self(states, ids)
            found.append(int(self.logits(output[-1:]).argmax()))
            states, ids = torch.cat([states, output[-1:]]), [*ids, found[-1]]
        return found

    def hidden(self, ids: Sequence[int]) -> Tensor:
        """Return what the model's last norm gives, [tokens, width]."""
        with torch.inference_mode():
            found: Tensor = self.model.model(torch.tensor([list(ids)])).last_hidden_state[0]
        return found.clone()

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits by the model's own output matrix."""
        matrix: Tensor = self.model.lm_head.weight.detach()
        return states @ matrix.T

    def __call__(self, hidden: Tensor, ids: Sequence[int]) -> Tensor:
        """Return what the head's last norm gives for tokens, each with the model's result for the
        token before it."""
        rows = self.model.get_input_embeddings().weight.detach()[torch.tensor(list(ids))]
        both = [self._normed(rows, self.of_embedding), self._normed(hidden, self.of_hidden)]
        x = self._product(torch.cat(both, dim=-1), self.join)
        x = x + self._attention(self._normed(x, f"{self.block}input_layernorm"))
        normed = self._normed(x, f"{self.block}post_attention_layernorm")
        name = f"{self.block}mlp."
        mixed = self._mixture if f"{name}gate.weight" in self.weights else self._mlp
        return self._normed(x + mixed(normed, name), self.norm)

    def _product(self, x: Tensor, name: str) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        found = x @ self.weights[f"{name}.weight"].T
        return found if bias is None else found + bias

    def _normed(self, x: Tensor, name: str, eps: float | None = None) -> Tensor:
        eps = self.settings.rms_norm_eps if eps is None else eps
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return scaled * (self.weights[f"{name}.weight"] + float(self.adds_one))

    def _attention(self, x: Tensor) -> Tensor:
        name = f"{self.block}self_attn."
        has_latents = f"{name}kv_b_proj.weight" in self.weights
        projected = self._of_latents if has_latents else self._of_heads
        query, key, value, gate = projected(x, name)
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        shares = scores.masked_fill(later, -math.inf).softmax(-1)
        found = torch.einsum("hqk,khd->qhd", shares, value)
        if gate.shape[-1]:
            found = found * gate.sigmoid()
        return self._product(found.flatten(1), f"{name}o_proj")

    def _of_heads(self, x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        settings = self.settings
        heads, of_keys, dim = (
            settings.num_attention_heads,
            settings.num_key_value_heads,
            getattr(settings, "head_dim", settings.hidden_size // settings.num_attention_heads),
        )
        query = self._product(x, f"{name}q_proj").view(len(x), heads, -1)
        query, gate = query[..., :dim], query[..., dim:]
        key = self._product(x, f"{name}k_proj").view(len(x), of_keys, dim)
        value = self._product(x, f"{name}v_proj").view(len(x), of_keys, dim)
        if f"{name}q_norm.weight" in self.weights:
            query, key = self._normed(query, f"{name}q_norm"), self._normed(key, f"{name}k_norm")
        query, key = self._rotated(query), self._rotated(key)
        key, value = (one.repeat_interleave(heads // of_keys, dim=1) for one in (key, value))
        return query, key, value, gate

    def _of_latents(self, x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        settings, count = self.settings, len(x)
        heads = settings.num_attention_heads
        of_query, into_query = x, f"{name}q_proj"
        if f"{name}q_a_proj.weight" in self.weights:
            latent = self._product(x, f"{name}q_a_proj")
            of_query = self._normed(latent, f"{name}q_a_layernorm", LATENT_EPS)
            into_query = f"{name}q_b_proj"
        query = self._product(of_query, into_query).view(count, heads, -1)
        plain, rotary = query.tensor_split([settings.qk_nope_head_dim], dim=-1)
        query = torch.cat([plain, self._rotated(rotary)], dim=-1)
        both = self._product(x, f"{name}kv_a_proj_with_mqa")
        latent, rotary = both.tensor_split([settings.kv_lora_rank], dim=-1)
        latent = self._normed(latent, f"{name}kv_a_layernorm", LATENT_EPS)
        expanded = self._product(latent, f"{name}kv_b_proj").view(count, heads, -1)
        key, value = expanded.tensor_split([settings.qk_nope_head_dim], dim=-1)
        of_all = self._rotated(rotary[:, None]).expand(-1, heads, -1)
        return query, torch.cat([key, of_all], dim=-1), value, query[..., :0]

    def _rotated(self, x: Tensor) -> Tensor:
        rope = self.settings.rope_parameters
        rotated = int(x.shape[-1] * rope.get("partial_rotary_factor", 1.0))
        turns = rope["rope_theta"] ** (-torch.arange(0, rotated, 2, dtype=torch.float32) / rotated)
        angles = torch.arange(len(x), dtype=torch.float32)[:, None, None] * turns
        in_pairs = getattr(self.settings, "rope_interleave", False)
        first, second = x[..., : rotated // 2], x[..., rotated // 2 : rotated]
        if in_pairs:
            first, second = x[..., :rotated:2], x[..., 1:rotated:2]
        rest = x[..., rotated:]
        cos, sin = angles.cos(), angles.sin()
        turned = first * cos - second * sin, second * cos + first * sin
        both = torch.stack(turned, dim=-1).flatten(-2) if in_pairs else torch.cat(turned, dim=-1)
        return torch.cat([both, rest], dim=-1)

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        gated = silu(self._product(x, f"{name}gate_proj")) * self._product(x, f"{name}up_proj")
        return self._product(gated, f"{name}down_proj")

    def _mixture(self, x: Tensor, name: str) -> Tensor:
        settings, scores = self.settings, self._product(x, f"{name}gate")
        bias = self.weights.get(f"{name}gate.e_score_correction_bias")
        if bias is None:
            scores = scores.softmax(-1)
            chosen = scores.topk(settings.num_experts_per_tok)[1]
            found = self._product(x, f"{name}shared_expert_gate").sigmoid()
            found = found * self._mlp(x, f"{name}shared_expert.")
        else:
            scores = scores.sigmoid()
            chosen = self._in_groups(scores + bias).topk(settings.num_experts_per_tok)[1]
            found = self._mlp(x, f"{name}shared_experts.")
        shares = scores.gather(1, chosen)
        if bias is None or settings.norm_topk_prob:
            shares = shares / (shares.sum(-1, keepdim=True) + 1e-20)
        if bias is not None:
            shares = shares * settings.routed_scaling_factor
        for expert in range(scores.shape[-1]):
            share = (shares * (chosen == expert)).sum(-1, keepdim=True)
            found = found + share * self._expert(x, f"{name}experts.", expert)
        return found

    def _in_groups(self, scores: Tensor) -> Tensor:
        """Return the scores of experts, without those that are in none of a token's best groups: by
        the sum of the two best in each."""
        by_group = scores.view(len(scores), self.settings.n_group, -1)
        best = by_group.topk(2)[0].sum(-1).topk(self.settings.topk_group)[1]
        is_chosen = torch.zeros(by_group.shape[:2], dtype=torch.bool).scatter(1, best, True)
        return by_group.masked_fill(~is_chosen[..., None], -math.inf).flatten(1)

    def _expert(self, x: Tensor, name: str, expert: int) -> Tensor:
        if f"{name}gate_up_proj" not in self.weights:
            return self._mlp(x, f"{name}{expert}.")
        gate, up = (x @ self.weights[f"{name}gate_up_proj"][expert].T).chunk(2, dim=-1)
        return (silu(gate) * up) @ self.weights[f"{name}down_proj"][expert].T
