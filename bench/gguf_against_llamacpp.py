"""Does a .gguf file of each family give llama.cpp's tokens? `python bench/gguf_against_llamacpp.py [FAMILY …]`.

Tiny models of random weights are written as llama.cpp's converter does (tests/support/gguf_families.py). runner and
llama.cpp, from the wheel of xllamacpp, continue the same prompts from the same file, each by its likeliest tokens.
Where they differ, the model in float64 says whose tokens are right: two likeliest ones, or two experts, may be closer
than the rounding of float32. With blocks llama.cpp also rounds rows to 8 bits, and runner does not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from heading import parse_arguments
from other_engines import xllamacpp_python

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

LENGTHS = (5, 17, 33)  # of prompts
NEW = 24  # tokens after each
CONTEXT = (
    512  # positions; those of a LongRoPE that was trained on fewer are as many, so that both rotate alike
)


def main() -> None:
    """Print a line for each file."""
    gguf_families = import_module("gguf_families")  # of tests/support
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "families", nargs="*", default=[*gguf_families.FAMILIES], help="names of transformers' types"
    )
    parser.add_argument("--types", default="F32", help="of blocks, separated by commas: F32,Q8_0")
    parser.add_argument("--python", help="an interpreter with xllamacpp; without it an environment is made")
    options = parse_arguments(parser)
    python = options.python or xllamacpp_python(ROOT / "outputs" / ".xllamacpp")
    numbers = random.Random(0)
    prompts = [[numbers.randrange(3, len(gguf_families.TOKENS)) for _ in range(length)] for length in LENGTHS]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.types.split(","):
            files = {name: Path(folder) / f"{name}-{kind}.gguf" for name in options.families}
            models = {name: gguf_families.tiny(name) for name in files}
            for name, file in files.items():
                gguf_families.write_gguf(file, name, models[name], kind)
            contexts = [context_of(models[name]) for name in files]
            expected = by_llamacpp(python, [*files.values()], prompts, contexts, Path(folder))
            for (name, file), tokens in zip(files.items(), expected, strict=True):
                wrong += compare(
                    f"{name:24} {kind:5}", file, prompts, tokens, models[name] if kind == "F32" else None
                )
    sys.exit(1 if wrong else 0)


def context_of(model: Any) -> int:
    """Return the positions that llama.cpp is given: beyond its pretraining it would rotate a
    LongRoPE otherwise."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    is_longrope = rope.get("rope_type") == "longrope"
    return int(rope["original_max_position_embeddings"]) if is_longrope else CONTEXT


def by_llamacpp(
    python: str, files: list[Path], prompts: list[list[int]], contexts: list[int], folder: Path
) -> list[Any]:
    """Return the tokens after each prompt for each file, or why there are none."""
    asked, answered = folder / "asked.json", folder / "answered.json"
    requests = [
        {"file": str(file), "prompts": prompts, "new": NEW, "context": context}
        for file, context in zip(files, contexts, strict=True)
    ]
    asked.write_text(json.dumps(requests))
    side = Path(__file__).with_name("llamacpp_greedy_side.py")
    done = subprocess.run([python, str(side), str(asked), str(answered)], capture_output=True, check=False)
    if not answered.is_file():
        raise SystemExit(f"llama.cpp answered nothing: {done.stderr.decode()[-2000:]}")
    found: list[Any] = json.loads(answered.read_text())
    return found


def by_runner(file: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Return the tokens after each prompt, all in one stream."""
    from runner_engine import (
        CHOICES,
        GenerationConfig,
        LocalModelConfig,
        ModelSpec,
        Request,
        complete_requests,
        open_engine,
    )

    model = LocalModelConfig(name=str(file), device="cpu")
    spec = ModelSpec(model, CHOICES["gguf"](), generation=GenerationConfig(max_new_tokens=NEW))
    requests = [Request(number, tuple(prompt)) for number, prompt in enumerate(prompts)]
    answers = {
        completion.id: completion.answer.token_ids
        for completion in complete_requests(open_engine(spec), requests)
    }
    return [list(answers[number]) for number in range(len(prompts))]


def compare(what: str, file: Path, prompts: list[list[int]], expected: Any, model: Any) -> bool:
    """Print how many tokens are the same until the first other one; return whether runner's are not
    the model's."""
    if isinstance(expected, str):
        print(f"{what} llama.cpp: {expected}")
        return True
    found = by_runner(file, prompts)
    same = [shared(*both) for both in zip(found, expected, strict=True)]
    line = f"{what} {sum(same)} of {sum(map(len, expected))} tokens the same"
    if found == expected:
        print(line, flush=True)
        return False
    if model is None:  # the file's weights are not the model's
        print(f"{line}, prompt by prompt {same}", flush=True)
        return False
    model = model.double()
    model.set_experts_implementation("eager")  # others have no float64
    sides = {"runner": found, "llama.cpp": expected}
    right = [
        side
        for side, answers in sides.items()
        if all(map(is_likeliest, [model] * len(prompts), prompts, answers))
    ]
    print(
        f"{line}, prompt by prompt {same}; right in float64: {' and '.join(right) or 'neither'}", flush=True
    )
    return "runner" not in right


def is_likeliest(model: Any, prompt: list[int], answer: list[int]) -> bool:
    """Whether each token of an answer is the model's likeliest after those before it."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    found: list[int] = logits.argmax(dim=-1).tolist()
    return found == answer


def shared(one: list[int], other: list[int]) -> int:
    """Return how many tokens are the same until the first other one."""
    pairs = zip(one, other, strict=False)
    return next(
        (at for at, (first, second) in enumerate(pairs) if first != second), min(len(one), len(other))
    )


if __name__ == "__main__":
    main()
