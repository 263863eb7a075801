"""What does other work on the machine cost? `python bench/busy.py [--repeats 5]`.

One decoding step of a random-weight 135M Llama (64 rows, all its matrix products, no attention to speak of), with
torch's threads spinning while they wait (the default of its OpenMP library) and going to sleep after some microseconds
(what `import runner` sets), on a machine that is otherwise idle and beside busy processes. Fresh processes, by turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

STEP = """
import sys, time, torch
from runner.config.model import LocalModelConfig
from runner.checkpoints import random_weights
from transformers import AutoModelForCausalLM
shape = LocalModelConfig(name="HuggingFaceTB/SmolLM2-135M", shape="smollm2_135m", random_weights=True)
model = AutoModelForCausalLM.from_pretrained(random_weights.make(shape), dtype=torch.bfloat16).eval()
ids = torch.zeros(64, 1, dtype=torch.long)
with torch.inference_mode():
    model(ids, use_cache=False)
    end, steps, started = time.perf_counter() + float(sys.argv[1]), 0, time.perf_counter()
    while time.perf_counter() < end:
        model(ids, use_cache=False)
        steps += 1
print((time.perf_counter() - started) / steps * 1000)
"""
WAITING = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {"GOMP_SPINCOUNT": "1000"}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of steps in each process")
    options = parser.parse_args()
    print(f"python bench/busy.py --repeats {options.repeats} --seconds {options.seconds}")
    print(f"{'busy processes':>14} {'waiting':>9} {'median_ms':>10} {'min_ms':>8} {'max_ms':>8}")
    for busy in (0, 1, 2):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            times: dict[str, list[float]] = {waiting: [] for waiting in WAITING}
            for _ in range(options.repeats):
                for waiting, settings in WAITING.items():
                    times[waiting].append(step_ms(settings, options.seconds))
        finally:
            for other in others:
                other.kill()
                other.wait()
        for waiting, found in times.items():
            print(
                f"{busy:>14} {waiting:>9} {statistics.median(found):10.1f} {min(found):8.1f} {max(found):8.1f}",
                flush=True,
            )


def step_ms(settings: dict[str, str], seconds: float) -> float:
    """Time steps in a fresh process with these settings."""
    command = [sys.executable, "-c", STEP, str(seconds)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
