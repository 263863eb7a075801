"""Do the 200 texts that ship rank formats as a larger corpus does? `python bench/corpus_ranks.py
--model FOLDER`.

A real model's weights are rounded to types of .gguf files and to formats that are made here. Two
corpora are read with each and with the model as it is: `task.data=texts`, and a larger one of what
is at hand without a download: sources and documentation of Python, descriptions and JSON files of
installed packages, translations in the same five languages, and word problems. Each statistic of
the divergence a token (whole distributions) ranks the formats on both corpora. The control: each
kind of the texts alone, and word problems alone, which could agree as well.
"""

from __future__ import annotations

import argparse
import gettext
import inspect
import json
import pydoc_data.topics
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from heading import parse_arguments
from scipy.stats import kendalltau, spearmanr

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.datasets.word_problems import Split, generate_problems
from runner.options.advise.layer_losses import quantize_and_dequantize
from runner_base import machine
from runner_engine.models.base_loading import load_base_model
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.torchao import TorchaoIntxConfig

TEXTS = Path(__file__).resolve().parents[1] / "conf" / "dataset" / "texts.jsonl"
TYPES = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
MADE: dict[str, QuantizationConfig] = {
    "int8": Int8Config(),
    "nf4": Nf4Config(),
    "fp4": Fp4Config(),
    "intx 3 bits": TorchaoIntxConfig(bits=3),
}
CHARACTERS = 900  # of a piece of the larger corpus
STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    **{f"{share:g} %": partial(np.percentile, q=share) for share in (50, 90, 95, 99, 99.9)},
}
LANGUAGES = ("de", "fr", "es", "ru", "zh")


def larger(pieces: int) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each piece, so many of each kind where there are as many."""
    draw = random.Random(0)
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    found = {
        "sources": (file.read_text() for file in _drawn(draw, library.glob("*.py"), pieces)),
        "documentation": iter(_drawn(draw, pydoc_data.topics.topics.values(), pieces)),
        "packages": iter(
            _drawn(draw, (it.read_text("METADATA") or "" for it in distributions()), 4 * pieces)
        ),
        "json": (
            file.read_text(errors="ignore") for file in _drawn(draw, packages.rglob("*.json"), 4 * pieces)
        ),
        "translations": (text for language in LANGUAGES for text in _translations(packages, language)),
        "word problems": (f"{it.question}\n{it.answer}" for it in generate_problems(Split.TEST, pieces)),
    }
    for kind, texts in found.items():
        long = (
            text
            for text in texts
            if isinstance(text, str) and len(text) > (300 if kind != "word problems" else 0)
        )
        for _, text in zip(range(pieces), long, strict=False):
            begin = draw.randrange(max(len(text) - CHARACTERS, 1))
            yield kind, text[begin : begin + CHARACTERS]


def _drawn(draw: random.Random, values: Any, count: int) -> list[Any]:
    every = sorted(values)
    return draw.sample(every, min(count, len(every)))


def _translations(packages: Path, language: str) -> Iterator[str]:
    for file in sorted(packages.rglob("*.mo")):
        if re.search(rf"/{language}(_[A-Za-z]+)?/", str(file)):
            with file.open("rb") as opened:
                catalog = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
            yield "\n".join(text for key, text in catalog.items() if key and isinstance(text, str))


def round_weights(model: Any, name: str) -> None:
    """Round the weights of a model's linear layers, but the head, to a format."""
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or "lm_head" in path:
            continue
        if name in MADE:
            module.weight.data = quantize_and_dequantize(MADE[name], model, module, path, torch.bfloat16)
        else:
            kind = GGMLQuantizationType[name]
            codes = quants.quantize(module.weight.detach().float().numpy(), kind)
            module.weight.data = torch.from_numpy(quants.dequantize(codes, kind)).to(module.weight.dtype)


