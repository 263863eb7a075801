"""Implements task=split, which splits a checkpoint into N parts by layer. task=merge restores the checkpoint.

Layers are found by the names on disk, not by module names, because some families rename
tensors at load. The checkpoint may be safetensors or .bin, one file or shards. Bytes are
copied unchanged.

OUTPUT_DIR/part_0.safetensors    the tensors of part 0, an ordinary safetensors file
           partition_0.json      describes each of them, with its byte range and digest
           model_files/          config, tokenizer and all other files that are not weights
           source_headers/       the original headers, from which merge restores the files
           manifest.json         written last: without it the split is not complete
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.config.root import PrintMode, RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.options.parts.keys import ExplainTarget, SplitConfig, SplitStrategy
from runner.options.parts.render import plan as plan_text
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding import split_writer
from runner.options.parts.sharding.layout import group_tensors_into_layout
from runner.options.parts.sharding.manifest import MANIFEST
from runner.options.parts.sharding.partition_file import check_inline_size
from runner.options.parts.sharding.strategies import make_plan_table, plan_checkpoint_parts
from runner.options.parts.sharding.unchanged import SplitPlan, hash_json, read_file_size_and_mtime
from runner.records.artifacts import record_file_states
from runner.records.jobs import Job
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner_base import (
    MIB,
    ConfigError,
    Progress,
    Result,
    announce,
    is_gguf_file_name,
    machine,
    write_text_atomically,
)
from runner_base.notes import Note, note, text_note
from runner_base.render.notes import render_note
from runner_engine import LocalModelConfig, ModelSpec, resolve_model, to_local_model_config
from runner_engine.checkpoints import Checkpoint, WeightFile, random_weights, read_checkpoint
from runner_engine.models.bin_file import read_bin_tensor_locations
from runner_engine.render.notes import render_engine_note

VERSION = 2
# identified by size and time: hashing them would take longer than the split
USES = frozenset({Uses.model_files})
FROM_LEDGER = True

PICTURE = "plan.svg"
log = logging.getLogger(__name__)


@dataclass
class SplitInputs(TaskInputs):
    """Input of task=split: the plan that assigns tensors to parts."""

    plan: SplitPlan


def prepare(config: RunnerConfig) -> SplitInputs:
    """Plan the split before anything is written.

    The job id includes sizes and modification times of the source files.
    """
    plan = _plan_checkpoint_split(config, may_write=False)
    if (model := to_local_model_config(config.model)).random_weights:
        return SplitInputs({"source": random_weights.hash_preset(model)}, plan)
    companions = {path.name: read_file_size_and_mtime(path) for path in plan.checkpoint.companions}
    return SplitInputs({"source": hash_json([plan.source_checkpoint_state["files"], companions])}, plan)


def preview(inputs: SplitInputs, resolved: ResolvedJob) -> str:  # noqa: ARG001
    return "\n".join(plan_text.format_part_plan_table(inputs.plan.parts))


def run(inputs: SplitInputs, context: TaskContext) -> Result:
    """Print the plan, then write the parts and their manifest."""
    machine.reset_peak_rss_counter()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    config, recorder = context.config, context.recorder
    task, plan = _split_config(config), _plan_with_weights(config, inputs.plan)
    sizes, tensors = [part.nbytes for part in plan.parts], plan.checkpoint.tensors
    metrics: dict[str, float] = {
        "num_parts": len(plan.parts),
        "tensors": len(tensors),
        "total_params": sum(tensor.num_elements for tensor in tensors),
        "unique_mib": sum(tensor.nbytes for tensor in tensors) / MIB,
        "stored_mib": sum(sizes) / MIB,
        "largest_part_mib": max(sizes) / MIB,
        "balance": max(sizes) * len(sizes) / sum(sizes),
    }
    result = Result(
        metrics=metrics,
        rows=make_plan_table(plan.parts),
        facts={"source": plan.name, "source_format": plan.checkpoint.format, "layers": plan.layout.stack},
        notes=[render_note(each, NOTES) for each in _make_split_plan_notes(plan)],
    )
    title = f"{plan.name} in {len(plan.parts)} parts, {task.strategy.value}"
    write_text_atomically(recorder.folder / PICTURE, plan_text.draw_planned_parts_svg(plan.parts, title))
    if task.explain is ExplainTarget.vllm:
        # the name under which vLLM finds the model: its hub id, else its folder
        name = config.model.name if plan.place is None else str(plan.checkpoint.folder)
        result.text = plan_text.format_vllm_command(name, plan.revision, plan.parts, plan.checkpoint.config)
        return result
    if config.print is not PrintMode.none:
        announce("\n".join([title, *plan_text.format_part_plan_table(plan.parts)]))
    folder = _choose_output_dir(config, plan)
    written = split_writer.write_missing_split_parts(
        folder, plan, task.compare, recorder.create_progress_bar, task.durable
    )
    metrics |= {
        "written_parts": len(written.parts),
        "written_mib": written.nbytes / MIB,
        "split_s": time.perf_counter() - started,
        "peak_rss_mib": machine.peak_rss_mib(),
    }
    if rss_mib:
        metrics["rss_growth_mib"] = max(0.0, machine.peak_rss_mib() - rss_mib)
    if written.nbytes:
        metrics["write_gb_per_s"] = written.nbytes / 1e9 / written.seconds
    else:
        result.notes.append(render_note(note("parts_unchanged"), NOTES))
    result.facts["output_dir"] = str(folder)
    files: dict[Path, str | None] = {folder / MANIFEST: None}
    for entry in written.manifest["parts"]:
        files[folder / entry["file"]] = entry["digest"]
        files[folder / entry["partition"]] = f"sha256:{entry['partition_sha256']}"
    result.artifacts = record_file_states(files)
    return result


def deliver(inputs: SplitInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Check the folder of a finished split, and rewrite parts that were modified since."""
    config, task = resolved.config, _split_config(resolved.config)
    if task.explain is not None:
        return
    plan = _plan_with_weights(config, inputs.plan)
    written = split_writer.write_missing_split_parts(
        _choose_output_dir(config, plan), plan, task.compare, Progress, task.durable
    )
    if written.parts:
        log.warning("parts %s changed after the split, so they are written again", written.parts)


