"""torchao's int8, float8 and low-bit integer weights, quantized at load time or stored in the checkpoint."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import config_field
from runner_engine.quantization.base import (
    DERIVED_LINEAR,
    OTHER_LINEAR,
    MatmulCosts,
    QuantizationLibrary,
    QuantizedConfig,
    StoredFormat,
    StoredTensorNames,
)
from runner_engine.quantization.load_time_groups import BITS, CodedGroups, LoadTimeGroupsConfig

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


def _mute_torchao_messages() -> None:
    """Mute the messages that torchao logs on import. Repeated calls have no further effect."""
    for name in SILENCED:
        logging.getLogger(name).addFilter(_is_not_muted)


@dataclass
class TorchaoConfig(QuantizedConfig):
    """Base class of the torchao choices. Its defaults are those of int8 weights with one scale per output."""

    library: ClassVar[QuantizationLibrary] = QuantizationLibrary(
        ("torchao",), "pip install 'runner-llm[torchao]'", _mute_torchao_messages
    )
    method: ClassVar[str] = "torchao"
    # the layers remain torch's, only their weights are replaced
    holders: ClassVar[tuple[str, ...]] = ("torchao.",)
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames(("_qdata",))
    config_type: ClassVar[str] = ""  # the class of torchao that a checkpoint of the choice names

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        return num_weights, 5 * num_outputs

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the torchao format of a checkpoint. `matched` is True if this choice creates the
        same format.
        """
        if stored_config.get("quant_method") != cls.method:
            return None
        kind = (stored_config.get("quant_type") or {}).get("default") or {}
        is_own = kind.get("_type") == cls.config_type and cls._matches_own_config(kind.get("_data") or {})
        name = cls.name if is_own else str(kind.get("_type"))
        return StoredFormat(cls.method, cls(), 4 if "4" in name else 8, name, matched=is_own)

    def supports_family(self, family: str, layer_by_layer: bool) -> bool:
        """Whether torchao can quantize the linear layers of a model family, which must be nn.Linear.

        For whole models, subclasses are also supported.
        """
        return family not in OTHER_LINEAR and not (layer_by_layer and family in DERIVED_LINEAR)

    def quantize_layer(self, model: Any, layer: torch.nn.Module) -> torch.nn.Module:
        """Quantize the weight of an nn.Linear with torchao. Layers of other classes stay unchanged."""
        import torch
        from torchao.quantization import quantize_

        if type(layer) is torch.nn.Linear:
            quantize_(layer, self.build_load_arguments()["quantization_config"].quant_type)
        return layer

    @contextmanager
    def protect_weights(self, model: torch.nn.Module) -> Iterator[None]:
        """Context manager that mutes PEFT's warning about merging into torchao weights.

        Nothing is merged in this context.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*instantiated without `get_apply_tensor_subclass`")
            yield

    @classmethod
    def _matches_own_config(cls, keys: dict[str, Any]) -> bool:
        """Whether a stored torchao config has exactly the keys that this choice sets."""
        row = {"_type": "PerRow"}
        each = keys.get("granularity") or row
        return all(
            (one or row).get("_type") == "PerRow" for one in (each if isinstance(each, list) else [each])
        )


@dataclass
class TorchaoInt8Config(TorchaoConfig):
    """Weight-only int8 with one scale per output, multiplied in model.dtype."""

    name: ClassVar[str] = "torchao_int8"

    config_type: ClassVar[str] = "Int8WeightOnlyConfig"

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. A matmul dequantizes the weights to the dtype of the activations.

        C kernels exist if that dtype is bfloat16.
        """
        return MatmulCosts(dtype_bytes, dtype_bytes == 2)

    def build_load_arguments(self) -> dict[str, Any]:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}

    @classmethod
    def _matches_own_config(cls, keys: dict[str, Any]) -> bool:
        return keys.get("group_size") is None and super()._matches_own_config(keys)


