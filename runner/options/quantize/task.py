"""Implements task=quantize: a quantizer package writes a quantized model in a separate Python environment.

OUTPUT/NAME-RECIPE…         a folder as transformers loads it, with its origin in quantize.json
OUTPUT/NAME-RECIPE.gguf     a file of llama.cpp
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.options.quantize.calibration import (
    Calibration,
    read_calibration_texts,
    require_no_evaluation_overlap,
)
from runner.options.quantize.environment import QuantizerEnvironment, find_quantizer_environment
from runner.options.quantize.keys import UNQUANTIZED, QuantizeConfig
from runner.options.quantize.quantizer_process import QuantizeRequest, check_target_absent, run_quantizer
from runner.options.quantize.render.notes import NOTES
from runner.options.quantize.render.plan import format_quantization_plan
from runner.options.quantize.source import SourceModel, find_source_model
from runner.records.artifacts import record_file_states
from runner.tasks.base import TaskContext, TaskInputs, Uses, typed_task_config
from runner_base import MIB, Result, machine
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import to_local_model_config
from runner_engine.checkpoints import file_io, gguf_file, read_checkpoint

VERSION = 1
USES = frozenset({Uses.model_files})
FROM_LEDGER = True

LOG = "maker.log"


@dataclass
class QuantizeInputs(TaskInputs):
    """Inputs of task=quantize."""

    source: SourceModel
    environment: QuantizerEnvironment
    calibration: Calibration | None
    target: Path
    notes: list[Note]


def prepare(config: RunnerConfig) -> QuantizeInputs:
    """Find source model, quantizer package and calibration texts. Raises ConfigError if they cannot work
    together.
    """
    task = typed_task_config(config, QuantizeConfig)
    source = find_source_model(config, task)
    calibration, notes, hashes = None, list[Note](), {"model": source.sha256}
    if task.calibration is not None:
        calibration = read_calibration_texts(task.calibration)
        notes = require_no_evaluation_overlap(calibration, task.check_overlap_with)
        hashes["calibration"] = calibration.sha256
    environment = find_quantizer_environment(task)
    hashes["maker"] = f"{task.recipe_properties.maker.label} {environment.version}"
    return QuantizeInputs(hashes, source, environment, calibration, _target_path(config, task, source), notes)


def check_lengths(inputs: QuantizeInputs, resolved: ResolvedJob) -> list[str]:  # noqa: ARG001
    """Raise an error if the target path exists or its disk has too little space."""
    check_target_absent(inputs.target)
    file_io.require_disk_space(inputs.target.parent, inputs.source.nbytes)
    return []


def preview(inputs: QuantizeInputs, resolved: ResolvedJob) -> str:
    """Return the planned quantization as text."""
    task = typed_task_config(resolved.config, QuantizeConfig)
    return format_quantization_plan(
        task, inputs.source, inputs.environment, inputs.calibration, inputs.target, inputs.notes
    )


def run(inputs: QuantizeInputs, context: TaskContext) -> Result:
    """Run the quantizer package, which writes the model. The result has the model's size and quantization
    format.
    """
    config, recorder = context.config, context.recorder
    task, source, target = typed_task_config(config, QuantizeConfig), inputs.source, inputs.target
    order = QuantizeRequest(
        task.recipe_properties.maker.name,
        inputs.environment.python,
        to_local_model_config(config.model).threads or machine.count_available_cpu_cores(),
        _make_request_values(inputs, task, config.seed),
        () if inputs.calibration is None else inputs.calibration.texts,
    )
    companions = [] if task.recipe_properties.is_file else read_checkpoint(source.path).companions
    with recorder.create_progress_bar(None, task.label) as bar:
        report = run_quantizer(order, target, companions, recorder.folder / LOG, bar)
    nbytes, types = _read_weight_size_and_format(target)
    metrics = {
        "made_mib": nbytes / MIB,
        "bits_per_weight": 8 * nbytes / source.parameters,
        "make_s": report["make_s"],
        "maker_peak_rss_mib": report["peak_rss_mib"],
    }
    facts = {
        "made": str(target),
        "stored": types,
        "maker": inputs.hashes["maker"],
        "threads": report["threads"],
        **_describe_recipe_and_calibration(inputs, task),
    }
    notes = [note("evaluate", target=target, is_file=task.recipe_properties.is_file)]
    if inputs.calibration is not None:
        metrics["calibration_tokens"] = report["calibration_tokens"]
        if (pieces := report["calibration_sequences"]) < task.sequences:
            name, tokens = inputs.calibration.name, task.sequence_tokens
            notes.append(note("few_pieces", "warning", calibration=name, pieces=pieces, tokens=tokens))
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return Result(
        metrics=metrics,
        facts=facts,
        notes=[render_note(each, NOTES) for each in (*notes, *inputs.notes)],
        artifacts=record_file_states(dict.fromkeys(files)),
    )


def _target_path(config: RunnerConfig, task: QuantizeConfig, source: SourceModel) -> Path:
    folder = Path(task.output or Path(config.output_dir).expanduser().absolute() / "made")
    return folder / f"{source.name}-{task.label}{'.gguf' * task.recipe_properties.is_file}"


def _make_request_values(inputs: QuantizeInputs, task: QuantizeConfig, seed: int) -> dict[str, Any]:
    """Return the settings for the quantizer module."""
    return {
        "source": str(inputs.source.path),
        "dtype": inputs.source.dtype,
        "recipe": task.recipe.value,
        "bits": task.bits,
        "group_size": task.group_size,
        "symmetric": task.symmetric,
        "overrides": dict(task.overrides),
        "unquantized": UNQUANTIZED,
        "reads_texts": task.recipe_properties.reads_texts,
        "sequences": task.sequences,
        "sequence_tokens": task.sequence_tokens,
        "iterations": task.iterations,
        "shard_bytes": None if task.shard_mib is None else task.shard_mib * MIB,
        "file_type": task.recipe_properties.file_type,
        "programs": inputs.environment.programs,
        "seed": seed,
        "record": inputs.hashes | _describe_recipe_and_calibration(inputs, task),
    }


def _describe_recipe_and_calibration(inputs: QuantizeInputs, task: QuantizeConfig) -> dict[str, str]:
    facts = {"recipe": task.label}
    if inputs.calibration is not None:
        facts["calibration"] = (
            f"{inputs.calibration.name}, SHA-256 {inputs.calibration.sha256}, "
            f"{task.sequences} × {task.sequence_tokens} tokens"
        )
    return facts


def _read_weight_size_and_format(model_path: Path) -> tuple[int, str]:
    """Return the size of a model's weights in bytes, and their stored dtypes."""
    if model_path.is_file():
        header = gguf_file.read_gguf_header(model_path)
        return sum(tensor.nbytes for tensor in header.tensors), header.tensor_type_counts_text
    checkpoint = read_checkpoint(model_path)
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method", "")
    return sum(tensor.nbytes for tensor in checkpoint.tensors), str(method)
