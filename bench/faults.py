"""Faults of every kind while grids run; in the end nothing can be told from them: `python bench/faults.py`.

A grid of twelve jobs (six on a slow stub, six on the embedded model in float32) is started again and again, in one
folder after another, until it is done, while faults are drawn at random: signals to the parent and to its workers, two
Ctrl-C at once, memory limits that are lowered and raised again, a disk that gets full, an MLflow store that is gone for
a while, an output folder that is moved between two starts. Then the samples of every job have to be those of an
undisturbed run, bit for bit; each job has to be FINISHED in MLflow once; no run may be left RUNNING.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from grids import Grid, end_at, mlflow_runs, results, samples, without_time  # noqa: E402

MIB = 2**20
DISK_MIB = 96
MODELS = {
    "slow": "defaults: [/hydra/schema/model/stub@_here_, _self_]\nname: stub\ndelay_s: 0.1\n",
    "real": "defaults: [/hydra/schema/model/model@_here_, _self_]\nname: embedded\ndevice: cpu\ndtype: float32\n",
}
GRID = ["model=slow,real", "seed=0,1,2", "generation=greedy,sampling", "task.limit=10", "workers=2", "print=none"]
JOBS = 12
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STARTS_A_FOLDER = 40


class Faults:
    """Strikes a running grid in one of many ways, and counts how often in each."""

    def __init__(self, most: int, end: float, seed: int) -> None:
        self.most, self.end, self.chance = most, end, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.left: list[Path] = []  # places that a folder was moved away from

    @property
    def over(self) -> bool:
        """Whether there were enough, or the time is up."""
        return sum(self.counts.values()) >= self.most or time.monotonic() > self.end

    def strike(self, grid: Grid) -> None:
        """Wait for a random moment, and strike until the grid's process has ended."""
        while not self.over:
            moment = time.monotonic() + self.chance.choice((self.chance.uniform(0, 1.5), self.chance.uniform(1, 5)))
            while grid.process.poll() is None and time.monotonic() < moment:
                time.sleep(0.02)
            if grid.process.poll() is not None:
                return
            kinds: list[Callable[[Grid], None]] = [self.parent, self.worker, self.worker, self.twice, self.memory]
            kinds += [self.full_disk, self.full_disk] if grid.folder.is_mount() else []
            self.chance.choice(kinds)(grid)

    def parent(self, grid: Grid) -> None:
        """Send the grid's own process a signal."""
        number = self.chance.choice(SIGNALS)
        end_at(grid.process.pid, number)
        self.counts[f"{number.name} to the parent"] += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            grid.process.wait(timeout=30)

    def worker(self, grid: Grid) -> None:
        """Send one of its workers a signal."""
        if workers := grid.workers():
            number = self.chance.choice(SIGNALS)
            end_at(self.chance.choice(workers), number)
            self.counts[f"{number.name} to a worker"] += 1

    def twice(self, grid: Grid) -> None:
        """Send Ctrl-C twice, at once."""
        for _ in range(2):
            end_at(grid.process.pid, signal.SIGINT)
            time.sleep(self.chance.uniform(0, 0.05))
        self.counts["two Ctrl-C at once"] += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            grid.process.wait(timeout=30)

    def memory(self, grid: Grid) -> None:
        """Let a worker have no more memory than it has, and raise the limit again a little later."""
        if not (workers := grid.workers()):
            return
        pid = self.chance.choice(workers)
        with contextlib.suppress(OSError, ValueError):
            used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
            resource.prlimit(pid, resource.RLIMIT_AS, (used + self.chance.randrange(1, 24) * MIB, hard))
            self.counts["memory limit lowered and raised"] += 1
            time.sleep(self.chance.uniform(0.2, 2))
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))

    def full_disk(self, grid: Grid) -> None:
        """Fill the folder's disk, and make room again a little later."""
        ballast = grid.folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass
        self.counts["disk full and free again"] += 1
        time.sleep(self.chance.uniform(0.1, 2))
        ballast.unlink()

    def between(self, folder: Path) -> Path:
        """Between two starts: move the folder, or take the store away for the next one; return the folder."""
        if self.over or not (folder / "outputs" / "mlflow.db").exists():
            return folder
        if self.chance.random() < 0.3 and not folder.is_mount():
            moved = folder.with_name(f"{folder.name}m")
            folder.rename(moved)
            self.counts["folder moved"] += 1
            self.left.append(folder)
            return moved
        if self.chance.random() < 0.3:
            gone = folder / "gone"
            gone.mkdir()
            for file in (folder / "outputs").glob("mlflow.db*"):  # with the journal, where it was killed amid a write
                file.rename(gone / file.name)
            start(folder, self).wait()
            for file in (folder / "outputs").glob("mlflow.db*"):
                file.unlink()
            for file in gone.iterdir():
                file.rename(folder / "outputs" / file.name)
            gone.rmdir()
            self.counts["store gone and back"] += 1
        return folder


