"""Do grids survive faults of every kind without a trace? `python bench/faults.py`.

A grid of word problems, of such that end as soon as a difference is decided (task.early_stop_vs), of teams of agents
that learn their graph and of likelihoods, on a slow stub and on the embedded model in float32, is started again and
again, in one folder after another, until it is done, while random faults occur: signals to the parent and to its
workers, two Ctrl-C at once, memory limits that are lowered and raised again, a disk that becomes full, a second start
of the same grid at the same time whose clock jumps, an MLflow store that is missing for a while, an output folder that
is moved between two starts. Then the results of every job must equal those of an undisturbed run, bit for bit; each job
must be FINISHED in MLflow exactly once; no run may be left RUNNING.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from fault_evidence import check, evidence  # noqa: E402
from grids import Grid, end_at, put_choices, put_clock  # noqa: E402
from heading import parse_arguments  # noqa: E402

MIB = 2**20
DISK_MIB = 96
MODELS = {"slow": "stub@_here_, _self_]\ndelay_s: 0.03\n",
          "real": "model@_here_, _self_]\nname: embedded\ndevice: cpu\ndtype: float32\n"}  # fmt: skip
WHOLE = "generation=greedy generation.max_new_tokens=96"
# Short tasks. With whole answers, the first one is its own baseline, and an ordinary job.
TASKS = {
    "solve": f"gsm8k@_here_, _self_]\nlimit: 40\nearly_stop_vs: {WHOLE}\n",
    "team": "agents@_here_, _self_]\nlimit: 3\nagents: 2\ndomain: brief\nroles: [math_solver, programming_expert]\n"
    "optimized_spatial: true\nnum_iterations: 2\nimp_per_iterations: 1\nbatch_size: 2\n",
    "score": "likelihood@_here_, _self_]\nlimit: 24\nkeep_top_k: 4\n",
}
GENERATIONS = {"whole": "max_new_tokens: 96\n", "short": "max_new_tokens: 3\n"}
GRID = [
    "model=slow,real",
    "task=solve,team,score",
    "generation=whole,short",
    "seed=0,1",
    "workers=2",
    "print=none",
]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STARTS_A_FOLDER = 60


class Faults:
    """Causes faults of many kinds in a running grid, and counts them by kind."""

    def __init__(self, most: int, end: float, seed: int, clock: Path) -> None:
        self.most, self.end, self.chance = most, end, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.left: list[Path] = []  # the old paths of moved folders
        self.beside: list[Grid] = []  # further starts of the grid that still run
        self.jumps = put_clock(clock)  # the variables of a start whose clock jumps

    @property
    def over(self) -> bool:
        """Whether there were enough faults, or time is up."""
        return self.counts.total() >= self.most or time.monotonic() > self.end

    def strike(self, grid: Grid) -> None:
        """Cause faults at random moments until the grid's process has ended."""
        while not self.over:
            moment = time.monotonic() + self.chance.choice(
                (self.chance.uniform(0, 1), self.chance.uniform(0.5, 3))
            )
            while grid.process.poll() is None and time.monotonic() < moment:
                time.sleep(0.02)
            if grid.process.poll() is not None:
                return
            kinds: list[Callable[[Grid], None]] = [
                self.parent,
                self.worker,
                self.worker,
                self.worker,
                self.twice,
            ]
            kinds += [self.memory, self.memory, self.another]
            kinds += [self.full_disk, self.full_disk] if grid.folder.is_mount() else []
            self.chance.choice(kinds)(self.chance.choice([grid, *self.beside]))
            self.beside = [other for other in self.beside if other.process.poll() is None]

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
        """Let a worker have no more memory than it has, and raise the limit again a little
        later."""
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

    def another(self, grid: Grid) -> None:
        """Start the same grid once more beside it, with a clock that jumps."""
        if not self.beside:
            self.beside.append(Grid(grid.folder, grid.arguments, self.jumps, "beside_"))
            self.counts["started twice, one clock jumps"] += 1

    def wait(self) -> None:
        """Wait until the further starts have ended."""
        for other in self.beside:
            other.wait(300)
        self.beside = []

    def full_disk(self, grid: Grid) -> None:
        """Fill the folder's disk, and free it again a little later."""
        ballast = grid.folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass
        self.counts["disk full and free again"] += 1
        time.sleep(self.chance.uniform(0.1, 2))
        ballast.unlink()

    def between(self, folder: Path) -> Path:
        """Between two starts, move the folder, or hide the store from the next start; return the
        folder."""
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
            for file in (folder / "outputs").glob(
                "mlflow.db*"
            ):  # with the journal, if it was killed during a write
                file.rename(gone / file.name)
            start(folder, self).wait()
            self.wait()
            for file in (folder / "outputs").glob("mlflow.db*"):
                file.unlink()
            for file in gone.iterdir():
                file.rename(folder / "outputs" / file.name)
            gone.rmdir()
            self.counts["store gone and back"] += 1
        return folder


