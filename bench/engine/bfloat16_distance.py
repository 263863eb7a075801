"""How far from float32 are log-probabilities in bfloat16? `python bench/engine/bfloat16_distance.py`.

Tiny models with random weights of each family score random tokens: transformers in float32, transformers in bfloat16,
and the engine in bfloat16, all with the same weights. The root mean square of the differences from float32 counts, over
the whole vocabulary. In a mixture of experts, a rounding can exchange an expert, so that single prompts are far off on
either side.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

import gguf_families  # noqa: E402
from engines import greedy_engine, head_line, markdown  # noqa: E402
from heading import parse_arguments  # noqa: E402

from runner_base import Dtype  # noqa: E402
from runner_engine import LocalModelConfig, Request, complete_requests  # noqa: E402
from runner_engine.embedded import MODEL_DIR  # noqa: E402

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
GIVEN = 8  # first tokens of a prompt, which are not scored


def score_with_transformers(folder: Path, dtype: torch.dtype, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Return the log-probabilities [tokens, V] before each scored token of each prompt, float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([ids])).logits[0].float() for ids in prompts]
    return [torch.log_softmax(one, -1)[GIVEN - 1 : -1] for one in logits]


def score_with_engine(folder: Path, prompts: list[list[int]]) -> tuple[list[torch.Tensor], bool]:
    """Return the same from the engine in bfloat16, and whether a pass is a single call of C."""
    engine = greedy_engine(LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.bfloat16))
    engine.load()
    found = [list[torch.Tensor]() for _ in prompts]

    def keep(number: int) -> Any:
        return lambda _, logprobs: found[number].append(logprobs.float().clone())

    asked = [
        Request(number, tuple(ids[:GIVEN]), continuation=tuple(ids[GIVEN:]), on_logprobs=keep(number))
        for number, ids in enumerate(prompts)
    ]
    if failed := [done.error for done in complete_requests(engine, asked, len(asked)) if done.error]:
        raise SystemExit(f"{len(failed)} prompts failed, e.g. {failed[0]}")
    is_single_call = engine.fused is not None
    engine.close()
    return [torch.cat(some) for some in found], is_single_call


def measure_distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).pow(2).mean().sqrt())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=list(gguf_families.FAMILIES))
    parser.add_argument("--models", type=int, default=2, help="models of each family")
    parser.add_argument("--prompts", type=int, default=6, help="prompts of each model")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each prompt")
    options = parse_arguments(parser)
    lines = []
    for family in options.families:
        ours, theirs, is_single_call = list[float](), list[float](), False
        for seed in range(options.models):
            model, chance = gguf_families.tiny(family, seed=seed).to(torch.bfloat16), random.Random(seed)
            vocabulary = model.config.vocab_size - 2
            prompts = [
                [chance.randrange(4, vocabulary) for _ in range(options.tokens)]
                for _ in range(options.prompts)
            ]
            folder = Path(tempfile.mkdtemp())
            try:
                model.save_pretrained(folder)
                for name in TOKENIZER:
                    shutil.copyfile(MODEL_DIR / name, folder / name)
                exact = score_with_transformers(folder, torch.float32, prompts)
                rounded = score_with_transformers(folder, torch.bfloat16, prompts)
                found, is_single_call = score_with_engine(folder, prompts)
            finally:
                shutil.rmtree(folder)
            theirs += map(measure_distance, rounded, exact)
            ours += map(measure_distance, found, exact)
        ratios = [mine / its for mine, its in zip(ours, theirs, strict=True)]
        lines.append([
            family, "yes" if is_single_call else "no", f"{statistics.mean(theirs):.4f}",
            f"{statistics.mean(ours) / statistics.mean(theirs):.2f}", f"{min(ratios):.2f}..{max(ratios):.2f}",
        ])  # fmt: skip
        print(f"{family}: {lines[-1][3]}", file=sys.stderr, flush=True)
    print(head_line(["bench/engine/bfloat16_distance.py", *sys.argv[1:]], torch.get_num_threads()))
    count = options.models * options.prompts
    print(f"\n{count} prompts of {options.tokens} tokens a family, nats:\n")
    print(markdown(["family", "single call", "transformers", "engine, times", "of single prompts"], lines))


if __name__ == "__main__":
    main()
