"""A maker's process, and how what it has written gets its name: whole, and never over another.

It writes into a folder beside the place, `.NAME.RANDOM.unfinished`, which the next run removes after
a kill. The name is given by one call of the kernel at the end.
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
from runner_base import ConfigError, JobFailed, Progress, RunnerError, one_line
from runner_base.child import describe_exit, last_lines
from runner_base.files import hold_briefly, sync
from runner_base.known_secrets import environment_for_children
from runner_base.own_folders import remove_abandoned, temporary_folder
from runner_engine.checkpoints import byteio, gguf_file, read_checkpoint

KEY = "task.output"
MADE = "model"  # in the unfinished folder: what gets the name
UNFINISHED = ".unfinished"
RECORD = "quantize.json"  # in the model's folder, and so in its hash
MEASURED = ("make_s", "peak_rss_mib")  # differ each time
TEXTS = "texts.json"
SAID_LINES = 40  # of a maker's log, in which its last error is looked for


@dataclass(frozen=True)
class Order:
    """What a maker is told."""

    maker: str  # makers/NAME_maker.py
    python: str
    threads: int
    keys: dict[str, Any]  # what its module reads
    texts: tuple[str, ...] = field(default=(), repr=False)


def make(order: Order, target: Path, companions: list[Path], log: Path, bar: Progress) -> dict[str, Any]:
    """Let a maker write a model and give it its name; return what it reports."""
    with _unfinished(target) as folder:
        made = folder / MADE
        (folder / TEXTS).write_text(json.dumps(order.texts), encoding="utf-8")
        report = _run(order, folder, made, log, bar)
        why = f"{order.maker} has written no model that can be read"
        _check_model(made, why, log)
        for companion in companions:
            if made.is_dir() and not (made / companion.name).exists():
                shutil.copyfile(companion, made / companion.name)
        if made.is_dir():
            for file in made.glob("*.safetensors"):  # made again, a model has the same hash
                byteio.sort_metadata(file)
            record = {name: value for name, value in report.items() if name not in MEASURED}
            (made / RECORD).write_text(json.dumps(record | order.keys["record"], indent=2))
        _name(made, target)
    return report


def check_free(target: Path) -> None:
    """Raise ConfigError if there is something of that name."""
    if os.path.lexists(target):
        raise ConfigError(
            f"{target} exists, and nothing is written over it: move it away, or give another {KEY}",
            key=KEY,
            code="exists",
        )


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to the target, if no other process writes this target; remove it
    afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    name = (f".{target.name}.", UNFINISHED)
    with ExitStack() as until_done:
        with hold_briefly(target.parent):  # two processes that start now see each other's folder
            in_use = remove_abandoned(target.parent, *name)
            if in_use:
                raise ConfigError(
                    f"another process is writing there; wait, or give another {KEY}",
                    key=KEY,
                    value=target,
                    code="busy",
                )
            folder = until_done.enter_context(temporary_folder(target.parent, *name))
        check_free(target)
        yield folder


def _check_model(made: Path, problem: str, log: Path) -> None:
    """Raise JobFailed unless the headers of a folder's or a file's weights can be read."""
    try:
        if made.is_dir():
            read_checkpoint(made)
        else:
            gguf_file.read_header(made)
    except (RunnerError, OSError) as error:
        raise JobFailed(f"{problem}: {one_line(error)}. Its log is {log}", code="failed") from error


def _name(made: Path, target: Path) -> None:
    """Give what was made its name, once the disk has all of it; never over what exists."""
    for path in sorted(made.rglob("*")) if made.is_dir() else [made]:
        if path.is_file():
            sync(path)
    check_free(target)
    if made.is_file():
        os.link(made, target)  # fails where the name exists, unlike a renaming
    else:
        os.rename(made, target)  # fails over a folder that is not empty
    sync(target.parent)


def _run(order: Order, folder: Path, made: Path, log: Path, bar: Progress) -> dict[str, Any]:
    """Start the process, show its steps, and return its report; JobFailed with its last error."""
    written = {
        **order.keys,
        "maker": order.maker,
        "threads": order.threads,
        "texts": str(folder / TEXTS),
        "output": str(made),
        "parent": os.getpid(),
    }
    counts = {f"{name}_NUM_THREADS": str(order.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HOME": str(folder)}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [order.python, "-P", str(Path(maker_main.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment_for_children() | counts | offline,
            start_new_session=True,
            text=True,
            cwd=folder,
        )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(written))
        report = _listen(process.stdout, bar)
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code or report is None:
        lines = last_lines(log, SAID_LINES)
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
        raise JobFailed(
            f"{order.maker} {describe_exit(code)}: {one_line(said)}. Its log is {log}", code="failed"
        )
    return report


def _listen(lines: IO[str], bar: Progress) -> dict[str, Any] | None:
    """Show what a maker tells, a line of JSON each; return its report, None without one."""
    report: dict[str, Any] | None = None
    for line in lines:
        said = json.loads(line)
        if "report" in said:
            report = said["report"]
            continue
        bar.describe(said["step"])
        if said["total"]:
            bar.total = said["total"]
            bar.show(said["done"])
    return report