def start(folder: Path, faults: Faults | None) -> Grid:
    """Start the grid, and strike it."""
    grid = Grid(folder, [f"--config-dir={folder.parent / 'conf'}", "-m", *GRID])
    if faults is not None:
        faults.strike(grid)
    return grid


def said(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return every job's samples by index without what differs from run to run, the last line of each index."""
    found = {}
    for job_id, lines in samples(folder).items():
        found[job_id] = {line["index"]: without_time(line) for line in lines}
    return found


def survive(folder: Path, faults: Faults) -> Path:
    """Start the same grid until it is done; return where the folder is in the end."""
    for _ in range(STARTS_A_FOLDER):
        if start(folder, faults).wait(300).code == 0:
            return folder
        folder = faults.between(folder)
    raise SystemExit(f"{folder}: not done after {STARTS_A_FOLDER} starts:\n{(folder / 'stderr').read_text()[-3000:]}")


def check(folder: Path, truth: dict[str, dict[int, dict[str, Any]]]) -> Counter[str]:
    """Compare a folder with the undisturbed one; return how its runs in MLflow have ended."""
    assert said(folder) == truth, f"{folder}: other samples"
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"}, f"{folder}: not all are FINISHED"
    runs = mlflow_runs(folder)
    ended = Counter(run.status for run in runs if not run.is_grid)
    assert "RUNNING" not in Counter(run.status for run in runs), f"{folder}: a run is left RUNNING"
    finished = Counter(run.job_id for run in runs if run.status == "FINISHED" and not run.is_grid)
    assert len(finished) == JOBS, f"{folder}: {len(finished)} jobs are FINISHED in MLflow"
    assert set(finished.values()) == {1}, f"{folder}: a job is FINISHED twice in MLflow"
    kept = [
        run.run_id for run in runs if run.status == "FINISHED" and not list(folder.glob(f"**/{run.run_id}/artifacts"))
    ]
    assert not kept, f"{folder}: the artifacts of {kept} are not in the folder"
    return ended


def mount(folder: Path) -> bool:
    """Put a small file system on a folder of its own, where that is allowed."""
    folder.mkdir()
    size = f"size={DISK_MIB}m"
    return not subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True).returncode


def main() -> None:
    """Strike, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1500, help="no fault begins after this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="faults"))
    (scratch / "conf" / "model").mkdir(parents=True)
    for name, text in MODELS.items():
        (scratch / "conf" / "model" / f"{name}.yaml").write_text(text)
    ended, folders = Counter[str](), 0
    mounted: list[Path] = []
    try:
        assert start(scratch / "undisturbed", None).wait(600).code == 0, "the undisturbed grid failed"
        truth = said(scratch / "undisturbed")
        can_mount = mount(scratch / "disk")
        mounted += [scratch / "disk"] * can_mount
        faults = Faults(options.faults, begun + options.seconds, options.seed)
        while not faults.over:
            folder = scratch / f"grid_{folders}"
            if can_mount and folders % 2:  # every other folder is a small disk of its own
                mount(folder)
                mounted.append(folder)
            there = survive(folder, faults)
            try:
                ended += check(there, truth)
            except AssertionError:  # what is mounted goes with the mount
                shutil.copytree(there, scratch / "failed")
                raise
            assert not any(place.exists() for place in faults.left), "something was written where a folder had been"
            folders += 1
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", folder], check=True)
    shutil.rmtree(scratch)
    print(f"python bench/faults.py --faults {options.faults} --seconds {options.seconds:g} --seed {options.seed}")
    for kind, count in faults.counts.most_common():
        print(f"{count:5}  {kind}")
    print(f"{sum(faults.counts.values()):5}  faults over {folders} grids of {JOBS} jobs in "
          f"{time.monotonic() - begun:.0f} s; MLflow's runs of jobs: {dict(ended)}")  # fmt: skip
    print("every job's samples are those of the undisturbed grid; each is FINISHED in MLflow once; none is RUNNING")
    if not can_mount:
        print("left out, for want of the right to mount: full disks")


if __name__ == "__main__":
    main()
