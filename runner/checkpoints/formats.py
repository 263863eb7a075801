"""Checkpoint × quantization: what is quantized already, and whether it can be had as asked; known before any weight.

Imports neither torch nor transformers: a plan refuses what cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.checkpoints import gguf_file, random_weights
from runner.checkpoints.resolve import locate, read_settings
from runner.config.lora import AdapterConfig
from runner.config.model import Dtype, ModelConfig, StubConfig
from runner.config.quantization import (
    AwqConfig,
    Fp4Config,
    GgufConfig,
    GptqConfig,
    Int8Config,
    Nf4Config,
    QuantizationConfig,
    TorchaoInt8Config,
)
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError
from runner.core.errors import check as check_value

# what a choice needs besides the core install, and how it is had
BACKENDS = {
    "int8": (("bitsandbytes",), "pip install bitsandbytes"),
    "nf4": (("bitsandbytes",), "pip install bitsandbytes"),
    "fp4": (("bitsandbytes",), "pip install bitsandbytes"),
    "torchao_int8": (("torchao",), "pip install 'runner[torchao]'"),
    "gguf": (("gguf",), "pip install 'runner[gguf]'"),
    # gptqmodel compiles its kernels where it is installed, so no extra of ours can promise it
    "gptq": (("gptqmodel", "optimum"), "pip install gptqmodel optimum"),
    "awq": (("gptqmodel",), "pip install gptqmodel"),
}
READY_MADE = ("gptq", "awq")  # of these, only checkpoints that are quantized already
METHODS = {"bitsandbytes": "nf4", "gptq": "gptq", "awq": "awq", "torchao": "torchao_int8"}  # a choice of each


@dataclass(frozen=True)
class Format:
    """How a checkpoint's weights are quantized on disk, in the words of the group `quantization`."""

    method: str  # quant_method of its config.json
    choice: str  # the choice that stands for it
    bits: int
    keys: dict[str, Any] = field(default_factory=dict)  # the choice's own keys, as the checkpoint has them
    matched: bool = True  # False: a variant of the method that no choice makes

    def __str__(self) -> str:
        keys = ", ".join(f"{key}={value}" for key, value in self.keys.items())
        return f"{self.choice} by {self.method}" + (f" ({keys})" if keys else "")

    @property
    def config(self) -> QuantizationConfig:
        """The choice with the checkpoint's own keys: what the loaded model will be."""
        kinds = {
            "int8": Int8Config,
            "nf4": Nf4Config,
            "fp4": Fp4Config,
            "torchao_int8": TorchaoInt8Config,
            "gptq": GptqConfig,
            "awq": AwqConfig,
        }
        kind = kinds.get(self.choice)
        return kind(**self.keys) if kind else QuantizationConfig(name=self.choice)


