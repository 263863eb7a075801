"""How often do the intervals of the table of tokens miss? `python bench/compare/tails_null.py`.

Each simulated job draws texts with repetition from a population in which every figure is known, and the product's own
code makes its figures. A population has the texts of a real job, which compared a model's whole distributions with a
reference's (task.exact=true); or lognormal tokens, whose logarithms are partly their texts'. A figure without an
interval in a draw does not count there; the share of draws that have one stands beside it, and beside percentiles the
percentile bootstrap over texts. Then populations of which a rare kind of text has the tail (`--rare` runs these alone).
Ends with the control: the same model twice, where each figure must be exactly 0.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulation import Limits, Rate, Table, options_of

from runner.records.divergences import DIVERGENCES, read_divergences
from runner.records.jobs import read_samples
from runner.tasks.likelihood.token_divergences import collect_token_divergences_by_document
from runner_base import Likelihood, machine
from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES
from runner_compare.statistics.likelihoods import compute_likelihood_metrics
from runner_compare.statistics.token_divergence import TextTokens, compute_divergence_metrics
from runner_compare.statistics.token_percentiles import TokenValues
from runner_engine.embedded import MODEL_DIR
from tools.commands import jobs

TEXTS = (50, 100, 200)
MEANS = ("kl_nats_per_token", "top_1_agreement", "delta_p_mean", "delta_p_rms", "ln_ppl_ratio")
SHOWN = (*MEANS, *KL_SHARES, *DELTA_P_SHARES)
# spread over texts, over tokens
LOGNORMAL = {"lognormal, texts alike": (0.5, 2.5), "lognormal, unlike": (1.5, 2.0)}
POPULATION, BOOTSTRAPS = 5000, 200
# of the texts: the divergences of this kind are FARTHER times the others'
RARE = (0.02, 0.04, 0.06, 0.1)
FARTHER, RARE_TEXTS = 150, (*TEXTS, 600)


def real_population(folder: Path) -> list[TextTokens]:
    """Return the tokens of each text of a job."""
    samples = [it for _, it in sorted(read_samples(folder / "samples.jsonl").items())]
    found = collect_token_divergences_by_document(samples, read_divergences(folder / DIVERGENCES))
    assert found is not None
    return found


def lognormal_population(
    generator: np.random.Generator, over_texts: float, over_tokens: float
) -> list[TextTokens]:
    """Return texts whose divergences are lognormal, and whose probabilities change by as much in
    either direction."""
    texts = []
    for size in np.clip(generator.lognormal(4.0, 0.6, POPULATION), 5, 400).astype(int):
        spread = np.exp(generator.normal(0, over_texts) + generator.normal(0, over_tokens, size))
        kl, reference = 0.001 * spread, -generator.exponential(1.5, size)
        ours = np.minimum(reference + generator.normal(0, 1, size) * np.sqrt(kl), 0.0)
        texts.append(
            TextTokens(None, kl.tolist(), [], ours.tolist(), reference.tolist(), int((spread < 5).sum()))
        )  # fmt: skip
    return texts


def figures_of(texts: Sequence[TextTokens]) -> dict[str, float]:
    """Return the figures of a job with these texts."""
    likelihoods = [
        Likelihood(unit, sum(it.logprobs), len(it.least), 1, 1, 0, kl_nats=math.fsum(it.least), truncation_nats=0.0,
                   top_1_agreed=it.agreed)
        for unit, it in enumerate(texts)
    ]  # fmt: skip
    return compute_likelihood_metrics(likelihoods) | compute_divergence_metrics(
        [replace(it, category=None) for it in texts]
    )


def bootstrap(generator: np.random.Generator, texts: Sequence[TextTokens]) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap's interval of each percentile over texts."""
    values, found = [np.asarray(it.least) for it in texts], []
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([values[at] for at in generator.integers(len(values), size=len(values))])
        found.append(np.quantile(drawn, list(KL_SHARES.values())))
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return dict(zip(KL_SHARES, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def coverage(
    generator: np.random.Generator, name: str, population: Sequence[TextTokens], draws: int
) -> list[Rate]:
    """Print and return how often each interval misses the truth of a population."""
    truth, rates = figures_of(population), []
    every = np.concatenate([it.least for it in population])
    skewness = float(((every - every.mean()) ** 3).mean() / every.std() ** 3)
    sizes = f"{len(population):,} texts, {len(every):,} tokens"
    print(f"\n{name}: {sizes}, mean KL {every.mean():.4g}, skewness {skewness:.0f}")
    heads = "texts", f"{'figure':>20}", "has one", "interval misses truth %", "bootstrap's %"
    table, tried = Table(f"{draws:,} jobs a line", *heads), max(1, draws // 20)
    for texts in TEXTS:
        given, missed, by_bootstrap = [dict.fromkeys(SHOWN, 0) for _ in range(3)]
        for number in range(draws):
            chosen = [population[at] for at in generator.integers(len(population), size=texts)]
            found = figures_of(chosen)
            for key in SHOWN:
                if f"{key}_low" in found:
                    given[key] += 1
                    missed[key] += not found[f"{key}_low"] <= truth[key] <= found[f"{key}_high"]
            for key, (low, high) in bootstrap(generator, chosen).items() if number < tried else ():
                by_bootstrap[key] += not low <= truth[key] <= high
        for key in SHOWN:
            rate = Rate(missed[key], given[key]) if given[key] else None
            beside = Rate(by_bootstrap[key], tried) if key in KL_SHARES else ""
            table.row(texts, key, f"{given[key] / draws:.0%}", rate or "none", beside)
            rates += [rate] if rate else []
    return rates


def rare_population(generator: np.random.Generator, rare: float) -> list[list[float]]:
    """Return the divergences of each text where some texts are of a kind that the model has become
    bad at."""
    texts = []
    for number, size in enumerate(np.clip(generator.lognormal(4.0, 0.3, POPULATION), 5, 400).astype(int)):
        kind = FARTHER if number < rare * POPULATION else 1
        texts.append(
            (0.001 * kind * np.exp(generator.normal(0, 0.3) + generator.normal(0, 1.0, size))).tolist()
        )
    return texts


def rare_kinds(generator: np.random.Generator, draws: int) -> list[Rate]:
    """Print and return how often the intervals of percentiles miss where a rare kind of text has
    the tail."""
    heads = "kind", "texts", f"{'figure':>14}", "has one", "interval misses truth %"
    table, rates = (
        Table(f"a rare kind of text, {FARTHER} times as far off: {draws:,} jobs a line", *heads),
        [],
    )
    for rare in RARE:
        population = rare_population(generator, rare)
        whole = TokenValues(population)
        for texts in RARE_TEXTS:
            chosen = generator.integers(POPULATION, size=(draws, texts))
            jobs_drawn = [TokenValues([population[at] for at in some]) for some in chosen]
            for key, share in KL_SHARES.items():
                truth, given = (
                    whole.percentile(share),
                    [ends for it in jobs_drawn if (ends := it.compute_interval(share))],
                )
                missed = sum(not low <= truth <= high for low, high in given)
                rates += [Rate(missed, len(given))] if given else []
                table.row(
                    f"{rare:.0%}", texts, key, f"{len(given) / draws:.0%}", rates[-1] if given else "none"
                )
    return rates


def control(scratch: Path) -> dict[str, float]:
    """Return the figures of a model beside its own weights under another name, which must all be
    the same."""
    twin = shutil.copytree(MODEL_DIR, scratch / "twin")
    settings = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(settings | {"a_remark": "the same weights"}))
    reference = f"task.reference='model=local model.name={twin}'"
    found: dict[str, float] = jobs("task=likelihood", "task.limit=60", reference, "task.exact=true",
                                   f"output_dir={scratch}/control", "tracking=none")[0]["metrics"]  # fmt: skip
    return {key: value for key, value in found.items() if key.startswith(("kl_", "delta_p", "ln_ppl_ratio"))}


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    parser = options_of(__doc__, 1000, "draws")
    parser.add_argument("--rare", action="store_true", help="nothing but the rare kinds of text")
    parser.add_argument(
        "jobs", nargs="*", type=Path, help="folders of jobs with a reference and task.exact=true"
    )
    options = parser.parse_args()
    started, limits, generator = time.perf_counter(), Limits(), np.random.default_rng(options.seed)
    only = " --rare" if options.rare else ""
    arguments = f"--draws {options.draws} --seed {options.seed}{only} {len(options.jobs)} jobs"
    print(f"python bench/compare/tails_null.py {arguments}")
    print(machine.describe_hardware())
    if options.rare:
        limits.missed += rare_kinds(generator, options.draws)
        return limits.conclude(started)
    with tempfile.TemporaryDirectory() as folder:
        twins = control(Path(folder))
    for folder in options.jobs:
        name = json.loads((folder / "result.json").read_text())["name"]
        limits.missed += coverage(generator, f"real: {name}", real_population(folder), options.draws)
    for name, spreads in LOGNORMAL.items():
        limits.missed += coverage(generator, name, lognormal_population(generator, *spreads), options.draws)
    limits.missed += rare_kinds(generator, options.draws)
    wrong = {key: value for key, value in twins.items() if value != 0}
    print(f"\nthe same model twice: {len(twins)} figures, of which not exactly 0: {wrong or 'none'}")
    return max(limits.conclude(started), int(bool(wrong)))


if __name__ == "__main__":
    sys.exit(main())
