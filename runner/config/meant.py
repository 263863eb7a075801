"""What a user probably means by a choice that does not exist: in the words to type instead."""

from __future__ import annotations

import re
from pathlib import Path

from runner.config.choices import choices_for
from runner_base import names_gguf_file

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


def meant(group: str, choice: str) -> str:
    """Return a message for a choice that does not exist, if it shows what is meant; else an empty
    text.

    Hydra takes the slashes of a path or a hub's id for groups in groups: `group` may have a part of
    it.
    """
    head, _, rest = f"{group}/{choice}".partition("/")
    reason = {"model": _model, "lora": _adapter, "quantization": _quantization, "task": _task}.get(head)
    why = reason(rest) if reason is not None else ""
    return f"{head}={rest}: {why}" if why else ""


def _model(name: str) -> str:
    if names_gguf_file(name):
        return f"a file is named by model.name: use model=auto model.name={name}"
    return f"a model is named by model.name: use model=auto model.name={name}" if _is_place(name) else ""


def _adapter(name: str) -> str:
    if name.endswith(OF_ADAPTERS):
        return f"an adapter's file is named by lora.path: use lora=pth lora.path={name}"
    return f"an adapter is named by lora.path: use lora=peft lora.path={name}" if _is_place(name) else ""


def _is_place(name: str) -> bool:
    """Whether a name is a path or an id of a hub."""
    return "/" in name or name.startswith("~") or Path(name).exists()


def _quantization(name: str) -> str:
    if GGUF_TYPE.fullmatch(name):
        return "a type of .gguf files: use model=auto model.name=FILE.gguf"
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
    return f"with {bits} bits there are {', '.join(made)}, made while loading; and {', '.join(stored)}, as stored"


def _task(name: str) -> str:
    task = TASKS.get(name.lower())
    if task in choices_for("task"):
        return f"use task={task}"
    if name in choices_for("dataset"):
        return f"a data set is named by its task: use task=gsm8k task.data={name}"
    return ""
