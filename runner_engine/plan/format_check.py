"""Checks whether a checkpoint's stored format matches the configured quantization, before weights are read.

Imports neither torch nor transformers, so that a job is rejected before these are imported.
"""

from __future__ import annotations

from pathlib import Path

from runner_base import ConfigError, format_truncated_repr
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.architectures import BY_TRANSFORMERS, MODULES
from runner_engine.checkpoints.linear_layers import find_linear_layers
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.plan.load_plan import LoadPlan, plan_model_load
from runner_engine.quantization import list_supported_quant_methods, quantized_share
from runner_engine.quantization.base import CheckpointSource, QuantizationConfig, StoredFormat
from runner_engine.quantization.quantization_mix import HEAD
from runner_engine.quantization.unsupported_methods import REASONS
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.model import LocalModelConfig


def check_checkpoint_format(resolved: ResolvedModel) -> None:
    """Raise ConfigError if the checkpoint cannot be loaded with the configured quantization."""
    model, wanted = resolved.files.model, resolved.spec.quantization
    # reading it would make the random weights
    path = None if model.random_weights else resolved.files.path
    if wanted.source is CheckpointSource.gguf or (path is not None and path.is_file()):
        _check_gguf_quantization(model, wanted, path)
        return
    where, stored = f"model.name={model.name}", resolved.files.stored_format
    if stored is None:
        if wanted.source is CheckpointSource.quantized:
            raise ConfigError(
                f"quantization={wanted.name} needs a checkpoint that is already quantized, but {where} is "
                "not quantized (config.json has no quantization_config). Use quantization=nf4 or int8, which "
                f"quantize while loading, or a checkpoint that is already quantized with {wanted.name}",
                code="mismatch",
            )
        for choice in resolved.spec.layer_mix.quantizing_configs:
            choice.require_packages()
        _check_quantization_layer_patterns(resolved)
        check_planned_quantized_share(resolved)
        return
    if wanted.is_mixed:
        raise ConfigError(
            f"{where} is already quantized ({stored}), and layers cannot be quantized again. Omit "
            "quantization.skip and quantization.overrides, or use the original checkpoint",
            key="quantization",
            value=wanted.label,
            code="conflict",
        )
    if not stored.known and stored.method in REASONS:
        raise ConfigError(
            f"{where} is already quantized with quant_method={stored.method}, which cannot be loaded: "
            f"{render_engine_note(REASONS[stored.method])}. "
            "Use the original checkpoint with quantization=nf4 or int8",
            code="unsupported",
        )
    if not stored.known:
        raise ConfigError(
            f"{where} is already quantized with quant_method={stored.method or '(none named)'}. "
            f"The runner supports only {', '.join(list_supported_quant_methods())}. Use the "
            "original checkpoint with quantization=nf4 or int8",
            code="unsupported",
        )
    if stored.refusal:
        reason = (
            f"{where} has the format {stored}, which cannot be loaded: {render_engine_note(stored.refusal)}"
        )
        raise ConfigError(reason, code="unsupported")
    if wanted.packed:
        _check_quantization_matches_checkpoint(wanted, stored, where)
    if resolved.spec.lora.merges_adapter:
        raise ConfigError(
            f"{where} is already quantized ({stored}). Merging into quantized weights loses "
            "precision. Use lora.merge=false, or the original checkpoint",
            key="lora.merge",
            value="true",
            code="conflict",
        )
    stored.config.require_packages(f"{where} is {stored}, which")


def build_planned_quantization_notes(resolved: ResolvedModel) -> list[Note]:
    reached = plan_model_load(resolved).quantization_plan_if_available
    return (
        []
        if reached is None
        else quantized_share.build_unquantized_weight_notes(
            resolved.spec.quantization.label, reached.share, reached.left
        )
    )


