"""Suggests a correct override when a config group has no choice with the given name."""

from __future__ import annotations

import re
from pathlib import Path

from runner.config.choices import list_choices
from runner_base import is_gguf_file_name

TASKS = {  # what others call a task
    **dict.fromkeys(
        ("perplexity", "ppl", "wikitext", "loglikelihood", "logprobs", "kl", "kld"), "likelihood"
    ),
    **dict.fromkeys(("bench", "benchmark", "speed", "throughput", "latency"), "sweep"),
    **dict.fromkeys(("complete", "completion", "completions", "prompt", "infer", "inference"), "generate"),
    **dict.fromkeys(("server", "api"), "serve"),  # of an option
}
MADE = {8: ("int8", "int8_dynamic", "torchao_int8", "torchao_float8"), 4: ("nf4", "fp4")}
IN_GROUPS = ("hqq", "torchao_intx")  # quantization.bits=2…8
STORED = {
    8: ("gptq", "auto_round", "pack_quantized", "int_quantized", "float_quantized", "fp8", "fbgemm_fp8"),
    4: ("gptq", "awq", "auto_round", "pack_quantized", "nvfp4_pack_quantized", "mxfp4_pack_quantized"),
    2: ("gptq", "bitnet"),
}
BITS = re.compile(r"(?:bnb|u?int|i|q|w|load_in)?[-_]?([2-8])[-_]?(?:bits?|b)?", re.IGNORECASE)
GGUF_TYPE = re.compile(r"i?q[2-8]_(?:[01]|k(?:_[sml])?|nl|xs|xxs)", re.IGNORECASE)
OF_ADAPTERS = (".pth", ".pt")


def suggest_choice(group: str, choice: str) -> str:
    """Return a suggested override for an unknown choice of a config group, or an empty string.

    Hydra treats the slashes of a path or a Hub id as nested groups: `group` may contain a part of
    it.
    """
    head, _, rest = f"{group}/{choice}".partition("/")
    reason = {
        "model": _suggest_model,
        "lora": _suggest_adapter,
        "quantization": _suggest_quantization,
        "task": _suggest_task,
    }.get(head)
    why = reason(rest) if reason is not None else ""
    return f"{head}={rest}: {why}" if why else ""


def _suggest_model(name: str) -> str:
    if is_gguf_file_name(name):
        return f"this is a file, not a choice. Use model=auto model.name={name}"
    return (
        f"this is a model name, not a choice. Use model=auto model.name={name}"
        if _looks_like_path_or_hub_id(name)
        else ""
    )


def _suggest_adapter(name: str) -> str:
    if name.endswith(OF_ADAPTERS):
        return f"this is an adapter file, not a choice. Use lora=pth lora.path={name}"
    return (
        f"this is an adapter name, not a choice. Use lora=peft lora.path={name}"
        if _looks_like_path_or_hub_id(name)
        else ""
    )


def _looks_like_path_or_hub_id(name: str) -> bool:
    return "/" in name or name.startswith("~") or Path(name).exists()


def _suggest_quantization(name: str) -> str:
    if GGUF_TYPE.fullmatch(name):
        return "this is a quantization type of .gguf files. Use model=auto model.name=FILE.gguf"
    if (found := BITS.fullmatch(name)) is None:
        return ""
    bits = int(found[1])
    made = [
        *MADE.get(bits, ()),
        *(f"{choice} with quantization.bits={bits}" for choice in IN_GROUPS if bits != 7),
    ]
    stored = [*STORED.get(bits, ("gptq", "auto_round", "pack_quantized")), "gguf"]
    if bits == 7:
        return "no choice has 7 bits"
    return (
        f"choices with {bits} bits: {', '.join(made)} quantize the model while it is loaded; "
        f"{', '.join(stored)} read a checkpoint that is already quantized"
    )


def _suggest_task(name: str) -> str:
    task = TASKS.get(name.lower())
    if task in list_choices("task"):
        return f"use task={task}"
    if name in list_choices("dataset"):
        return f"{name} is a data set, not a task. Use task=gsm8k task.data={name}"
    return ""
