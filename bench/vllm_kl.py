"""Is KL from vLLM's server that of whole distributions? `python bench/vllm_kl.py --model FOLDER [--texts 60]`.

A model is rounded to 4 bits in groups of 64 and saved as plain numbers, so that vLLM, our engine and a comparison of
whole distributions (`task.exact=true`) can all read it. Each says how far it is from the model as it was: our engine
and vLLM by the tokens that the reference has kept, the 64 likeliest and 16 drawn ones in each place.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from heading import parse_arguments
from safetensors.torch import load_file, save_file

from runner.records.jobs import read_samples
from runner_base import Likelihood, machine
from tools.commands import jobs

TEXTS = Path(__file__).resolve().parents[1] / "experiments" / "real_texts.jsonl"
# numbers that share a scale, the largest code, and letters of a text
GROUP, CODES, LETTERS = (64, 7, 160)


def main() -> None:
    """Round, score, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the folder of a model (make real-model)")
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--dtype", default="float32", help="of this model; the reference is float32")
    parser.add_argument("--python", help="an environment with vLLM; else .vllm (make vllm)")
    options = parse_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        texts, rounded = Path(folder, "texts.jsonl"), Path(folder, "rounded")
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in pieces(options.texts)))
        round_weights(Path(options.model), rounded)
        job = ["task=likelihood", f"task.data={texts}", "tracking=none", f"output_dir={folder}"]
        reference = f"model=local model.name={options.model} model.dtype=float32"
        run([*job, *reference.split(), "task.keep_top_k=64"])
        same = [f"model.name={rounded}", f"model.dtype={options.dtype}", f"task.reference='{reference}'"]
        started = ["model=vllm", "model.args=[--enforce-eager]"]
        started += [f"model.python={options.python}"] if options.python else []
        exact, exact_s = run([*job, "model=local", *same, "task.exact=true"])
        print(
            f"{machine.describe_hardware()}; {len(exact)} texts, "
            f"{sum(each.tokens for each in exact):,} tokens, {options.dtype}"
        )
        print(
            f"{'':22}{'KL, nats/token':>22}{'texts within ± 95 %':>22}{'same first choice':>20}{'seconds':>10}"
        )
        print(row_of("whole distributions", exact, exact, exact_s))
        for name, words in (
            ("our engine, kept", ["model=local", "task.exact=false"]),
            ("vLLM, kept", started),
        ):
            found, seconds = run([*job, *words, *same])
            print(row_of(name, found, exact, seconds), flush=True)


def pieces(count: int) -> list[str]:
    """Return the beginnings of texts of the study, cut at spaces, and further parts of them."""
    texts = [json.loads(line)["text"] for line in TEXTS.read_text().splitlines()]
    cut = [text[at : at + LETTERS] for at in range(0, 10 * LETTERS, LETTERS) for text in texts]
    return [text for text in cut if len(text) == LETTERS][:count]


def round_weights(source: Path, to: Path) -> None:
    """Save a model with the matrices of its layers rounded to 4 bits."""
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("*.safetensors"))
    for shard in source.glob("*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and ".layers." in name and tensor.shape[1] % GROUP == 0:
                groups = tensor.float().reshape(-1, GROUP)
                scale = groups.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / CODES
                codes = (groups / scale).round().clamp(-CODES, CODES)
                tensors[name] = (codes * scale).reshape(tensor.shape).to(tensor.dtype)
        save_file(tensors, to / shard.name, metadata={"format": "pt"})


def row_of(name: str, found: list[Likelihood], exact: list[Likelihood], seconds: float) -> str:
    """Return the line of a way."""
    tokens = sum(each.tokens for each in found)
    kl = sum(each.kl_nats or 0.0 for each in found) / tokens
    errors = [1.96 * math.sqrt(each.kl_variance or 0.0) for each in found]
    error = math.sqrt(math.fsum(value**2 for value in errors)) / tokens
    within = sum(
        abs((each.kl_nats or 0.0) - (whole.kl_nats or 0.0)) <= value + 1e-3
        for each, whole, value in zip(found, exact, errors, strict=True)
    )
    same = sum(each.top_1_agreed or 0 for each in found) / tokens
    words = f"{kl:.5f} ± {error:.5f}" if error else f"{kl:.5f}"
    return f"{name:22}{words:>22}{f'{within} of {len(found)}':>22}{same:>20.2%}{seconds:>10.1f}"


def run(overrides: Sequence[str]) -> tuple[list[Likelihood], float]:
    """Run a job; return the likelihoods of its samples, and its seconds without the load."""
    (done,) = jobs(*overrides)
    samples = read_samples(Path(done["output_dir"]) / "samples.jsonl")
    found = [each.likelihood for _, each in sorted(samples.items()) if each.likelihood is not None]
    metrics = done["metrics"]
    return found, metrics["seconds"] - metrics["load_s"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
