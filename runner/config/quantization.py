"""quantization – the choices and their keys."""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.fields import MISSING
from runner.config.model import Dtype
from runner.core.errors import check


@dataclass
class QuantizationConfig:
    """No quantization: the weights stay in model.dtype."""

    name: str = "none"


@dataclass
class Int8Config(QuantizationConfig):
    """LLM.int8() by bitsandbytes: int8 weights, outlier columns kept apart."""

    name: str = "int8"
    threshold: float = 6.0

    def __post_init__(self) -> None:
        check(self.threshold >= 0, "quantization.threshold", self.threshold, "must be 0 or more")


@dataclass
class FourBitConfig(QuantizationConfig):
    """Shared keys of the two 4-bit formats of bitsandbytes."""

    name: str = MISSING
    double_quant: bool = True
    compute_dtype: Dtype = Dtype.bfloat16

    def __post_init__(self) -> None:
        check(
            self.compute_dtype is not Dtype.auto,
            "quantization.compute_dtype",
            self.compute_dtype,
            "choose bfloat16, float16 or float32",
        )


@dataclass
class Nf4Config(FourBitConfig):
    """4-bit NormalFloat by bitsandbytes."""

    name: str = "nf4"


@dataclass
class Fp4Config(FourBitConfig):
    """4-bit float by bitsandbytes."""

    name: str = "fp4"


@dataclass
class TorchaoInt8Config(QuantizationConfig):
    """Weight-only int8 by torchao: int8 weights with one scale a row, products in model.dtype."""

    name: str = "torchao_int8"


@dataclass
class GptqConfig(QuantizationConfig):
    """A checkpoint that GPTQ has quantized already."""

    name: str = "gptq"


@dataclass
class AwqConfig(QuantizationConfig):
    """A checkpoint that AWQ has quantized already."""

    name: str = "awq"


@dataclass
class GgufConfig(QuantizationConfig):
    """A .gguf file: its blocks are unpacked while loading, into model.dtype."""

    name: str = "gguf"
