"""GPTQ, AWQ and plain rounding by llm-compressor, as compressed-tensors."""

from __future__ import annotations

from typing import Any


def make(order: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a folder's model into another folder."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(order["seed"])
    torch.set_num_threads(order["threads"])
    tools.step("load")
    source, recipe = order["source"], order["recipe"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=order["dtype"])
    ignored = ["lm_head"]

    def scheme(bits: int, targets: list[str]) -> Any:
        arguments = QuantizationArgs(
            num_bits=bits,
            type="int",
            strategy="group",
            group_size=order["group_size"],
            symmetric=order["symmetric"],
            dynamic=False,
        )
        return QuantizationScheme(targets=targets, weights=arguments)

    groups = {}
    longest_first = sorted(order["overrides"].items(), key=lambda pair: -len(pair[0]))
    for number, (pattern, bits) in enumerate(longest_first):
        target = _target(pattern)
        if bits == order["unquantized"]:
            ignored.append(target)
        else:
            groups[f"group_{number}"] = scheme(bits, [target])
    groups["group_rest"] = scheme(order["bits"], ["Linear"])
    rounding = {"config_groups": groups, "ignore": ignored}
    modifiers = {
        "gptq": lambda: [GPTQModifier(**rounding)],
        "awq": lambda: [AWQModifier(), QuantizationModifier(**rounding)],
        "rtn": lambda: [QuantizationModifier(**rounding)],
    }[recipe]()
    data = {}
    if order["reads_texts"]:
        pieces = tools.cut([tokenizer(text)["input_ids"] for text in tools.texts()])
        rows = {"input_ids": pieces, "attention_mask": [[1] * len(piece) for piece in pieces]}
        data = {
            "dataset": Dataset.from_dict(rows),
            "num_calibration_samples": len(pieces),
            "max_seq_length": order["sequence_tokens"],
            "shuffle_calibration_samples": False,
        }
    if not torch.accelerator.is_available():
        # awq pins what it keeps of the texts, which torch refuses where there is no GPU
        IntermediatesCache.pin_memory = lambda *_: None
    tools.step(f"quantize by {recipe}")
    oneshot(model=model, tokenizer=tokenizer, recipe=modifiers, **data)
    tools.step("write")
    model.save_pretrained(order["output"], save_compressed=True, **tools.shard_limit())
    return {}


def _target(pattern: str) -> str:
    """Return llm-compressor's way to say that a pattern is the end of a path or a module on it."""
    inner = pattern.replace(".", r"\.").replace("*", ".*").replace("?", ".")
    return rf"re:(.*\.)?{inner}(\..*)?$"
