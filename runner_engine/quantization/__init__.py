"""Quantization formats, with one file per library. Registers all choices of the config group
`quantization`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from runner_base.choices import Choices
from runner_engine.quantization.base import QuantizationConfig, StoredFormat

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


def list_supported_quant_methods() -> tuple[str, ...]:
    own = [*(CHOICES[name] for name in PLACES), *_iter_formats_without_choice()]
    return tuple(dict.fromkeys(choice.method for choice in own if choice.method))


def detect_stored_format(config: dict[str, Any]) -> StoredFormat | None:
    """Detect from its config.json how a checkpoint is quantized. Returns None for an unquantized
    checkpoint.
    """
    if not (stored := read_stored_quantization_config(config)):
        return None
    for choices, is_selectable in (
        (CHOICES.values(), True),
        (_iter_formats_without_choice(), False),
        (CHOICES.iter_plug_in_choices(), True),
    ):
        formats = [found for choice in choices if (found := choice.parse_stored_format(stored)) is not None]
        if formats:  # of several choices of one library, the one that makes just this
            found = next((found for found in formats if found.matched), formats[0])
            return found if is_selectable else replace(found, matched=False)
    method = str(stored.get("quant_method") or "")
    return StoredFormat(
        method, QuantizationConfig(), 8, method or "an unnamed quant_method", matched=False, known=False
    )


def _iter_formats_without_choice() -> Iterator[type[QuantizationConfig]]:
    for place in WITHOUT_CHOICE:
        module, _, name = place.partition(":")
        yield getattr(import_module(f"{__name__}.{module}"), name)


def read_stored_quantization_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization_config section of a config.json, or an empty dictionary if there is none."""
    return config.get("quantization_config") or config.get("text_config", {}).get("quantization_config") or {}


def list_quantized_layer_modules() -> tuple[str, ...]:
    """Return the Python modules that define quantized layers or weights."""
    return tuple({holder for choice in CHOICES.values() for holder in choice.holders})


def mute_library_imports() -> None:
    """Mute the messages that quantization libraries log when transformers or peft imports them."""
    for choice in CHOICES.values():
        choice.library.silence()