@torch.inference_mode()
def divergences(reference: Any, models: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """Return the divergence of each model from the reference at each position of a text, over whole
    distributions."""
    text = torch.tensor([ids])
    plain = reference(text).logits[0, :-1].float().log_softmax(-1)
    probabilities, values = plain.exp(), {}
    for name, model in models.items():
        other = model(text).logits[0, :-1].float().log_softmax(-1)
        values[name] = (probabilities * (plain - other)).sum(-1).clamp(min=0).numpy()
    return values


def loaded(folder: str) -> Any:
    """Load a model as a job does."""
    words = ["model=local", f"model.name={folder}", "tracking=none"]
    return load_base_model(resolve_job(to_runner_config(*compose_job(words))).model)


def main() -> None:
    """Read both corpora with each format, and print the ranks."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("--model", required=True, help="the folder of a real model (make real-model)")
    parser.add_argument("--pieces", type=int, default=50, help="of each kind of the larger corpus")
    parser.add_argument("--save", type=Path, help="a file for the divergences")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="one, where others compute"
    )
    options = parse_arguments(parser)
    torch.set_num_threads(options.threads)
    print(f"python bench/corpus_ranks.py --model FOLDER --pieces {options.pieces}")
    print(machine.describe_hardware(), flush=True)
    base = loaded(options.model)
    ours = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    texts = [("texts", it["category"], it["text"]) for it in ours]
    texts += [("larger", kind, text) for kind, text in larger(options.pieces)]
    ids = [base.tokenizer(text)["input_ids"] for _, _, text in texts]
    kept = [number for number, one in enumerate(ids) if len(one) > 1]
    texts, ids = [texts[number] for number in kept], [ids[number] for number in kept]
    for corpus in ("texts", "larger"):
        of = [(kind, len(one) - 1) for (name, kind, _), one in zip(texts, ids, strict=True) if name == corpus]
        kinds = {kind: sum(size for it, size in of if it == kind) for kind, _ in of}
        words = ", ".join(f"{kind} {size:,}" for kind, size in kinds.items())
        print(f"{corpus}: {len(of)} texts, {sum(kinds.values()):,} tokens: {words}", flush=True)
    models = {}
    for name in [*MADE, *TYPES]:
        models[name] = loaded(options.model).model
        round_weights(models[name], name)
        print(f"rounded: {name}", file=sys.stderr, flush=True)
    torch.set_num_threads(options.threads)
    # so that what is saved on the way has all kinds
    order = random.Random(1).sample(range(len(ids)), len(ids))
    found: dict[str, list[Any]] = {name: [] for name in models}
    for count, number in enumerate(order, start=1):
        for name, kl in divergences(base.model, models, ids[number]).items():
            found[name].append(kl)
        if count % 20 == 0 or count == len(order):
            print(f"read: {count} of {len(ids)}", file=sys.stderr, flush=True)
            if options.save:
                arrays: dict[str, Any] = {name: np.concatenate(value) for name, value in found.items()}
                np.savez(options.save, **arrays)
    texts = [texts[number] for number in order]
    report(found, texts)


def report(found: dict[str, list[Any]], texts: list[tuple[str, str, str]]) -> None:
    """Print each format's statistics on both corpora with their ranks, and how far the ranks
    agree."""
    corpora = {
        "larger": [name == "larger" for name, _, _ in texts],
        "texts": [name == "texts" for name, _, _ in texts],
    }
    corpora |= {
        f"texts: {kind} alone": [(name, it) == ("texts", kind) for name, it, _ in texts]
        for kind in dict.fromkeys(kind for name, kind, _ in texts if name == "texts")
    }
    corpora["word problems alone"] = [kind == "word problems" for _, kind, _ in texts]
    values = {
        corpus: {
            statistic: [
                of(np.concatenate([kl for kl, is_in in zip(kls, chosen, strict=True) if is_in]))
                for kls in found.values()
            ]
            for statistic, of in STATISTICS.items()
        }
        for corpus, chosen in corpora.items()
    }
    print(f"\n{'format':12}" + "".join(f"{statistic:>24}" for statistic in STATISTICS))
    for number, name in enumerate(found):
        cells = []
        for statistic in STATISTICS:
            both = [values[corpus][statistic] for corpus in ("texts", "larger")]
            ranks = [1 + sum(other < one[number] for other in one) for one in both]
            cells.append(f"{both[0][number]:.4f} ({ranks[0]}) {both[1][number]:.4f} ({ranks[1]})")
        print(f"{name:12}" + "".join(f"{cell:>24}" for cell in cells))
    print("\nranks beside those of the larger corpus: Spearman, Kendall, pairs in another order")
    for corpus in [it for it in corpora if it != "larger"]:
        cells = []
        for statistic in STATISTICS:
            mine, theirs = values[corpus][statistic], values["larger"][statistic]
            other = sum(
                (mine[i] - mine[j]) * (theirs[i] - theirs[j]) < 0 for i in range(len(mine)) for j in range(i)
            )
            cells.append(f"{spearmanr(mine, theirs)[0]:.3f} {kendalltau(mine, theirs)[0]:.3f} {other}")
        print(f"{corpus:24}" + "".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    main()
