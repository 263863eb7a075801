"""Implements `runner-convert-lora`, which converts LoRA adapters between `.pth` files and PEFT folders,
bit for bit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runner_base import (
    ConfigError,
    check_value,
    escape_control_characters,
    join_first_names,
    load_json_object,
    run_command,
    to_one_line,
)
from runner_base.command_line import CommandParser
from runner_base.errors import OutputError
from runner_engine.checkpoints import locate_config_folder
from runner_engine.embedded import LORA_PEFT_DIR, LORA_PTH_PATH
from runner_engine.quantization import mute_library_imports

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runner_engine.models.lora.pth import PthAdapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# of a matrix: module path, A or B
PEFT_KEY, PTH_KEY = ("base_model.model.{}.lora_{}.weight", "{}.lora.{}.weight")
SHIPPED = {"embedded": LORA_PEFT_DIR, "embedded_pth": LORA_PTH_PATH}
# Keys of adapter_config.json that leave an adapter at y = W x + scaling * B(A(x)) on the layers it
# names.
HARMLESS = {
    *("base_model_name_or_path", "peft_type", "peft_version", "task_type", "revision", "inference_mode"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "auto_mapping"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("runtime_config", "megatron_core", "qalora_group_size"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
PLAIN_INITS = (None, True, False, "gaussian")  # others also change the weights of the base


def entry() -> NoReturn:
    """Run the console script `runner-convert-lora`. Exits with 0 on success, or 1 or 2 after an error
    message.
    """
    mute_library_imports()
    run_command(
        "runner-convert-lora",
        lambda: print(escape_control_characters(convert_between_pth_and_peft(create_parser().parse_args()))),
    )


def create_parser() -> argparse.ArgumentParser:
    arguments = CommandParser("runner-convert-lora", description=(__doc__ or "").split("` ", 1)[1])
    arguments.add_argument(
        "source",
        metavar="IN",
        help="adapter to convert: a .pth file, a PEFT folder, `embedded` or `embedded_pth`",
    )
    arguments.add_argument(
        "target", metavar="OUT", help="PEFT folder or .pth file to write, which must not exist yet"
    )
    arguments.add_argument(
        "--base", required=True, help="base model: FOLDER, HUB_ID or embedded (only its config.json is read)"
    )
    arguments.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="dtype of the written tensors (default: dtype of the input)",
    )
    return arguments


def convert_between_pth_and_peft(options: argparse.Namespace) -> str:
    """Convert a .pth adapter to a PEFT folder, or a PEFT folder to a .pth adapter.

    Returns a description of the output.
    """
    source = SHIPPED.get(options.source) or Path(options.source).expanduser().absolute()
    target, label = Path(options.target).expanduser().absolute(), f"IN={options.source}"
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"OUT={options.target} exists already and is not overwritten. Give another path", code="exists"
        )
    check_value(
        source.exists(), "IN", options.source, f"file or folder {source} does not exist", code="not_found"
    )
    from runner_engine.models.lora import pth

    base = _build_empty_model(options.base)
    to_pth = source.is_dir()
    adapter, scalings = (
        _read_peft_adapter(source, base, label) if to_pth else (pth.read_pth_adapter(source, label), {})
    )
    pth.match_adapter_layers(
        adapter, _build_empty_model(options.base) if to_pth else base, label, options.base
    )
    norm = pth.compute_and_check_lora_delta_norm(adapter, label, options.base, scalings)
    tensors, how = _convert_tensors(adapter, scalings, PTH_KEY if to_pth else PEFT_KEY, options.dtype, label)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if to_pth:
            _write_pth(target, tensors)
        else:
            _write_peft_adapter(target, adapter, tensors, options.base)
    except OSError as error:
        raise OutputError(
            f"cannot write OUT={options.target} ({error.strerror}). Give another path", code="failed"
        ) from error
    count = sum(tensor.numel() for tensor in tensors.values())
    sizes = (
        f"{len(adapter.pairs)} modules · rank {adapter.rank} · {count:,} parameters · delta norm {norm:.3g}"
    )
    return f"{target}: {sizes}\n{how}"


def _build_empty_model(base_model_name: str) -> Any:
    from runner_engine.models import load_checks

    folder = locate_config_folder(base_model_name)
    try:
        return load_checks.build_meta_model(load_checks.load_transformers_config(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        why = to_one_line(error)
        raise ConfigError(
            f"transformers cannot build a model from config.json: {why}",
            key="--base",
            value=base_model_name,
            code="unsupported",
        ) from error


def _read_peft_adapter(
    folder: Path, base_model: nn.Module, adapter_label: str
) -> tuple[PthAdapter, dict[str, float]]:
    """Return the LoRA matrices of a PEFT folder by module path, and the scaling of each module.

    Modifies `base_model`.
    """
    from runner_engine.models.lora.pth import MatrixPair, PthAdapter, get_shared_lora_rank

    tensors = _read_peft_tensors(folder, adapter_label)
    scalings = _read_peft_scalings(folder, base_model, adapter_label)
    names = {path: [PEFT_KEY.format(path, side) for side in ("A", "B")] for path in scalings}
    expected = {name for pair in names.values() for name in pair}
    if strange := sorted(set(tensors) - expected):
        raise ConfigError(
            f"{len(strange)} tensors are neither lora_A nor lora_B of a target module: "
            f"{join_first_names(strange)}",
            key=adapter_label,
            code="mismatch",
        )
    if missing := sorted(expected - set(tensors)):
        raise ConfigError(
            f"{len(missing)} tensors of targeted layers are missing: {join_first_names(missing)}",
            key=adapter_label,
            code="damaged",
        )
    if not names:
        raise ConfigError(f"{adapter_label} holds no LoRA tensor", code="empty")
    pairs = {path: MatrixPair(tensors[a], tensors[b]) for path, (a, b) in names.items()}
    return PthAdapter(pairs, get_shared_lora_rank(pairs, adapter_label)), scalings


def _read_peft_tensors(folder: Path, label: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from runner_engine.models.pickle_reading import load_pickled_tensors

    if (folder / "adapter_model.bin").is_file() and not (folder / WEIGHTS).is_file():
        return load_pickled_tensors(folder / "adapter_model.bin", label)[0]
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{folder / WEIGHTS} cannot be read: {error}", key=label, code="unreadable"
        ) from error


def _read_peft_scalings(folder: Path, base_model: nn.Module, label: str) -> dict[str, float]:
    from peft import LoraConfig, inject_adapter_in_model

    settings = load_json_object(folder / CONFIG)
    more = [key for key, value in settings.items() if value and key not in HARMLESS]
    more = [key for key in more if (key, settings[key]) != ("bias", "none") and key != "init_lora_weights"]
    if settings.get("peft_type") != "LORA":
        raise ConfigError(
            f"peft_type is {settings.get('peft_type')}, but a .pth file can store only LORA adapters",
            key=label,
            code="unsupported",
        )
    if settings.get("init_lora_weights") not in PLAIN_INITS:
        more.append("init_lora_weights")
    if more:
        keys = ", ".join(f"{key}={settings[key]}" for key in more)
        raise ConfigError(
            (
                f"{label} uses PEFT features that a .pth file cannot store: {keys}. Use the "
                "adapter unchanged with lora=peft"
            ),
            code="unsupported",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these are for those who train
            inject_adapter_in_model(
                LoraConfig.from_pretrained(str(folder)), base_model, low_cpu_mem_usage=True
            )
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"{label} does not fit the base model: {to_one_line(error)}", code="mismatch"
        ) from error
    layers = {path: layer for path, layer in base_model.named_modules() if getattr(layer, "lora_A", None)}
    return {path: layer.scaling["default"] for path, layer in layers.items()}


def _write_peft_adapter(
    folder: Path, adapter: PthAdapter, tensors: dict[str, Tensor], base_model_name: str
) -> None:
    from safetensors.torch import save_file

    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,  # so that the scaling, alpha / r, is 1
        # whole paths, so that no other layer with the same ending matches
        "target_modules": sorted(adapter.pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder.mkdir()
    try:
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    except BaseException:
        shutil.rmtree(folder)  # half a folder would look like an adapter
        raise


def _write_pth(path: Path, tensors: dict[str, Tensor]) -> None:
    import torch

    with path.open("xb") as stream:
        try:
            torch.save(tensors, stream)
        except BaseException:
            path.unlink()
            raise


def _convert_tensors(
    adapter: PthAdapter, scalings: dict[str, float], key: str, dtype: str | None, label: str
) -> tuple[dict[str, Tensor], str]:
    import torch

    tensors: dict[str, Tensor] = {}
    rounded = numbers = 0
    for path, pair in adapter.pairs.items():
        for side, tensor, scaling in (("A", pair.a, 1.0), ("B", pair.b, scalings.get(path, 1.0))):
            wanted = getattr(torch, dtype) if dtype else tensor.dtype
            cast = tensor
            if scaling != 1 or wanted != tensor.dtype:
                exact = tensor.double() * scaling
                cast = exact.to(wanted)
                rounded += int((cast.double() != exact).sum())
            tensors[key.format(path, side)] = cast.contiguous()
            numbers += tensor.numel()
    factors = sorted({f"{scaling:g}" for scaling in scalings.values() if scaling != 1})
    folded = f"the matrices lora_B are multiplied by the scaling ({', '.join(factors)})" if factors else ""
    kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))
    if rounded and dtype is None:
        raise ConfigError(
            (
                f"{rounded:,} values in {kinds} would be rounded, because a .pth file stores no scaling, "
                f"so lora_B is multiplied by {', '.join(factors)}. Use --dtype float32 or lora=peft"
            ),
            key=label,
            code="refused",
        )
    exactness = f"{rounded:,} of {numbers:,} numbers rounded" if rounded else "exact: no number rounded"
    if not rounded and not factors and dtype is None:
        exactness = "bit for bit"
    return tensors, " · ".join(part for part in (kinds, folded, exactness) if part)


if __name__ == "__main__":
    entry()
