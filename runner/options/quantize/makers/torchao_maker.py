"""Quantizes a model with torchao, in integer groups with round-to-nearest, and saves it with transformers."""

from __future__ import annotations

from typing import Any


def quantize_model(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize the model in the requested source folder with torchao, and save it to the target folder."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup
    from torchao.quantization.quant_primitives import MappingType
    from transformers import AutoModelForCausalLM, TorchAoConfig

    torch.set_num_threads(request["threads"])
    tools.report_step("quantize by torchao")
    mapping = MappingType.SYMMETRIC if request["symmetric"] else MappingType.ASYMMETRIC
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{request['bits']}"),
        granularity=PerGroup(request["group_size"]),
        mapping_type=mapping,
    )
    model = AutoModelForCausalLM.from_pretrained(
        request["source"], dtype=request["dtype"], quantization_config=TorchAoConfig(config)
    )
    tools.report_step("write")
    model.save_pretrained(request["output"], **tools.build_max_shard_size_kwargs())
    return {}
