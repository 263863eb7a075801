"""torchao: int8 of weights, or of weights and rows, and float8 of weights; made while loading or
stored that way."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_engine.quantization.base import (
    DERIVED_LINEAR,
    OTHER_LINEAR,
    Format,
    Library,
    Products,
    Quantized,
    StoredTensors,
)
from runner_engine.quantization.made_groups import BITS, CodedGroups, MadeGroupsConfig

if TYPE_CHECKING:
    import torch

# What it logs on import, by logger, though no user can act on it: that its kernels for other GPUs
# did not load, and that it uses a deprecated name of torch.
SILENCED = {
    "torchao": "Failed to load ",
    "torchao.kernel.intmm": "Warning: Detected no triton",  # weight-only products do not need it
    "torch.utils._pytree": r"(?s).*register_constant\(\) on Enum subclasses",
}
INTX_WITH_ROWS = "Int8DynamicActivationIntxWeightConfig"


def _silence() -> None:
    """Silence its import by transformers, for any model; a logger keeps the same filter only once."""
    for name in SILENCED:
        logging.getLogger(name).addFilter(_is_wanted)


@dataclass
class TorchaoConfig(Quantized):
    """What the choices by torchao have in common: int8 weights with one scale for each output."""

    library: ClassVar[Library] = Library(("torchao",), "pip install 'runner-llm[torchao]'", _silence)
    method: ClassVar[str] = "torchao"
    # the layers remain torch's, only their weights are replaced
    holders: ClassVar[tuple[str, ...]] = ("torchao.",)
    tensors: ClassVar[StoredTensors] = StoredTensors(("_qdata",))
    config_type: ClassVar[str] = ""  # the class of torchao that a checkpoint of the choice names

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """One byte for each number; one float32 scale and one int8 zero point for each row."""
        return numbers, 5 * rows

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read which of torchao's many types it is, and whether this choice makes just that."""
        if stored.get("quant_method") != cls.method:
            return None
        kind = (stored.get("quant_type") or {}).get("default") or {}
        is_own = kind.get("_type") == cls.config_type and cls._is_plain(kind.get("_data") or {})
        name = cls.name if is_own else str(kind.get("_type"))
        return Format(cls.method, cls(), 4 if "4" in name else 8, name, matched=is_own)

    def reaches(self, family: str, layer_by_layer: bool) -> bool:
        """Whether a family's linear layers are torch's, or in whole models derived from it."""
        return family not in OTHER_LINEAR and not (layer_by_layer and family in DERIVED_LINEAR)

    def quantize_layer(self, model: Any, layer: torch.nn.Module) -> torch.nn.Module:
        """Replace the layer's weight by the library's, which it knows for torch's own linear layers
        only."""
        import torch
        from torchao.quantization import quantize_

        if type(layer) is torch.nn.Linear:
            quantize_(layer, self.load_arguments()["quantization_config"].quant_type)
        return layer

    @contextmanager
    def adapting(self, model: torch.nn.Module) -> Iterator[None]:
        """Silence PEFT's word on merging, which needs a model that transformers has quantized:
        nothing merges here."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*instantiated without `get_apply_tensor_subclass`")
            yield

    @classmethod
    def _is_plain(cls, keys: dict[str, Any]) -> bool:
        """Whether the keys of a stored config of torchao are those that the choice sets."""
        row = {"_type": "PerRow"}
        each = keys.get("granularity") or row
        return all(
            (one or row).get("_type") == "PerRow" for one in (each if isinstance(each, list) else [each])
        )


@dataclass
class TorchaoInt8Config(TorchaoConfig):
    """Weight-only int8: int8 weights with one scale for each row, products in model.dtype."""

    name: ClassVar[str] = "torchao_int8"

    config_type: ClassVar[str] = "Int8WeightOnlyConfig"

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in the dtype of the activations; there are kernels if that is bfloat16."""
        return Products(dtype_bytes, dtype_bytes == 2)

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' config around torchao's own."""
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}

    @classmethod
    def _is_plain(cls, keys: dict[str, Any]) -> bool:
        return keys.get("group_size") is None and super()._is_plain(keys)


@dataclass
class TorchaoFloat8Config(TorchaoConfig):
    """Weight-only float8 (e4m3): one float32 scale for each row, products in model.dtype."""

    name: ClassVar[str] = "torchao_float8"

    config_type: ClassVar[str] = "Float8WeightOnlyConfig"

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """One byte for each number; one float32 scale for each row."""
        return numbers, 4 * rows

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in the dtype of the activations."""
        return Products(dtype_bytes)

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' config around torchao's own, which must not change settings of
        torch's compiler."""
        from torchao.quantization import Float8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Float8WeightOnlyConfig(set_inductor_config=False))}

    @classmethod
    def _is_plain(cls, keys: dict[str, Any]) -> bool:
        kind = keys.get("weight_dtype") or {}
        return kind.get("_data", "float8_e4m3fn") == "float8_e4m3fn" and super()._is_plain(keys)


