"""bitsandbytes: int8, nf4 and fp4, quantized while loading or stored that way."""

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

from runner_base import BYTES, ConfigError, Dtype, check, one_line, processor
from runner_engine.quantization.base import Format, Library, Products, Quantized, StoredTensors

if TYPE_CHECKING:
    import torch

PACKED_INPUTS, PACKED_OUTPUTS = 64, 32  # sizes of packed layers are multiples of these
BLOCK = 64  # 4-bit weights that share one scale
NESTED_BLOCK = 256  # scales that share one scale when quantized themselves
MOST_DIMENSIONS = 3  # of the inputs of bitsandbytes' 8-bit layers


def _silence() -> None:
    """Silence its import, which looks for optional kernels on a hub, and what it says of each
    product's inputs."""
    for name in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)


def _constants(parameter: Any) -> Iterator[Any]:
    """Yield the scales: one for each row of int8; one for each block of 4 bits, perhaps
    quantized themselves."""
    yield getattr(parameter, "SCB", None)
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.state2.absmax, state.state2.code)


@dataclass
class BitsAndBytesConfig(Quantized):
    """What int8 and the two 4-bit formats have in common."""

    library: ClassVar[Library] = Library(("bitsandbytes",), "pip install bitsandbytes", _silence, _constants)
    method: ClassVar[str] = "bitsandbytes"
    holders: ClassVar[tuple[str, ...]] = ("bitsandbytes.",)
    # loaded as Python numbers
    tensors: ClassVar[StoredTensors] = StoredTensors(notes=(".quant_state.", ".weight_format"))
    # of the copies in float32 and int8 while one weight is quantized
    load_bytes_per_number: ClassVar[int] = 8
    loaded_mark: ClassVar[str]  # the attribute of transformers' models with such layers

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read the bits and the keys; early releases wrote no quant_method."""
        if stored.get("quant_method") not in (None, "", cls.method):
            return None
        if stored.get("load_in_8bit"):
            return Format(
                cls.method,
                Int8Config(threshold=float(stored.get("llm_int8_threshold", 6.0))),
                8,
                Int8Config.name,
            )
        if not stored.get("load_in_4bit"):
            return None
        dtype = str(stored.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
        check(
            dtype in Dtype.__members__,
            "the checkpoint's bnb_4bit_compute_dtype",
            dtype,
            "not a dtype of torch",
            "unsupported",
        )
        name = str(stored.get("bnb_4bit_quant_type") or "fp4")
        kind = {choice.name: choice for choice in (Nf4Config, Fp4Config)}.get(name, FourBitConfig)
        config = kind(bool(stored.get("bnb_4bit_use_double_quant")), Dtype(dtype))
        return Format(cls.method, config, 4, name, matched=kind is not FourBitConfig)

    def prepare(self, device: str) -> None:
        """Import it, and turn its various signs that it cannot run here into one message."""
        self.require_packages()
        try:
            library = importlib.import_module("bitsandbytes.cextension").lib
        except Exception as error:  # it loads a native library: any error concerns this platform
            raise self._unusable(error) from error
        # it has one if the native library did not load; one that did load answers any name with a
        # function
        reason = vars(library).get("error_msg")
        if reason is not None and device != "cpu":  # on a CPU torch does the work without it
            raise self._unusable(reason)

    def quantize_layer(self, model: Any, layer: Any) -> torch.nn.Module:
        """Return the library's layer with the same weights, made as transformers makes it while
        loading."""
        import torch

        weight = layer.weight.data
        if type(layer).__name__ == "Conv1D":  # GPT-2's linear layer has its weight the other way round
            weight = weight.T
        with torch.device("meta"):
            quantized = self._empty_layer(weight.shape[1], weight.shape[0], layer.bias is not None)
        quantized.requires_grad_(False)
        setattr(model, self.loaded_mark, True)  # PEFT and the count of parameters read it
        device = weight.device
        quantized.weight = type(quantized.weight)(
            self._source(weight), **self._weight_arguments(quantized)
        ).to(device)
        quantized.bias = layer.bias
        quantized.train(layer.training)
        made: torch.nn.Module = quantized
        return made

    @abstractmethod
    def _empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        """Return the library's layer without its weights."""

    @abstractmethod
    def _weight_arguments(self, layer: Any) -> dict[str, Any]:
        """Return the arguments of its class of weights."""

    @staticmethod
    def _source(weight: torch.Tensor) -> torch.Tensor:
        """Return the weight where the library quantizes it."""
        return weight

    def _unusable(self, reason: object) -> ConfigError:
        return ConfigError(
            f"bitsandbytes is installed but does not run on this platform "
            f"({one_line(reason)}): install a version built for this system, or use quantization=none",
            key="quantization",
            value=self.name,
            code="unsupported",
        )


