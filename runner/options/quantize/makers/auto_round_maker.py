"""Quantizes a model with AutoRound, which learns the rounding of each block and saves AutoRound's own
format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def quantize_model(request: dict[str, Any], tools: Any) -> dict[str, Any]:
    """Quantize the model in the requested source folder with AutoRound, and save it to the target folder."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(request["seed"])
    torch.set_num_threads(request["threads"])
    tools.report_step("load")
    source = request["source"]
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=request["dtype"])
    pieces = tools.make_calibration_sequences([tokenizer(text)["input_ids"] for text in tools.read_texts()])
    layers = {
        name: {"bits": bits}
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        if (bits := _find_bits_of_layer(name, request["overrides"])) is not None
    }
    tools.report_step("quantize by autoround")
    maker = AutoRound(
        model,
        tokenizer,
        bits=request["bits"],
        group_size=request["group_size"],
        sym=request["symmetric"],
        dataset=[torch.tensor([piece]) for piece in pieces],
        nsamples=len(pieces),
        seqlen=request["sequence_tokens"],
        iters=request["iterations"],
        device_map="cpu",
        seed=request["seed"],
        batch_size=min(8, len(pieces)),
        layer_config=layers or None,
        enable_torch_compile=False,
    )
    # it writes into a folder of a name of its own below this one
    output = Path(request["output"])
    _, saved = maker.quantize_and_save(
        output_dir=str(output.with_name("autoround")),
        format="auto_round",
        **tools.build_max_shard_size_kwargs(),
    )
    (folder,) = [saved] if isinstance(saved, str) else saved
    Path(folder).rename(output)
    return {}


def _find_bits_of_layer(layer_name: str, bits_by_pattern: dict[str, int]) -> int | None:
    from fnmatch import fnmatch

    path = f".{layer_name}."
    fitting = [pattern for pattern in bits_by_pattern if fnmatch(path, f"*.{pattern}.*")]
    return bits_by_pattern[max(fitting, key=len)] if fitting else None
