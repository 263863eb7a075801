"""Applies a PEFT adapter to a loaded base model, and verifies that the adapter changes weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner_base import ConfigError, load_json_object, to_one_line
from runner_base.notes import note
from runner_engine.checkpoints import adapter_support
from runner_engine.checkpoints.adapter_shapes import read_adapter_shapes
from runner_engine.checkpoints.resolved_model import read_tensor_headers
from runner_engine.models.lora import unmerged
from runner_engine.models.lora.adapted_parameters import (
    mark_modules_with_adapted_parameters,
    unmark_adapted_modules,
)
from runner_engine.models.lora.adapter_report import AdapterReport, ScaledPair, describe_peft_adapter
from runner_engine.settings.lora import PeftConfig

# what PEFT raises for a field of another type than it expects, as it checks none of them
DAMAGED = (TypeError, AttributeError, IndexError, ArithmeticError, ImportError, RecursionError, re.error)
# other ways to begin change the base's weights
LEAVE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
ADAPTED = re.compile(r"base_model\.model\.(?P<path>.+?)(\.base_layer)*\.lora_(embedding_)?A(\.weight)?")


def check(lora: PeftConfig, folder: Path, meta_model: Any, base_name: str) -> None:
    """Check an adapter's config and tensor shapes against the model.

    meta_model: the model without weights. None leaves the checks to PEFT.
    """
    settings, binary = load_json_object(folder / "adapter_config.json"), folder / "adapter_model.bin"
    if binary.is_file() and not (folder / "adapter_model.safetensors").is_file():
        from runner_engine.models.pickle_reading import load_pickled_tensors

        load_pickled_tensors(binary, lora.label)  # rejects a hostile file with our message
    if meta_model is None:
        return  # PEFT checks on the real base
    if settings.get("peft_type") != "LORA":
        return  # another method of PEFT: only its own checks know it
    label, modules = (f"{lora.label} does not fit model.name={base_name}", dict(meta_model.named_modules()))
    shapes = read_adapter_shapes(folder)
    matched = [path for path in shapes if path in modules]
    if shapes and not matched and not any(is_peft_target_module(settings, path) for path in modules):
        first = ", ".join([*shapes][:3])
        raise ConfigError(
            f"the base model has none of the adapter's {len(shapes)} modules, such as {first}. "
            f"No module matches target_modules {settings.get('target_modules')}. "
            "Use the base model that the adapter was trained for",
            key=label,
            code="not_found",
        )
    for path in matched:
        inputs, outputs = (getattr(modules[path], side, None) for side in ("in_features", "out_features"))
        a, b = shapes[path].get("A"), shapes[path].get("B")
        if a is None or b is None or not isinstance(inputs, int):
            continue  # A or B is missing, or it is not a linear layer: left to PEFT
        if (a[1], b[0]) != (inputs, outputs) or a[0] != b[1]:
            raise ConfigError(
                f"size mismatch for {path}: A {list(a)} and B {list(b)} need shape {[b[0], a[1]]}, "
                f"but the layer of {base_name} is {[outputs, inputs]}",
                key=label,
                code="mismatch",
            )
        rank = settings.get("r")
        if not settings.get("rank_pattern") and a[0] != rank:
            raise ConfigError(
                f"adapter_config.json sets r={rank}, but A of {path} is {list(a)} and has rank {a[0]}",
                key=label,
                code="damaged",
            )


def is_peft_target_module(adapter_config: dict[str, Any], path: str) -> bool:
    """Whether PEFT would apply the adapter to the module at `path`."""
    wanted = adapter_config.get("target_modules")
    if wanted is None or wanted == "all-linear":
        return True  # PEFT knows what these mean for each kind of model
    if isinstance(wanted, str):
        try:
            return re.fullmatch(wanted, path) is not None
        except re.error:
            return False
    return isinstance(wanted, list) and any(path == name or path.endswith(f".{name}") for name in wanted)


def adapted_paths(_: PeftConfig, folder: Path) -> list[str]:
    """Return the paths of all modules for which the adapter has LoRA matrices."""
    binary = folder / "adapter_model.bin"
    if binary.is_file() and not (folder / "adapter_model.safetensors").is_file():
        from runner_engine.models.pickle_reading import load_pickled_tensors

        names = [*load_pickled_tensors(binary, f"{folder}")[0]]
    else:
        names = [tensor.name for tensor in read_tensor_headers(folder)]
    found = (ADAPTED.fullmatch(name) for name in names)
    return [*dict.fromkeys(match["path"] for match in found if match)]


def apply(base: Any, lora: PeftConfig, folder: Path, base_name: str) -> tuple[Any, AdapterReport]:
    """Apply the PEFT adapter in `folder` to a base model. Returns the adapted model and a report."""
    model, report = load_peft_adapter(base, lora, folder, base_name)
    if lora.merge:
        with _mute_peft_warnings():
            return model.merge_and_unload().eval(), report
    if can_replace_peft_layers_by_hooks(model, report):
        pairs = copy_lora_pairs(model)
        remove(model)
        for path, pair in pairs.items():
            unmerged.attach_lora_matrices(base.get_submodule(path), *pair)
        return base.eval(), report
    mark_modules_with_adapted_parameters(model)
    return model.eval(), report


def load_peft_adapter(base: Any, lora: PeftConfig, folder: Path, base_name: str) -> tuple[Any, AdapterReport]:
    """Load the adapter in `folder` onto a base model with PEFT. Returns PEFT's model and an adapter
    report.
    """
    from peft import PeftModel

    settings = load_json_object(folder / "adapter_config.json")
    made_for = settings.get("base_model_name_or_path")
    fits = not isinstance(made_for, str) or not made_for or Path(made_for).name == Path(base_name).name
    notes = () if fits else (note("made_for_another_base", made_for=made_for, base=base_name),)
    brings_biases = settings.get("bias", "none") != "none"
    biases = [bias for name, bias in base.named_parameters() if brings_biases and name.endswith(".bias")]
    before = [(bias, bias.detach().clone()) for bias in biases]
    try:
        with _mute_peft_warnings():
            model: Any = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            to_one_line(error), key=f"{lora.label} does not fit model.name={base_name}", code="mismatch"
        ) from error
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {to_one_line(error)}"
        raise ConfigError(
            f"PEFT cannot read its adapter_config.json: {reason}", key=lora.label, code="damaged"
        ) from error
    report = describe_peft_adapter(model, notes)
    if not report.besides and (report.modules == 0 or report.delta_norm == 0):
        raise ConfigError(
            f"{lora.label} changes nothing in {base_name}: {report.modules} modules match, "
            f"and the norm of the weight change is {report.delta_norm:g}",
            code="no_effect",
        )
    model.biases_of_base = before
    return model, report


def can_replace_peft_layers_by_hooks(model: Any, report: AdapterReport) -> bool:
    """Whether an adapter consists only of LoRA pairs of linear layers.

    Forward hooks can replace PEFT's layers of such an adapter.
    """
    for config in model.peft_config.values():
        more = (getattr(config, key, None) for key in adapter_support.NOT_BESIDE_OTHERS)
        if config.bias != "none" or any(more):
            return False
    adapted = dict(model.get_base_model().named_modules())
    pairs = [path for path, layer in adapted.items() if getattr(layer, "lora_A", None)]
    return (
        _has_unchanged_base_weights(model)
        and len(pairs) == report.modules
        and all(adapter_support.is_layer_applied_to_every_token(path) for path in pairs)
    )


@contextmanager
def _mute_peft_warnings() -> Iterator[None]:
    """Context manager that mutes PEFT warnings on which users cannot act."""
    with warnings.catch_warnings():
        # peft 0.21 uses an old name of transformers 5.23; only peft can fix that
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        for message in (  # merging that would be wrong is refused (checkpoints/adapter_kinds.py)
            "Model has `tie_word_embeddings=True`",
            "Model with `tie_word_embeddings=True`",
            "Input and output embeddings are no longer tied",
        ):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


def copy_lora_pairs(model: Any) -> dict[str, ScaledPair]:
    """Return copies of an adapter's LoRA matrices, one pair per adapted layer, by layer path."""
    layers: dict[str, Any] = dict(model.get_base_model().named_modules())
    return {
        path: ScaledPair(
            layer.lora_A[name].weight.detach().clone(),
            layer.lora_B[name].weight.detach().clone(),
            layer.scaling[name],
        )
        for path, layer in layers.items()
        for name in getattr(layer, "lora_A", ())
    }


def remove(model: Any) -> bool:
    """Restore the base model's modules. Returns False if PEFT has changed the base weights."""
    if not hasattr(model, "get_base_model"):
        return unmerged.detach_lora_matrices(model)
    from peft.utils.other import ModulesToSaveWrapper

    base = model.get_base_model()
    saved = (
        (path, module) for path, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)
    )
    whole = {path: module.original_module for path, module in saved}
    is_as_before = _has_unchanged_base_weights(model)
    unmark_adapted_modules(model)
    model.unload()
    for path, module in whole.items():  # PEFT leaves the adapter's copy there
        base.set_submodule(path, module)
    for bias, before in model.biases_of_base:
        bias.data.copy_(before)
    return is_as_before


def _has_unchanged_base_weights(model: Any) -> bool:
    return all(config.init_lora_weights in LEAVE_BASE for config in model.peft_config.values())
