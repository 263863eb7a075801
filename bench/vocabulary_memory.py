"""Does a job's peak of memory grow with the vocabulary as its weights do? `python bench/vocabulary_memory.py`.

The models of gguf_start.py, wider and with few layers, so that most of their weights are the embedding, which
the head shares. Each job is a process of its own: `task=generate` of one prompt, from a folder in
bfloat16 and from a .gguf file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gguf_start import SIZES, make
from heading import parse_arguments
from latest import Figure, add_option, save

from tools.commands import jobs

WIDTH, LAYERS = 576, 4  # as wide as SmolLM2-135M
VOCABULARIES = [name for name in SIZES if name.endswith("bytes")]
WORDS = [
    "task=generate", "task.prompt=Once upon a time", "task.format=raw", "generation.max_new_tokens=16", "model=local",
    "model.device=cpu", "tracking=none",
]  # fmt: skip


def job(path: Path, into: Path) -> dict[str, float]:
    """Return the metrics of a job in a process of its own."""
    choice = ["quantization=gguf"] if path.suffix == ".gguf" else []
    [done] = jobs(*WORDS, *choice, f"model.name={path}", "rerun=all", f"output_dir={into}")
    metrics: dict[str, float] = done["metrics"]
    return metrics


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=VOCABULARIES, choices=VOCABULARIES)
    parser.add_argument(
        "--into", help="where models are made, and kept for the next time; else in a temporary folder"
    )
    add_option(parser)
    arguments = parse_arguments(parser)
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        models = {
            name: make(Path(arguments.into or temporary) / name.replace(" ", "-"), name, WIDTH, LAYERS)
            for name in arguments.only
        }
        for _ in range(arguments.rounds):
            for name, paths in models.items():
                for kind, path in zip(("folder", "gguf"), paths, strict=True):
                    seen.setdefault((kind, name), []).append(job(path, Path(temporary) / "jobs"))
    print(f"python bench/vocabulary_memory.py --rounds {arguments.rounds}   (a process per job, interleaved)")
    heads = (
        "kind",
        "vocabulary",
        "weight_mib",
        "load_peak",
        "peak_mib",
        "min",
        "max",
        "more_mib",
        "of_weights",
    )
    print("{:7} {:11} {:>10} {:>9} {:>9} {:>7} {:>7} {:>9} {:>10}".format(*heads))
    figures = []
    for kind in ("folder", "gguf"):
        first: tuple[float, float] | None = None
        for name in arguments.only:
            found = sorted(seen[kind, name], key=lambda one: one["peak_rss_mib"])
            middle = found[len(found) // 2]
            weights, peak = middle["weight_mib"], middle["peak_rss_mib"]
            first = first or (weights, peak)
            more = peak - first[1]
            share = f"{more / (weights - first[0]):10.2f}" if weights > first[0] else ""
            if share:
                what = f"growth of the peak to {name}, of that of the weights"
                figures.append(Figure.of(what, "times", [float(share)], kind))
            print(
                f"{kind:7} {name:11} {weights:10.1f} {middle['load_peak_rss_mib']:9.0f} {peak:9.0f} "
                f"{found[0]['peak_rss_mib']:7.0f} {found[-1]['peak_rss_mib']:7.0f} {more:9.0f} {share}"
            )
    if arguments.save:
        save(sorted(figures, key=lambda it: it.what))


if __name__ == "__main__":
    main()
