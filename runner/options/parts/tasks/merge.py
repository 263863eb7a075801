"""Implements task=merge, which restores a checkpoint's tensors from the parts of a split, bit for bit.

Everything is checked before anything is written, and all problems are listed. A safetensors
source is restored byte for byte from its original headers and tensors. A .bin source
becomes safetensors with the same tensors. Each tensor must have its digest from the source.
A folder with only old partition_N.json files becomes one safetensors file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.options.parts.json_splits import (
    JsonSplitConverter,
    get_safetensors_dtype_name,
    is_json_split_checkpoint,
    read_json_partitions,
)
from runner.options.parts.keys import MergeConfig
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding import restored_files
from runner.options.parts.sharding.completeness import require_all_tensors_in_parts
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, read_manifest
from runner.options.parts.sharding.split_writer import ByteMeter, FileTarget
from runner.records.artifacts import record_file_states
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner_base import MIB, ConfigError, Dtype, Result, machine
from runner_base.files import lock_folder
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine.checkpoints import file_io

VERSION = 2
USES = frozenset({Uses.own_location})
FROM_LEDGER = True


@dataclass
class MergeInputs(TaskInputs):
    """Input of task=merge: the split's manifest, or a converter for a split in the old JSON format."""

    task: MergeConfig
    split: Manifest | JsonSplitConverter


def prepare(config: RunnerConfig) -> MergeInputs:
    task = typed_task_config(config, MergeConfig)
    folder = Path(task.parts).expanduser().absolute()
    if is_json_split_checkpoint(folder):
        partitions = read_json_partitions(folder)
        kind = None if task.dtype is Dtype.auto else get_safetensors_dtype_name(task.dtype.value)
        hashes = {partition.path.name: file_io.hash_file_sha256(partition.path) for partition in partitions}
        return MergeInputs(hashes, task, JsonSplitConverter(folder, partitions, kind))
    manifest = read_manifest(folder)
    if task.dtype is not Dtype.float32:
        raise ConfigError(
            (
                f"task.dtype applies only to JSON parts without a {MANIFEST}. "
                "Omit task.dtype, because these parts keep their dtypes"
            ),
            key="task.dtype",
            value=task.dtype,
            code="no_effect",
        )
    return MergeInputs({"manifest": manifest.sha256}, task, manifest)


def run(inputs: MergeInputs, context: TaskContext) -> Result:
    machine.reset_peak_rss()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    split, recorder = inputs.split, context.recorder
    folder = Path(inputs.task.output_dir).expanduser().absolute()
    facts, notes = {"output_dir": str(folder), "source": split.source}, list[Note]()
    if isinstance(split, Manifest):
        targets = restored_files.list_files_to_restore(
            split, require_all_tensors_in_parts(split, recorder.create_progress_bar)
        )
        facts["bit_identical"] = render_note(_make_proof_note(split), NOTES)
    else:
        targets = split.list_output_files()
    missing = _find_output_files_to_write(folder, targets)
    to_write = sum(target.nbytes for target in missing)
    file_io.require_disk_space(folder, to_write)
    file_io.create_folder(folder)
    write_started = time.perf_counter()
    with (
        lock_folder(folder, "task.output_dir"),
        recorder.create_progress_bar(to_write, "merge", "bytes") as bar,
    ):
        meter = ByteMeter(bar)
        for target in missing:
            bar.set_title(f"write {target.name}")
            target.write(folder, meter)
    now = time.perf_counter()
    weights = [target for target in targets if target.tensors]
    if isinstance(split, JsonSplitConverter) and split.rounded:
        notes.append(note("rounded", "warning", numbers=split.rounded))
    if not missing:
        notes.append(note("files_existed"))
    return Result(
        metrics={
            "num_parts": split.num_parts,
            "files": len(weights),
            "tensors": sum(len(file.tensors) for file in weights),
            "total_params": sum(file.num_params for file in weights),
            "merged_mib": sum(file.nbytes for file in weights) / MIB,
            "written_mib": to_write / MIB,
            "seconds": now - started,
            "write_mib_per_s": to_write / MIB / (now - write_started),
            "peak_rss_mib": machine.peak_rss_mib(),
        }
        | ({"rss_growth_mib": max(0.0, machine.peak_rss_mib() - rss_mib)} if rss_mib else {}),
        rows=[
            {
                "file": file.name,
                "tensors": len(file.tensors),
                "params": file.num_params,
                "mib": file.nbytes / MIB,
            }
            for file in weights
        ],
        facts=facts,
        notes=[render_note(each, NOTES) for each in notes],
        artifacts=record_file_states({folder / target.name: target.digest for target in targets}),
    )


def _find_output_files_to_write(folder: Path, output_files: list[FileTarget]) -> list[FileTarget]:
    """Return the output files that do not exist yet. Raises ConfigError if the folder has other files."""
    known = {target.name: target for target in output_files}
    finished = set()
    for name in file_io.list_file_names_in_folder(folder, "task.output_dir"):
        if name.removesuffix(".tmp") in known and name not in known:
            continue  # left by an interrupted merge; it is written again
        if name not in known or not known[name].is_file_already_written(folder / name):
            raise ConfigError(
                (
                    f"the folder contains {name}, which this merge does not write. Nothing was "
                    "changed. Delete that file, or give a new folder"
                ),
                key="task.output_dir",
                value=folder,
                code="exists",
            )
        finished.add(name)
    return [target for target in output_files if target.name not in finished]


def _make_proof_note(manifest: Manifest) -> Note:
    if manifest.source_format == "bin":
        return note("same_tensors", digest=manifest.checksums)
    return note("same_files", digest=manifest.checksums)
