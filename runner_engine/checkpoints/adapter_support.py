"""Rejects adapters with unsupported PEFT features before the model is loaded.

Supported as in PEFT: LoRA on linear layers, embeddings, and all experts at once
(target_parameters), with ranks and alphas by pattern, rank-stabilised (rsLoRA), with magnitudes
(DoRA) and biases, modules saved whole, and trained tokens. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner_base import ConfigError, join_first_names, load_json_object, processor
from runner_base.notes import note
from runner_engine.checkpoints.adapter_patterns import check_adapter_patterns, check_adapter_ranks
from runner_engine.checkpoints.adapter_shapes import read_adapter_shapes
from runner_engine.checkpoints.linear_layers import EXPERT, HEADS, IN_A_BLOCK
from runner_engine.checkpoints.resolved_model import ModelFiles, ResolvedModel, read_tensor_headers
from runner_engine.quantization.base import CheckpointSource, QuantizationConfig
from runner_engine.quantization.bitsandbytes import FourBitConfig
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.named_adapters import NamedAdapter

MERGED_FIX = "merge the adapter with PEFT's merge_and_unload, save the model, and set model.name to it"
REFUSED = {
    "alora_invocation_tokens": note("adapter_after_tokens"),
    "arrow_config": note("adapters_by_token"),
    "kasa_config": note("adapter_removes_weights"),
    "layer_replication": note("adapter_adds_layers"),
    "megatron_config": note("adapter_of_megatron"),
    "monteclora_config": note("adapter_drawn_anew"),
    "use_bdlora": note("adapter_in_blocks"),
    "use_qalora": note("adapter_of_means"),
    "velora_config": note("adapter_of_projections"),
}
# of what is computed for one adapter alone: it belongs to the model's own layers, which all rows share
NOT_BESIDE_OTHERS = {
    "use_dora": note("adapter_scales_layer"),
    "modules_to_save": note("adapter_exchanges_modules"),
    "trainable_token_indices": note("adapter_exchanges_embedding"),
    "target_parameters": note("adapter_adds_to_parameters"),
    "lora_bias": note("adapter_adds_biases"),
}
# the holders of layers that stay torch's own, with weights that torchao unpacks
OF_TORCHAO = ("torchao.",)


def check_adapter_support(resolved: ResolvedModel) -> None:
    files, lora = resolved.files, resolved.files.lora
    if lora is None or files.adapter is None or not (files.adapter / "adapter_config.json").is_file():
        return
    settings, label = load_json_object(files.adapter / "adapter_config.json"), lora.label
    kind = settings.get("peft_type")
    if isinstance(kind, str) and kind != "LORA":
        raise ConfigError(
            f"peft_type={kind} is unsupported, because only LoRA is supported. Fix: {MERGED_FIX}",
            key=label,
            code="unsupported",
        )
    for key, reason in REFUSED.items():
        if settings.get(key):
            raise ConfigError(
                f"adapter_config.json sets {key}, and {render_engine_note(reason)}. Fix: {MERGED_FIX}",
                key=label,
                code="unsupported",
            )
    is_read = (files.adapter / "adapter_model.safetensors").is_file()
    matrices = read_adapter_shapes(files.adapter) if is_read else {}
    check_adapter_ranks(settings, [shape["A"][0] for shape in matrices.values() if shape.get("A")], label)
    check_adapter_patterns(settings, [tensor.name for tensor in files.tensors], label)
    if isinstance(lora, NamedAdapter):
        _check_adapter_can_share_base(files.adapter, settings, label)
    _check_adapter_supports_quantized_base(resolved, settings, label)
    if lora.merge:
        _check_merge_keeps_tied_weights(files, label)


def _check_adapter_can_share_base(folder: Path, adapter_config: dict[str, Any], label: str) -> None:
    """Raise ConfigError if an adapter cannot share its base model with other adapters.

    Only adapters that change nothing but linear layers can share a base model.
    """
    fix = "serve the adapter alone (lora=peft) or merged (lora.merge=true)"
    found = [(key, reason) for key, reason in NOT_BESIDE_OTHERS.items() if adapter_config.get(key)]
    if (bias := adapter_config.get("bias", "none")) != "none":
        found.append((f"bias={bias}", note("adapter_exchanges_biases")))
    for key, reason in found:
        raise ConfigError(
            f"adapter_config.json sets {key}, and {render_engine_note(reason)}, "
            "so this adapter cannot share its base model with other "
            f"adapters. Fix: {fix}",
            key=label,
            code="unsupported",
        )
    for tensor in read_tensor_headers(folder):
        path = tensor.name.partition(".lora_")[0].removeprefix("base_model.model.")
        if "lora_embedding_" in tensor.name or not is_layer_applied_to_every_token(path):
            raise ConfigError(
                f"{label} changes {path}, which is an embedding, a head or an expert, so this adapter "
                f"cannot share its base model with other adapters. Fix: {fix}",
                code="unsupported",
            )


def is_layer_applied_to_every_token(layer_path: str) -> bool:
    """Whether a layer processes every token of a forward pass.

    Experts process only some tokens, and lm_head only the last ones.
    """
    is_head = f"{layer_path}.weight".endswith(HEADS) and not IN_A_BLOCK.search(f"{layer_path}.")
    return not is_head and not EXPERT.search(f"{layer_path}.")


def _check_adapter_supports_quantized_base(
    resolved: ResolvedModel, adapter_config: dict[str, Any], label: str
) -> None:
    held = [choice for choice in resolved.quantization_mix.quantizing_configs if choice.packed]
    if not held or resolved.spec.lora.merges_adapter:
        return
    fix = f"use quantization=none{_format_merge_first_hint(held[0].source)}"
    if adapter_config.get("use_dora") and not all(
        can_peft_read_weights(choice, resolved.files) for choice in held
    ):
        raise ConfigError(
            f"DoRA (use_dora) needs the norms of the weights, but PEFT cannot read weights with "
            f"quantization={held[0].name}. Fix: {fix}, or torchao_int8",
            key=label,
            code="conflict",
        )
    parameters = adapter_config.get("target_parameters")
    if isinstance(parameters, list) and parameters and not _are_all_expert_parameters(parameters):
        raise ConfigError(
            f"target_parameters={join_first_names([*map(str, parameters)])} needs unquantized parameters, "
            f"but quantization={held[0].name} quantizes them. Fix: {fix}",
            key=label,
            code="conflict",
        )


def can_peft_read_weights(config: QuantizationConfig, files: ModelFiles) -> bool:
    """Whether PEFT can dequantize weights that use this quantization config.

    On a CPU bitsandbytes may repack 4-bit weights.
    """
    if isinstance(config, FourBitConfig):
        return files.device != "cpu" or not processor.has_bfloat16_matmul()
    return config.holders == OF_TORCHAO and files.stored_format is None


def _format_merge_first_hint(source: CheckpointSource) -> str:
    is_made = source is CheckpointSource.plain
    return ", or lora.merge=true lora.merge_order=merge_first" if is_made else ""


def _are_all_expert_parameters(parameter_names: list[Any]) -> bool:
    """Whether all names are names of expert parameters, which adapter_shapes.py checks instead."""
    return all(isinstance(name, str) and "experts." in name for name in parameter_names)


def _check_merge_keeps_tied_weights(files: ModelFiles, label: str) -> None:
    """Raise ConfigError if a merge would change a weight that the embedding and the head share."""
    names = [tensor.name for tensor in files.tensors]
    if not names or any(name.endswith(HEADS) for name in names):
        return
    assert files.adapter is not None
    heads = tuple(f".{head.removesuffix('weight')}lora_A.weight" for head in HEADS)
    for tensor in read_tensor_headers(files.adapter):
        if tensor.name.endswith((".lora_embedding_A", *heads)):
            raise ConfigError(
                f"{label} changes {tensor.name.split('.lora_')[0].rpartition('.')[2]}, but "
                f"{files.model.name} ties its embedding and head, so a merge would change both. Use "
                "lora.merge=false",
                key="lora.merge",
                value="true",
                code="unsupported",
            )
