"""Is the verdict on a merged adapter true? `python bench/compare/merged_null.py [--pairs 400] [--seed 0]`;
of another model and its adapter: `--model FOLDER --adapter FOLDER --left-out layers.25. --texts 120`.

The study experiments/adapters.yaml compares an adapter that is merged with the same one beside the weights, by the
likelihood of the same texts. Here the embedded model scores 250 texts with the adapter beside its bfloat16 weights,
merged into them, and merged before and after they become nf4. What a text differs by from the adapter beside the
weights is centred, so that nothing is lost, and drawn again with repetition: 50 and 200 texts, and 60 families of
four, whose texts have a part in common. The controls: families counted as single texts, and the adapter with what it
does to one layer left out (of two, which the embedded model's has), merged; its differences are drawn as they are.
The verdicts are runner-compare's own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from likelihood_null import claims
from simulation import Drawn, Limits, Numbers, Rate, Table, options_of

from runner_base import Likelihood
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.model.data import Run, TableRow, TextScore
from runner_compare.statistics import Finding, decide_comparisons_with_holm
from runner_compare.ways import PairingOptions, compare_runs
from runner_engine.embedded import MODEL_DIR
from tools.commands import samples_of

SAMPLES = (50, 200)
FAMILIES, OF_FAMILY = 60, 4  # families, and texts of each
JOB = "task=likelihood task.data=embedded_hard5 model.dtype=bfloat16"
MERGED = {  # what is compared with the adapter beside bfloat16 weights
    "merged": "lora.merge=true",
    "merged, then nf4": "lora.merge=true quantization=nf4 lora.merge_order=merge_first",
    "nf4, then merged": "lora.merge=true quantization=nf4 lora.merge_order=quantize_first",
}


def without_a_layer(adapter: Path, left_out: str, folder: Path) -> Path:
    """Copy the adapter with what it does to one layer left out."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    tensors = {
        name: numbers * 0 if left_out in name else numbers for name, numbers in load_file(file).items()
    }
    assert any(left_out in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


def scored(job: str, adapter: Path, keys: str) -> tuple[Numbers, Numbers]:
    (texts,) = samples_of(f"{job} lora=peft lora.path={adapter} {keys}")
    found = [(text["likelihood"]["nats"], text["likelihood"]["tokens"]) for text in texts]
    nats, tokens = np.array(found, dtype=np.float64).T
    return nats, tokens


def verdict(differences: Numbers, tokens: Numbers, families: list[str] | None) -> list[TableRow]:
    """Compare a merged adapter with the same one beside the weights."""
    reader, runs = Drawn(), []
    for name, nats in (("beside", -tokens), ("merged", differences - tokens)):
        metrics = {LOG_LIKELIHOOD: float(nats.sum() / tokens.sum())}
        runs.append(Run(name, name, "likelihood", "1", "", {}, metrics))
        parts = zip(nats.tolist(), tokens.astype(int).tolist(), strict=True)
        reader.of_texts[name] = {
            unit: TextScore(
                ("question", "gold"), "prompt", (), Likelihood(unit, value, count, count, count, 0),
                families[unit] if families else None,
            )
            for unit, (value, count) in enumerate(parts)
        }  # fmt: skip
    (found,) = decide_comparisons_with_holm(compare_runs(runs[1], runs[0], reader, PairingOptions()))
    return [TableRow(runs[1], {}, effects=[found])]


def drawn(
    generator: np.random.Generator, differences: Numbers, tokens: Numbers, count: int
) -> tuple[Numbers, Numbers]:
    """Draw so many texts with repetition."""
    chosen = generator.integers(len(tokens), size=count)
    return differences[chosen], tokens[chosen]


def drawn_families(
    generator: np.random.Generator, differences: Numbers, tokens: Numbers
) -> tuple[Numbers, Numbers, list[str]]:
    """Draw texts of families: half of what each differs by, a token, is its family's."""
    common, of_common = drawn(generator, differences, tokens, FAMILIES)
    own, sizes = drawn(generator, differences, tokens, FAMILIES * OF_FAMILY)
    together = (np.repeat(common / of_common, OF_FAMILY) * sizes + own) / 2
    return together, sizes, [f"family {at // OF_FAMILY}" for at in range(len(sizes))]


def is_worse(rows: list[TableRow]) -> bool:
    """Whether a verdict finds what was lost."""
    return any(one.finding is Finding.worse for row in rows for one in row.effects)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    parser, started = options_of(__doc__, 400), time.perf_counter()
    parser.add_argument("--model", type=Path, help="a folder; none: the embedded model")
    parser.add_argument("--adapter", type=Path, default=MODEL_DIR.parent / "lora_peft")
    parser.add_argument("--left-out", default="layers.1.", help="the layer of the control")
    parser.add_argument("--texts", type=int, default=250)
    options = parser.parse_args()
    pairs, adapter, limits = options.pairs, options.adapter.resolve(), Limits()
    generator = np.random.default_rng(options.seed)
    print(f"python bench/compare/merged_null.py {' '.join(sys.argv[1:])}".strip())
    job = f"{JOB} task.limit={options.texts}"
    job += f" model=auto model.name={options.model.resolve()}" if options.model else ""
    beside, tokens = scored(job, adapter, "lora.merge=false")
    table = Table(
        f"nothing is lost: {pairs:,} equal pairs a line", f"{'adapter':>20}", "texts",
        "largest |Δ| of a text, nats", "false verdicts %", "families as single texts %",
    )  # fmt: skip
    for name, keys in MERGED.items():
        raw = scored(job, adapter, keys)[0] - beside
        differences = raw - raw.sum() / tokens.sum() * tokens
        largest = f"{abs(raw).max():.4f}"
        for count in SAMPLES:
            false = sum(
                claims(verdict(*drawn(generator, differences, tokens, count), None)) for _ in range(pairs)
            )
            limits.false.append(Rate(false, pairs))
            table.row(name, count, largest, limits.false[-1], "–")
        false = as_single = 0
        for _ in range(pairs):
            some, sizes, families = drawn_families(generator, differences, tokens)
            false += claims(verdict(some, sizes, families))
            as_single += claims(verdict(some, sizes, None))
        limits.false.append(Rate(false, pairs))
        of_families = f"{FAMILIES} × {OF_FAMILY}"
        table.row(name, of_families, largest, limits.false[-1], Rate(as_single, pairs))
    with tempfile.TemporaryDirectory() as folder:
        wrong = without_a_layer(adapter, options.left_out, Path(folder) / "adapter")
        lost = scored(job, wrong, "lora.merge=true")[0] - beside
    shown = json.dumps(round(float(lost.sum() / tokens.sum()), 5))
    table = Table(f"one layer is left out: Δ {shown} nats/token", "texts", "called worse %")
    for count in SAMPLES:
        found = sum(is_worse(verdict(*drawn(generator, lost, tokens, count), None)) for _ in range(pairs))
        table.row(count, Rate(found, pairs))
        if count == max(SAMPLES):
            limits.powers.append(Rate(found, pairs))
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
