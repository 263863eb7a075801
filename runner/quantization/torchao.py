"""torchao: weight-only int8, quantized while loading or stored that way."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.base import Format, Quantized

# What it logs on import, by logger, though no user can act on it: that its kernels for other GPUs did not load, and
# that it uses a deprecated name of torch.
SILENCED = {
    "torchao": "Failed to load ",
    "torchao.kernel.intmm": "Warning: Detected no triton",  # weight-only products do not need it
    "torch.utils._pytree": r"(?s).*register_constant\(\) on Enum subclasses",
}


@dataclass
class TorchaoInt8Config(Quantized):
    """Weight-only int8: int8 weights with one scale for each row, products in model.dtype."""

    name: ClassVar[str] = "torchao_int8"

    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    install: ClassVar[str] = "pip install 'runner[torchao]'"
    method: ClassVar[str] = "torchao"
    holders: ClassVar[tuple[str, ...]] = ("torchao.",)  # the layers remain torch's, only their weights are replaced
    packed_names: ClassVar[tuple[str, ...]] = ("_qdata",)

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """One byte for each number; one float32 scale and one int8 zero point for each row."""
        return numbers, 5 * rows

    def unpacked_bytes(self, dtype_bytes: int) -> int:
        """The copy is in the dtype of the activations."""
        return dtype_bytes

    def has_kernels(self, dtype_bytes: int) -> bool:
        """Return whether activations are in bfloat16."""
        return dtype_bytes == 2

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' config around torchao's own."""
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read which of torchao's many types it is; only weight-only int8 by rows is this choice."""
        if stored.get("quant_method") != cls.method:
            return None
        kind = (stored.get("quant_type") or {}).get("default") or {}
        data = kind.get("_data") or {}
        plain = kind.get("_type") == "Int8WeightOnlyConfig" and data.get("group_size") is None
        row = (data.get("granularity") or {"_type": "PerRow"}).get("_type") == "PerRow"
        name = "torchao_int8" if plain and row else str(kind.get("_type"))
        return Format(cls.method, cls(), 4 if "4" in name else 8, name, matched=plain and row)

    @staticmethod
    def quiet_import() -> None:
        """Silence its import by transformers, for any model; a logger keeps the same filter only once."""
        for name in SILENCED:
            logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return re.match(SILENCED[record.name], record.getMessage()) is None
