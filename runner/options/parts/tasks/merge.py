"""Put the parts of a split back together: the tensors of the source, bit for bit.

Everything is checked before anything is written, and all problems are listed at once. Files of a
safetensors source are restored byte for byte, from the original headers and the tensors' bytes; a
.bin source is restored as safetensors of the same tensors. Each tensor must have the digest that it
had in the source. A folder with nothing but old partition_N.json files becomes one safetensors
file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.options.parts.keys import MergeConfig
from runner.options.parts.old_splits import FromNumbers, is_old_split, read_old_split, safetensors_dtype
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding import restore
from runner.options.parts.sharding.completeness import require_complete
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, read_manifest
from runner.options.parts.sharding.write import Meter, Target
from runner.records.artifacts import promise
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner_base import MIB, ConfigError, Dtype, Result, machine
from runner_base.files import hold_folder
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine.checkpoints import byteio

VERSION = 2
USES = frozenset({Uses.own_location})
FROM_LEDGER = True


@dataclass
class MergeInputs(Inputs):
    """The parts: a manifest, or numbers in the old form."""

    task: MergeConfig
    split: Manifest | FromNumbers


def prepare(config: RunnerConfig) -> MergeInputs:
    """Read the manifest and hash it: it holds the digest of everything else."""
    task = own_config(config, MergeConfig)
    folder = Path(task.parts).expanduser().absolute()
    if is_old_split(folder):
        partitions = read_old_split(folder)
        kind = None if task.dtype is Dtype.auto else safetensors_dtype(task.dtype.value)
        hashes = {partition.path.name: byteio.file_sha256(partition.path) for partition in partitions}
        return MergeInputs(hashes, task, FromNumbers(folder, partitions, kind))
    manifest = read_manifest(folder)
    if task.dtype is not Dtype.float32:
        raise ConfigError(
            f"these parts have a {MANIFEST} and keep their dtype; only numbers in JSON "
            "without one need it: leave task.dtype out",
            key="task.dtype",
            value=task.dtype,
            code="no_effect",
        )
    return MergeInputs({"manifest": manifest.sha256}, task, manifest)


def run(inputs: MergeInputs, context: Context) -> Result:
    """Check the parts, restore the files, and count bytes and seconds."""
    machine.reset_peak()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    split, recorder = inputs.split, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    facts, notes = {"output_dir": str(folder), "source": split.source}, list[Note]()
    if isinstance(split, Manifest):
        targets = restore.targets(split, require_complete(split, recorder.progress))
        facts["bit_identical"] = render_note(_proof(split), NOTES)
    else:
        targets = split.targets()
    missing = _missing(folder, targets)
    to_write = sum(target.nbytes for target in missing)
    byteio.require_space(folder, to_write)
    byteio.make_folder(folder)
    write_started = time.perf_counter()
    with hold_folder(folder, "task.output_dir"), recorder.progress(to_write, "merge", "bytes") as bar:
        meter = Meter(bar)
        for target in missing:
            bar.describe(f"write {target.name}")
            target.write(folder, meter)
    now = time.perf_counter()
    weights = [target for target in targets if target.tensors]
    if isinstance(split, FromNumbers) and split.rounded:
        notes.append(note("rounded", "warning", numbers=split.rounded))
    if not missing:
        notes.append(note("files_existed"))
    return Result(
        metrics={
            "num_parts": split.num_parts,
            "files": len(weights),
            "tensors": sum(len(file.tensors) for file in weights),
            "total_params": sum(file.params for file in weights),
            "merged_mib": sum(file.nbytes for file in weights) / MIB,
            "written_mib": to_write / MIB,
            "seconds": now - started,
            "write_mib_per_s": to_write / MIB / (now - write_started),
            "peak_rss_mib": machine.peak_rss_mib(),
        }
        | ({"rss_growth_mib": max(0.0, machine.peak_rss_mib() - rss_mib)} if rss_mib else {}),
        rows=[
            {"file": file.name, "tensors": len(file.tensors), "params": file.params, "mib": file.nbytes / MIB}
            for file in weights
        ],
        facts=facts,
        notes=[render_note(each, NOTES) for each in notes],
        artifacts=promise({folder / target.name: target.digest for target in targets}),
    )


def _missing(folder: Path, targets: list[Target]) -> list[Target]:
    """Return the files that are still to be written; reject a folder that holds anything but
    finished targets."""
    known = {target.name: target for target in targets}
    finished = set()
    for name in byteio.list_folder(folder, "task.output_dir"):
        if name.removesuffix(".tmp") in known and name not in known:
            continue  # left by an interrupted merge; it is written again
        if name not in known or not known[name].is_at(folder / name):
            raise ConfigError(
                f"holds {name}, which is not what this merge writes. "
                "Nothing was changed: delete it to have it written again, or give a new folder",
                key="task.output_dir",
                value=folder,
                code="exists",
            )
        finished.add(name)
    return [target for target in targets if target.name not in finished]


def _proof(manifest: Manifest) -> Note:
    if manifest.source_format == "bin":
        return note("same_tensors", digest=manifest.checksums)
    return note("same_files", digest=manifest.checksums)