# ----------------------------------------------------------------------------------------- the plan


def _split_config(config: RunnerConfig) -> SplitConfig:
    return typed_task_config(config, SplitConfig)


def _plan_with_weights(config: RunnerConfig, plan: SplitPlan) -> SplitPlan:
    """Plan the split again if the model's random weights have just been generated. Otherwise return the
    same plan.
    """
    return _plan_checkpoint_split(config) if to_local_model_config(config.model).random_weights else plan


def _plan_checkpoint_split(config: RunnerConfig, may_write: bool = True) -> SplitPlan:
    """Plan which part gets which tensors. Reads only the headers of the checkpoint's files."""
    task = _split_config(config)
    if not get_model_kind(config.model).HAS_WEIGHTS:
        fix = "use model=embedded or model=auto"
        raise ConfigError(
            f"task=split needs weights, but model={config.model.name} has none. {fix}", code="unsupported"
        )
    if is_gguf_file_name(config.model.name):  # it has chosen quantization=gguf by itself
        raise _gguf_error(config.model.name)
    for key, choice in (("quantization", config.quantization.label), ("lora", config.lora.name)):
        if choice != "none":
            raise ConfigError(
                f"task=split copies the checkpoint unchanged. Use {key}=none",
                key=key,
                value=choice,
                code="conflict",
            )
    model = to_local_model_config(config.model)
    checkpoint = (
        _describe_random_checkpoint(model)
        if model.random_weights and not may_write
        else _read_checkpoint(model)
    )
    layout = group_tensors_into_layout(checkpoint)
    if task.inline_parameters:
        check_inline_size(sum(tensor.num_elements for tensor in checkpoint.tensors))
    settings = {key: value for key in ("ratios", "ranges") if (value := getattr(task, key))}
    path = Path(config.model.name).expanduser()
    is_local = model.random_weights or path.exists() or config.model.name == "embedded"
    return SplitPlan(
        checkpoint,
        layout,
        plan_checkpoint_parts(layout, task),
        {"name": task.strategy.value, **settings},
        task.checksums.value,
        # without the path on this machine, which is private
        checkpoint.folder.name if path.is_absolute() else config.model.name,
        model.revision,
        hashlib.sha256(str(checkpoint.folder).encode()).hexdigest()[:16] if is_local else None,
        task.inline_parameters,
    )


def _read_checkpoint(model: LocalModelConfig) -> Checkpoint:
    folder = resolve_model(ModelSpec(model)).files.path
    if folder.is_file():
        raise _gguf_error(model.name)
    return read_checkpoint(folder, read_bin_tensor_locations)


def _gguf_error(name: str) -> ConfigError:
    return ConfigError(
        "task=split reads safetensors and .bin, not .gguf files",
        key="model.name",
        value=name,
        code="unsupported",
    )


def _describe_random_checkpoint(model: LocalModelConfig) -> Checkpoint:
    """Describe the checkpoint of a model with random weights, before the weights are generated."""
    folder, shape = (
        random_weights.get_random_checkpoint_folder(model),
        random_weights.read_preset_config(model),
    )
    tensors = random_weights.list_random_checkpoint_tensors(shape, folder)
    return Checkpoint(folder, shape, [WeightFile(folder, 0, b"", {}, tensors)], [])


def _choose_output_dir(config: RunnerConfig, plan: SplitPlan) -> Path:
    if (folder := _split_config(config).output_dir) is not None:
        return Path(folder).expanduser().absolute()
    name = Path(plan.name).name or plan.checkpoint.folder.name
    kind = "" if plan.strategy["name"] == SplitStrategy.balanced_bytes else f"-{plan.strategy['name']}"
    return Path(config.output_dir).expanduser().absolute() / "parts" / f"{name}-{len(plan.parts)}{kind}"


def _make_split_plan_notes(plan: SplitPlan) -> list[Note]:
    notes, layout = [], plan.layout
    if layout.tied and len(plan.parts) > 1 and plan.parts[0].layers is not None:
        names = ", ".join(tensor.name for tensor in layout.tied)
        notes.append(note("tied_head", tensors=names))
    elif not layout.head and not layout.tied:
        notes.append(note("no_head", "warning"))
    if plan.parts[0].layers is None:
        notes.append(note("no_whole_layers"))
    if plan.checkpoint.format == "bin":
        notes += [text_note(render_engine_note(own)) for file in plan.checkpoint.files for own in file.notes]
        notes.append(note("from_bin"))
        places = Counter(
            (tensor.file, tensor.offset, tensor.nbytes) for tensor in plan.checkpoint.tensors if tensor.nbytes
        )
        if shared := sum(count for count in places.values() if count > 1):
            notes.append(note("shared_bytes", tensors=shared))
    if left_out := plan.checkpoint.left_out:
        notes.append(note("not_copied", files=left_out))
    return notes
