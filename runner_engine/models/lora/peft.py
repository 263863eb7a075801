"""lora: none, peft – apply an adapter to a loaded base and verify that it has an effect."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner_base import ConfigError, load_json, one_line
from runner_engine.checkpoints.adapter_header import adapter_shapes
from runner_engine.settings.lora import PeftConfig

# what PEFT raises for a field of another type than it expects, as it checks none of them
DAMAGED = (
    TypeError,
    AttributeError,
    IndexError,
    ArithmeticError,
    ImportError,
    RecursionError,
    re.error,
)


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter was applied to; an adapter that changes nothing is an error and has no
    report."""

    modules: int
    rank: int
    parameters: int
    delta_norm: float  # Frobenius norm of all scaling * B @ A together
    notes: tuple[str, ...]


def check(lora: PeftConfig, folder: Path, bare: Any, base_name: str) -> None:
    """Check an adapter's settings and the headers of its file against a model without weights."""
    settings, binary = load_json(folder / "adapter_config.json"), folder / "adapter_model.bin"
    if binary.is_file() and not (folder / "adapter_model.safetensors").is_file():
        from runner_engine.models.pickled import load_tensors

        load_tensors(binary, f"lora.path={lora.path}")  # rejects a hostile file with our message
    if bare is None:
        return  # PEFT checks on the real base
    if settings.get("peft_type") != "LORA":
        return  # another method of PEFT: only its own checks know it
    label, modules = (
        f"lora.path={lora.path} does not fit model.name={base_name}",
        dict(bare.named_modules()),
    )
    shapes = adapter_shapes(folder)
    matched = [path for path in shapes if path in modules]
    if shapes and not matched and not any(targets(settings, path) for path in modules):
        first = ", ".join([*shapes][:3])
        raise ConfigError(
            f"{label}: none of its {len(shapes)} modules is there (the first are {first}), and its target_modules "
            f"{settings.get('target_modules')} name none either: use the base that it was made for"
        )
    for path in matched:
        inputs, outputs = (
            getattr(modules[path], side, None) for side in ("in_features", "out_features")
        )
        a, b = shapes[path].get("A"), shapes[path].get("B")
        if a is None or b is None or not isinstance(inputs, int):
            continue  # A or B is missing, or it is not a linear layer: left to PEFT
        if (a[1], b[0]) != (inputs, outputs) or a[0] != b[1]:
            raise ConfigError(
                f"{label}: size mismatch for {path}: A {list(a)} and B {list(b)} are for a layer of {[b[0], a[1]]}, "
                f"the one of {base_name} is {[outputs, inputs]}"
            )
        rank = settings.get("r")
        if not settings.get("rank_pattern") and a[0] != rank:
            raise ConfigError(
                f"{label}: adapter_config.json says r={rank}, and A of {path} is {list(a)}: rank {a[0]}"
            )


def targets(settings: dict[str, Any], path: str) -> bool:
    """Whether PEFT would apply the adapter to the module at path."""
    wanted = settings.get("target_modules")
    if wanted is None or wanted == "all-linear":
        return True  # PEFT knows what these mean for each kind of model
    if isinstance(wanted, str):
        try:
            return re.fullmatch(wanted, path) is not None
        except re.error:
            return False
    return isinstance(wanted, list) and any(
        path == name or path.endswith(f".{name}") for name in wanted
    )


def apply(base: Any, lora: PeftConfig, folder: Path, base_name: str) -> tuple[Any, AdapterReport]:
    """Load the PEFT adapter in `folder` onto base and return the adapted model with its report."""
    from peft import PeftModel

    made_for = load_json(folder / "adapter_config.json").get("base_model_name_or_path")
    fits = (
        not isinstance(made_for, str) or not made_for or Path(made_for).name == Path(base_name).name
    )
    notes = (
        () if fits else (f"the adapter was made for {made_for}, the loaded base is {base_name}",)
    )
    try:
        with warnings.catch_warnings():
            # peft 0.21 uses an old name of transformers 5.23; only peft can fix that
            warnings.filterwarnings(
                "ignore", message="`is_gradient_checkpointing`", category=FutureWarning
            )
            model = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"lora.path={lora.path} does not fit model.name={base_name}: {one_line(error)}"
        ) from error
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(
            f"lora.path={lora.path}: PEFT cannot read its adapter_config.json: {reason}"
        ) from error
    report = _report(model, notes)
    if report.modules == 0 or report.delta_norm == 0:
        raise ConfigError(
            f"lora.path={lora.path} changes nothing in {base_name}: {report.modules} modules matched, "
            f"norm of the delta {report.delta_norm:g}"
        )
    if lora.merge:
        model = model.merge_and_unload()
    return model.eval(), report


def remove(model: Any) -> None:
    """Restore the base's own modules."""
    model.unload()


def delta_norm(pairs: Iterable[tuple[Any, Any, float]]) -> float:
    """Return the Frobenius norm of all scaling * B @ A together, from (A [r, in], B [out, r],
    scaling)."""
    squares = 0.0
    for a, b, scaling in pairs:
        # |BA|² = tr((BᵀB)(AAᵀ)): r×r products instead of the full delta
        a, b = a.detach().float(), b.detach().float()
        squares += float(((b.T @ b) * (a @ a.T).T).sum()) * scaling**2
    return float(max(squares, 0.0) ** 0.5)


def _report(model: Any, notes: tuple[str, ...]) -> AdapterReport:
    layers = [module for module in model.modules() if getattr(module, "lora_A", None)]
    pairs = [
        (layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for layer in layers
        for name in layer.lora_A
    ]
    rank = max((a.shape[0] for a, _, _ in pairs), default=0)
    parameters = sum(a.numel() + b.numel() for a, b, _ in pairs)
    return AdapterReport(len(layers), rank, parameters, delta_norm(pairs), notes)
