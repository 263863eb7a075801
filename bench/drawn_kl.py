"""Is KL by drawn tokens that of whole distributions? `python bench/drawn_kl.py --model FOLDER [--formats nf4 …]`.

Texts are scored by a real model, once as a reference that keeps its 64 most probable tokens and draws 16 others at each
position. Each format is then compared with what was kept, and with whole distributions (`task.exact=true`). The bound
is what was said before tokens were drawn: the divergence was at least one number, and at most another.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from heading import parse_arguments

from runner.records.jobs import read_samples
from runner.records.top_k import TOP_K, TopKFile, read_top_k_file
from runner_base import Likelihood, machine
from tools.commands import jobs

TEXTS = Path(__file__).resolve().parents[1] / "experiments" / "real_texts.jsonl"


def main() -> None:
    """Score, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the folder of a real model (make real-model)")
    parser.add_argument("--formats", nargs="+", default=["nf4", "int8"])
    parser.add_argument("--texts", type=int, default=24)
    options = parse_arguments(parser)
    print(
        f"python bench/drawn_kl.py --model FOLDER --formats {' '.join(options.formats)} --texts {options.texts}"
    )
    print(machine.describe_hardware())
    print(
        f"{'':8}{'exact':>10}{'drawn ± 95 %':>20}{'before: at least .. at most':>30}   texts within ± 95 %",
        flush=True,
    )
    job = ["model=local", f"model.name={options.model}", "task=likelihood", f"task.data={TEXTS}"]
    job += [f"task.limit={options.texts}", "tracking=none"]
    with tempfile.TemporaryDirectory() as folder:
        job.append(f"output_dir={folder}")
        kept = run([*job, "task.keep_top_k=64"])
        for name in options.formats:
            compared = [*job, f"quantization={name}", "task.reference=quantization=none"]
            drawn, exact = (likelihoods(run(compared)), likelihoods(run([*compared, "task.exact=true"])))
            kept_lines = read_top_k_file(kept / TOP_K)
            (kept / TOP_K).unlink()
            file = TopKFile(kept)
            for index, line in kept_lines.items():
                file.append_sample(
                    index, replace(line, drawn=0, drawn_ids=line.ids[:0], drawn_logprobs=line.logprobs[:0])
                )
            file.close()
            before = likelihoods(run([*compared, "rerun=true"]))
            (kept / TOP_K).unlink()
            file = TopKFile(kept)
            for index, line in kept_lines.items():
                file.append_sample(index, line)
            file.close()
            print(row_of(name, drawn, exact, before), flush=True)


def row_of(name: str, drawn: list[Likelihood], exact: list[Likelihood], before: list[Likelihood]) -> str:
    """Return the line of a format."""
    tokens = sum(it.tokens for it in exact)
    true, estimate = (sum(it.kl_nats or 0.0 for it in some) / tokens for some in (exact, drawn))
    error = 1.96 * math.sqrt(sum(it.kl_variance or 0.0 for it in drawn)) / tokens
    least = sum(it.kl_nats or 0.0 for it in before) / tokens
    most = least + sum(it.truncation_nats or 0.0 for it in before) / tokens
    within = [
        abs((it.kl_nats or 0.0) - (whole.kl_nats or 0.0)) <= 1.96 * math.sqrt(it.kl_variance or 0.0)
        for it, whole in zip(drawn, exact, strict=True)
    ]
    words = f"{estimate:.5f} ± {error:.5f}"
    return (
        f"{name:8}{true:10.5f}{words:>20}{f'{least:.5f} .. {most:.3f}':>30}   {sum(within)} of {len(within)}"
    )


def likelihoods(folder: Path) -> list[Likelihood]:
    """Return the likelihoods of a job's samples."""
    samples = read_samples(folder / "samples.jsonl")
    return [it.likelihood for _, it in sorted(samples.items()) if it.likelihood is not None]


def run(overrides: Sequence[str]) -> Path:
    """Run a job; return its folder."""
    return Path(jobs(*overrides)[0]["output_dir"])


if __name__ == "__main__":
    main()
