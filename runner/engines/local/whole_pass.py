"""A small plain Llama's forward pass as a single call of C.

Where a model is small, calling each of its operations takes as long as what they compute, and Python's lock changes
hands at each: another thread, which answers clients, would hold it for milliseconds each time. A model is recognised
by the parts it is made of, and then tried next to its own forward pass.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn

from runner.core import machine
from runner.engines.local.attention import Pass
from runner.engines.local.fast_layers import is_plain
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import Heads

PARTS = {
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
    "layer": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
}


class Unlike(Exception):
    """A model is made of other parts."""


class _Model(ctypes.Structure):
    """As whole_model in whole_pass.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "hidden", "inner", "kv_heads", "group", "dim", "outputs")),
        *((name, ctypes.c_float) for name in ("epsilon", "scale")),
        *((name, ctypes.c_void_p) for name in ("embedding", "norm", "head", "cos", "sin")),
    )


class _Layer(ctypes.Structure):
    """As whole_layer in whole_pass.h."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("norm_in", "qkv", "bias", "out", "norm_mid", "gate", "up", "down")
    )


class WholePass:
    """The weights of a model in the order in which C reads them."""

    def __init__(self, model: Any, heads: Heads, positions: int, kernels: native.Kernels) -> None:
        """Unlike where the model is no plain Llama, or none that this is made for."""
        self.heads, self.kernels, self.positions = heads, kernels, positions
        self._held: list[torch.Tensor] = []  # what C has only the address of
        if heads.dtype != torch.float32 or model.num_parameters() >= machine.ONE_THREAD_BELOW_PARAMETERS:
            raise Unlike("it is large, or in 16 bits: torch's products take most of its time")
        if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
            raise Unlike("something hooks into its layers")
        try:
            body, settings = model.model, model.config
            head, epsilons = model.lm_head, [body.norm.variance_epsilon]
            first = body.layers[0]
            hidden, inner = settings.hidden_size, first.mlp.gate_proj.out_features
            layers = []
            for layer in body.layers:
                attention, mlp = layer.self_attn, layer.mlp
                for module, kind in ((attention, "attention"), (mlp, "mlp"), (layer, "layer")):
                    if {name for name, _ in module.named_children()} != PARTS[kind]:
                        raise Unlike(f"its {kind} has other parts")
                linears = (attention.q_proj, attention.k_proj, attention.v_proj)
                epsilons += [layer.input_layernorm.variance_epsilon, layer.post_attention_layernorm.variance_epsilon]
                layers.append(
                    _Layer(
                        self._hold(layer.input_layernorm.weight), self._panels(*linears), self._biases(*linears),
                        self._panels(attention.o_proj), self._hold(layer.post_attention_layernorm.weight),
                        *(self._panels(one) for one in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
                    )
                )  # fmt: skip
                if any(
                    one.bias is not None for one in (attention.o_proj, *mlp.children()) if isinstance(one, nn.Linear)
                ):
                    raise Unlike("its layers have biases")
                if (attention.scaling, mlp.gate_proj.out_features) != (first.self_attn.scaling, inner):
                    raise Unlike("its layers differ")
            if head.bias is not None or len(set(epsilons)) != 1 or len(layers) != heads.layers:
                raise Unlike("its head or its norms differ")
            self.outputs, self.vocabulary = _rounded(head.out_features), head.out_features
            self.room = 2 * hidden + (heads.group + 2) * heads.kv_heads * heads.dim
            self.room += max(inner, heads.group * heads.kv_heads * heads.dim)
            cos, sin = body.rotary_emb(torch.zeros(1, dtype=heads.dtype), torch.arange(positions)[None])
            if cos.shape != (1, positions, heads.dim) or inner % native.LANES or hidden % native.LANES:
                raise Unlike("its sizes are odd")
            self._layers = (_Layer * len(layers))(*layers)
            self._model = _Model(
                len(layers), hidden, inner, heads.kv_heads, heads.group, heads.dim, self.outputs,
                epsilons[0], first.self_attn.scaling,
                self._hold(body.embed_tokens.weight), self._hold(body.norm.weight), self._panels(head),
                self._hold(cos[0]), self._hold(sin[0]),
            )  # fmt: skip
        except (AttributeError, TypeError, IndexError) as error:
            raise Unlike(f"it has no such parts: {error}") from error

    def fits(self, what: Pass, positions: list[int]) -> bool:
        """Whether a pass is one that it is made for: every token reads its own row and nothing else."""
        return not what.uses and not what.spans and max(positions) < self.positions

    def __call__(self, what: Pass, ids: list[int], positions: list[int], keep: list[int] | None) -> torch.Tensor:
        """Return the logits [n, V] after the tokens to keep, or after all."""
        own, count = what.own, len(ids)
        kept = torch.arange(count, dtype=torch.int32) if keep is None else torch.tensor(keep, dtype=torch.int32)
        numbers = torch.tensor([ids, positions], dtype=torch.int32)
        seen = what.place + 1 if what.is_step else what.seen
        room, logits = torch.empty(count * self.room), torch.empty(kept.numel(), self.outputs)
        self.kernels(
            "whole_pass", None, ctypes.addressof(self._model), ctypes.addressof(self._layers),
            own.table.data_ptr(), count,
            numbers[0].data_ptr(), numbers[1].data_ptr(), what.slot.data_ptr(), what.place.data_ptr(), seen.data_ptr(),
            kept.numel(), kept.data_ptr(), room.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        return logits[:, : self.vocabulary]

    def _hold(self, tensor: torch.Tensor) -> int:
        """Keep a tensor for as long as this lives; return its address."""
        tensor = tensor.detach()
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise Unlike("it has weights of another kind")
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def _panels(self, *layers: Any) -> int:
        """Put weights [outputs, inputs] below each other and into panels: of so many outputs, input by input."""
        if not all(is_plain(layer) for layer in layers):
            raise Unlike("its linear layers are no plain ones")
        weight = torch.cat([layer.weight.detach() for layer in layers])
        weight = nn.functional.pad(weight, (0, 0, 0, _rounded(weight.shape[0]) - weight.shape[0]))
        return self._hold(weight.view(-1, native.LANES, weight.shape[1]).transpose(1, 2).contiguous())

    def _biases(self, *layers: Any) -> int | None:
        """Put biases behind each other; None where there are none."""
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if len(biases) not in (0, len(layers)):
            raise Unlike("some of its layers have biases")
        return self._hold(torch.cat([bias.detach() for bias in biases])) if biases else None


def _rounded(outputs: int) -> int:
    return -(-outputs // native.LANES) * native.LANES
