"""Check the parts of a split against their manifest, and against the source where one is given.

Everything that is wrong is listed, not only the first: with file, tensor, what was expected and what was found. A
verification is never answered from the ledger: what was whole yesterday may be damaged today.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoints import byteio, resolve
from runner.checkpoints.weight_files import Checkpoint, read_checkpoint
from runner.config.model import LocalModelConfig, ModelConfig, local_model
from runner.config.root import RunnerConfig
from runner.config.task import VerifyConfig, VerifyLevel
from runner.core import machine
from runner.core.errors import ConfigError
from runner.core.result import Result
from runner.sharding.bin_file import read_bin
from runner.sharding.check import CheckedPart, check_files, check_part
from runner.sharding.completeness import coverage_problems, source_bytes, source_problems
from runner.sharding.manifest import MANIFEST, SOURCE_HEADERS, Manifest, PartEntry, read_manifest
from runner.sharding.write import Meter
from runner.tasks.base import Context, Inputs, Uses

VERSION = 1
USES = frozenset({Uses.own_location})  # the source, where there is one, is compared and not trusted
FROM_LEDGER = False  # what was whole yesterday may be damaged today

MIB = machine.MIB


@dataclass
class Parts(Inputs):
    """The manifest of the parts."""

    task: VerifyConfig
    manifest: Manifest


def prepare(config: RunnerConfig) -> Parts:
    """Refuse what is no parts folder; the rest is what this task is there to find out."""
    task = config.task
    assert isinstance(task, VerifyConfig)
    folder = Path(task.parts).expanduser().absolute()
    manifest = read_manifest(folder)
    return Parts({"manifest": byteio.file_sha256(folder / MANIFEST)}, task, manifest)


def run(inputs: Parts, context: Context) -> Result:
    """Check everything, and return a table with a line for each part and all problems."""
    machine.reset_peak()
    started, task, manifest, recorder = time.perf_counter(), inputs.task, inputs.manifest, context.recorder
    checkpoint = _source(task, context.config.model)
    deep = task.level is VerifyLevel.full
    total = sum(_to_read(part) for part in manifest.parts) + (source_bytes(checkpoint) if checkpoint else 0)
    checked, rows, problems = list[CheckedPart](), list[dict[str, Any]](), list[str]()
    nbytes = 0
    with recorder.progress(total if deep else None, "verify", "bytes") as bar:
        meter = Meter(bar)
        for entry in manifest.parts:
            bar.describe(f"verify {entry.stored.file}")
            part = check_part(manifest, entry, task.level, meter)
            checked.append(part)
            rows.append(_part_row(part, deep))
            problems += part.problems
            nbytes += part.nbytes
        for folder, found in check_files(manifest, task.level).items():
            count = len(manifest.companions if folder != SOURCE_HEADERS else manifest.headers)
            rows.append(_row("-", f"{folder}/", found, f"{'sha256' if deep else 'size'} of {_files(count)}"))
            problems += found
        found = coverage_problems(manifest, checked)
        rows.append(_row("-", MANIFEST, found, f"each of {manifest.totals.tensors} tensors once, tied ones, totals"))
        problems += found
        if checkpoint is not None:
            bar.describe("compare with the source")
            began = time.perf_counter()
            found = source_problems(manifest, checked, checkpoint, task.level, meter)
            what = "content" if deep else "dtype and shape"
            row = _row("-", f"source {checkpoint.folder.name}", found, f"{what} of {len(checkpoint.tensors)} tensors")
            read = source_bytes(checkpoint) if deep else 0
            rows.append(row | _speed(read, time.perf_counter() - began))
            problems += found
            nbytes += read
    seconds = time.perf_counter() - started
    return Result(
        metrics={
            "num_parts": manifest.num_parts,
            "tensors": manifest.totals.tensors,
            "problems": len(problems),
            "read_mib": nbytes / MIB,
            "read_mib_per_s": nbytes / MIB / seconds,
            "seconds": seconds,
            "peak_rss_mib": machine.peak_rss_mib(),
        },
        rows=rows,
        facts={"source": manifest.source, "level": task.level.value},
        problems=problems,
    )


def _source(task: VerifyConfig, model: ModelConfig) -> Checkpoint | None:
    """Read the headers of the source, where one is named; revision and cache are the model group's."""
    name = task.source
    if name is None:
        return None
    try:
        local = local_model(model)
        folder = resolve.locate(LocalModelConfig(name=name, revision=local.revision, cache_dir=local.cache_dir))
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.name=", "task.source=")) from error
    if folder.is_file():
        raise ConfigError(f"task.source={name}: a .gguf file, which no parts are made from")
    return read_checkpoint(folder, read_bin)


def _to_read(entry: PartEntry) -> int:
    return entry.raw.nbytes + (entry.stored.nbytes if entry.frames else 0)


def _part_row(part: CheckedPart, deep: bool) -> dict[str, Any]:
    entry = part.entry
    what = f"digests of file and {entry.tensors} tensors, " if deep else "size, "
    what = f"{what}header, {entry.partition}" if part.read is not None else f"size, {entry.partition}"
    row = _row(entry.part_id, entry.stored.file, part.problems, what)
    return row | _speed(part.nbytes, part.seconds)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _row(part: int | str, file: str, problems: list[str], what: str) -> dict[str, Any]:
    count = len(problems)
    status = "ok" if not count else f"{count} problem{'s' * (count > 1)}"
    return {"part": str(part), "file": file, "status": status, "checked": what}


def _speed(nbytes: int, seconds: float) -> dict[str, Any]:
    return {"mb": nbytes / 1e6, "mb_per_s": nbytes / 1e6 / seconds} if nbytes and seconds else {}
