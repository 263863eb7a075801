"""Runs a quantizer process and publishes its output atomically, never over an existing file.

The process writes into `.NAME.RANDOM.unfinished` next to the target, which the next run
removes after a kill. One system call renames the output at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from runner.options.quantize.makers import maker_main
from runner_base import ConfigError, JobFailed, Progress, RunnerError, to_one_line
from runner_base.child_process import describe_exit_code, read_last_lines
from runner_base.files import sync_to_disk, wait_for_folder_lock
from runner_base.known_secrets import untrusted_child_environment
from runner_base.temp_folders import remove_abandoned_folders, temporary_folder
from runner_engine.checkpoints import file_io, gguf_file, read_checkpoint

KEY = "task.output"
MADE = "model"  # in the unfinished folder: what gets the name
UNFINISHED = ".unfinished"
RECORD = "quantize.json"  # in the model's folder, and so in its hash
MEASURED = ("make_s", "peak_rss_mib")  # differ each time
TEXTS = "texts.json"
SAID_LINES = 40  # of a maker's log, in which its last error is looked for


@dataclass(frozen=True)
class QuantizeRequest:
    """The request to a quantizer process."""

    maker: str  # makers/NAME_maker.py
    python: str
    threads: int
    keys: dict[str, Any]  # what its module reads
    texts: tuple[str, ...] = field(default=(), repr=False)


def run_quantizer(
    request: QuantizeRequest, target: Path, companions: list[Path], log: Path, progress_bar: Progress
) -> dict[str, Any]:
    """Let a quantizer write a model, publish it under its name, and return the quantizer's report."""
    with _make_unfinished_folder(target) as folder:
        made = folder / MADE
        (folder / TEXTS).write_text(json.dumps(request.texts), encoding="utf-8")
        report = _run_process(request, folder, made, log, progress_bar)
        why = f"{request.maker} wrote a model that cannot be read"
        _check_model(made, why, log)
        for companion in companions:
            if made.is_dir() and not (made / companion.name).exists():
                shutil.copyfile(companion, made / companion.name)
        if made.is_dir():
            for file in made.glob("*.safetensors"):  # made again, a model has the same hash
                file_io.sort_metadata(file)
            record = {name: value for name, value in report.items() if name not in MEASURED}
            (made / RECORD).write_text(json.dumps(record | request.keys["record"], indent=2))
        _publish(made, target)
    return report


def check_target_free(target: Path) -> None:
    """Raise ConfigError if the target exists."""
    if os.path.lexists(target):
        raise ConfigError(
            f"{target} exists and is not overwritten. Move it, or give another {KEY}", key=KEY, code="exists"
        )


@contextmanager
def _make_unfinished_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to the target and remove it afterwards. Raises ConfigError if
    another process writes this target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    name = (f".{target.name}.", UNFINISHED)
    with ExitStack() as until_done:
        with wait_for_folder_lock(target.parent):  # two processes that start now see each other's folder
            in_use = remove_abandoned_folders(target.parent, *name)
            if in_use:
                raise ConfigError(
                    f"another process writes to this folder. Wait, or give another {KEY}",
                    key=KEY,
                    value=target,
                    code="busy",
                )
            folder = until_done.enter_context(temporary_folder(target.parent, *name))
        check_target_free(target)
        yield folder


def _check_model(model_path: Path, problem: str, log: Path) -> None:
    """Raise JobFailed unless the weight headers of the written model can be read."""
    try:
        if model_path.is_dir():
            read_checkpoint(model_path)
        else:
            gguf_file.read_header(model_path)
    except (RunnerError, OSError) as error:
        raise JobFailed(f"{problem}: {to_one_line(error)}. Log: {log}", code="failed") from error


def _publish(model_path: Path, target: Path) -> None:
    """Rename the written model to its target once it is synced to disk. Never overwrites an
    existing target.
    """
    for path in sorted(model_path.rglob("*")) if model_path.is_dir() else [model_path]:
        if path.is_file():
            sync_to_disk(path)
    check_target_free(target)
    if model_path.is_file():
        os.link(model_path, target)  # fails where the name exists, unlike a renaming
    else:
        os.rename(model_path, target)  # fails over a folder that is not empty
    sync_to_disk(target.parent)


def _run_process(
    request: QuantizeRequest, folder: Path, model_path: Path, log: Path, progress_bar: Progress
) -> dict[str, Any]:
    """Run the quantizer process, show its steps, and return its report. Raises JobFailed with its
    last error.
    """
    written = {
        **request.keys,
        "maker": request.maker,
        "threads": request.threads,
        "texts": str(folder / TEXTS),
        "output": str(model_path),
        "parent": os.getpid(),
    }
    counts = {f"{name}_NUM_THREADS": str(request.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HOME": str(folder)}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [request.python, "-P", str(Path(maker_main.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=untrusted_child_environment() | counts | offline,
            start_new_session=True,
            text=True,
            cwd=folder,
        )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(written))
        report = _read_report(process.stdout, progress_bar)
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code or report is None:
        lines = read_last_lines(log, SAID_LINES)
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
        raise JobFailed(
            f"{request.maker} {describe_exit_code(code)}: {to_one_line(said)}. Log: {log}", code="failed"
        )
    return report


def _read_report(lines: IO[str], progress_bar: Progress) -> dict[str, Any] | None:
    """Show the progress from the quantizer's JSON lines. Returns its report, or None without one."""
    report: dict[str, Any] | None = None
    for line in lines:
        said = json.loads(line)
        if "report" in said:
            report = said["report"]
            continue
        progress_bar.set_title(said["step"])
        if said["total"]:
            progress_bar.total = said["total"]
            progress_bar.set_position(said["done"])
    return report
