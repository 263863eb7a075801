"""task=pipeline: complete the user's prompts with the parts of a split, over several processes.

The answers are those of task=generate with the whole model; the job's id rests on the manifest, which holds the digest
of every part, and on the prompts. A process that dies ends the job by name; completions so far are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.checkpoints.resolve import read_settings
from runner.config.model import local_model
from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig, pipeline_of
from runner.core import machine
from runner.core.dtypes import Dtype, dtype_for
from runner.core.errors import ConfigError
from runner.core.machine import MIB
from runner.core.metrics import OF_GUESSES
from runner.core.result import COMPLETIONS, Result, Sample
from runner.datasets.prompts import Branched, Given, build_prompt, completions, describe, load_prompts, prompts_sha256
from runner.engines.base import Request
from runner.engines.stats import EngineStats
from runner.scorers.totals import count_completions
from runner.sharding.manifest import MODEL_FILES, Manifest, read_manifest
from runner.sharding.strategies import part_cuts
from runner.store.jobs import write_atomically
from runner.tasks.base import Context, Inputs, Uses
from runner.tasks.completing import Completed, complete_missing, sample_of

VERSION = 1
USES = frozenset({Uses.own_location, Uses.engine})  # the parts, whose manifest is hashed below
FROM_LEDGER = True


@dataclass
class PartsAndPrompts(Inputs):
    """What the parts are, and the prompts of the job in order."""

    task: PipelineConfig
    manifest: Manifest
    prompts: list[Given]


def prepare(config: RunnerConfig) -> PartsAndPrompts:
    """Read and hash manifest and prompts; refuse what cannot run, as far as the manifest tells."""
    task = pipeline_of(config.task)
    manifest = read_manifest(task.parts)
    for key, plain in (("quantization", "none"), ("lora", "none"), ("rope", "native")):
        if (choice := getattr(config, key).name) != plain:
            raise ConfigError(f"{key}={choice}: task=pipeline runs the parts as they were split: use {key}={plain}")
    if (device_map := local_model(config.model).device_map) is not None:
        why = "task=pipeline gives each process its own parts and device"
        raise ConfigError(f"model.device_map={device_map}: {why}: leave it out")
    manifest.require_runnable()
    part_cuts(manifest, task.processes or manifest.num_parts)
    prompts = load_prompts(task)
    if any(isinstance(given, Branched) for given in prompts):
        raise ConfigError("branches: task=pipeline has none, each prompt has one completion: use task=generate")
    hashes = {"manifest": manifest.sha256, "prompts": prompts_sha256(prompts)}
    model = local_model(config.model)
    if model.dtype is Dtype.auto:  # what it comes to depends on the machine, and so do the answers
        settings = read_settings(manifest.folder / MODEL_FILES)
        hashes["dtype"] = dtype_for(model.dtype, settings, machine.device_class(model.device))
    data = describe(task, hashes["prompts"])
    return PartsAndPrompts(hashes, task, manifest, prompts, data=data, count=len(prompts))


def run(inputs: PartsAndPrompts, context: Context) -> Result:
    """Complete what is not on disk yet."""
    task, prompts, recorder = inputs.task, inputs.prompts, context.recorder
    requests = [Request(index, build_prompt(task, given), tuple(task.stop)) for index, given in enumerate(prompts)]
    done = complete_missing("pipeline", requests, context, sample_of)
    rows = _account(done, done.measured.stats) if done.measured and done.measured.stats.processes else []
    write_atomically(recorder.folder / COMPLETIONS, completions(prompts, recorder.samples))
    return Result(
        metrics=count_completions(done.samples) | done.metrics,
        rows=rows,
        facts={"source": inputs.manifest.source} | done.facts,
        notes=done.notes,
        problems=done.problems,
        text=_text(prompts, done.samples, task.show),
    )


def joins(config: RunnerConfig) -> int | None:
    """Serve the process of torchrun's that has the job; None in that one."""
    from runner.engines.pipeline.processes import join_torchrun

    return join_torchrun(config)


def predict_mib(config: RunnerConfig) -> float:
    """Return the size of the parts: each is loaded by one process."""
    return sum(part.raw.nbytes for part in read_manifest(pipeline_of(config.task).parts).parts) / MIB


def _account(done: Completed, stats: EngineStats) -> list[dict[str, Any]]:
    """Add to the metrics how busy the processes were and what they held; return the table of the parts."""
    figures, seconds = stats.processes, stats.prefill_s + stats.decode_s
    busy = [min(1.0, one["busy_s"] / seconds) if seconds else 0.0 for one in figures]
    peaks = [one["peak_rss_mib"] for one in figures]
    for name in ("shared_prompt_tokens", *OF_GUESSES):  # prompts go through whole, and tokens one by one
        del done.metrics[name]
    done.metrics |= {
        "bubble_share": 1 - sum(busy) / len(busy),
        "peak_rss_mib": max(peaks),
        "sum_peak_rss_mib": sum(peaks),
    }
    if all("gpu_mib" in one for one in figures):
        done.metrics["gpu_mib"] = max(one["gpu_mib"] for one in figures)
    return [part | {"busy_share": busy[part["process"]], "peak_rss_mib": peaks[part["process"]]} for part in done.parts]


def _text(prompts: list[Given], samples: list[Sample], show: int) -> str:
    """Return the one completion as it is, of several the first ones by number."""
    texts = [sample.error or sample.text for sample in samples]
    if len(prompts) == 1:
        return texts[0]
    shown = [f"[{index}] {text}" for index, text in enumerate(texts[:show])]
    return "\n\n".join([*shown, *([f"... and {len(texts) - show} more"] if len(texts) > show else [])])