@dataclass
class Int8DynamicConfig(TorchaoConfig):
    """int8 weights with one scale for each output, and int8 rows with one scale for each, quantized
    as they come."""

    name: ClassVar[str] = "int8_dynamic"

    config_type: ClassVar[str] = "Int8DynamicActivationInt8WeightConfig"

    def products(self, dtype_bytes: int) -> Products:
        """Count the copy of the bytes in another order that the library makes on a GPU; torch
        copies less on a CPU."""
        return Products(1, has_kernels=True)

    def load_arguments(self) -> dict[str, Any]:
        """Return transformers' config around torchao's own, which must not change settings of
        torch's compiler."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        from transformers import TorchAoConfig

        return {
            "quantization_config": TorchAoConfig(
                Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
            )
        }

    @classmethod
    def _is_plain(cls, keys: dict[str, Any]) -> bool:
        mapping = keys.get("act_mapping_type") or "SYMMETRIC"
        mapping = mapping.get("_data") if isinstance(mapping, dict) else mapping
        return mapping == "SYMMETRIC" and not keys.get("reduce_range") and super()._is_plain(keys)


@dataclass
class TorchaoIntxConfig(TorchaoConfig, MadeGroupsConfig):
    """Weight-only integers of 2 to 8 bits, rounded to the nearest, with a scale for each group of
    inputs."""

    name: ClassVar[str] = "torchao_intx"

    holders: ClassVar[tuple[str, ...]] = MadeGroupsConfig.holders
    tensors: ClassVar[StoredTensors] = StoredTensors(("_weight_qdata",))
    config_type: ClassVar[str] = "IntxWeightOnlyConfig"
    zero_point_bytes: ClassVar[int | None] = 1
    load_bytes_per_number: ClassVar[int] = 16  # of the library's matrices in int8 and in float32
    group_size: int = 32
    symmetric: bool = True
    int8_rows: bool = False

    def reaches(self, family: str, layer_by_layer: bool) -> bool:
        """Whether a family's linear layers are torch's own class."""
        return MadeGroupsConfig.reaches(self, family, layer_by_layer)

    @property
    def rounds_rows(self) -> bool:
        """Whether rows are rounded to int8, each with a scale and a zero point of its own."""
        return self.int8_rows

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """A symmetric weight has one zero point."""
        codes, constants = MadeGroupsConfig.price(self, rows, numbers, dtype_bytes)
        return codes, constants - (numbers // self.group_size - 1) * self.symmetric

    @classmethod
    def read_stored(cls, stored: dict[str, Any]) -> Format | None:
        """Read bits and groups; what torchao has besides is left to the library."""
        kind = (stored.get("quant_type") or {}).get("default") or {}
        keys, has_rows = kind.get("_data") or {}, kind.get("_type") == INTX_WITH_ROWS
        if stored.get("quant_method") == cls.method and has_rows:
            others = {
                name.removeprefix("weight_"): value for name, value in keys.items() if name != "weight_dtype"
            }
            keys = {"weight_dtype": keys.get("weight_dtype"), **others}
        is_own = has_rows and _named(keys.get("act_mapping_type")) == "ASYMMETRIC" and cls._is_plain(keys)
        found = super().read_stored(stored)
        if found is None or not (found.matched or is_own):
            return found
        bits, group, mapping = (
            _named(keys.get(key)) for key in ("weight_dtype", "granularity", "mapping_type")
        )
        own = cls(
            bits=int(bits.removeprefix("int")),
            group_size=group["group_size"],
            symmetric=mapping == "SYMMETRIC",
            int8_rows=has_rows,
        )
        return Format(cls.method, own, own.bits, cls.name)

    def groups_of(self, weight: torch.Tensor) -> CodedGroups:
        """Let the library quantize."""
        import torch
        from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

        mapping = MappingType.SYMMETRIC if self.symmetric else MappingType.ASYMMETRIC
        kind = getattr(torch, f"int{self.bits}")
        made = IntxUnpackedToInt8Tensor.from_hp(weight, (1, self.group_size), kind, mapping_type=mapping)
        return self._without_sign(made)

    def stored_groups_of(self, weight: Any) -> CodedGroups | None:
        """Return what a loaded weight of the library holds, a byte for each code; ValueError if it
        is not as it says.

        None: another kind of weight.
        """
        import torch
        from torchao.quantization import IntxUnpackedToInt8Tensor

        if not isinstance(weight, IntxUnpackedToInt8Tensor):
            return None
        rows = weight.activation_quantization
        is_own = (
            weight.target_dtype is getattr(torch, f"int{self.bits}") and (rows is not None) == self.int8_rows
        )
        if not is_own or list(weight.block_size) != [1, self.group_size]:
            raise ValueError(
                f"{weight.target_dtype} in blocks of {list(weight.block_size)}, with rows {rows or 'as they are'}, and "
                f"config.json says int{self.bits} in groups of {self.group_size}, int8_rows={self.int8_rows}"
            )
        most = 2 ** (self.bits - 1)
        for name, numbers in (("code", weight.qdata), ("zero point", weight.zero_point)):
            # as Python's numbers: beside 128 a tensor of int8 is compared with -128
            if numbers.dtype is not torch.int8 or not (
                -most <= int(numbers.min()) and int(numbers.max()) < most
            ):
                raise ValueError(f"a {name} is not an integer of {self.bits} bits")
        if self.symmetric and weight.zero_point.any():
            raise ValueError("symmetric weights have zero points of 0")
        if not weight.scale.isfinite().all():
            raise ValueError("a scale is not a finite number")
        return self._without_sign(weight)

    def _without_sign(self, weight: Any) -> CodedGroups:
        """Count codes and zero points from the lowest one."""
        import torch

        middle = 2 ** (self.bits - 1)
        codes, zeros = (
            (one.to(torch.int16) + middle).to(torch.uint8) for one in (weight.qdata, weight.zero_point)
        )
        return CodedGroups(codes, weight.scale, zeros[:1, :1].clone() if self.symmetric else zeros)

    @classmethod
    def _is_plain(cls, keys: dict[str, Any]) -> bool:
        kind, group, mapping = (
            _named(keys.get(key)) for key in ("weight_dtype", "granularity", "mapping_type")
        )
        others = [_named(keys.get(key)) for key in ("intx_choose_qparams_algorithm", "intx_packing_format")]
        size = group.get("group_size") if isinstance(group, dict) else None
        return (
            kind in [f"int{bits}" for bits in BITS]
            and mapping in ("SYMMETRIC", "ASYMMETRIC")
            and type(size) is int
            and size > 0
            and not size % 8
            and others in ([None, None], ["AFFINE", "UNPACKED_TO_INT8"])
            and keys.get("scale_dtype") is None
        )


def _named(value: Any) -> Any:
    """Return what torchao's JSON wraps with a type."""
    return value.get("_data") if isinstance(value, dict) else value


def _is_wanted(record: logging.LogRecord) -> bool:
    return re.match(SILENCED[record.name], record.getMessage()) is None
