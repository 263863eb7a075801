"""How long do `--help` and `--cfg job` take, compared with bare Hydra? `python bench/startup.py`.

Whole processes, interleaved round by round so that a busy machine affects all equally; the median of each is printed
with its spread, and the ratio to the smallest possible Hydra program (one config file, one key).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import hydra
@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    pass
main()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        (Path(folder) / "config.yaml").write_text("key: 1\n")
        runner = [sys.executable, "-m", "runner"]
        commands = {
            "bare Hydra --cfg job": [sys.executable, str(bare), "--cfg", "job"],
            "runner --cfg job": [*runner, "--cfg", "job"],
            "bare Hydra --help": [sys.executable, str(bare), "--help"],
            "runner --help": [*runner, "--help"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for counted in [False] + [True] * rounds:
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                if counted:
                    seconds[name].append(time.perf_counter() - started)
    print(f"python bench/startup.py --rounds {rounds}   (whole processes, interleaved, 1 warm-up round)")
    print(f"{'command':24} {'median_s':>9} {'min_s':>7} {'max_s':>7} {'x bare':>7}")
    for name, times in seconds.items():
        bare_median = statistics.median(seconds[name.replace("runner", "bare Hydra")])
        median = statistics.median(times)
        print(f"{name:24} {median:9.3f} {min(times):7.3f} {max(times):7.3f} {median / bare_median:7.2f}")


if __name__ == "__main__":
    main()
