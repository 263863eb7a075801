"""C structures with a decoder's weights, for the fused forward pass (kernels/fused_structs.h).

layouts/ describes the parts of a model's layers. A model with parts that C does not
support is not fusable.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from runner_base import machine
from runner_engine.decode.fused_adapters import FusedAdapters
from runner_engine.decode.fused_checks import (
    check_fused_forward_support,
    get_common_attention_setting,
    needs_residual_buffer,
)
from runner_engine.decode.fused_latents import FusedLatents
from runner_engine.decode.fused_mixers import FusedMixers
from runner_engine.decode.fused_mixtures import FusedMixtures
from runner_engine.decode.fused_streams import FusedStreams
from runner_engine.decode.layouts import LayerLayout, ModelLayout, NormLayout, NotFusable, describe_model
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import (
    ROPE_TABLES,
    Activation,
    ChannelsMixer,
    FusedLayer,
    FusedModel,
    NormKind,
    ParallelMixer,
    WeightFormat,
)
from runner_engine.kernels.matrix_structures import FusedNorm, Matrix
from runner_engine.kernels.state_structures import MIXER_MATRICES
from runner_engine.kv_cache import KvCacheSpec, Window
from runner_engine.matmul import (
    OWN,
    ExpertLayer,
    LayerWeights,
    PlainPackedWeights,
    can_pack_weight,
    get_activation_quantization_parameters,
    get_weight_matrix,
    is_transposed_linear,
    is_unquantized_linear,
    read_forced_matmul_backend,
)
from runner_engine.models.lora.unmerged import find_unmerged_lora
from runner_engine.recurrent import ChannelProducts, MixerParts

__all__ = ["FusedWeights", "NotFusable"]

NO_MATRIX = Matrix()  # fills a place of a layer that has fewer


class FusedWeights:
    """A model's weights in C structures, in the order of the fused forward pass."""

    def __init__(
        self,
        model: Any,
        kv_spec: KvCacheSpec,
        kernels: native.Kernels,
        packed_layers: Mapping[nn.Module, LayerWeights],
        expert_layers: Mapping[nn.Module, ExpertLayer],
    ) -> None:
        """Build the C structures of a model.

        Raises NotFusable if the C kernels do not support one of its parts.

        packed_layers: layers whose weights are already packed for C. Others are packed here if
        the model is small. expert_layers: layers of experts that C reads.
        """
        self.heads, self.kernels, self.packed = kv_spec, kernels, packed_layers
        self.unpack_rows: nn.Embedding | None = None  # gives a pass the rows of its tokens
        self._kept: list[Any] = []  # tensors of which C has only the addresses
        self.is_quantized = False  # some of its layers
        self.is_by_row = True  # a row's sums do not depend on other rows; unknown of an MLP's own module
        self.is_small = model.num_parameters() < machine.ONE_THREAD_BELOW_PARAMETERS
        check_fused_forward_support(model, kv_spec, kernels)
        self.adapters = FusedAdapters(model)
        layout = describe_model(model, kv_spec)
        self.tables, self.rotations = layout.tables, layout.rotations
        self.body, self.name_of_layers = layout.body, layout.name_of_layers
        # of the model, of which each layer consists
        self.blocks = [layer.blocks for layer in layout.layers]
        # that it has rows for
        self.positions = None if layout.positions is None else len(layout.positions)
        self.mixtures = FusedMixtures(layout.layers, expert_layers, kv_spec.dtype, self._build_matrix_struct)
        # MLPs that their own modules compute, by layer
        self.apart = {
            number: layer.apart
            for number, layer in enumerate(layout.layers)
            if layer.apart is not None and number not in self.mixtures.of_layer
        }
        self.is_by_row = not self.apart and self.mixtures.is_by_row
        self.is_quantized |= self.mixtures.needs_workspace
        self.hidden = layout.norm.weight.numel()
        # of the widest MLP
        self.inner = max(0 if layer.mlp is None else layer.mlp.inner for layer in layout.layers)
        self.windows: list[Window | None] = [
            None,
            *dict.fromkeys(window for window in kv_spec.windows if window),
        ]
        self.gates = max(0 if layer.mlp is None else layer.mlp.gates for layer in layout.layers)
        self.has_halves = needs_residual_buffer(layout) or self.mixtures.has_shared_experts
        attending = [layer.attention for layer in layout.layers if layer.attention is not None]
        self.has_query_gates = get_common_attention_setting(attending, "has_gates")
        self.query_scale, self.other_tokens = layout.query_scale, layout.other_tokens
        self.latents = FusedLatents(kv_spec, self._build_matrix_struct, self._build_norm_struct)
        self.mixers = FusedMixers(layout)
        self.streams = FusedStreams(
            layout,
            kv_spec,
            self._build_matrix_struct,
            self._build_norm_struct,
            self._keep_tensor_and_get_address,
        )
        layers = [self._build_layer_struct(number, layer) for number, layer in enumerate(layout.layers)]
        head = layout.head
        num_attending = len(kv_spec.stores) or kv_spec.layers
        if (len(attending), self.mixers.count) != (num_attending, len(kv_spec.states)):
            raise NotFusable("its number of layers differs")
        self.vocabulary, self.rows = head.out_features, len(layout.embedding.weight)
        if find_unmerged_lora(head) is not None:
            raise NotFusable("an adapter changes its head")
        of_head = self._build_matrix_struct(head, self.hidden, self.vocabulary)
        self.adapters.check_adapted_layers_are_fusable(model, len(layers), self.apart.values())
        self.layers = (FusedLayer * len(layers))(*layers)
        embedding, is_in_panels = self._get_embedding_address(layout)
        self.model = FusedModel(
            layers=len(layers),
            hidden=self.hidden,
            inner=self.inner,
            kv_heads=kv_spec.kv_heads,
            group=kv_spec.group,
            dim=kv_spec.dim,
            is_quantized=self.is_quantized,
            has_kv_bytes=kv_spec.is_quantized,
            embedding_rows=self.rows,
            attention_tile_rows=kv_spec.attention_tile_rows,
            rotated=(ctypes.c_int64 * ROPE_TABLES)(*(one.rotated if one else 0 for one in self.rotations)),
            points=next((one.points for one in self.rotations if one), 0),
            rotates_in_float32=self._rotates_in_float32(kv_spec.dtype),
            gates=self.gates,
            has_halves=self.has_halves,
            has_query_gates=self.has_query_gates,
            has_heads_together=get_common_attention_setting(attending, "has_heads_together"),
            mixers=self.mixers.count,
            inputs=self.streams.get_layer_inputs_address(keeps_token_ids=self.unpack_rows is None),
            streams=self.streams.build_model_streams_struct(),
            embedding_scale=self._compute_embedding_scale(layout),
            residual_scale=layout.residual_scale,
            logit_scale=layout.logit_scale,
            logit_cap=layout.logit_cap,
            embedding_in_panels=is_in_panels,
            embedding=embedding,
            position_embedding=self._get_position_embedding_address(layout),
            norm=self._build_norm_struct(layout.norm, self.hidden),
            head=of_head,
        )

    def _rotates_in_float32(self, dtype: torch.dtype) -> bool:
        """Whether RoPE's tables keep float32 in a model of another dtype, as OLMo's do.

        torch then multiplies in float32, and rounds once.
        """
        return any(self.rotations) and any(
            table.compute_rope_angles(torch.zeros(1, dtype=dtype), [0]).cos.dtype != dtype
            for table in self.tables
        )

    def _build_layer_struct(self, layer_index: int, layer: LayerLayout) -> FusedLayer:
        norms = [self._build_norm_struct(norm, self.hidden) for norm in layer.norms]
        if layer.is_parallel and (norms[1].weight or norms[3].weight):
            raise NotFusable("the MLP runs parallel to attention, and a norm follows both")
        before = (
            self._build_recurrent_mixer_fields(layer.mixer, layer_index, layer.mixer_norms)
            if layer.mixer
            else self._build_attention_struct_fields(layer, layer_index)
        )
        return FusedLayer(
            norm_in=norms[0],
            after_attention=norms[1],
            norm_mid=norms[2],
            after_mlp=norms[3],
            is_parallel=layer.is_parallel,
            beside=self._build_parallel_mixer_struct(layer_index, layer),
            **self._build_mlp_struct_fields(layer_index, layer),
            **self.streams.layer_fields(layer_index, layer),
            **before,
        )

    def _build_parallel_mixer_struct(self, layer_index: int, layer: LayerLayout) -> int | None:
        """Build the C structure of a recurrent mixer that runs parallel to attention, and return its address.

        Returns None without one.
        """
        if layer.beside is None or layer.attention is None or layer.mlp is None:
            return None
        beside, (into, *others) = layer.beside, layer.beside.mixer.into
        if others:
            raise NotFusable("the mixer parallel to attention has several input matrices")
        out, mlp = beside.mixer.out, layer.mlp
        made = ParallelMixer(
            mixer=self.mixers.struct_address(layer_index),
            into=self._build_matrix_struct(into, self.hidden, into.out_features),
            out=self._build_matrix_struct(out, out.in_features, self.hidden),
            heads=beside.heads,
            keys=layer.attention.key_scale,
            attention=beside.attention,
            mixed=beside.mixed,
            gate=mlp.gate_scale,
            mlp=mlp.scale,
        )
        self._kept.append(made)
        return ctypes.addressof(made)

    def _attach_mamba_channel_matrices(
        self, products: ChannelProducts, layer_index: int, norms: tuple[NormLayout | None, ...]
    ) -> None:
        """Give a Mamba layer's C structure the matrices and norms within the mixer."""
        channels, parts = products.to_parts.in_features, products.rank + 2 * products.scan.size
        self.mixers.attach_channels_mixer_to_layer(
            layer_index,
            ChannelsMixer(
                scan=products.scan,
                norms=(FusedNorm * 3)(*(self._build_norm_struct(norm, None) for norm in norms)),
                to_parts=self._build_matrix_struct(products.to_parts, channels, parts),
                to_steps=self._build_matrix_struct(products.to_steps, products.rank, channels),
                rank=products.rank,
            ),
        )

    def _build_recurrent_mixer_fields(
        self, mixer_parts: MixerParts, layer_index: int, mixer_norms: tuple[NormLayout | None, ...]
    ) -> dict[str, Any]:
        into = self._build_input_projection_array(
            [self._build_matrix_struct(part, self.hidden, part.out_features) for part in mixer_parts.into]
        )
        out = self._build_matrix_struct(mixer_parts.out, mixer_parts.out.in_features, self.hidden)
        if mixer_parts.products is not None:
            self._attach_mamba_channel_matrices(mixer_parts.products, layer_index, mixer_norms)
        address = self.mixers.struct_address(layer_index)
        return {"rope": -1, "qkv_count": len(mixer_parts.into), "qkv": into, "out": out, "mixer": address}

    def _build_attention_struct_fields(self, layer: LayerLayout, layer_index: int) -> dict[str, Any]:
        attention, heads, hidden = layer.attention, self.heads, self.hidden
        assert attention is not None
        queries, pairs = heads.kv_heads * heads.group * heads.dim, heads.kv_heads * heads.dim
        of_queries = 2 * queries if attention.has_gates else queries
        widths: tuple[int, ...] = (
            (of_queries, pairs, pairs) if len(attention.into) == 3 else (queries + 2 * pairs,)
        )
        found, latent = queries, None
        if attention.latent is not None:
            widths, latent = (
                self.latents.output_widths(attention.latent),
                self.latents.struct_address(attention.latent),
            )
            found = heads.kv_heads * attention.latent.value
        head_norms: tuple[NormLayout | None, NormLayout | None] = layer.head_norms or (None, None)
        if attention.shape is not None:
            widths = self.streams.get_projection_widths(attention.shape)
            found = widths[0]
            head_norms = attention.shape.norm_queries, attention.shape.norm_keys
        if attention.experts is not None:
            widths = (2 * pairs // attention.experts.router.formula.chosen,)
        qkv = [
            self._build_matrix_struct(part, hidden, width)
            for part, width in zip(attention.into, widths, strict=True)
        ]
        out = NO_MATRIX if attention.out is None else self._build_matrix_struct(attention.out, found, hidden)
        norm_q, norm_k = (self._build_norm_struct(norm, None) for norm in head_norms)
        sinks = (
            None
            if attention.sinks is None
            else self._copy_float32_and_get_address(attention.sinks, heads.kv_heads * heads.group)
        )
        kv_layer = self.mixers.count_attention_before(layer_index)
        window = heads.windows[kv_layer] if heads.windows else None
        return {
            "norm_q": norm_q,
            "norm_k": norm_k,
            "sinks": sinks,
            "scale": attention.scale,
            "cap": attention.cap,
            "rope": layer.rope,
            "window": self.windows.index(window),
            "norms_all_heads": attention.norms_all_heads,
            "norms_rotated": attention.norms_rotated,
            "scales_queries": attention.query_scale is not None,
            "latent": latent,
            "shape": self.streams.shape_address(attention.shape),
            "qkv_count": len(qkv),
            "qkv": self._build_input_projection_array(qkv),
            "out": out,
            "head_experts": self.mixtures.attention_address(layer_index),
            "kv": heads.kv_layer_structs_for_kernels[heads.store_layer(kv_layer)],
        }

    def _build_input_projection_array(self, matrices: list[Matrix]) -> Any:
        """Return a C array of the input projections of attention or of a recurrent mixer."""
        if (
            len(
                {
                    get_activation_quantization_parameters(matrix)
                    for matrix in matrices
                    if WeightFormat(matrix.kind).has_int8_activations
                }
            )
            > 1
        ):
            raise NotFusable("the input projections of attention have different quantizations")
        return _build_matrix_array(matrices, MIXER_MATRICES)

    def _build_mlp_struct_fields(self, layer_index: int, layer: LayerLayout) -> dict[str, Any]:
        mlp = layer.mlp
        if layer_index in self.mixtures.of_layer:
            return self.mixtures.layer_fields(layer_index)
        if mlp is None and layer.apart is None:
            return {"has_no_mlp": 1}
        if mlp is None:
            if layer.is_parallel and layer.norms[2]:
                raise NotFusable("the MLP runs parallel to attention and has a separate norm")
            if not layer.is_parallel and not layer.norms[2]:
                raise NotFusable("the MLP has no norm before its input")
            return {"mlp_apart": 1}
        wide = mlp.inner * (1 + mlp.has_gate) // len(mlp.into)
        gated = [self._build_matrix_struct(part, self.hidden, wide) for part in mlp.into]
        if len({(*get_activation_quantization_parameters(matrix), matrix.block) for matrix in gated}) > 1:
            raise NotFusable("gate_proj and up_proj of the MLP have different quantizations")
        return {
            "activation": Activation.silu_in_product if mlp.has_fused_gating else mlp.activation,
            "has_gate": mlp.has_gate,
            "inner": mlp.inner,
            "has_cutoff": mlp.cutoff is not None,
            "cutoff": mlp.cutoff or 0.0,
            "gated_count": len(gated),
            "gated": _build_matrix_array(gated, 2),
            "down": self._build_matrix_struct(mlp.out, mlp.inner, self.hidden),
        }

    def _build_matrix_struct(self, layer: Any, input_width: int, output_width: int) -> Matrix:
        weights = self.packed.get(layer)
        if weights is None:
            if not is_unquantized_linear(layer) and not is_transposed_linear(layer):
                raise NotFusable("the linear layers have an unsupported type")
            is_ours = read_forced_matmul_backend() in (None, *OWN)
            if (
                not self.is_small
                or not is_ours
                or not can_pack_weight(get_weight_matrix(layer), self.kernels)
            ):
                raise NotFusable("the weights of the linear layers cannot be packed for the C kernels")
            weights = PlainPackedWeights.pack(get_weight_matrix(layer), layer.bias, self.kernels)
        if self.heads.dtype not in weights.formats or (weights.matrix.outputs, weights.inputs) != (
            output_width,
            input_width,
        ):
            raise NotFusable("the linear layers have an unsupported dtype or size")
        self._kept.append(weights.tensors)
        self.is_quantized |= WeightFormat(weights.matrix.kind).needs_workspace
        if weights.matrix.kind == WeightFormat.row_int8 and weights.matrix.threshold:
            self.is_by_row = False  # the outliers of one row count for all rows
        return self.adapters.attach_adapters_to_matrix(layer, weights.matrix)

    def _get_embedding_address(self, layout: ModelLayout) -> tuple[int | None, bool]:
        """Return the memory address of the embedding table, and whether the lm_head shares this packed table.

        The address is None if the table is quantized or packed otherwise. Then a pass gets the
        embeddings of its tokens.
        """
        layer, panels = layout.embedding, self.packed.get(layout.head)
        if type(layer) is nn.Embedding and "forward" in vars(layer):
            is_tied = layer.weight.data_ptr() == layout.head.weight.data_ptr()
            if is_tied and isinstance(panels, PlainPackedWeights) and self.rows <= self.vocabulary:
                return int(panels.matrix.weight), True
        elif not getattr(layer, "makes_rows", False):
            return self._keep_tensor_and_get_address(layer.weight, self.rows, self.hidden), False
        elif layer.dtype != self.heads.dtype:
            raise NotFusable("its embedding has another number format")
        self.unpack_rows = layer
        return None, False

    def _get_position_embedding_address(self, layout: ModelLayout) -> int | None:
        table = layout.positions
        return (
            None
            if table is None
            else self._keep_tensor_and_get_address(table, self.positions or 0, self.hidden)
        )

    def _compute_embedding_scale(self, layout: ModelLayout) -> float:
        """Return the factor by which the C kernels scale embeddings.

        Dequantized embeddings are already scaled.
        """
        factor = getattr(self.unpack_rows, "factor", None)
        return (
            layout.embedding_scale
            if factor is None
            else layout.embedding_scale / float(factor.to(self.heads.dtype))
        )

    def _build_norm_struct(self, norm: NormLayout | None, width: int | None) -> FusedNorm:
        if norm is None:
            return FusedNorm()
        if width is not None and norm.weight.numel() != width:
            raise NotFusable("its norms differ")
        count = norm.weight.numel()
        is_plain = norm.kind is NormKind.rms_in_steps
        weight = (
            self._keep_tensor_and_get_address(norm.weight, count)
            if is_plain
            else self._copy_float32_and_get_address(norm.weight, count)
        )
        bias = None if norm.bias is None else self._copy_float32_and_get_address(norm.bias, count)
        return FusedNorm(weight, bias, norm.kind, norm.epsilon)

    def _copy_float32_and_get_address(self, tensor: torch.Tensor, count: int) -> int:
        """Make a float32 copy of a tensor, keep it alive for C, and return its memory address."""
        self._kept.append(tensor.detach().float().contiguous())
        return native.get_tensor_address(self._kept[-1], torch.float32, count)

    def _keep_tensor_and_get_address(self, tensor: torch.Tensor, *shape: int) -> int:
        """Keep a tensor alive for C, and return the tensor's memory address."""
        tensor = tensor.detach()
        if tensor.dtype != self.heads.dtype or tensor.device.type != "cpu" or tensor.shape != shape:
            raise NotFusable("it has weights of another kind")
        self._kept.append(tensor.contiguous())
        return native.get_tensor_address(self._kept[-1], self.heads.dtype, *shape)


def _build_matrix_array(matrices: Sequence[Matrix], count: int) -> Any:
    return (Matrix * count)(*matrices, *[NO_MATRIX] * (count - len(matrices)))
