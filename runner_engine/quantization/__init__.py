"""quantization – one file for each library, and the one list of all choices."""

from __future__ import annotations

from typing import Any

from runner_base.plugins import Choices
from runner_engine.quantization.base import Format, QuantizationConfig
from runner_engine.quantization.bitnet import BitnetConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.float4 import Mxfp4Config, Nvfp4Config
from runner_engine.quantization.float8 import FbgemmFp8Config, Float8Config, FloatQuantizedConfig
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.quantization.grouped import AutoRoundConfig, AwqConfig, GptqConfig
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.quantization.int_quantized import IntQuantizedConfig
from runner_engine.quantization.pack_quantized import PackQuantizedConfig
from runner_engine.quantization.torchao import (
    Int8DynamicConfig,
    TorchaoFloat8Config,
    TorchaoInt8Config,
    TorchaoIntxConfig,
)

_OWN: dict[str, type[QuantizationConfig]] = {
    "none": QuantizationConfig,
    "int8": Int8Config,
    "nf4": Nf4Config,
    "fp4": Fp4Config,
    "gptq": GptqConfig,
    "awq": AwqConfig,
    "auto_round": AutoRoundConfig,
    "pack_quantized": PackQuantizedConfig,
    "int_quantized": IntQuantizedConfig,
    "float_quantized": FloatQuantizedConfig,
    "fp8": Float8Config,
    "fbgemm_fp8": FbgemmFp8Config,
    "nvfp4_pack_quantized": Nvfp4Config,
    "mxfp4_pack_quantized": Mxfp4Config,
    "bitnet": BitnetConfig,
    "int8_dynamic": Int8DynamicConfig,
    "torchao_int8": TorchaoInt8Config,
    "torchao_float8": TorchaoFloat8Config,
    "torchao_intx": TorchaoIntxConfig,
    "hqq": HqqConfig,
    "gguf": GgufConfig,
}
CHOICES = Choices("quantization", QuantizationConfig, _OWN)
SMALLEST = Nf4Config  # of those that quantize a plain checkpoint: what to use when memory is short
METHODS = tuple(dict.fromkeys(choice.method for choice in _OWN.values() if choice.method))


def read_format(settings: dict[str, Any]) -> Format | None:
    """Return how the weights are quantized, from a config.json; None if they are not."""
    if not (stored := stored_settings(settings)):
        return None
    for choices in ([*CHOICES.values()], CHOICES.from_plug_ins()):
        formats = [found for choice in choices if (found := choice.read_stored(stored)) is not None]
        if formats:  # of several choices of one library, the one that makes just this
            return next((found for found in formats if found.matched), formats[0])
    method = str(stored.get("quant_method") or "")
    return Format(method, QuantizationConfig(), 8, method or "an unnamed quant_method", matched=False, known=False)


def stored_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization_config in a config.json; empty if there is none."""
    return settings.get("quantization_config") or settings.get("text_config", {}).get("quantization_config") or {}


def holders() -> tuple[str, ...]:
    """Return the modules that define the classes of quantized layers, or of their weights."""
    return tuple({holder for choice in CHOICES.values() for holder in choice.holders})


def quiet_imports() -> None:
    """Silence what the libraries log on import: transformers and peft import those that are installed."""
    for choice in CHOICES.values():
        choice.quiet_import()
