"""Does loading stream? Peak memory while loading, and memory afterwards: `python bench/load_peak.py [--model PRESET]`.

A random-weight checkpoint of a preset's shape is saved to disk first; then `task=memory` loads it in a fresh process
under each quantization. It prints the peak while loading and the memory afterwards, above the bare process, and without
the pages of the mapped checkpoint, which the kernel can drop at any time. With `none` in the checkpoint's own dtype
nothing is read: it is mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen25_15b_instruct", help="a preset of conf/model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"python bench/load_peak.py --model {options.model} --repeats {options.repeats}")
    head = ("weights_mib", "load_peak_mib", "after_load_mib", "peak/weights", "load_s")
    print(f"{'quantization':13} {head[0]:>11} {head[1]:>14} {head[2]:>15} {head[3]:>13} {head[4]:>7}")
    with tempfile.TemporaryDirectory() as scratch:
        for quantization in ("none", "int8", "nf4", "fp4", "int8_dynamic", "torchao_int8"):
            command = [sys.executable, "-m", "runner", f"model={options.model}", "model.random_weights=true"]
            command += [f"quantization={quantization}", "task=memory", f"task.repeats={options.repeats}"]
            command += [
                "task.batch_size=1",
                "task.prompt_tokens=16",
                "task.new_tokens=2",
                "tracking=none",
                "print=json",
            ]
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, env=dict(os.environ), check=False
            )
            if done.returncode:
                print(f"{quantization:13} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            metrics = json.loads(done.stdout)["metrics"]
            base = metrics["baseline_anon_mib"]
            peak, after = metrics["load_peak_anon_mib"] - base, metrics["load_steady_anon_mib"] - base
            print(
                f"{quantization:13} {metrics['weight_mib']:11,.0f} {peak:14,.0f} {after:15,.0f} "
                f"{peak / metrics['weight_mib']:13.2f} {metrics['load_s']:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
