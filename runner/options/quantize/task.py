"""Write a quantized model by its makers' own package, in a process and an environment of its own.

OUTPUT/NAME-RECIPE…         a folder as transformers loads it, with what made it in quantize.json
OUTPUT/NAME-RECIPE.gguf     a file of llama.cpp
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.options.quantize.calibration import Calibration, check_apart, read_calibration
from runner.options.quantize.environment import Environment, environment_of
from runner.options.quantize.keys import UNQUANTIZED, QuantizeConfig
from runner.options.quantize.making import Order, check_free, make
from runner.options.quantize.render.notes import NOTES
from runner.options.quantize.render.plan import describe_plan
from runner.options.quantize.source import Source, source_of
from runner.records.artifacts import promise
from runner.tasks.base import Context, Inputs, Uses, own_config
from runner_base import MIB, Result, machine
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import local_model
from runner_engine.checkpoints import byteio, gguf_file, read_checkpoint

VERSION = 1
USES = frozenset({Uses.model_files})
FROM_LEDGER = True

LOG = "maker.log"


@dataclass
class QuantizeInputs(Inputs):
    """What is quantized, by what, with which texts, and the place of the result."""

    source: Source
    environment: Environment
    calibration: Calibration | None
    target: Path
    notes: list[Note]


def prepare(config: RunnerConfig) -> QuantizeInputs:
    """Find the model, the package and the texts; whatever cannot work is an error now."""
    task = own_config(config, QuantizeConfig)
    source = source_of(config, task)
    calibration, notes, hashes = None, list[Note](), {"model": source.sha256}
    if task.calibration is not None:
        calibration = read_calibration(task.calibration)
        notes = check_apart(calibration, task.evaluation)
        hashes["calibration"] = calibration.sha256
    environment = environment_of(task)
    hashes["maker"] = f"{task.kind.maker.label} {environment.version}"
    return QuantizeInputs(hashes, source, environment, calibration, _target(config, task, source), notes)


def check_lengths(inputs: QuantizeInputs, resolved: ResolvedJob) -> list[str]:  # noqa: ARG001
    """Reject a place that is taken, or too small."""
    check_free(inputs.target)
    byteio.require_space(inputs.target.parent, inputs.source.nbytes)
    return []


def preview(inputs: QuantizeInputs, resolved: ResolvedJob) -> str:
    """Say what will be made of what, by what, with which texts."""
    task = own_config(resolved.config, QuantizeConfig)
    return describe_plan(
        task, inputs.source, inputs.environment, inputs.calibration, inputs.target, inputs.notes
    )


def run(inputs: QuantizeInputs, context: Context) -> Result:
    """Let the maker write the model, and describe what it has written."""
    config, recorder = context.config, context.recorder
    task, source, target = own_config(config, QuantizeConfig), inputs.source, inputs.target
    order = Order(
        task.kind.maker.name,
        inputs.environment.python,
        local_model(config.model).threads or machine.cores(),
        _keys(inputs, task, config.seed),
        () if inputs.calibration is None else inputs.calibration.texts,
    )
    companions = [] if task.kind.is_file else read_checkpoint(source.path).companions
    with recorder.progress(None, task.label) as bar:
        report = make(order, target, companions, recorder.folder / LOG, bar)
    nbytes, types = _stored(target)
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
        **_record(inputs, task),
    }
    notes = [note("evaluate", target=target, is_file=task.kind.is_file)]
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
        artifacts=promise(dict.fromkeys(files)),
    )


def _target(config: RunnerConfig, task: QuantizeConfig, source: Source) -> Path:
    folder = Path(task.output or Path(config.output_dir).expanduser().absolute() / "made")
    return folder / f"{source.name}-{task.label}{'.gguf' * task.kind.is_file}"


def _keys(inputs: QuantizeInputs, task: QuantizeConfig, seed: int) -> dict[str, Any]:
    """Return what the maker's module reads."""
    return {
        "source": str(inputs.source.path),
        "dtype": inputs.source.dtype,
        "recipe": task.recipe.value,
        "bits": task.bits,
        "group_size": task.group_size,
        "symmetric": task.symmetric,
        "overrides": dict(task.overrides),
        "unquantized": UNQUANTIZED,
        "reads_texts": task.kind.reads_texts,
        "sequences": task.sequences,
        "sequence_tokens": task.sequence_tokens,
        "iterations": task.iterations,
        "shard_bytes": None if task.shard_mib is None else task.shard_mib * MIB,
        "file_type": task.kind.file_type,
        "programs": inputs.environment.programs,
        "seed": seed,
        "record": inputs.hashes | _record(inputs, task),
    }


def _record(inputs: QuantizeInputs, task: QuantizeConfig) -> dict[str, str]:
    """Return what a reader of the result has to know of its making."""
    facts = {"recipe": task.label}
    if inputs.calibration is not None:
        facts["calibration"] = (
            f"{inputs.calibration.name}, SHA-256 {inputs.calibration.sha256}, "
            f"{task.sequences} × {task.sequence_tokens} tokens"
        )
    return facts


def _stored(target: Path) -> tuple[int, str]:
    """Return the bytes of the weights, and in which types they are."""
    if target.is_file():
        header = gguf_file.read_header(target)
        return sum(tensor.nbytes for tensor in header.tensors), header.types
    checkpoint = read_checkpoint(target)
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method", "")
    return sum(tensor.nbytes for tensor in checkpoint.tensors), str(method)
