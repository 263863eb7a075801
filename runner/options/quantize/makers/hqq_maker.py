"""Quantizes a model with HQQ, which needs transformers 4 but no calibration texts."""

from __future__ import annotations

from typing import Any


def quantize_model(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize the model in the requested source folder with HQQ, and save it to the target folder."""
    import torch
    from transformers import AutoModelForCausalLM, HqqConfig

    torch.set_num_threads(request["threads"])
    tools.report_step("quantize by hqq")
    config = HqqConfig(nbits=request["bits"], group_size=request["group_size"], axis=1)
    model = AutoModelForCausalLM.from_pretrained(
        request["source"],
        dtype=getattr(torch, request["dtype"]),
        quantization_config=config,
        device_map="cpu",
    )
    tools.report_step("write")
    model.save_pretrained(request["output"], **tools.build_max_shard_size_kwargs())
    return {}
