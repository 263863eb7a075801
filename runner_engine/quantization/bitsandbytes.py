"""bitsandbytes' int8, nf4 and fp4, either quantized at load time or stored in the checkpoint."""

from __future__ import annotations

import functools
import importlib
import logging
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import BYTES, ConfigError, Dtype, check_value, processor, to_one_line
from runner_engine.quantization.base import (
    MatmulCosts,
    QuantizationLibrary,
    QuantizedConfig,
    StoredFormat,
    StoredTensorNames,
)

if TYPE_CHECKING:
    import torch

PACKED_INPUTS, PACKED_OUTPUTS = 64, 32  # sizes of packed layers are multiples of these
BLOCK = 64  # 4-bit weights that share one scale
NESTED_BLOCK = 256  # scales that share one scale when quantized themselves
MOST_DIMENSIONS = 3  # of the inputs of bitsandbytes' 8-bit layers


def _mute_bitsandbytes_messages() -> None:
    """Mute bitsandbytes' log messages on import and on the inputs of each matmul."""
    for name in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)


def _iter_scale_tensors(parameter: Any) -> Iterator[Any]:
    """Yield a parameter's scale tensors, including those of double-quantized scales."""
    yield getattr(parameter, "SCB", None)
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.state2.absmax, state.state2.code)


@dataclass
class BitsAndBytesConfig(QuantizedConfig):
    """Base class of the bitsandbytes choices int8, nf4 and fp4."""

    library: ClassVar[QuantizationLibrary] = QuantizationLibrary(
        ("bitsandbytes",), "pip install bitsandbytes", _mute_bitsandbytes_messages, _iter_scale_tensors
    )
    method: ClassVar[str] = "bitsandbytes"
    holders: ClassVar[tuple[str, ...]] = ("bitsandbytes.",)
    # loaded as Python numbers
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames(notes=(".quant_state.", ".weight_format"))
    # of the copies in float32 and int8 while one weight is quantized
    load_bytes_per_number: ClassVar[int] = 8
    loaded_mark: ClassVar[str]  # the attribute of transformers' models with such layers

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the format of a bitsandbytes checkpoint. Early versions did not write quant_method."""
        if stored_config.get("quant_method") not in (None, "", cls.method):
            return None
        if stored_config.get("load_in_8bit"):
            return StoredFormat(
                cls.method,
                Int8Config(threshold=float(stored_config.get("llm_int8_threshold", 6.0))),
                8,
                Int8Config.name,
            )
        if not stored_config.get("load_in_4bit"):
            return None
        dtype = str(stored_config.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
        check_value(
            dtype in Dtype.__members__,
            "the checkpoint's bnb_4bit_compute_dtype",
            dtype,
            "not a dtype of torch",
            "unsupported",
        )
        name = str(stored_config.get("bnb_4bit_quant_type") or "fp4")
        kind = {choice.name: choice for choice in (Nf4Config, Fp4Config)}.get(name, FourBitConfig)
        config = kind(bool(stored_config.get("bnb_4bit_use_double_quant")), Dtype(dtype))
        return StoredFormat(cls.method, config, 4, name, matched=kind is not FourBitConfig)

    def check_device(self, device: str) -> None:
        """Raise ConfigError if bitsandbytes cannot run on this device. Imports bitsandbytes."""
        self.require_packages()
        try:
            library = importlib.import_module("bitsandbytes.cextension").lib
        except Exception as error:  # it loads a native library: any error concerns this platform
            raise self._build_unusable_error(error) from error
        # it has one if the native library did not load; one that did load answers any name with a
        # function
        reason = vars(library).get("error_msg")
        if reason is not None and device != "cpu":  # on a CPU torch does the work without it
            raise self._build_unusable_error(reason)

    def quantize_layer(self, model: Any, layer: Any) -> torch.nn.Module:
        """Return a bitsandbytes layer with the same weights, equal to the layer that transformers
        would load.
        """
        import torch

        weight = layer.weight.data
        if type(layer).__name__ == "Conv1D":  # GPT-2's linear layer has its weight the other way round
            weight = weight.T
        with torch.device("meta"):
            quantized = self._build_empty_layer(weight.shape[1], weight.shape[0], layer.bias is not None)
        quantized.requires_grad_(False)
        setattr(model, self.loaded_mark, True)  # PEFT and the count of parameters read it
        device = weight.device
        quantized.weight = type(quantized.weight)(
            self._move_for_quantization(weight), **self._build_weight_arguments(quantized)
        ).to(device)
        quantized.bias = layer.bias
        quantized.train(layer.training)
        made: torch.nn.Module = quantized
        return made

    @abstractmethod
    def _build_empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        """Return bitsandbytes' layer without weights."""

    @abstractmethod
    def _build_weight_arguments(self, layer: Any) -> dict[str, Any]:
        """Return the constructor arguments for bitsandbytes' weight class."""

    @staticmethod
    def _move_for_quantization(weight: torch.Tensor) -> torch.Tensor:
        """Move a weight to the device on which bitsandbytes quantizes it."""
        return weight

    def _build_unusable_error(self, reason: object) -> ConfigError:
        return ConfigError(
            f"bitsandbytes is installed but does not run on this platform "
            f"({to_one_line(reason)}). Install a version built for this system, or use quantization=none",
            key="quantization",
            value=self.name,
            code="unsupported",
        )