def start(folder: Path, faults: Faults | None) -> Grid:
    """Start the grid and cause faults; the clock of some starts jumps."""
    jumps = faults is not None and faults.chance.random() < 0.2
    grid = Grid(
        folder,
        [f"--config-dir={folder.parent / 'conf'}", "-m", *GRID],
        faults.jumps if jumps and faults else {},
    )
    if faults is not None:
        faults.counts.update(["clock jumps"] * jumps)
        faults.strike(grid)
    return grid


def survive(folder: Path, faults: Faults) -> Path:
    """Start the same grid until it is done; return the folder's final path."""
    for _ in range(STARTS_A_FOLDER):
        code = start(folder, faults).wait(600).code
        faults.wait()
        if code == 0:
            return folder
        folder = faults.between(folder)
    raise AssertionError(
        f"{folder}: not done after {STARTS_A_FOLDER} starts:\n{(folder / 'stderr').read_text()[-3000:]}"
    )


def mount(folder: Path) -> bool:
    """Mount a small file system on a new folder; returns whether that is permitted."""
    folder.mkdir()
    size = f"size={DISK_MIB}m"
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True
    ).returncode


def main() -> None:
    """Cause faults, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1500, help="no fault begins after this")
    parser.add_argument("--seed", type=int, default=0)
    options = parse_arguments(parser)
    begun = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="faults"))
    put_files(scratch)
    ended, folders, wrong = Counter[str](), 0, list[str]()
    mounted: list[Path] = []
    try:
        assert start(scratch / "undisturbed", None).wait(600).code == 0, "the undisturbed grid failed"
        truth = evidence(scratch / "undisturbed")
        assert check(scratch / "undisturbed", truth)
        can_mount = mount(scratch / "disk")
        mounted += [scratch / "disk"] * can_mount
        faults = Faults(options.faults, begun + options.seconds, options.seed, scratch / "clock")
        while not faults.over:
            folder = scratch / f"grid_{folders}"
            if can_mount and folders % 2:  # every other folder is a small disk
                mount(folder)
                mounted.append(folder)
            folders += 1
            try:
                folder = survive(folder, faults)
                ended += check(folder, truth)
                written = [str(place) for place in faults.left if place.exists()]
                assert not written, f"{folder}: something was written where it had been, in {written}"
            except AssertionError as error:
                wrong.append(str(error))
                # a mounted folder is lost with its mount
                shutil.copytree(folder, scratch / f"wrong_{folders}")
                print(error, file=sys.stderr, flush=True)
            faults.left = []
            counted = faults.counts.total()
            print(
                f"{counted} faults, {folders} grids, {time.monotonic() - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            if folder.is_mount():
                subprocess.run(["umount", "-l", folder], check=True)
                mounted.remove(folder)
            elif not wrong:
                shutil.rmtree(folder)
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", folder], check=True)
    print(
        f"python bench/faults.py --faults {options.faults} --seconds {options.seconds:g} --seed {options.seed}"
    )
    for kind, count in faults.counts.most_common():
        print(f"{count:5}  {kind}")
    jobs = Counter(job_id.partition("-")[0] for job_id in truth)
    early_stops = sum(found["early_stop_verdict"] is not None for found in truth.values())
    kinds = ", ".join(f"{number} {task}" for task, number in jobs.items())
    kinds += f"; {early_stops} of them with task.early_stop_vs"
    what, took_s = f"{folders} grids of {len(truth)} jobs ({kinds})", time.monotonic() - begun
    print(
        f"{faults.counts.total():5}  faults over {what} in {took_s:.0f} s; MLflow's runs of jobs: {dict(ended)}"
    )
    if not can_mount:
        print("left out, for want of the right to mount: full disks")
    if wrong:
        raise SystemExit(f"{len(wrong)} grids came out otherwise; see {scratch}:\n" + "\n".join(wrong))
    shutil.rmtree(scratch)
    print(
        "every job has found out what it has in the undisturbed grid; each is FINISHED in MLflow once; none is RUNNING"
    )


def put_files(scratch: Path) -> None:
    """Write the choices of the grid's config groups."""
    generations = {name: f"greedy@_here_, _self_]\n{text}" for name, text in GENERATIONS.items()}
    put_choices(scratch / "conf", model=MODELS, task=TASKS, generation=generations)


if __name__ == "__main__":
    main()
