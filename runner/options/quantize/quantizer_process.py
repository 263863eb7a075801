"""Runs a quantizer process and moves its model to the target atomically. Never overwrites existing files.

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
from runner_base.files import hold_folder_lock, sync_to_disk
from runner_base.known_secrets import untrusted_child_environment
from runner_base.temp_folders import create_temporary_folder, remove_abandoned_folders
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
    """JSON request to a quantizer process."""

    maker: str  # makers/NAME_maker.py
    python: str
    threads: int
    keys: dict[str, Any]  # what its module reads
    texts: tuple[str, ...] = field(default=(), repr=False)


def run_quantizer(
    request: QuantizeRequest,
    target_path: Path,
    files_to_copy: list[Path],
    log_file: Path,
    progress_bar: Progress,
) -> dict[str, Any]:
    with _make_temporary_folder(target_path) as folder:
        made = folder / MADE
        (folder / TEXTS).write_text(json.dumps(request.texts), encoding="utf-8")
        report = _run_quantizer_process(request, folder, made, log_file, progress_bar)
        why = f"{request.maker} wrote a model that cannot be read"
        _check_written_model(made, why, log_file)
        for companion in files_to_copy:
            if made.is_dir() and not (made / companion.name).exists():
                shutil.copyfile(companion, made / companion.name)
        if made.is_dir():
            for file in made.glob("*.safetensors"):  # made again, a model has the same hash
                file_io.sort_safetensors_metadata(file)
            record = {name: value for name, value in report.items() if name not in MEASURED}
            (made / RECORD).write_text(json.dumps(record | request.keys["record"], indent=2))
        _move_model_to_target_path(made, target_path)
    return report


def check_target_absent(target_path: Path) -> None:
    """Raise ConfigError if the target path already exists."""
    if os.path.lexists(target_path):
        raise ConfigError(
            f"{target_path} exists and is not overwritten. Move it, or give another {KEY}",
            key=KEY,
            code="exists",
        )


@contextmanager
def _make_temporary_folder(target_path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to the target. Raises ConfigError if another process is writing the
    same target.
    """
    target_path.parent.mkdir(parents=True, exist_ok=True)
    name = (f".{target_path.name}.", UNFINISHED)
    with ExitStack() as until_done:
        with hold_folder_lock(target_path.parent):  # two processes that start now see each other's folder
            in_use = remove_abandoned_folders(target_path.parent, *name)
            if in_use:
                raise ConfigError(
                    f"another process is writing to this folder. Wait until it has finished, or change {KEY}",
                    key=KEY,
                    value=target_path,
                    code="busy",
                )
            folder = until_done.enter_context(create_temporary_folder(target_path.parent, *name))
        check_target_absent(target_path)
        yield folder


def _check_written_model(model_path: Path, problem: str, log_file: Path) -> None:
    """Raise JobFailed if the headers of the written weight files are not readable."""
    try:
        if model_path.is_dir():
            read_checkpoint(model_path)
        else:
            gguf_file.read_gguf_header(model_path)
    except (RunnerError, OSError) as error:
        raise JobFailed(f"{problem}: {to_one_line(error)}. Log: {log_file}", code="failed") from error


def _move_model_to_target_path(model_path: Path, target_path: Path) -> None:
    """Sync the written model to disk and rename it to its target path, without overwriting an existing
    target.
    """
    for path in sorted(model_path.rglob("*")) if model_path.is_dir() else [model_path]:
        if path.is_file():
            sync_to_disk(path)
    check_target_absent(target_path)
    if model_path.is_file():
        os.link(model_path, target_path)  # fails where the name exists, unlike a renaming
    else:
        os.rename(model_path, target_path)  # fails over a folder that is not empty
    sync_to_disk(target_path.parent)


def _run_quantizer_process(
    request: QuantizeRequest, folder: Path, model_path: Path, log_file: Path, progress_bar: Progress
) -> dict[str, Any]:
    """Run the quantizer process, show its progress, and return its report. Raises JobFailed with its last
    error.
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
    with log_file.open("ab") as stderr:
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
        report = _read_progress_and_report(process.stdout, progress_bar)
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code or report is None:
        lines = read_last_lines(log_file, SAID_LINES)
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
        raise JobFailed(
            f"{request.maker} {describe_exit_code(code)}: {to_one_line(said)}. Log: {log_file}", code="failed"
        )
    return report


def _read_progress_and_report(json_lines: IO[str], progress_bar: Progress) -> dict[str, Any] | None:
    report: dict[str, Any] | None = None
    for line in json_lines:
        said = json.loads(line)
        if "report" in said:
            report = said["report"]
            continue
        progress_bar.set_title(said["step"])
        if said["total"]:
            progress_bar.total = said["total"]
            progress_bar.set_position(said["done"])
    return report
