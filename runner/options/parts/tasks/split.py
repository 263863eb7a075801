"""Cut a checkpoint into N parts by layer, with a manifest from which `task=merge` restores it.

Layers are found by the names on disk (not by module names: some families rename at load), so
nothing is lost. The folder shows whether the checkpoint is safetensors or .bin, one file or shards.
Bytes are copied unchanged.

OUTPUT_DIR/part_0.safetensors    the tensors of part 0, an ordinary safetensors file
           partition_0.json      describes each of them, with its byte range and digest
           model_files/          config, tokenizer and all other files that are not weights
           source_headers/       the original headers, from which merge restores the files byte for byte
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
from runner.config.root import Print, RunnerConfig
from runner.engines.kinds import kind_of
from runner.options.parts.keys import Explain, SplitConfig, Strategy
from runner.options.parts.render import plan as plan_text
from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding import write
from runner.options.parts.sharding.layout import find_layers
from runner.options.parts.sharding.manifest import MANIFEST
from runner.options.parts.sharding.partition_file import refuse_large
from runner.options.parts.sharding.strategies import plan_parts, plan_rows
from runner.options.parts.sharding.unchanged import Plan, file_state, sha256_of
from runner.records.artifacts import promise
from runner.records.jobs import Job
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner_base import MIB, ConfigError, Progress, Result, machine, names_gguf_file, tell, write_atomically
from runner_base.notes import Note, given, note
from runner_base.render.notes import render_note
from runner_engine import LocalModelConfig, ModelSpec, local_model, resolve
from runner_engine.checkpoints import Checkpoint, WeightFile, random_weights, read_checkpoint
from runner_engine.models.bin_file import read_bin
from runner_engine.render.notes import render

VERSION = 2
# identified by size and time: hashing them would take longer than the split
USES = frozenset({Uses.model_files})
FROM_LEDGER = True

PICTURE = "plan.svg"
log = logging.getLogger(__name__)


@dataclass
class SplitInputs(Inputs):
    """Which tensors go to which part; for random weights, before they are made."""

    plan: Plan


def prepare(config: RunnerConfig) -> SplitInputs:
    """Plan the split, so that errors appear at once; identify the source by the state of its
    files."""
    plan = _plan(config, may_write=False)
    if (model := local_model(config.model)).random_weights:
        return SplitInputs({"source": random_weights.sha256(model)}, plan)
    companions = {path.name: file_state(path) for path in plan.checkpoint.companions}
    return SplitInputs({"source": sha256_of([plan.state["files"], companions])}, plan)


def preview(inputs: SplitInputs, resolved: ResolvedJob) -> str:  # noqa: ARG001
    """Show which layers would go to which part."""
    return "\n".join(plan_text.lines(inputs.plan.parts))


def run(inputs: SplitInputs, context: Context) -> Result:
    """Show the plan, then write the parts and their manifest."""
    machine.restart_peak()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    config, recorder = context.config, context.recorder
    task, plan = _task(config), _with_weights(config, inputs.plan)
    sizes, tensors = [part.nbytes for part in plan.parts], plan.checkpoint.tensors
    metrics: dict[str, float] = {
        "num_parts": len(plan.parts),
        "tensors": len(tensors),
        "total_params": sum(tensor.params for tensor in tensors),
        "unique_mib": sum(tensor.nbytes for tensor in tensors) / MIB,
        "stored_mib": sum(sizes) / MIB,
        "largest_part_mib": max(sizes) / MIB,
        "balance": max(sizes) * len(sizes) / sum(sizes),
    }
    result = Result(
        metrics=metrics,
        rows=plan_rows(plan.parts),
        facts={"source": plan.name, "source_format": plan.checkpoint.format, "layers": plan.layout.stack},
        notes=[render_note(each, NOTES) for each in _notes(plan)],
    )
    title = f"{plan.name} in {len(plan.parts)} parts, {task.strategy.value}"
    write_atomically(recorder.folder / PICTURE, plan_text.svg(plan.parts, title))
    if task.explain is Explain.vllm:
        # the name under which vLLM finds the model: its hub id, else its folder
        name = config.model.name if plan.place is None else str(plan.checkpoint.folder)
        result.text = plan_text.vllm(name, plan.revision, plan.parts, plan.checkpoint.config)
        return result
    if config.print is not Print.none:
        tell("\n".join([title, *plan_text.lines(plan.parts)]))
    folder = _output_dir(config, plan)
    written = write.update(folder, plan, task.compare, recorder.progress, task.durable)
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
    result.artifacts = promise(files)
    return result


def deliver(inputs: SplitInputs, resolved: ResolvedJob, job: Job, result: Result) -> None:  # noqa: ARG001
    """Check the folder of a finished split, and write parts again that were changed since."""
    config, task = resolved.config, _task(resolved.config)
    if task.explain is not None:
        return
    plan = _with_weights(config, inputs.plan)
    written = write.update(_output_dir(config, plan), plan, task.compare, Progress, task.durable)
    if written.parts:
        log.warning("parts %s were changed since they were written: they are written again", written.parts)


# ----------------------------------------------------------------------------------------- the plan


def _task(config: RunnerConfig) -> SplitConfig:
    return own_config(config, SplitConfig)


def _with_weights(config: RunnerConfig, plan: Plan) -> Plan:
    """Return the plan of a checkpoint on disk: random weights are made now."""
    return _plan(config) if local_model(config.model).random_weights else plan


def _plan(config: RunnerConfig, may_write: bool = True) -> Plan:
    """Decide which tensors go to which part, from the headers alone."""
    task = _task(config)
    if not kind_of(config.model).HAS_WEIGHTS:
        fix = "use model=embedded or model=auto"
        raise ConfigError(
            f"task=split needs weights and model={config.model.name} has none: {fix}", code="unsupported"
        )
    if names_gguf_file(config.model.name):  # it has chosen quantization=gguf by itself
        raise _refused_file(config.model.name)
    for key, choice in (("quantization", config.quantization.label), ("lora", config.lora.name)):
        if choice != "none":
            raise ConfigError(
                f"task=split copies the checkpoint unchanged, use {key}=none",
                key=key,
                value=choice,
                code="conflict",
            )
    model = local_model(config.model)
    checkpoint = _random_checkpoint(model) if model.random_weights and not may_write else _read(model)
    layout = find_layers(checkpoint)
    if task.inline_parameters:
        refuse_large(sum(tensor.params for tensor in checkpoint.tensors))
    settings = {key: value for key in ("ratios", "ranges") if (value := getattr(task, key))}
    path = Path(config.model.name).expanduser()
    is_local = model.random_weights or path.exists() or config.model.name == "embedded"
    return Plan(
        checkpoint,
        layout,
        plan_parts(layout, task),
        {"name": task.strategy.value, **settings},
        task.checksums.value,
        # without the path on this machine, which is private
        checkpoint.folder.name if path.is_absolute() else config.model.name,
        model.revision,
        hashlib.sha256(str(checkpoint.folder).encode()).hexdigest()[:16] if is_local else None,
        task.inline_parameters,
    )


def _read(model: LocalModelConfig) -> Checkpoint:
    folder = resolve(ModelSpec(model)).files.path
    if folder.is_file():
        raise _refused_file(model.name)
    return read_checkpoint(folder, read_bin)


def _refused_file(name: str) -> ConfigError:
    return ConfigError(
        "task=split cuts safetensors and .bin, this is a .gguf file",
        key="model.name",
        value=name,
        code="unsupported",
    )


def _random_checkpoint(model: LocalModelConfig) -> Checkpoint:
    """Describe random weights before they are made."""
    folder, shape = random_weights.place(model), random_weights.read_shape(model)
    tensors = random_weights.list_tensors(shape, folder)
    return Checkpoint(folder, shape, [WeightFile(folder, 0, b"", {}, tensors)], [])


def _output_dir(config: RunnerConfig, plan: Plan) -> Path:
    """Return the folder for the parts: task.output_dir if given, else one in output_dir."""
    if (folder := _task(config).output_dir) is not None:
        return Path(folder).expanduser().absolute()
    name = Path(plan.name).name or plan.checkpoint.folder.name
    kind = "" if plan.strategy["name"] == Strategy.balanced_bytes else f"-{plan.strategy['name']}"
    return Path(config.output_dir).expanduser().absolute() / "parts" / f"{name}-{len(plan.parts)}{kind}"


def _notes(plan: Plan) -> list[Note]:
    notes, layout = [], plan.layout
    if layout.tied and len(plan.parts) > 1 and plan.parts[0].layers is not None:
        names = ", ".join(tensor.name for tensor in layout.tied)
        notes.append(note("tied_head", tensors=names))
    elif not layout.head and not layout.tied:
        notes.append(note("no_head", "warning"))
    if plan.parts[0].layers is None:
        notes.append(note("no_whole_layers"))
    if plan.checkpoint.format == "bin":
        notes += [given(render(own)) for file in plan.checkpoint.files for own in file.notes]
        notes.append(note("from_bin"))
        places = Counter(
            (tensor.file, tensor.offset, tensor.nbytes) for tensor in plan.checkpoint.tensors if tensor.nbytes
        )
        if shared := sum(count for count in places.values() if count > 1):
            notes.append(note("shared_bytes", tensors=shared))
    if left_out := plan.checkpoint.left_out:
        notes.append(note("not_copied", files=left_out))
    return notes