def read_format(settings: dict[str, Any]) -> Format | None:
    """Read off a config.json how the weights are quantized; None when they are not."""
    stored = settings.get("quantization_config") or settings.get("text_config", {}).get("quantization_config")
    if not stored:
        return None
    method = str(stored.get("quant_method") or "bitsandbytes" * bool(_bits_of_bitsandbytes(stored)))
    if method == "bitsandbytes" and _bits_of_bitsandbytes(stored) == 8:
        return Format(method, "int8", 8, {"threshold": float(stored.get("llm_int8_threshold", 6.0))})
    if method == "bitsandbytes" and _bits_of_bitsandbytes(stored) == 4:
        dtype = str(stored.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
        check_value(dtype in Dtype.__members__, "the checkpoint's bnb_4bit_compute_dtype", dtype, "no dtype of torch's")
        keys = {"double_quant": bool(stored.get("bnb_4bit_use_double_quant")), "compute_dtype": Dtype(dtype)}
        return Format(method, str(stored.get("bnb_4bit_quant_type") or "fp4"), 4, keys)
    if method in READY_MADE:
        return Format(method, method, int(stored.get("bits") or 4))
    if method == "torchao":
        kind = (stored.get("quant_type") or {}).get("default") or {}
        data = kind.get("_data") or {}
        plain = kind.get("_type") == "Int8WeightOnlyConfig" and data.get("group_size") is None
        row = (data.get("granularity") or {"_type": "PerRow"}).get("_type") == "PerRow"
        name = "torchao_int8" if plain and row else str(kind.get("_type"))
        return Format(method, name, 4 if "4" in name else 8, matched=plain and row)
    return Format(method, method or "an unnamed quant_method", 8, matched=False)


def check(config: RunnerConfig) -> Format | None:
    """Refuse a checkpoint × quantization that cannot be loaded; return how the checkpoint is quantized already."""
    model, wanted = config.model, config.quantization
    if isinstance(model, StubConfig):
        return None
    path = None if model.random_weights else locate(model)
    if isinstance(wanted, GgufConfig) or (path is not None and path.is_file()):
        _check_gguf(model, wanted, path)
        return None
    where = f"model.name={model.name}"
    stored = read_format(random_weights.read_shape(model) if path is None else read_settings(path))
    if stored is None:
        if wanted.name in READY_MADE:
            raise ConfigError(
                f"quantization={wanted.name} loads checkpoints that are already quantized with it, and {where} is "
                "not quantized (its config.json has no quantization_config): use quantization=nf4 or int8, which "
                f"quantize while loading, or a checkpoint that is already quantized with {wanted.name}"
            )
        require_backend(wanted.name)
        return None
    if stored.method not in METHODS:
        raise ConfigError(
            f"{where} is quantized already, with quant_method={stored.method or '(none named)'}, which the runner "
            f"cannot check (it can {', '.join(METHODS)}): use the original checkpoint, with quantization=nf4 or int8"
        )
    if wanted.name != "none":
        _check_same(wanted, stored, where)
    if isinstance(config.lora, AdapterConfig) and config.lora.merge:
        raise ConfigError(
            f"lora.merge=true: {where} is quantized already, {stored}, and merging into quantized weights loses "
            "precision; use lora.merge=false, or the original checkpoint"
        )
    like = stored.choice if stored.choice in BACKENDS else METHODS[stored.method]
    require_backend(like, f"{where} is {stored}, which")
    return stored


def notes(path: Path, stored: Format | None, dtype: str) -> list[str]:
    """Say what a reader of the numbers has to know about a checkpoint that came in another form than it is held in."""
    if stored is not None:
        return [f"the checkpoint itself is quantized, {stored}, and loaded as it is"]
    if path.is_dir():
        return []
    types = gguf_file.read_header(path).types
    return [f"{path.name} ({types}) is unpacked while loading: in memory its weights are {dtype}, as large as that is"]


def require_backend(choice: str, who: str = "") -> None:
    """Refuse a choice whose optional package is not installed, with the command that installs it."""
    packages, install = BACKENDS.get(choice, ((), ""))
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{who or f'quantization={choice}'} needs {' and '.join(missing)}, which {are} not installed: {install}"
            + ("" if who else ", or use quantization=none")
        )


def _check_gguf(model: ModelConfig, wanted: QuantizationConfig, path: Path | None) -> None:
    if path is None or not path.is_file():
        files = sorted(file.name for file in path.glob("*.gguf")) if path is not None else []
        found = f"; this folder holds {', '.join(files[:5])}" if files else ""
        raise ConfigError(
            f"quantization=gguf reads a .gguf file, and model.name={model.name} is none{found}: "
            "use model=local model.name=FOLDER/FILE.gguf, or another quantization"
        )
    if not isinstance(wanted, GgufConfig):
        raise ConfigError(
            f"model.name={model.name} is a .gguf file, and quantization={wanted.name} cannot read it: "
            "use quantization=gguf"
        )
    require_backend("gguf")
    gguf_file.read_header(path)


def _check_same(wanted: QuantizationConfig, stored: Format, where: str) -> None:
    """Refuse to quantize again, or a choice with other keys than the checkpoint was quantized with."""
    if wanted.name != stored.choice:
        also = f" or quantization={stored.choice}" if stored.matched else ""
        raise ConfigError(
            f"quantization={wanted.name}: {where} is quantized already, {stored}: use quantization=none{also}, "
            "which load it as it is, or the original checkpoint"
        )
    asked = {item.name: getattr(wanted, item.name) for item in fields(wanted) if item.name in stored.keys}
    other = [key for key, value in asked.items() if value != stored.keys[key]]
    if other:
        differ = ", ".join(f"quantization.{key}={asked[key]} (the checkpoint has {stored.keys[key]})" for key in other)
        raise ConfigError(
            f"quantization={wanted.name}: {where} is quantized already, with other settings: {differ}. "
            "Give those of the checkpoint, or use quantization=none"
        )


def _bits_of_bitsandbytes(stored: dict[str, Any]) -> int:
    return 8 if stored.get("load_in_8bit") else 4 if stored.get("load_in_4bit") else 0
