"""What does recorded work cost as it grows? `python bench/recorded_jobs.py [--counts 1000 10000] [--uri postgresql://…]`.

A grid of 100 stub jobs runs once. Its last job is then copied, folder and rows of the database, until there are so many
jobs. With each number the usual commands are timed as processes of their own, with the memory that they take at most:
the start of a finished job, the plan and the start of the grid that is done, `runner-sync` with nothing to do, with 100
jobs to log, and `runner-compare` of the grid of 100 and of all runs. Only a fresh store is used: a folder of its own,
and with --uri a database that must be empty.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines import head_line, markdown, spread
from heading import parse_arguments

from runner.tracking import published_index
from runner.tracking.stores import create_store_from_options
from runner_base import Record

GRID = 100
JOB = ("model=stub", "task.limit=5", "print=none")
OF_TAGS = (
    "case t.key when 'job_id' then c.job when 'output_dir' then c.folder "
    "when 'mlflow.parentRunId' then 'another grid' else t.value end"
)
COPIES = "create temporary table copies (run varchar(32), job text, folder text, input varchar(36))"
# the rows of a run: table, column of the run, columns whose value changes from copy to copy
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "runs": ("run_uuid", {}),
    "params": ("run_uuid", {}),
    "metrics": ("run_uuid", {}),
    "latest_metrics": ("run_uuid", {}),
    "tags": ("run_uuid", {"value": OF_TAGS}),
    "inputs": ("destination_id", {"input_uuid": "c.input"}),
}  # fmt: skip


@dataclass
class Timed:
    """A command: seconds of each round, and the most memory."""

    seconds: list[float]
    peak_mib: float


def main() -> None:
    """Make, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("`: ")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--uri", help="an empty database instead of sqlite, such as postgresql://USER@HOST/NAME"
    )
    parser.add_argument("--only", default="", help="only the commands whose line has these words")
    options = parse_arguments(parser)
    print(head_line([*sys.argv], 1), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for count in sorted(options.counts) for row in measure(Path(folder), count, options)]
    print(markdown(["recorded jobs", "command", "s", "peak RSS MiB"], rows))


def measure(folder: Path, count: int, options: argparse.Namespace) -> list[list[str]]:
    """Fill the store up to so many jobs, and time each command."""
    uri = options.uri or f"sqlite:///{folder / 'outputs' / 'mlflow.db'}"
    grid = ("-m", f"seed=range(0,{GRID})", *JOB, f"tracking.uri='{uri}'")
    if not (folder / "outputs").exists():
        command("runner", grid, folder)
    began = time.perf_counter()
    fill(folder / "outputs", uri, count)
    print(f"{count:,} jobs after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    single = ("seed=7", *JOB, f"tracking.uri='{uri}'")
    store = ("--tracking-uri", uri)
    commands: dict[str, tuple[str, Sequence[str]]] = {
        "a job that is done": ("runner", single),
        f"plan of a grid of {GRID} that is done": ("runner", (*grid, "plan=quick")),
        f"start of a grid of {GRID} that is done": ("runner", grid),
        "runner-sync, nothing to do": ("runner.tracking.sync", store),
        f"runner-compare of the grid of {GRID}": (
            "runner_compare",
            (*store, "--grid", "last", "--format", "json"),
        ),
        "runner-compare of all": ("runner_compare", (*store, "--format", "json")),
    }
    rows = []
    for name, (module, arguments) in commands.items():
        if options.only not in name:
            continue
        timed = repeated(module, arguments, folder, options.rounds)
        rows.append([f"{count:,}", name, spread(timed.seconds, 2), f"{timed.peak_mib:,.0f}"])
        print(*rows[-1], file=sys.stderr)
    if not options.only:
        unlogged = ("-m", f"seed=range({1000 + count},{1000 + count + GRID})", *JOB, "tracking=none")
        command("runner", unlogged, folder)
        seconds, peak = command("runner.tracking.sync", store, folder)
        rows.append([f"{count:,}", f"runner-sync, {GRID} to log", f"{seconds:.2f}", f"{peak:,.0f}"])
        print(*rows[-1], file=sys.stderr)
    outputs = folder / "outputs"
    size = sum(path.stat().st_size for path in outputs.glob("jobs/*/*") if path.is_file())
    jobs = sum(1 for _ in (outputs / "jobs").iterdir())
    of_database = f"{database_bytes(uri) / jobs / 1024:.1f} in the database"
    rows.append(
        [f"{count:,}", "disk, KiB a job", f"{size / jobs / 1024:.1f} in its folder, {of_database}", ""]
    )
    return rows


def database_bytes(uri: str) -> int:
    """Return what a database of sqlite or PostgreSQL takes on its disk."""
    from sqlalchemy import create_engine, text

    pages = "select page_count * page_size from pragma_page_count, pragma_page_size"
    engine = create_engine(uri)
    with engine.connect() as database:
        query = "select pg_database_size(current_database())" if engine.name == "postgresql" else pages
        size = int(database.execute(text(query)).scalar_one())
    engine.dispose()
    return size


def repeated(module: str, arguments: Sequence[str], folder: Path, rounds: int) -> Timed:
    """Time a command several times."""
    done = [command(module, arguments, folder) for _ in range(rounds)]
    return Timed([seconds for seconds, _ in done], max(peak for _, peak in done))


def command(module: str, arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command to its end; return its seconds and its peak memory in MiB."""
    began = time.perf_counter()
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=folder, stdout=out, stderr=out
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)}:\n{(folder / 'out.txt').read_text()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def fill(outputs: Path, uri: str, count: int) -> None:
    """Copy a recorded job, its folder and its rows, until the folder has so many."""
    from sqlalchemy import create_engine, text

    jobs = outputs / "jobs"
    missing = count - sum(1 for _ in jobs.iterdir())
    if missing <= 0:
        return
    original = max(jobs.iterdir(), key=lambda path: path.stat().st_mtime)
    record = Record.from_json((original / "result.json").read_text())
    copies = []
    for _ in range(missing):
        job, run = f"gsm8k-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
        target = jobs / job
        shutil.copytree(original, target)
        copied = replace(record, job_id=job, output_dir=str(target), mlflow_run_id=run)
        (target / "result.json").write_text(copied.to_json())
        copies.append({"run": run, "job": job, "folder": str(target), "input": uuid.uuid4().hex})
    store = create_store_from_options(outputs, uri, None)
    noted = [*published_index.read_index_entries(outputs, original.name)][-1]
    for copy in copies:
        published_index.append_index_entry(
            store, replace(noted, key=copy["job"], mlflow_id=copy["run"], parent="another grid")
        )
    engine = create_engine(uri)
    with engine.begin() as database:
        database.execute(text(COPIES))
        database.execute(text("insert into copies values (:run, :job, :folder, :input)"), copies)
        for table, (of_run, changed) in TABLES.items():
            found: Any = database.execute(text(f"select * from {table} limit 0"))
            columns = [*found.keys()]
            values = [changed.get(name, "c.run" if name == of_run else f"t.{name}") for name in columns]
            statement = (
                f"insert into {table} ({', '.join(columns)}) select {', '.join(values)} from {table} t "
                f"cross join copies c where t.{of_run} = :original"
            )
            database.execute(text(statement), {"original": record.mlflow_run_id})
        database.execute(text("drop table copies"))
    engine.dispose()


if __name__ == "__main__":
    main()
