"""What does a job cost under each launcher? `python bench/launchers.py [--jobs 1000] [--launchers workers joblib ray]`.

A grid of stub jobs (no weights, two questions each, logged to MLflow in sqlite) runs under each launcher, two jobs at
once, in a folder of its own. Afterwards every job must have one finished record with all its samples, and MLflow one
finished run for each. With `submitit_slurm` the Slurm of this machine is used (`SLURM_CONF`).
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from engines import head_line, markdown
from heading import parse_arguments

QUESTIONS = 2
AT_ONCE = {
    "workers": "workers=2",
    "joblib": "hydra.launcher.n_jobs=2",
    "ray": "workers=2",
    "submitit_slurm": "hydra.launcher.array_parallelism=2",
}
FINISHED = """
select count(*), count(distinct value) from tags join runs using (run_uuid) where key = 'job_id' and status = 'FINISHED'
"""


def main() -> None:
    """Run the grid under each launcher, and print what a job has cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("`")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--launchers", nargs="+", choices=AT_ONCE, default=["workers", "joblib", "ray"])
    options = parse_arguments(parser)
    print(head_line([*sys.argv], 1), end="\n\n")
    rows = []
    for name in options.launchers:
        one_s, all_s = (run(name, count) for count in (1, options.jobs))
        rows.append(
            [name, f"{one_s:.1f}", f"{all_s:.1f}", f"{(all_s - one_s) / (options.jobs - 1) * 1000:.0f}"]
        )
        print(*rows[-1], file=sys.stderr)
    print(markdown(["launcher", "one job, s", f"{options.jobs:,} jobs, s", "ms for each further job"], rows))


def run(launcher: str, jobs: int) -> float:
    """Run a grid to its end, check that no job is lost or there twice, and return its seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-m", "runner", "-m", f"hydra/launcher={launcher}", AT_ONCE[launcher], "model=stub",
                   f"task.limit={QUESTIONS}", f"seed=range(0,{jobs})", "print=none"]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{launcher}: {done.stderr[-2000:]}")
        check(folder / "outputs", jobs)
        return seconds


def check(outputs: Path, jobs: int) -> None:
    """Raise an error if a job is lost or there twice."""
    records = [json.loads(file.read_text()) for file in outputs.glob("jobs/*/result.json")]
    assert [record["status"] for record in records] == ["FINISHED"] * jobs
    for file in outputs.glob("jobs/*/samples.jsonl"):
        indices = [json.loads(line)["index"] for line in file.read_text().splitlines()]
        assert sorted(indices) == list(range(QUESTIONS)), file
    with closing(sqlite3.connect(outputs / "mlflow.db")) as database:
        assert database.execute(FINISHED).fetchone() == (jobs, jobs)


if __name__ == "__main__":
    main()
