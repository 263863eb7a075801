"""Grids as processes: started, watched, killed; faults in workers; MLflow's runs, read from its database."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import warm_process
from stored import read_together

# Python imports sitecustomize.py at the start of every process that finds it, so the product needs
# no hook for tests. FAULTS="1=raise,2=hang" makes the stub's job with seed 1 raise and the one with
# seed 2 hang, after one sample.
FAULTS = """
import os
import signal
import sys
import time

if os.environ.get("FAULTS"):
    from runner_base import signals
    from runner.engines.kinds import stub

    faults = dict(fault.split("=") for fault in os.environ["FAULTS"].split(","))
    begin, answer = stub.StubEngine.__init__, stub.StubSession._answer_request

    def remember(self, config, *rest):
        begin(self, config, *rest)
        self.fault, self.done = faults.get(str(config.seed)), 0

    def break_down(self, request):
        engine, events = self.engine, answer(self, request)
        if engine.done == 1 and engine.fault:
            if engine.fault == "deaf":  # before the words, for which a test waits
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(f"last words before {engine.fault}", file=sys.stderr, flush=True)
            match engine.fault:
                case "raise":
                    raise RuntimeError("out of luck")
                case "sys.exit":
                    sys.exit(7)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "interrupt":
                    os.kill(os.getpid(), signal.SIGINT)
                case "exit":
                    os._exit(3)
                case "segfault":
                    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "hang":
                    signals.sleep_interruptibly(3600)  # a step that a signal need not wait for
                case "deaf":
                    time.sleep(3600)
        engine.done += 1
        return events

    stub.StubEngine.__init__, stub.StubSession._answer_request = remember, break_down

if os.environ.get("FAULTS_GRACE_S"):  # how long a grid waits after Ctrl-C for its jobs to end
    from runner.grid import executor

    executor.GRACE_S = float(os.environ["FAULTS_GRACE_S"])
"""

# Used like FAULTS. The clock of such a process jumps forth and back by hours, days and years, twice
# a second; sleeping and measuring use another clock, as when a machine's clock is set.
CLOCK = """
import datetime, os, random, sys, time

if os.environ.get("FAULTS_CLOCK"):
    real, chance, state = time.time, random.Random(os.getpid()), [0.0, 0.0]

    def jumping():
        now = time.monotonic()
        if now > state[0]:
            state[:] = now + 0.5, chance.choice((0, 3600, -3600, 86400, -86400, 1e8, -1e8)) * chance.random()
        return real() + state[1]

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(jumping(), tz)

    time.time = jumping
    for name, module in [*sys.modules.items()]:  # of those that were imported before
        if name.startswith("runner") and vars(module).get("datetime") is datetime.datetime:
            setattr(module, "datetime", Jumping)
"""


@dataclass
class Ended:
    """How a grid ended."""

    code: int
    out: str
    err: str


@dataclass
class Grid:
    """A grid in a process of its own and an empty folder."""

    folder: Path
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    name: str = ""  # the beginning of its output files' names, if several grids share a folder
    within: list[str] = field(default_factory=list)  # a command that runs it, as on another host

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.out, self.err = self.folder / f"{self.name}stdout", self.folder / f"{self.name}stderr"
        with self.out.open("w") as out, self.err.open("w") as err:
            start = subprocess.Popen if self.within else warm_process.popen
            self.process = start(
                [*self.within, sys.executable, "-m", "runner", *self.arguments],
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def wait(self, seconds: float = 200) -> Ended:
        """Wait until it has ended."""
        code = self.process.wait(timeout=seconds)
        return Ended(code, self.out.read_text(), self.err.read_text())

    def workers(self) -> list[int]:
        """The ids of its living worker processes."""
        return [pid for pid in children(self.process.pid) if b"runner.grid.worker" in command(pid)]

    def end(self) -> None:
        """Kill the process if it is still running."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def command(pid: int) -> bytes:
    """Return the command line of a process; empty if it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The ids of a process's child processes; none when it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process and wait until it and its children, which the kernel kills after it, have
    ended."""
    below = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(command(pid) for pid in below))


def wait_for(condition: Callable[[], Any], seconds: float = 200) -> Any:
    """Wait until something has happened; return what the condition has returned."""
    end = time.monotonic() + seconds
    while not (happened := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.03)
    return happened


@dataclass
class Run:
    """A run in MLflow's database."""

    run_id: str
    status: str
    tags: dict[str, str]

    @property
    def job_id(self) -> str | None:
        return self.tags.get("job_id")

    @property
    def is_grid(self) -> bool:
        return "grid" in self.tags


def mlflow_runs(folder: Path) -> list[Run]:
    """Read all runs from the database itself, which is quicker than through MLflow."""
    path = folder / "outputs" / "mlflow.db"
    if not path.exists():
        return []
    with read_together(path) as database:
        try:
            tags: dict[str, dict[str, str]] = {}
            for run_id, key, value in database.execute("select run_uuid, key, value from tags"):
                tags.setdefault(run_id, {})[key] = value
            rows = database.execute("select run_uuid, status from runs order by start_time").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # the tables are being made
    return [Run(run_id, status, tags.get(run_id, {})) for run_id, status in rows]


def samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every job's samples in the order of its file."""
    files = folder.glob("outputs/jobs/*/samples.jsonl")
    whole_lines = {file.parent.name: file.read_text().rpartition("\n")[0].splitlines() for file in files}
    return {job_id: [json.loads(line) for line in lines] for job_id, lines in whole_lines.items()}


def without_time(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample without its time, and without the checksum, which covers the time."""
    return {key: value for key, value in sample.items() if key not in ("seconds", "checksum")}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return every job's result.json."""
    return {
        file.parent.name: json.loads(file.read_text()) for file in folder.glob("outputs/jobs/*/result.json")
    }


def end_at(pid: int, number: signal.Signals) -> None:
    """Send a signal; ignore a process that has ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def put_clock(folder: Path) -> dict[str, str]:
    """Write the jumping clock into a folder; return the variables of a process that is to have
    it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    return {"PYTHONPATH": str(folder), "FAULTS_CLOCK": "1"}


def put_choices(conf: Path, **groups: dict[str, str]) -> None:
    """Write choices of groups, each as the rest of its defaults list, after the schema's folder."""
    for group, choices in groups.items():
        (conf / group).mkdir(parents=True)
        for name, text in choices.items():
            (conf / group / f"{name}.yaml").write_text(f"defaults: [/hydra/schema/{group}/{text}")


def statuses(folder: Path) -> list[str]:
    """The statuses of the jobs' runs in MLflow, sorted."""
    return sorted(run.status for run in mlflow_runs(folder) if not run.is_grid)


def assert_each_done_once(folder: Path, jobs: int, questions: int) -> None:
    """Assert that no sample is lost or there twice, and that MLflow has one finished run for each
    job."""
    found = samples(folder)
    assert len(found) == jobs
    for lines in found.values():
        assert sorted(int(line["index"]) for line in lines) == list(range(questions))
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"}
    finished = [run.job_id for run in mlflow_runs(folder) if run.status == "FINISHED" and not run.is_grid]
    amiss = {
        job: count for job, count in Counter(map(str, finished)).items() if count != 1 or job not in found
    }
    assert sorted(map(str, finished)) == sorted(found), (
        f"FINISHED, but not once: {amiss}; never: {found.keys() - finished}"
    )
    assert "RUNNING" not in {run.status for run in mlflow_runs(folder)}


def timeless(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every job's samples without their times."""
    return {job: [without_time(line) for line in lines] for job, lines in samples(folder).items()}