@dataclass
class Int8Config(BitsAndBytesConfig):
    """LLM.int8(): int8 weights, outlier columns kept apart."""

    name: ClassVar[str] = "int8"
    loaded_mark: ClassVar[str] = "is_loaded_in_8bit"
    threshold: float = 6.0

    def __post_init__(self) -> None:
        check(self.threshold >= 0, "quantization.threshold", self.threshold, "must be 0 or more")

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """One byte for each number, one float32 scale for each row."""
        return numbers, 4 * rows

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in the dtype of the activations; freed blocks of int32 sums and float32 scales
        stay in memory for a while."""
        return Products(dtype_bytes, has_kernels=True, cpu_pass_bytes=20)

    @property
    def mixes_rows(self) -> bool:
        """Whether there are outliers: a column with one in any row is kept apart for all rows."""
        return self.threshold > 0

    def prepare(self, device: str) -> None:
        """Silence its log line at every product: it casts to float16, which is how LLM.int8()
        works."""
        super().prepare(device)
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' own config."""
        import transformers

        config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)
        return {"quantization_config": config}

    def _empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        return _layer_of_any_dimensions()(
            inputs, outputs, has_bias, has_fp16_weights=False, threshold=self.threshold
        )

    def _weight_arguments(self, layer: Any) -> dict[str, Any]:
        return {"requires_grad": False, "has_fp16_weights": False}

    @staticmethod
    def _source(weight: torch.Tensor) -> torch.Tensor:
        return weight.cpu()  # it is quantized on its way to the device

    def check_loaded(self, model: torch.nn.Module) -> None:
        """Let the layers that transformers has made take inputs of any number of dimensions, as those
        made here do."""
        from bitsandbytes.nn.modules import Linear8bitLt

        for module in model.modules():
            if type(module) is Linear8bitLt:
                module.__class__ = _layer_of_any_dimensions()


@functools.cache
def _layer_of_any_dimensions() -> Any:
    """Return the library's class of 8-bit layers, for inputs of any number of dimensions: the library
    itself fails at more than three, as transformers has them in the latents of MLA.

    Its name is the library's, by which others know such layers.
    """
    library: Any = importlib.import_module("bitsandbytes.nn.modules").Linear8bitLt

    def forward(layer: Any, inputs: torch.Tensor) -> Any:
        if inputs.dim() <= MOST_DIMENSIONS:
            return library.forward(layer, inputs)
        rows = inputs.flatten(0, -2)
        return library.forward(layer, rows).unflatten(0, inputs.shape[:-1])

    members = {"forward": forward, "__module__": library.__module__}
    return type(library.__name__, (library,), members)


def limit_packing(layer: Any) -> None:
    """Let the library pack a 4-bit layer only if its packed CPU kernels can multiply it."""
    can_pack = not (layer.in_features % PACKED_INPUTS or layer.out_features % PACKED_OUTPUTS)
    layer.support_avx512bf16_for_cpu &= can_pack and processor.has_bfloat16_products()


@dataclass
class FourBitConfig(BitsAndBytesConfig):
    """Shared keys of the two 4-bit formats."""

    loaded_mark: ClassVar[str] = "is_loaded_in_4bit"
    double_quant: bool = True
    compute_dtype: Dtype = Dtype.bfloat16

    def __post_init__(self) -> None:
        need = "choose bfloat16, float16 or float32"
        check(self.compute_dtype is not Dtype.auto, "quantization.compute_dtype", self.compute_dtype, need)

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Half a byte for each number; a scale for each block, and the table of the 16 values."""
        blocks, table = math.ceil(numbers / BLOCK), 16 * 4
        if not self.double_quant:
            return math.ceil(numbers / 2), 4 * blocks + table
        # scales of scales, their table, offset
        nested = 4 * math.ceil(blocks / NESTED_BLOCK) + 256 * 4 + 4
        return math.ceil(numbers / 2), blocks + table + nested

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in compute_dtype. There are kernels, but for other products than bfloat16 where
        the library does not pack its weights for these."""
        has_kernels = self.compute_dtype is Dtype.bfloat16 or processor.has_bfloat16_products()
        return Products(BYTES[self.compute_dtype.value], has_kernels)

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' own config."""
        import torch
        import transformers

        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.name,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype.value),
        )
        return {"quantization_config": config}

    def _empty_layer(self, inputs: int, outputs: int, has_bias: bool) -> Any:
        import torch
        from bitsandbytes.nn.modules import Linear4bit

        dtype = getattr(torch, self.compute_dtype.value)
        layer = Linear4bit(inputs, outputs, has_bias, dtype, self.double_quant, quant_type=self.name)
        limit_packing(layer)
        return layer

    def _weight_arguments(self, layer: Any) -> dict[str, Any]:
        kind = {"compress_statistics": self.double_quant, "quant_type": self.name, "module": layer}
        return {"requires_grad": False, **kind}

    def check_loaded(self, model: torch.nn.Module) -> None:
        """Let the library pack only layers of sizes that its packed CPU kernels can multiply.

        The others stay as they are stored, as all layers do on a processor without products of
        bfloat16, and our own kernels multiply them. What RUNNER_WITHOUT leaves out, the library
        shall not use either: then it packs no weights.
        """
        from bitsandbytes.nn.modules import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                limit_packing(module)

    @contextmanager
    def adapting(self, model: torch.nn.Module) -> Iterator[None]:
        """Keep packed CPU weights packed, even if code inside asks for a state dict, as PEFT does.

        For a state dict bitsandbytes unpacks them permanently, and rounds their scales a second
        time: the next job on this base would get other answers than the first.
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
    """4-bit NormalFloat."""

    name: ClassVar[str] = "nf4"


@dataclass
class Fp4Config(FourBitConfig):
    """4-bit float."""

    name: ClassVar[str] = "fp4"
