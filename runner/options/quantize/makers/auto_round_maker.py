"""AutoRound: rounding that is learned block by block, in its own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def make(order: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize a folder's model into another folder."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(order["seed"])
    torch.set_num_threads(order["threads"])
    tools.step("load")
    source = order["source"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=order["dtype"])
    pieces = tools.cut([tokenizer(text)["input_ids"] for text in tools.texts()])
    layers = {
        name: {"bits": bits}
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        if (bits := _bits_of(name, order["overrides"])) is not None
    }
    tools.step("quantize by autoround")
    maker = AutoRound(
        model,
        tokenizer,
        bits=order["bits"],
        group_size=order["group_size"],
        sym=order["symmetric"],
        dataset=[torch.tensor([piece]) for piece in pieces],
        nsamples=len(pieces),
        seqlen=order["sequence_tokens"],
        iters=order["iterations"],
        device_map="cpu",
        seed=order["seed"],
        batch_size=min(8, len(pieces)),
        layer_config=layers or None,
        enable_torch_compile=False,
    )
    # it writes into a folder of a name of its own below this one
    output = Path(order["output"])
    _, saved = maker.quantize_and_save(
        output_dir=str(output.with_name("autoround")), format="auto_round", **tools.shard_limit()
    )
    (folder,) = [saved] if isinstance(saved, str) else saved
    Path(folder).rename(output)
    return {}


def _bits_of(name: str, overrides: dict[str, int]) -> int | None:
    """Return the bits that the longest pattern gives a layer; None without one."""
    from fnmatch import fnmatch

    path = f".{name}."
    fitting = [pattern for pattern in overrides if fnmatch(path, f"*.{pattern}.*")]
    return overrides[max(fitting, key=len)] if fitting else None