@dataclass
class Int8Config(BitsAndBytesConfig):
    """LLM.int8(): int8 weights and activations, with a separate matmul for outlier columns."""

    name: ClassVar[str] = "int8"
    loaded_mark: ClassVar[str] = "is_loaded_in_8bit"
    threshold: float = 6.0

    def __post_init__(self) -> None:
        check_value(self.threshold >= 0, "quantization.threshold", self.threshold, "must be 0 or more")

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        return num_weights, 4 * num_outputs

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. A matmul dequantizes the weights to the dtype of the activations.

        Freed blocks of int32 sums and float32 scales stay in memory for a while.
        """
        return MatmulCosts(dtype_bytes, has_kernels=True, cpu_pass_bytes=20)

    @property
    def depends_on_batch(self) -> bool:
        """Whether outlier columns are multiplied separately. They are chosen from the activations
        of the whole batch.
        """
        return self.threshold > 0

    def check_device(self, device: str) -> None:
        super().check_device(device)
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

    def build_load_arguments(self) -> dict[str, Any]:
        import transformers

        config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)
        return {"quantization_config": config}

    def _build_empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        return _create_linear_class_for_any_dimensions()(
            inputs, outputs, has_bias, has_fp16_weights=False, threshold=self.threshold
        )

    def _build_weight_arguments(self, layer: Any) -> dict[str, Any]:
        return {"requires_grad": False, "has_fp16_weights": False}

    @staticmethod
    def _move_for_quantization(weight: torch.Tensor) -> torch.Tensor:
        return weight.cpu()  # it is quantized on its way to the device

    def check_loaded_layers(self, model: torch.nn.Module) -> None:
        """Make loaded 8-bit layers accept inputs with any number of dimensions."""
        from bitsandbytes.nn.modules import Linear8bitLt

        for module in model.modules():
            if type(module) is Linear8bitLt:
                module.__class__ = _create_linear_class_for_any_dimensions()


@functools.cache
def _create_linear_class_for_any_dimensions() -> Any:
    """Return a subclass of bitsandbytes' Linear8bitLt that accepts inputs with any number of dimensions.

    bitsandbytes itself fails at more than three dimensions, which occur in the latents of MLA.
    The class keeps bitsandbytes' class name, by which other code recognises it.
    """
    library: Any = importlib.import_module("bitsandbytes.nn.modules").Linear8bitLt

    def forward(layer: Any, inputs: torch.Tensor) -> Any:
        if inputs.dim() <= MOST_DIMENSIONS:
            return library.forward(layer, inputs)
        rows = inputs.flatten(0, -2)
        return library.forward(layer, rows).unflatten(0, inputs.shape[:-1])

    members = {"forward": forward, "__module__": library.__module__}
    return type(library.__name__, (library,), members)


def disable_unsupported_packing(layer: Any) -> None:
    can_pack = not (layer.in_features % PACKED_INPUTS or layer.out_features % PACKED_OUTPUTS)
    layer.support_avx512bf16_for_cpu &= can_pack and processor.has_bfloat16_matmul()


@dataclass
class FourBitConfig(BitsAndBytesConfig):
    """Base class of the 4-bit choices nf4 and fp4."""

    loaded_mark: ClassVar[str] = "is_loaded_in_4bit"
    double_quant: bool = True
    compute_dtype: Dtype = Dtype.bfloat16

    def __post_init__(self) -> None:
        need = "choose bfloat16, float16 or float32"
        check_value(
            self.compute_dtype is not Dtype.auto, "quantization.compute_dtype", self.compute_dtype, need
        )

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of the 4-bit codes, and of the block scales and code table together."""
        blocks, table = math.ceil(num_weights / BLOCK), 16 * 4
        if not self.double_quant:
            return math.ceil(num_weights / 2), 4 * blocks + table
        # scales of scales, their table, offset
        nested = 4 * math.ceil(blocks / NESTED_BLOCK) + 256 * 4 + 4
        return math.ceil(num_weights / 2), blocks + table + nested

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. A matmul dequantizes the weights to compute_dtype.

        The C kernels multiply only bfloat16, unless the library packs its weights for its own kernels.
        """
        has_kernels = self.compute_dtype is Dtype.bfloat16 or processor.has_bfloat16_matmul()
        return MatmulCosts(BYTES[self.compute_dtype.value], has_kernels)

    def build_load_arguments(self) -> dict[str, Any]:
        import torch
        import transformers

        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.name,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype.value),
        )
        return {"quantization_config": config}

    def _build_empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        import torch
        from bitsandbytes.nn.modules import Linear4bit

        dtype = getattr(torch, self.compute_dtype.value)
        layer = Linear4bit(inputs, outputs, has_bias, dtype, self.double_quant, quant_type=self.name)
        disable_unsupported_packing(layer)
        return layer

    def _build_weight_arguments(self, layer: Any) -> dict[str, Any]:
        kind = {"compress_statistics": self.double_quant, "quant_type": self.name, "module": layer}
        return {"requires_grad": False, **kind}

    def check_loaded_layers(self, model: torch.nn.Module) -> None:
        """Prevent bitsandbytes from packing layers that its CPU kernels cannot multiply.

        All other layers keep the stored layout, like all layers on a processor without bfloat16
        matmul, and our own kernels multiply them. Instructions that RUNNER_WITHOUT disables are also
        disabled for bitsandbytes, which then packs no weights.
        """
        from bitsandbytes.nn.modules import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                disable_unsupported_packing(module)

    @contextmanager
    def protect_weights(self, model: torch.nn.Module) -> Iterator[None]:
        """Context manager that keeps packed CPU weights packed while PEFT reads the model's state dict.

        When a state dict is read, bitsandbytes unpacks the weights permanently and rounds their
        scales a second time. The next job on the same base model would give other answers than the
        first.
        """
        states: list[Any] = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
        packed = [state for state in states if getattr(state, "packing_format_for_cpu", False)]
        for state in packed:
            state.packing_format_for_cpu = False
        try:
            yield
        finally:
            for state in packed:
                state.packing_format_for_cpu = True


@dataclass
class Nf4Config(FourBitConfig):
    """4-bit NormalFloat (nf4) of bitsandbytes."""

    name: ClassVar[str] = "nf4"


@dataclass
class Fp4Config(FourBitConfig):
    """4-bit floating point (fp4) of bitsandbytes."""

    name: ClassVar[str] = "fp4"
