"""torchao's integers in groups: choices of all kinds, and torchao's own config of each."""

from __future__ import annotations

from typing import Any

import torch

from runner_engine.quantization.load_time_groups import LoadTimeGroupsConfig
from runner_engine.quantization.torchao import TorchaoIntxConfig

INTX = [
    TorchaoIntxConfig(),
    TorchaoIntxConfig(bits=3, group_size=64, symmetric=False),
    TorchaoIntxConfig(int8_activations=True),
]


def intx_config(choice: TorchaoIntxConfig) -> Any:
    """Return torchao's own config for a choice."""
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerGroup,
    )

    mapping = MappingType.SYMMETRIC if choice.symmetric else MappingType.ASYMMETRIC
    kind = getattr(torch, f"int{choice.bits}")
    if choice.int8_activations:
        group = PerGroup(choice.group_size)
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=kind, weight_granularity=group, weight_mapping_type=mapping
        )
    return IntxWeightOnlyConfig(
        weight_dtype=kind, granularity=PerGroup(choice.group_size), mapping_type=mapping
    )


def class_of(choice: LoadTimeGroupsConfig) -> str:
    """Return what reports call our layers of a choice."""
    return "RoundedRowsLinear" if choice.rounds_activations else "GroupedLinear"
