"""How good is the memory prediction? Predicted and measured, on random weights: `python bench/memory_prediction.py`.

Checkpoints of three shapes are made of noise first. Then `task=memory` takes each through fresh processes, plain, int8
and nf4: what was predicted from the headers stands beside what the kernel says of the process. The smallest shape is
measured --repeats times, the others --others times: `spread` is how far the peaks of fresh processes lie apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from heading import parse_arguments

from tools.commands import jobs

SHAPES = ("smollm2_135m", "qwen2_05b_instruct", "llama32_1b")
QUANTIZATIONS = ("none", "int8", "nf4")
HEADS = ("weights", "error", "KV", "error", "peak", "spread", "predicted", "error")
LIMITS = {"weight": 0.02, "kv": 0.02, "total": 0.05}
ALLOWED_MIB = 5.0  # of a total, however small: by so much the constants of footprint.py differ between jobs
SPREAD_LIMIT = 0.02


def main() -> None:
    """Measure and print; exit code 1 where a prediction is off by more than it may be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", nargs="+", default=SHAPES, help="presets of conf/model, the smallest first"
    )
    mixes = "each a choice, perhaps with its keys: 'nf4 quantization.skip=[down_proj]'"
    parser.add_argument("--quantizations", nargs="+", default=QUANTIZATIONS, help=mixes)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of the smallest shape")
    parser.add_argument("--others", type=int, default=1, help="of each of the others")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=240)
    parser.add_argument("--new", type=int, default=16)
    options = parse_arguments(parser)
    print("python bench/memory_prediction.py", *sys.argv[1:])
    print(
        f"batch {options.batch}, prompts of {options.prompt} tokens and {options.new} new ones; MiB over the import"
    )
    print(f"{'':27}" + "".join(f"{head:>10}" for head in HEADS))
    off: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in options.shapes:
            for quantization in options.quantizations:
                repeats = options.repeats if shape == options.shapes[0] else options.others
                metrics = measure(options, shape, quantization, repeats, Path(scratch))
                print(f"{shape:20}{quantization:7}" + line(metrics), flush=True)
                for what, limit in LIMITS.items():
                    is_close = what == "total" and abs(total_off_mib(metrics)) <= ALLOWED_MIB
                    if abs(metrics[f"{what}_prediction_error"]) > limit and not is_close:
                        off.append(f"{shape} {quantization}: {what} is off by more than {limit:.0%}")
                if spread(metrics) > SPREAD_LIMIT:
                    off.append(f"{shape} {quantization}: peaks lie more than {SPREAD_LIMIT:.0%} apart")
    print("\n".join(off) if off else "all within their limits")
    sys.exit(bool(off))


def measure(
    options: argparse.Namespace, shape: str, quantization: str, repeats: int, scratch: Path
) -> dict[str, float]:
    """Return the metrics of one job."""
    keys = [f"model={shape}", "model.random_weights=true", "model.device=cpu"]
    keys += [f"model.cache_dir={scratch / 'weights'}", *f"quantization={quantization}".split(), "task=memory"]
    keys += [
        f"task.repeats={repeats}",
        f"task.batch_size={options.batch}",
        f"task.prompt_tokens={options.prompt}",
    ]
    keys += [f"task.new_tokens={options.new}", "task.pictures=false", "tracking=none"]
    metrics: dict[str, float] = jobs(*keys, cwd=scratch)[0]["metrics"]
    return metrics


def line(metrics: dict[str, float]) -> str:
    """Return a line of the table."""
    values = [f"{metrics['weight_mib']:,.1f}", f"{metrics['weight_prediction_error']:+.2%}"]
    values += [f"{metrics['kv_mib']:,.1f}", f"{metrics['kv_prediction_error']:+.2%}"]
    values += [
        f"{metrics['peak_over_baseline_mib']:,.0f}",
        f"{spread(metrics):.1%}" if metrics["repeats"] > 1 else "-",
    ]
    values += [f"{metrics['predicted_total_mib']:,.0f}", f"{metrics['total_prediction_error']:+.1%}"]
    return "".join(f"{value:>10}" for value in values)


def total_off_mib(metrics: dict[str, float]) -> float:
    """Return by how much a predicted peak is above the measured one."""
    return metrics["predicted_total_mib"] - metrics["peak_over_baseline_mib"]


def spread(metrics: dict[str, float]) -> float:
    """Return the range of the peaks of fresh processes, as a share of the median."""
    peak_range = metrics["peak_over_baseline_mib_max"] - metrics["peak_over_baseline_mib_min"]
    return peak_range / metrics["peak_over_baseline_mib"]


if __name__ == "__main__":
    main()