@dataclass
class TorchaoFloat8Config(TorchaoConfig):
    """Weight-only float8 (e4m3) with one float32 scale per output, multiplied in model.dtype."""

    name: ClassVar[str] = "torchao_float8"

    config_type: ClassVar[str] = "Float8WeightOnlyConfig"

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        return num_weights, 4 * num_outputs

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return MatmulCosts(dtype_bytes)

    def build_load_arguments(self) -> dict[str, Any]:
        """Return a transformers config for which torchao leaves the settings of torch's compiler
        unchanged.
        """
        from torchao.quantization import Float8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization_config": TorchAoConfig(Float8WeightOnlyConfig(set_inductor_config=False))}

    @classmethod
    def _matches_own_config(cls, keys: dict[str, Any]) -> bool:
        kind = keys.get("weight_dtype") or {}
        return kind.get("_data", "float8_e4m3fn") == "float8_e4m3fn" and super()._matches_own_config(keys)


@dataclass
class Int8DynamicConfig(TorchaoConfig):
    """int8 weights with one scale per output, and activations quantized to int8 per token."""

    name: ClassVar[str] = "int8_dynamic"

    config_type: ClassVar[str] = "Int8DynamicActivationInt8WeightConfig"

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. On a GPU, torchao copies the weight in another memory layout."""
        return MatmulCosts(1, has_kernels=True)

    def build_load_arguments(self) -> dict[str, Any]:
        """Return a transformers config for which torchao leaves the settings of torch's compiler
        unchanged.
        """
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        from transformers import TorchAoConfig

        return {
            "quantization_config": TorchAoConfig(
                Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
            )
        }

    @classmethod
    def _matches_own_config(cls, keys: dict[str, Any]) -> bool:
        mapping = keys.get("act_mapping_type") or "SYMMETRIC"
        mapping = mapping.get("_data") if isinstance(mapping, dict) else mapping
        return mapping == "SYMMETRIC" and not keys.get("reduce_range") and super()._matches_own_config(keys)


@dataclass
class TorchaoIntxConfig(TorchaoConfig, LoadTimeGroupsConfig):
    """Weight-only integers of 2 to 8 bits, rounded to nearest, with one scale per group of inputs."""

    name: ClassVar[str] = "torchao_intx"

    holders: ClassVar[tuple[str, ...]] = LoadTimeGroupsConfig.holders
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames(("_weight_qdata",))
    config_type: ClassVar[str] = "IntxWeightOnlyConfig"
    zero_point_bytes: ClassVar[int | None] = 1
    load_bytes_per_number: ClassVar[int] = 16  # of the library's matrices in int8 and in float32
    group_size: int = 32
    symmetric: bool = True
    int8_activations: bool = config_field(False, renamed_from="int8_rows")

    def supports_family(self, family: str, layer_by_layer: bool) -> bool:
        """Whether a model family uses nn.Linear itself, not a subclass or another class."""
        return LoadTimeGroupsConfig.supports_family(self, family, layer_by_layer)

    @property
    def rounds_activations(self) -> bool:
        """Whether activations are rounded to int8 with a scale and zero point per token."""
        return self.int8_activations

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of the codes, and of the quantization constants. Symmetric weights have
        a single zero point.
        """
        codes, constants = LoadTimeGroupsConfig.compute_weight_nbytes(
            self, num_outputs, num_weights, dtype_bytes
        )
        return codes, constants - (num_weights // self.group_size - 1) * self.symmetric

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the bits and group size of a torchao checkpoint. `matched` is False for other
        torchao formats.
        """
        kind = (stored_config.get("quant_type") or {}).get("default") or {}
        keys, has_rows = kind.get("_data") or {}, kind.get("_type") == INTX_WITH_ROWS
        if stored_config.get("quant_method") == cls.method and has_rows:
            others = {
                name.removeprefix("weight_"): value for name, value in keys.items() if name != "weight_dtype"
            }
            keys = {"weight_dtype": keys.get("weight_dtype"), **others}
        is_own = (
            has_rows
            and _unwrap_typed_json(keys.get("act_mapping_type")) == "ASYMMETRIC"
            and cls._matches_own_config(keys)
        )
        found = super().parse_stored_format(stored_config)
        if found is None or not (found.matched or is_own):
            return found
        bits, group, mapping = (
            _unwrap_typed_json(keys.get(key)) for key in ("weight_dtype", "granularity", "mapping_type")
        )
        own = cls(
            bits=int(bits.removeprefix("int")),
            group_size=group["group_size"],
            symmetric=mapping == "SYMMETRIC",
            int8_activations=has_rows,
        )
        return StoredFormat(cls.method, own, own.bits, cls.name)

    def quantize_weight(self, weight: torch.Tensor) -> CodedGroups:
        """Quantize a weight with torchao."""
        import torch
        from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

        mapping = MappingType.SYMMETRIC if self.symmetric else MappingType.ASYMMETRIC
        kind = getattr(torch, f"int{self.bits}")
        made = IntxUnpackedToInt8Tensor.from_hp(weight, (1, self.group_size), kind, mapping_type=mapping)
        return self._shift_codes_to_unsigned(made)

    def extract_stored_groups(self, weight: Any) -> CodedGroups | None:
        """Return the codes, scales and zero points of a loaded torchao weight.

        None for any other kind of weight. Raises ValueError if the weight contradicts the config.
        """
        import torch
        from torchao.quantization import IntxUnpackedToInt8Tensor

        if not isinstance(weight, IntxUnpackedToInt8Tensor):
            return None
        rows = weight.activation_quantization
        is_own = (
            weight.target_dtype is getattr(torch, f"int{self.bits}")
            and (rows is not None) == self.int8_activations
        )
        if not is_own or list(weight.block_size) != [1, self.group_size]:
            raise ValueError(
                f"the weight has {weight.target_dtype} in blocks of {list(weight.block_size)} and "
                f"activations {rows or 'as they are'}, but config.json declares int{self.bits} in groups of "
                f"{self.group_size} and int8_activations={self.int8_activations}"
            )
        most = 2 ** (self.bits - 1)
        for name, numbers in (("code", weight.qdata), ("zero point", weight.zero_point)):
            # as Python's numbers: beside 128 a tensor of int8 is compared with -128
            if numbers.dtype is not torch.int8 or not (
                -most <= int(numbers.min()) and int(numbers.max()) < most
            ):
                raise ValueError(f"a {name} is not an integer of {self.bits} bits")
        if self.symmetric and weight.zero_point.any():
            raise ValueError("symmetric weights must have zero points of 0")
        if not weight.scale.isfinite().all():
            raise ValueError("a scale is not finite")
        return self._shift_codes_to_unsigned(weight)

    def _shift_codes_to_unsigned(self, weight: Any) -> CodedGroups:
        """Shift the signed codes and zero points of a weight to unsigned integers."""
        import torch

        middle = 2 ** (self.bits - 1)
        codes, zeros = (
            (one.to(torch.int16) + middle).to(torch.uint8) for one in (weight.qdata, weight.zero_point)
        )
        return CodedGroups(codes, weight.scale, zeros[:1, :1].clone() if self.symmetric else zeros)

    @classmethod
    def _matches_own_config(cls, keys: dict[str, Any]) -> bool:
        kind, group, mapping = (
            _unwrap_typed_json(keys.get(key)) for key in ("weight_dtype", "granularity", "mapping_type")
        )
        others = [
            _unwrap_typed_json(keys.get(key))
            for key in ("intx_choose_qparams_algorithm", "intx_packing_format")
        ]
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


def _unwrap_typed_json(value: Any) -> Any:
    """Return the value of a JSON object in which torchao stores a value and its type."""
    return value.get("_data") if isinstance(value, dict) else value


def _is_not_muted(record: logging.LogRecord) -> bool:
    return re.match(SILENCED[record.name], record.getMessage()) is None
