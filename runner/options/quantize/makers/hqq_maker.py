"""HQQ with transformers 4, the last version that reads and writes it. Its zero points need no
calibration texts.
"""

from __future__ import annotations

from typing import Any


def make(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize the model in one folder and save it to another folder."""
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
    model.save_pretrained(request["output"], **tools.shard_size_argument())
    return {}
