"""quantization: none, int8, nf4, fp4 – what transformers needs to be told, and what was really quantized."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from runner.config import FourBitConfig, Int8Config, QuantizationConfig
from runner.errors import ConfigError

if TYPE_CHECKING:
    import torch


def transformers_config(quantization: QuantizationConfig) -> Any:
    """Return transformers' quantization config, or None when nothing is quantized."""
    if quantization.name == "none":
        return None
    _require_bitsandbytes(quantization.name)
    import torch
    from transformers import BitsAndBytesConfig

    match quantization:
        case Int8Config(threshold=threshold):
            # at every product it logs that it casts to float16, which is how LLM.int8() works
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
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
    return sum(type(module).__module__.startswith("bitsandbytes.") for module in model.modules())


def check_kernels(model: torch.nn.Module, name: str) -> None:
    """Refuse layer sizes that bitsandbytes' packed 4-bit CPU kernels would crash on at the first forward pass."""
    from bitsandbytes.functional import has_avx512bf16
    from bitsandbytes.nn.modules import Linear4bit

    for path, module in model.named_modules():
        if isinstance(module, Linear4bit) and module.weight.device.type == "cpu" and has_avx512bf16():
            inputs, outputs = module.in_features, module.out_features
            if inputs % 64 or outputs % 32:
                raise ConfigError(
                    f"quantization={name}: {path} is {inputs} x {outputs}, and bitsandbytes' 4-bit kernels for this "
                    "CPU need inputs divisible by 64 and outputs by 32: use quantization=int8 or none, or a GPU"
                )


def weight_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of parameters and buffers by dtype, tied tensors once, quantization constants included."""
    seen: set[int] = set()
    by_dtype: dict[str, int] = {}

    def add(tensor: Any) -> None:
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


def _require_bitsandbytes(name: str) -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization={name} needs bitsandbytes, which is not installed: pip install bitsandbytes, "
            "or use quantization=none"
        )
