"""Put the parts of a split back together: the tensors of the source, bit for bit.

Everything is checked before anything is written, and all that is wrong is said at once. Files of a safetensors source
come back byte for byte, from the original headers and the tensors' bytes; a .bin source comes back as safetensors of
the same tensors. Each tensor must have the digest that it had in the source. A folder with nothing but old
partition_N.json files becomes one safetensors file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoints import byteio
from runner.config.root import RunnerConfig
from runner.config.task import MergeConfig
from runner.core import machine
from runner.core.dtypes import Dtype
from runner.core.errors import ConfigError
from runner.core.result import Result
from runner.sharding import inline_partition, json_numbers, restore
from runner.sharding.completeness import require_complete
from runner.sharding.manifest import MANIFEST, Manifest, read_manifest
from runner.sharding.restore import CopiedFile, Target, WeightsFile
from runner.sharding.write import Meter
from runner.store.jobs import Recorder
from runner.tasks.base import Context, Inputs, Uses

VERSION = 2
USES = frozenset({Uses.own_location})
FROM_LEDGER = True

MIB = machine.MIB


@dataclass
class Parts(Inputs):
    """The folder of the parts, and its manifest where it has one."""

    task: MergeConfig
    folder: Path
    manifest: Manifest | None


def prepare(config: RunnerConfig) -> Parts:
    """Read the manifest and hash it: it holds the digest of everything else."""
    task = config.task
    assert isinstance(task, MergeConfig)
    folder = Path(task.parts).expanduser().absolute()
    if inline_partition.is_legacy(folder):
        partitions = inline_partition.read_legacy(folder)
        return Parts({one.path.name: byteio.file_sha256(one.path) for one in partitions}, task, folder, None)
    manifest = read_manifest(folder)
    if task.dtype is not Dtype.float32:
        raise ConfigError(
            f"task.dtype={task.dtype}: only numbers in JSON without a {MANIFEST} have no dtype of their own; these "
            "parts keep theirs: leave task.dtype out"
        )
    return Parts({"manifest": byteio.file_sha256(folder / MANIFEST)}, task, folder, manifest)


def run(inputs: Parts, context: Context) -> Result:
    """Check the parts, restore the files, and say how many bytes that were."""
    machine.reset_peak()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    parts_dir, manifest, recorder = inputs.folder, inputs.manifest, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    targets = _from_json(parts_dir, inputs.task.dtype) if manifest is None else _from_parts(manifest, recorder)
    missing = _missing(folder, targets)
    byteio.require_space(folder, sum(target.nbytes for target in missing))
    byteio.make_folder(folder)
    write_started = time.perf_counter()
    with (
        byteio.hold(folder, "task.output_dir"),
        recorder.progress(sum(target.nbytes for target in missing), "merge", "bytes") as bar,
    ):
        meter = Meter(bar)
        for target in missing:
            bar.describe(f"write {target.name}")
            algorithm = "xxh3_128" if target.digest is None else byteio.algorithm_of(target.digest)
            byteio.write_digested(folder / target.name, target.pieces(meter), algorithm, target.digest)
    now = time.perf_counter()
    weights = [target for target in targets if isinstance(target, WeightsFile | inline_partition.RestoredFile)]
    written_mib = sum(target.nbytes for target in missing) / MIB
    return Result(
        metrics={
            "num_parts": manifest.num_parts if manifest else len(list(parts_dir.glob("partition_*.json"))),
            "files": len(weights),
            "tensors": sum(len(file.tensors) for file in weights),
            "total_params": sum(file.params for file in weights),
            "merged_mib": sum(file.nbytes for file in weights) / MIB,
            "written_mib": written_mib,
            "seconds": now - started,
            "write_mib_per_s": written_mib / (now - write_started),
            "peak_rss_mib": machine.peak_rss_mib(),
            "rss_growth_mib": max(0.0, machine.peak_rss_mib() - rss_mib),
        },
        rows=[
            {"file": file.name, "tensors": len(file.tensors), "params": file.params, "mib": file.nbytes / MIB}
            for file in weights
        ],
        facts={"output_dir": str(folder), "source": manifest.source if manifest else parts_dir.name}
        | ({"bit_identical": _proof(manifest)} if manifest else {}),
        notes=[*_notes(weights), *(["all files were there already: nothing was written"] if not missing else [])],
        artifacts=[str(folder / target.name) for target in targets],
    )


def _from_parts(manifest: Manifest, recorder: Recorder) -> list[Target]:
    """Check everything that will be read, and list the files to write."""
    with recorder.progress(sum(part.stored.nbytes for part in manifest.parts), "check parts", "bytes") as bar:
        checked = require_complete(manifest, Meter(bar))
    return restore.targets(manifest, checked)


def _from_json(folder: Path, dtype: Dtype) -> list[Target]:
    """List the files to write from partitions that hold their numbers."""
    kind = None if dtype is Dtype.auto else json_numbers.safetensors_dtype(dtype.value)
    copied = [
        CopiedFile(path.name, byteio.file_size(path), path, f"sha256:{byteio.file_sha256(path)}")
        for path in inline_partition.companions(folder)
    ]
    return [*copied, inline_partition.RestoredFile(inline_partition.read_legacy(folder), kind)]


def _missing(folder: Path, targets: Sequence[Target]) -> list[Target]:
    """Return what is still to be written; a folder with anything else than finished targets is refused."""
    known = {target.name: target for target in targets}
    there = set()
    for name in byteio.list_folder(folder, "task.output_dir"):
        if name.removesuffix(".tmp") in known and name not in known:
            continue  # left by an interrupted merge; it is written anew
        if name not in known or not known[name].is_at(folder / name):
            raise ConfigError(
                f"task.output_dir={folder}: holds {name}, which is not what this merge writes. "
                "Nothing was changed: give an empty or new folder"
            )
        there.add(name)
    return [target for target in targets if target.name not in there]


def _proof(manifest: Manifest) -> str:
    tensors = f"every tensor has the {manifest.checksums} that it had in the source"
    if manifest.source_format == "bin":
        return f"{tensors}; the .bin is now safetensors"
    return f"yes: {tensors}, and every header is the source's"


def _notes(weights: Sequence[Target]) -> list[str]:
    rounded = sum(file.rounded for file in weights if isinstance(file, inline_partition.RestoredFile))
    return [f"{rounded} numbers had to be rounded to their dtype"] if rounded else []
