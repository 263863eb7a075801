"""Implements task=verify, which checks a split's parts against the manifest and optionally against the source
checkpoint.

Lists all problems with file, tensor, expected and actual value.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from runner.config.root import RunnerConfig
from runner.options.parts.keys import VerifyConfig, VerifyLevel
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding.completeness import find_differences_from_source, find_tensor_problems
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, read_manifest
from runner.options.parts.sharding.part_checks import CheckedPart, check_part, find_damaged_auxiliary_files
from runner.options.parts.sharding.split_writer import ByteMeter
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner_base import MIB, ConfigError, Result, machine
from runner_base.errors import rename_config_keys_in_error
from runner_base.notes import Note
from runner_base.render.notes import render_note
from runner_engine import LocalModelConfig, ModelConfig, ModelSpec, resolve_model, to_local_model_config
from runner_engine.checkpoints import Checkpoint, read_checkpoint
from runner_engine.models.bin_file import read_bin_tensor_locations

VERSION = 1
USES = frozenset({Uses.own_location})  # a source is only compared with the parts
FROM_LEDGER = False  # parts may have been damaged since the last check


@dataclass
class VerifyInputs(TaskInputs):
    """Input of task=verify: the manifest of the split."""

    task: VerifyConfig
    manifest: Manifest


def prepare(config: RunnerConfig) -> VerifyInputs:
    """Read the split's manifest. Raises ConfigError for a folder without a manifest."""
    task = typed_task_config(config, VerifyConfig)
    manifest = read_manifest(task.parts)
    return VerifyInputs({"manifest": manifest.sha256}, task, manifest)


def run(inputs: VerifyInputs, context: TaskContext) -> Result:
    """Check all files of the split. Returns all problems, and a table with one row per part."""
    machine.reset_peak_rss()
    started, task, manifest, recorder = (time.perf_counter(), inputs.task, inputs.manifest, context.recorder)
    checkpoint = _read_source_checkpoint_headers(task, context.config.model)
    deep = task.level is VerifyLevel.full
    in_source = sum(tensor.nbytes for tensor in checkpoint.tensors) if checkpoint else 0
    stored = sum(part.raw.nbytes + (part.stored.nbytes if part.frames else 0) for part in manifest.parts)
    checked, rows, problems, nbytes = list[CheckedPart](), list[dict[str, Any]](), list[Note](), 0

    def add_file_check_row(
        file_name: str, file_problems: list[Note], checked_content: str, part_label: str = "-"
    ) -> None:
        problems.extend(file_problems)
        status = f"{len(file_problems)} problem{'s' * (len(file_problems) > 1)}" if file_problems else "ok"
        rows.append({"part": part_label, "file": file_name, "status": status, "checked": checked_content})

    with recorder.create_progress_bar(stored + in_source if deep else None, "verify", "bytes") as bar:
        meter = ByteMeter(bar)
        for entry in manifest.parts:
            bar.set_title(f"verify {entry.stored.file}")
            part = check_part(manifest, entry, task.level, meter)
            checked.append(part)
            what = f"digests of file and {entry.tensors} tensors, " if deep else "size, "
            what = f"{what}header, {entry.partition}" if part.read is not None else f"size, {entry.partition}"
            add_file_check_row(entry.stored.file, part.problems, what, str(entry.part_id))
            rows[-1] |= _read_speed_metrics(part.nbytes, part.seconds)
            nbytes += part.nbytes
        for folder, file_problems in find_damaged_auxiliary_files(manifest, task.level).items():
            count = len(manifest.non_part_files[folder])
            add_file_check_row(
                f"{folder}/",
                file_problems,
                f"{'sha256' if deep else 'size'} of {count} file{'s' * (count != 1)}",
            )
        coverage = find_tensor_problems(manifest, checked)
        add_file_check_row(
            MANIFEST, coverage, f"coverage of {manifest.totals.tensors} tensors, tied tensors, totals"
        )
        if checkpoint is not None:
            bar.set_title("compare with the source")
            began = time.perf_counter()
            differences = find_differences_from_source(manifest, checked, checkpoint, task.level, meter)
            what = f"{'content' if deep else 'dtype and shape'} of {len(checkpoint.tensors)} tensors"
            add_file_check_row(f"source {checkpoint.folder.name}", differences, what)
            rows[-1] |= _read_speed_metrics(in_source if deep else 0, time.perf_counter() - began)
            nbytes += in_source if deep else 0
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
        problems=[render_note(problem, NOTES) for problem in problems],
    )


def _read_source_checkpoint_headers(task: VerifyConfig, model: ModelConfig) -> Checkpoint | None:
    """Read the headers of the source checkpoint. Returns None if task.source is not set.

    Revision and cache folder come from config group `model`.
    """
    name = task.source
    if name is None:
        return None
    try:
        local = to_local_model_config(model)
        named = LocalModelConfig(name=name, revision=local.revision, cache_dir=local.cache_dir)
        folder = resolve_model(ModelSpec(named)).files.path
    except ConfigError as error:
        raise rename_config_keys_in_error(error, {"model.name": "task.source"}) from error
    if folder.is_file():
        raise ConfigError(
            "task=split cannot read .gguf files", key="task.source", value=name, code="unsupported"
        )
    return read_checkpoint(folder, read_bin_tensor_locations)


def _read_speed_metrics(nbytes: int, seconds: float) -> dict[str, Any]:
    return {"mb": nbytes / 1e6, "mb_per_s": nbytes / 1e6 / seconds} if nbytes and seconds else {}
