"""What works on this GPU, and how fast? `python bench/gpu_all.py [--minutes 8]`.

The first command on a machine with a GPU. The most important steps come first, and each is a process with a time limit.
Its result is stored at once in FOLDER/gpu_all.json, so the same command continues where the last one stopped, also
after SIGKILL. A step that needs more than the time left does not start. `--dry-run` takes the same steps through tiny
models on the CPU, to find mistakes without a GPU. `--show FILE` prints a stored run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from gpu_results import (
    RESULTS_NAME,
    TABLES_NAME,
    Status,
    StepOutput,
    StepResult,
    read_results,
    render_result,
    render_summary,
    write_results,
)
from heading import parse_arguments
from latest import Measured, write

from runner_base import machine
from runner_base.child_process import describe_exit_code, read_last_lines, start_python_child_process

HERE = Path(__file__).resolve().parent
GPU_MINUTES, CPU_MINUTES = 8.0, 120.0
CPU_PATIENCE = 10.0  # a CPU may be busy, and imports alone take longer there
LAST_LINES = 12


@dataclass(frozen=True)
class Step:
    """A step with the seconds that it usually takes on a GPU, and the seconds after which it is killed."""

    name: str
    needs_s: float
    limit_s: float


STEPS = [  # the most important ones first
    Step("versions", 15, 40),
    Step("tests", 60, 120),
    Step("equal", 25, 60),
    Step("speed", 60, 120),
    Step("vllm", 70, 150),
    Step("memory", 20, 60),
    Step("kl", 25, 60),
    Step("families", 25, 60),
    Step("kv_formats", 20, 60),
    Step("pages", 20, 60),
    Step("graphs", 20, 60),
    Step("quantized", 25, 60),
    Step("shortage", 20, 60),
    Step("profile", 20, 60),
    Step("attention", 20, 60),
    Step("prefixes", 15, 60),
    Step("sampled", 15, 40),
    Step("job", 25, 60),
    Step("thorough_tests", 60, 150),
]


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run."""

    folder: Path
    device: str
    minutes: float
    patience: float = 1.0  # each time of a step is multiplied by it
    should_retry: bool = False  # repeat steps that failed
    side: Path = HERE / "gpu_side.py"  # the program of the steps
    vllm_python: str = ""


