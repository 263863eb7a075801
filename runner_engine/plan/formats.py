"""Checks a checkpoint against the chosen quantization, before any weight is read.

Imports neither torch nor transformers, so that a job is rejected before these are imported.
"""

from __future__ import annotations

from pathlib import Path

from runner_base import ConfigError, short
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.architectures import BY_TRANSFORMERS, MODULES
from runner_engine.checkpoints.linear_layers import linear_layers
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.plan.load_plan import LoadPlan, plan_load
from runner_engine.quantization import methods, share
from runner_engine.quantization.base import CheckpointSource, Format, QuantizationConfig
from runner_engine.quantization.mixed import HEAD
from runner_engine.quantization.refused import REASONS
from runner_engine.render.notes import render
from runner_engine.settings.model import LocalModelConfig


def check(resolved: ResolvedModel) -> None:
    """Reject a checkpoint that cannot be loaded with this quantization."""
    model, wanted = resolved.files.model, resolved.spec.quantization
    # reading it would make the random weights
    path = None if model.random_weights else resolved.files.path
    if wanted.source is CheckpointSource.gguf or (path is not None and path.is_file()):
        _check_gguf(model, wanted, path)
        return
    where, stored = f"model.name={model.name}", resolved.files.stored
    if stored is None:
        if wanted.source is CheckpointSource.quantized:
            raise ConfigError(
                f"quantization={wanted.name} loads checkpoints that are already quantized with it, and {where} is "
                "not quantized (its config.json has no quantization_config): use quantization=nf4 or int8, which "
                f"quantize while loading, or a checkpoint that is already quantized with {wanted.name}",
                code="mismatch",
            )
        for choice in resolved.spec.mix.choices:
            choice.require_packages()
        _check_mix(resolved)
        check_reach(resolved)
        return
    if wanted.is_mixed:
        raise ConfigError(
            f"{where} is quantized already, {stored}, and what is stored is stored: leave "
            "quantization.skip and quantization.overrides out, or use the original checkpoint",
            key="quantization",
            value=wanted.label,
            code="conflict",
        )
    if not stored.known and stored.method in REASONS:
        raise ConfigError(
            f"{where} is quantized already, with quant_method={stored.method}, which cannot be loaded: "
            f"{render(REASONS[stored.method])}. Use the original checkpoint, with quantization=nf4 or int8",
            code="unsupported",
        )
    if not stored.known:
        raise ConfigError(
            f"{where} is quantized already, with quant_method={stored.method or '(none named)'}, which the runner "
            f"cannot check (it can {', '.join(methods())}): use the original checkpoint, with quantization=nf4 or int8",
            code="unsupported",
        )
    if stored.refusal:
        reason = f"{where} is {stored}, which cannot be loaded: {render(stored.refusal)}"
        raise ConfigError(reason, code="unsupported")
    if wanted.packed:
        _check_same(wanted, stored, where)
    if resolved.spec.lora.merges:
        raise ConfigError(
            f"{where} is quantized already, {stored}, and merging into quantized weights loses "
            "precision; use lora.merge=false, or the original checkpoint",
            key="lora.merge",
            value="true",
            code="conflict",
        )
    stored.config.require_packages(f"{where} is {stored}, which")


def notes_of_reach(resolved: ResolvedModel) -> list[Note]:
    """Return a note on a choice that leaves much of the model as it is, as far as the headers
    tell."""
    reached = plan_load(resolved).reach
    return (
        [] if reached is None else share.notes(resolved.spec.quantization.label, reached.share, reached.left)
    )


def notes(plan: LoadPlan) -> list[Note]:
    """Return notes on a checkpoint that is stored quantized, or that is unpacked while loading."""
    path, stored, dtype = plan.files.path, plan.files.stored, plan.files.dtype
    if stored is not None:
        return [note("checkpoint_quantized", form=str(stored)), *filter(None, [stored.note])]
    if path.is_dir() or plan.mix.base.packed:
        return []
    types = gguf_file.read_header(path).types
    return [note("unpacked_while_loading", file=path.name, types=str(types), dtype=dtype)]


def _check_gguf(model: LocalModelConfig, wanted: QuantizationConfig, path: Path | None) -> None:
    if path is None or not path.is_file():
        files = sorted(file.name for file in path.glob("*.gguf")) if path is not None else []
        others = f"; this folder contains {', '.join(files[:5])}" if files else ""
        raise ConfigError(
            f"quantization=gguf reads a .gguf file, and model.name={model.name} is not one{others}: "
            "use model=local model.name=FOLDER/FILE.gguf, or another quantization",
            code="mismatch",
        )
    if wanted.source is not CheckpointSource.gguf:
        raise ConfigError(
            f"model.name={model.name} is a .gguf file, and quantization={wanted.name} cannot read it: "
            "use quantization=gguf",
            code="unsupported",
        )
    wanted.require_packages()
    architecture = gguf_file.read_header(path).architecture
    if architecture not in (*MODULES, *BY_TRANSFORMERS):
        raise ConfigError(
            f"model.name={model.name} is a model of the architecture {short(architecture)}, which is not read from a "
            f".gguf file: use the model's safetensors files. Read in their blocks: {', '.join(sorted(MODULES))}; "
            f"unpacked by transformers: {', '.join(BY_TRANSFORMERS)}",
            code="unsupported",
        )


def _check_mix(resolved: ResolvedModel) -> None:
    """Reject patterns for layers that the checkpoint does not have, and what cannot be quantized
    layer by layer."""
    mix, files = resolved.spec.mix, resolved.files
    if not mix.base.is_mixed:
        return
    if files.model.device_map is not None:
        raise ConfigError(
            f"its layers are quantized one by one after loading, which is not possible "
            f"with model.device_map={files.model.device_map}: leave model.device_map out",
            key="quantization",
            value=mix.base.label,
            code="conflict",
        )
    if tensors := files.matrices:  # other files are only checked when they are loaded
        layers, heads = linear_layers(tensors, files.text_settings, files.fuses_experts)
        mix.check_layers(layers, heads or [HEAD], tied=not heads)


def check_reach(resolved: ResolvedModel) -> None:
    """Reject layers that the choice cannot take, and a choice that most of the model's weights are
    no layers for."""
    if (reached := plan_load(resolved).reach) is not None:
        wanted = resolved.spec.quantization
        reached.check_unfit(wanted.name)
        share.check_reach(wanted.label, reached.share, reached.left, wanted.allow_partial)


def _check_same(wanted: QuantizationConfig, stored: Format, where: str) -> None:
    """Reject quantizing a quantized checkpoint again, or with other keys than it was quantized
    with."""
    if wanted.name != stored.name:
        also = f" or quantization={stored.name}" if stored.matched else ""
        raise ConfigError(
            f"{where} is quantized already, {stored}: use quantization=none{also}, "
            "which load it as it is, or the original checkpoint",
            key="quantization",
            value=wanted.name,
            code="mismatch",
        )
    chosen, actual = wanted.keys, stored.config.keys
    if different := [key for key in chosen if chosen[key] != actual[key]]:
        listed = ", ".join(
            f"quantization.{key}={chosen[key]} (the checkpoint has {actual[key]})" for key in different
        )
        raise ConfigError(
            f"{where} is quantized already, with other settings: {listed}. "
            "Give those of the checkpoint, or use quantization=none",
            key="quantization",
            value=wanted.name,
            code="mismatch",
        )
