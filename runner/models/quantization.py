"""quantization – what transformers needs to be told, and what was really quantized, by whichever library."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runner.checkpoints.formats import Format, require_backend
from runner.config.quantization import FourBitConfig, GgufConfig, Int8Config, QuantizationConfig, TorchaoInt8Config
from runner.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

LIBRARIES = ("bitsandbytes.", "gptqmodel.")  # whose layers take the place of torch's; torchao exchanges weights only


def transformers_config(quantization: QuantizationConfig, stored: Format | None = None) -> Any:
    """Return transformers' quantization config, None where nothing is quantized or the checkpoint says how itself."""
    if stored is not None and stored.choice == "int8":
        _quiet_int8()
    if quantization.name == "none" or stored is not None:
        return None
    require_backend(quantization.name)
    import torch
    from transformers import BitsAndBytesConfig

    match quantization:
        case TorchaoInt8Config():
            from torchao.quantization import Int8WeightOnlyConfig
            from transformers import TorchAoConfig

            return TorchAoConfig(Int8WeightOnlyConfig())
        case GgufConfig():
            import transformers

            # releases of before blocks could stay packed always unpack them; packed, they need kernels from a hub
            kind = getattr(transformers, "GgufConfig", None)
            return None if kind is None else kind(dequantize=True)
        case Int8Config(threshold=threshold):
            _quiet_int8()
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
        case FourBitConfig(name=name, double_quant=double_quant, compute_dtype=compute_dtype):
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=name,
                bnb_4bit_use_double_quant=double_quant,
                bnb_4bit_compute_dtype=getattr(torch, compute_dtype.value),
            )
    raise AssertionError(f"no quantization for {quantization}")


def quantized_modules(model: torch.nn.Module) -> int:
    """Count the linear layers that bitsandbytes holds: proof that the quantization is on."""
    return sum(map(is_quantized, model.modules()))


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether this is a linear layer whose weights are quantized, by what it is and not by what was asked for."""
    return type(module).__module__.startswith(LIBRARIES) or _is_torchao(module._parameters.get("weight"))


def kind_of(module: torch.nn.Module) -> str:
    """Name what holds the weights: the class of the layer, or of its weight where only that was exchanged."""
    weight = module._parameters.get("weight")
    return type(weight if _is_torchao(weight) else module).__name__


def quiet_torchao() -> None:
    """Keep torchao's import, which transformers does for every model once torchao is installed, from logging.

    It says which of its own kernels for other GPUs did not load, and that it calls torch by a name on its way out:
    nothing that a user could act on.
    """
    for name, start, end in (
        ("torchao", "Failed to load ", ""),
        ("torchao.kernel.intmm", "Warning: Detected no triton", ""),  # which no weight-only product asks for
        ("torch.utils._pytree", "", "register_constant() on Enum subclasses"),
    ):
        logging.getLogger(name).addFilter(_Without(start, end))


def check_kernels(model: torch.nn.Module, name: str) -> None:
    """Refuse layer sizes that bitsandbytes' packed 4-bit CPU kernels would crash on at the first forward pass."""
    if not any(type(module).__name__ == "Linear4bit" for module in model.modules()):
        return
    from bitsandbytes.functional import has_avx512bf16
    from bitsandbytes.nn.modules import Linear4bit

    for path, module in model.named_modules():
        if isinstance(module, Linear4bit) and module.weight.device.type == "cpu" and has_avx512bf16():
            inputs, outputs = module.in_features, module.out_features
            if inputs % 64 or outputs % 32:
                raise ConfigError(
                    f"quantization={name}: {path} is {inputs} x {outputs}, and bitsandbytes' 4-bit kernels for this "
                    "CPU need inputs divisible by 64 and outputs by 32: use quantization=int8 or none with an "
                    "unquantized checkpoint, or a GPU"
                )


@contextmanager
def left_packed(model: torch.nn.Module) -> Iterator[None]:
    """Keep bitsandbytes' packed 4-bit CPU weights as they are, whoever asks for a state dict inside, as PEFT does.

    For a state dict it unpacks them for good, and rounds their scales a second time: the next job on this base would
    get other answers than the first.
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


def weight_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of parameters and buffers by dtype, tied tensors once, quantization constants included."""
    seen: set[int] = set()
    by_dtype: dict[str, int] = {}

    def add(tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__"):  # a shell, as torchao's: the bytes are those of what it holds
            for inner in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, inner))
            return
        if tensor is None or not hasattr(tensor, "data_ptr") or tensor.data_ptr() in seen:
            return
        seen.add(tensor.data_ptr())
        name = str(tensor.dtype).removeprefix("torch.")
        by_dtype[name] = by_dtype.get(name, 0) + tensor.numel() * tensor.element_size()

    for parameter in [*model.parameters(), *model.buffers()]:
        add(parameter)
        add(getattr(parameter, "SCB", None))  # int8: one scale a row
        state = getattr(parameter, "quant_state", None)  # 4 bit: one scale a block, perhaps quantized itself
        if state is not None:
            add(state.absmax)
            add(state.code)
            if state.nested:
                add(state.state2.absmax)
                add(state.state2.code)
    return by_dtype


def _is_torchao(weight: Any) -> bool:
    return type(weight).__module__.startswith("torchao.")


def _quiet_int8() -> None:
    # at every product it logs that it casts to float16, which is how LLM.int8() works
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


class _Without(logging.Filter):
    """Drops the messages that begin with one text and contain another."""

    def __init__(self, start: str, part: str) -> None:
        super().__init__()
        self.start, self.part = start, part

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith(self.start) and self.part in message)

    def __eq__(self, other: object) -> bool:  # so that a logger takes it once
        return isinstance(other, _Without) and (self.start, self.part) == (other.start, other.part)

    __hash__ = logging.Filter.__hash__
