"""Quantizes a model with llm-compressor (GPTQ, AWQ or round-to-nearest) in the compressed-tensors
format.
"""

from __future__ import annotations

from typing import Any


def quantize_model(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize the model in the requested source folder with llm-compressor, and save it to the target
    folder.
    """
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(request["seed"])
    torch.set_num_threads(request["threads"])
    tools.report_step("load")
    source, recipe = request["source"], request["recipe"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=request["dtype"])
    ignored = ["lm_head"]

    def make_scheme(bits: int, targets: list[str]) -> Any:
        arguments = QuantizationArgs(
            num_bits=bits,
            type="int",
            strategy="group",
            group_size=request["group_size"],
            symmetric=request["symmetric"],
            dynamic=False,
        )
        return QuantizationScheme(targets=targets, weights=arguments)

    groups = {}
    longest_first = sorted(request["overrides"].items(), key=lambda pair: -len(pair[0]))
    for number, (pattern, bits) in enumerate(longest_first):
        target = _pattern_to_regex(pattern)
        if bits == request["unquantized"]:
            ignored.append(target)
        else:
            groups[f"group_{number}"] = make_scheme(bits, [target])
    groups["group_rest"] = make_scheme(request["bits"], ["Linear"])
    rounding = {"config_groups": groups, "ignore": ignored}
    modifiers = {
        "gptq": lambda: [GPTQModifier(**rounding)],
        "awq": lambda: [AWQModifier(), QuantizationModifier(**rounding)],
        "rtn": lambda: [QuantizationModifier(**rounding)],
    }[recipe]()
    data = {}
    if request["reads_texts"]:
        pieces = tools.make_calibration_sequences(
            [tokenizer(text)["input_ids"] for text in tools.read_texts()]
        )
        rows = {"input_ids": pieces, "attention_mask": [[1] * len(piece) for piece in pieces]}
        data = {
            "dataset": Dataset.from_dict(rows),
            "num_calibration_samples": len(pieces),
            "max_seq_length": request["sequence_tokens"],
            "shuffle_calibration_samples": False,
        }
    if not torch.accelerator.is_available():
        # awq pins what it keeps of the texts, which torch refuses where there is no GPU
        IntermediatesCache.pin_memory = lambda *_: None
    tools.report_step(f"quantize by {recipe}")
    oneshot(model=model, tokenizer=tokenizer, recipe=modifiers, **data)
    tools.report_step("write")
    model.save_pretrained(request["output"], save_compressed=True, **tools.build_max_shard_size_kwargs())
    return {}


def _pattern_to_regex(pattern: str) -> str:
    inner = pattern.replace(".", r"\.").replace("*", ".*").replace("?", ".")
    return rf"re:(.*\.)?{inner}(\..*)?$"