def build_stored_format_notes(plan: LoadPlan) -> list[Note]:
    """Return notes if a checkpoint is stored quantized, or is dequantized at load time."""
    path, stored, dtype = plan.files.path, plan.files.stored_format, plan.files.dtype
    if stored is not None:
        return [note("checkpoint_quantized", form=str(stored)), *filter(None, [stored.note])]
    if path.is_dir() or plan.quantization_mix.base.packed:
        return []
    types = gguf_file.read_gguf_header(path).tensor_type_counts_text
    return [note("unpacked_while_loading", file=path.name, types=str(types), dtype=dtype)]


def _check_gguf_quantization(
    model: LocalModelConfig, quantization: QuantizationConfig, path: Path | None
) -> None:
    if path is None or not path.is_file():
        files = sorted(file.name for file in path.glob("*.gguf")) if path is not None else []
        others = f"; this folder contains {', '.join(files[:5])}" if files else ""
        raise ConfigError(
            f"quantization=gguf needs a .gguf file, but model.name={model.name} is not a .gguf file{others}. "
            "Use model=local model.name=FOLDER/FILE.gguf, or another quantization",
            code="mismatch",
        )
    if quantization.source is not CheckpointSource.gguf:
        raise ConfigError(
            f"model.name={model.name} is a .gguf file, which quantization={quantization.name} cannot load. "
            "Use quantization=gguf",
            code="unsupported",
        )
    quantization.require_packages()
    architecture = gguf_file.read_gguf_header(path).architecture
    if architecture not in (*MODULES, *BY_TRANSFORMERS):
        raise ConfigError(
            f"model.name={model.name} has the architecture "
            f"{format_truncated_repr(architecture)}, which is unsupported in "
            f".gguf files. Use the model's safetensors files. "
            f"Supported architectures: {', '.join(sorted(MODULES))}; "
            f"dequantized by transformers: {', '.join(BY_TRANSFORMERS)}",
            code="unsupported",
        )


def _check_quantization_layer_patterns(resolved: ResolvedModel) -> None:
    """Raise ConfigError if a pattern matches no layer, or if model.device_map conflicts with
    per-layer quantization.
    """
    mix, files = resolved.spec.layer_mix, resolved.files
    if not mix.base.is_mixed:
        return
    if files.model.device_map is not None:
        raise ConfigError(
            f"per-layer quantization does not support model.device_map={files.model.device_map}. "
            "Omit model.device_map",
            key="quantization",
            value=mix.base.label,
            code="conflict",
        )
    if tensors := files.tensors_with_split_experts:  # other files are only checked when they are loaded
        layers, heads = find_linear_layers(tensors, files.text_settings, files.fuses_experts)
        mix.check_quantization_patterns_match_layers(layers, heads or [HEAD], is_head_tied=not heads)


def check_planned_quantized_share(resolved: ResolvedModel) -> None:
    """Raise ConfigError if layers cannot be quantized, or if too few weights would be quantized."""
    if (reached := plan_model_load(resolved).quantization_plan_if_available) is not None:
        wanted = resolved.spec.quantization
        reached.check_unquantizable(wanted.name)
        quantized_share.require_enough_quantized_weights(
            wanted.label, reached.share, reached.left, wanted.allow_partial
        )


def _check_quantization_matches_checkpoint(
    quantization: QuantizationConfig, stored_format: StoredFormat, model_entry: str
) -> None:
    """Raise ConfigError if the configured quantization differs from that of a quantized checkpoint."""
    if quantization.name != stored_format.name:
        also = f" or quantization={stored_format.name}" if stored_format.matched else ""
        raise ConfigError(
            f"{model_entry} is already quantized ({stored_format}). Use quantization=none{also} "
            "to load it unchanged, or use the original checkpoint",
            key="quantization",
            value=quantization.name,
            code="mismatch",
        )
    chosen, actual = quantization.keys, stored_format.config.keys
    if different := [key for key in chosen if chosen[key] != actual[key]]:
        listed = ", ".join(
            f"quantization.{key}={chosen[key]} (the checkpoint has {actual[key]})" for key in different
        )
        raise ConfigError(
            f"{model_entry} is already quantized with other settings: {listed}. "
            "Use the checkpoint's settings, or quantization=none",
            key="quantization",
            value=quantization.name,
            code="mismatch",
        )
