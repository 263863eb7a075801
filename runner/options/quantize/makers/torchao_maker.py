"""torchao's integers in groups, rounded to the nearest, as transformers saves them."""

from __future__ import annotations

from typing import Any


def make(order: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a folder's model into another folder."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup
    from torchao.quantization.quant_primitives import MappingType
    from transformers import AutoModelForCausalLM, TorchAoConfig

    torch.set_num_threads(order["threads"])
    tools.step("quantize by torchao")
    mapping = MappingType.SYMMETRIC if order["symmetric"] else MappingType.ASYMMETRIC
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{order['bits']}"),
        granularity=PerGroup(order["group_size"]),
        mapping_type=mapping,
    )
    model = AutoModelForCausalLM.from_pretrained(
        order["source"], dtype=order["dtype"], quantization_config=TorchAoConfig(config)
    )
    tools.step("write")
    model.save_pretrained(order["output"], **tools.shard_limit())
    return {}
