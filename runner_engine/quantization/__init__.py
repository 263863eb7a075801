"""quantization – one file for each library, and the one list of all choices."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from runner_base.choices import Choices
from runner_engine.quantization.base import Format, QuantizationConfig

PLACES = {  # the module and the class of each choice
    "none": "base:QuantizationConfig",
    "int8": "bitsandbytes:Int8Config",
    "nf4": "bitsandbytes:Nf4Config",
    "fp4": "bitsandbytes:Fp4Config",
    "gptq": "grouped:GptqConfig",
    "awq": "grouped:AwqConfig",
    "auto_round": "grouped:AutoRoundConfig",
    "pack_quantized": "pack_quantized:PackQuantizedConfig",
    "int_quantized": "int_quantized:IntQuantizedConfig",
    "float_quantized": "float8:FloatQuantizedConfig",
    "fp8": "float8:Float8Config",
    "fbgemm_fp8": "float8:FbgemmFp8Config",
    "nvfp4_pack_quantized": "float4:Nvfp4Config",
    "mxfp4_pack_quantized": "float4:Mxfp4Config",
    "bitnet": "bitnet:BitnetConfig",
    "int8_dynamic": "torchao:Int8DynamicConfig",
    "torchao_int8": "torchao:TorchaoInt8Config",
    "torchao_float8": "torchao:TorchaoFloat8Config",
    "torchao_intx": "torchao:TorchaoIntxConfig",
    "hqq": "hqq:HqqConfig",
    "gguf": "gguf:GgufConfig",
}
CHOICES = Choices(
    "quantization", QuantizationConfig, {name: f"{__name__}.{place}" for name, place in PLACES.items()}
)
WITHOUT_CHOICE = ("modelopt:ModelOptConfig",)  # formats that `none` loads, and that no choice names
SMALLEST = "nf4"  # of those that quantize a plain checkpoint: what to use when memory is short


def methods() -> tuple[str, ...]:
    """Return the quant_method of each choice that names one in a config.json."""
    own = [*(CHOICES[name] for name in PLACES), *_without_choice()]
    return tuple(dict.fromkeys(choice.method for choice in own if choice.method))


def read_format(settings: dict[str, Any]) -> Format | None:
    """Return how the weights are quantized, from a config.json; None if they are not."""
    if not (stored := stored_settings(settings)):
        return None
    for choices in ([*CHOICES.values()], [*_without_choice()], CHOICES.from_plug_ins()):
        formats = [found for choice in choices if (found := choice.read_stored(stored)) is not None]
        if formats:  # of several choices of one library, the one that makes just this
            return next((found for found in formats if found.matched), formats[0])
    method = str(stored.get("quant_method") or "")
    return Format(
        method, QuantizationConfig(), 8, method or "an unnamed quant_method", matched=False, known=False
    )


def _without_choice() -> Iterator[type[QuantizationConfig]]:
    """Yield what reads formats that no choice names."""
    for place in WITHOUT_CHOICE:
        module, _, name = place.partition(":")
        yield getattr(import_module(f"{__name__}.{module}"), name)


def stored_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization_config in a config.json; empty if there is none."""
    return (
        settings.get("quantization_config")
        or settings.get("text_config", {}).get("quantization_config")
        or {}
    )


def holders() -> tuple[str, ...]:
    """Return the modules that define the classes of quantized layers, or of their weights."""
    return tuple({holder for choice in CHOICES.values() for holder in choice.holders})


def quiet_imports() -> None:
    """Silence what the libraries log on import: transformers and peft import those that are
    installed."""
    for choice in CHOICES.values():
        choice.library.silence()