def run_steps(steps: Sequence[Step], settings: RunSettings) -> list[StepResult]:
    """Run each step that has no final result yet. Stores and prints each result at once."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    stored = {result.step: result for result in read_results(settings.folder / RESULTS_NAME)}
    if others := {result.device for result in stored.values()} - {settings.device}:
        raise SystemExit(
            f"--out={settings.folder}: has results of device {others.pop()}. Choose another folder."
        )
    deadline = time.monotonic() + 60 * settings.minutes
    shown = []
    for step in steps:
        result = stored.get(step.name)
        if result is None or not result.is_final or (settings.should_retry and not result.passed):
            result = run_step(step, settings, deadline - time.monotonic())
            if result.status is not Status.not_started:
                stored[step.name] = result
                write_results(settings.folder, list(stored.values()))
        shown.append(result)
        print(render_result(result), flush=True)
    tables = [*map(render_result, shown), render_summary(shown)]
    (settings.folder / TABLES_NAME).write_text("\n".join(tables) + "\n", encoding="utf-8")
    return shown


def run_step(step: Step, settings: RunSettings, left_s: float) -> StepResult:
    """Run a step in a process of its own and wait for it, at most for the time left."""
    today, needs_s = date.today().isoformat(), step.needs_s * settings.patience
    if left_s < needs_s:
        reason = f"{max(left_s, 0):.0f} s are left, and the step takes about {needs_s:.0f} s."
        return StepResult(step.name, Status.not_started, settings.device, today, 0.0, reason)
    logs = settings.folder / "logs"
    logs.mkdir(exist_ok=True)
    log, written = logs / f"{step.name}.log", settings.folder / "running.json"
    written.unlink(missing_ok=True)
    limit_s = min(step.limit_s * settings.patience, left_s)
    started = time.monotonic()
    status, reason = Status.done, ""
    arguments = [step.name, settings.device, str(written), settings.vllm_python, str(os.getpid())]
    with log.open("wb") as stream:
        process = start_python_child_process(
            str(settings.side),
            *arguments,
            environment={"HF_HUB_OFFLINE": "1", "RUNNER_PROGRESS": "off", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # a step's own processes end with it
        )
        try:
            code = process.wait(limit_s)
            if code:
                status, reason = Status.failed, f"The process {describe_exit_code(code)}."
        except subprocess.TimeoutExpired:
            status, reason = Status.timed_out, f"The step was stopped after {limit_s:.0f} s."
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    output = StepOutput.read(written)
    written.unlink(missing_ok=True)
    if status is Status.done and output.missing:
        status, reason = Status.not_run, output.missing
    last_lines = read_last_lines(log, LAST_LINES) if status in (Status.failed, Status.timed_out) else []
    took_s = time.monotonic() - started
    return StepResult(step.name, status, settings.device, today, took_s, reason, last_lines, output)


def add_wheels(folder: Path, into: Path) -> None:
    """Unpack wheels into a folder that this process and all steps import from first."""
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    sys.path.insert(1, str(into.resolve()))


def save_figures(results: Sequence[StepResult]) -> None:
    """Write the figures to bench/results/, under the card and torch's version."""
    done = [result for result in results if result.status is Status.done and result.output.figures]
    if done:
        place = done[0].output.place
        command = shlex.join(
            ["python", "bench/gpu_all.py", *(word for word in sys.argv[1:] if word != "--save")]
        )
        figures = [figure for result in done for figure in result.output.figures]
        where = f"{place.card}, torch {place.torch}"
        print(
            f"written: {write(Measured('gpu_all', where, done[0].date, command, figures))}", file=sys.stderr
        )


def main() -> None:
    """Run the steps and print their tables. Exit code 1 if a step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dry-run", action="store_const", const="cpu", dest="device", help="as --device cpu")
    parser.add_argument("--minutes", type=float, help="for all steps (default: 8, and 120 on a CPU)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: outputs/gpu_all_DEVICE")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument("--retry", action="store_true", help="repeat steps that failed")
    parser.add_argument(
        "--patience", type=float, help="factor of all time limits (default: 1, and 10 on a CPU)"
    )
    parser.add_argument(
        "--vllm", default="", metavar="PYTHON", help="of an environment with vLLM (default: this one)"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="packages that this machine lacks, as wheels"
    )
    parser.add_argument("--save", action="store_true", help="write the figures to bench/results/")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="print the tables of a gpu_all.json, and end"
    )
    options = parse_arguments(parser)
    if options.show:
        if not options.show.is_file():
            parser.error(f"--show={options.show}: there is no such file. Name the gpu_all.json of a run.")
        results = read_results(options.show)
        print("\n".join([*map(render_result, results), render_summary(results)]))
        return
    is_cpu = options.device == "cpu"
    if not is_cpu and not (machine.visible_gpu_models() or shutil.which("nvidia-smi")):
        parser.error("--device=cuda: this machine has no GPU. Use --dry-run.")
    folder = options.out or Path(f"outputs/gpu_all_{options.device}")
    if options.wheels:
        add_wheels(options.wheels, folder / "packages")
    settings = RunSettings(
        folder,
        options.device,
        options.minutes or (CPU_MINUTES if is_cpu else GPU_MINUTES),
        options.patience or (CPU_PATIENCE if is_cpu else 1.0),
        options.retry,
        vllm_python=options.vllm,
    )
    results = run_steps([step for step in STEPS if step.name in options.only], settings)
    print(render_summary(results))
    if options.save:
        save_figures(results)
    raise SystemExit(not all(result.passed for result in results))


if __name__ == "__main__":
    main()
