"""HQQ by transformers 4, the last that reads and writes it: zero points that need no texts."""

from __future__ import annotations

from typing import Any


def make(order: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a folder's model into another folder."""
    import torch
    from transformers import AutoModelForCausalLM, HqqConfig

    torch.set_num_threads(order["threads"])
    tools.step("quantize by hqq")
    config = HqqConfig(nbits=order["bits"], group_size=order["group_size"], axis=1)
    model = AutoModelForCausalLM.from_pretrained(
        order["source"], dtype=getattr(torch, order["dtype"]), quantization_config=config, device_map="cpu"
    )
    tools.step("write")
    model.save_pretrained(order["output"], **tools.shard_limit())
    return {}
