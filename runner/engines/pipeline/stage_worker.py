"""One process of a pipeline: the parts that it runs, one after the other, with a key-value cache for each batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig
from runner.core import machine
from runner.core.machine import MIB
from runner.engines.base import Sampling
from runner.engines.pipeline.transport import Kind, Message
from runner.engines.sampling import Sampler, generator_of
from runner.models.load import default_threads, pick_device, pick_dtype
from runner.sharding.load_part import load_part
from runner.sharding.manifest import MODEL_FILES, Manifest, read_manifest
from runner.sharding.placement import shares
from runner.sharding.stage import Stage


@dataclass(frozen=True)
class Place:
    """Which process of a pipeline this is."""

    rank: int
    processes: int
    local_rank: int
    local_processes: int  # on this machine


@dataclass
class Batch:
    """What a process keeps of a batch: whose places are padding, what was computed, and how tokens are picked."""

    mask: torch.Tensor  # [B, T] of all places so far
    positions: torch.Tensor  # [B, places of the last pass]
    caches: list[Any]  # one a part
    sampler: Sampler | None


class Member:
    """The parts of one process, loaded."""

    def __init__(self, config: RunnerConfig, place: Place) -> None:
        manifest = manifest_of(config)
        cuts = shares(manifest, place.processes)
        self.config, self.place = config, place
        self.device = device_of(config, place)
        folder = manifest.folder / MODEL_FILES
        self.dtype, self.notes = pick_dtype(config.model.dtype, folder, self.device)
        self.threads = config.model.threads or max(
            1, default_threads(manifest.totals.unique_params) // place.local_processes
        )
        torch.set_num_threads(self.threads)
        attention = None if config.model.attention.value == "auto" else config.model.attention.value
        self.stages: list[Stage] = [
            load_part(manifest.folder, part_id, self.device, self.dtype, attention)
            for part_id in range(cuts[place.rank], cuts[place.rank + 1])
        ]
        self.busy_s = 0.0
        self._batches: dict[int, Batch] = {}

    @property
    def is_last(self) -> bool:
        """Whether it ends in the head."""
        return self.stages[-1].is_last

    def run(self, message: Message, tokens: torch.Tensor | None = None) -> Message | None:
        """Take one step of a batch; the first process gets its token ids [B, T], the others hidden states."""
        if message.kind is Kind.end:
            self._batches.pop(message.batch, None)
            return None if self.is_last else message
        started = time.perf_counter()
        if message.kind is Kind.prefill:
            batch = self._batches[message.batch] = self._begin(message)
        else:
            batch = self._batches[message.batch]
            self._go_on(batch, message.numbers)
        values = message.hidden if tokens is None else tokens.to(self.device)
        assert values is not None
        for stage, cache in zip(self.stages, batch.caches, strict=True):
            values = stage(values, batch.mask, batch.positions, cache, last_only=True)
        if batch.sampler is None:
            answer = Message(message.kind, message.batch, message.numbers, values)
        else:
            picked = batch.sampler.pick(values[:, -1])
            answer = Message(Kind.tokens, message.batch, picked[:, None].cpu())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else it would be the next one's wait, and not this one's work
        self.busy_s += time.perf_counter() - started
        return answer

    def _begin(self, message: Message) -> Batch:
        """Set up a batch: the prompts stand flush right, padding counts nowhere."""
        assert message.numbers is not None
        width = message.numbers.shape[1] - 2
        indices, lengths, ids = message.numbers.tensor_split((1, 2), dim=1)
        mask = (torch.arange(width)[None, :] >= width - lengths).long().to(self.device)
        positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
        sampler = None
        if self.is_last:
            prompts = [row[width - length :] for row, length in zip(ids.tolist(), lengths[:, 0].tolist(), strict=True)]
            sampling = Sampling().over(self.config.generation, self.config.seed)
            generators = [generator_of(sampling, request_id) for request_id in indices[:, 0].tolist()]
            sampler = Sampler(self.stages[-1].model.config.vocab_size, self.device)
            sampler.join(prompts, [sampling] * len(prompts), generators)
        return Batch(mask, positions, [stage.new_cache() for stage in self.stages], sampler)

    def _go_on(self, batch: Batch, kept: torch.Tensor | None) -> None:
        """Drop the rows that have ended, and make room for one more place."""
        if kept is not None:
            rows = kept[:, 0].to(self.device)
            batch.mask, batch.positions = batch.mask[rows], batch.positions[rows]
            for cache in batch.caches:
                cache.batch_select_indices(rows)
            if batch.sampler is not None:
                batch.sampler.keep(rows)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
        batch.positions = batch.positions[:, -1:] + 1

    def report(self) -> list[dict[str, Any]]:
        """Say what was loaded, a line a part."""
        return [
            {
                "part": stage.part_id,
                "layers": f"{stage.span[0]}-{stage.span[1]}",
                "process": self.place.rank,
                "device": str(stage.device),
                "mib": stage.nbytes / MIB,
                "load_s": stage.load_s,
            }
            for stage in self.stages
        ]

    def figures(self) -> dict[str, float]:
        """Say how busy this process was, and what it held at its largest."""
        figures = {"busy_s": self.busy_s, "peak_rss_mib": machine.peak_rss_mib()}
        if self.device.type == "cuda":
            figures["gpu_mib"] = torch.cuda.max_memory_allocated(self.device) / MIB
        return figures


def manifest_of(config: RunnerConfig) -> Manifest:
    """Read the manifest of task.parts."""
    assert isinstance(config.task, PipelineConfig)
    return read_manifest(Path(config.task.parts).expanduser().absolute())


def device_of(config: RunnerConfig, place: Place) -> torch.device:
    """Return the device of a process: with model.device=auto or cuda, the machine's GPUs in turn."""
    device = pick_device(config.model.device)
    if device.type == "cuda" and ":" not in config.model.device:
        return torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def direct(config: RunnerConfig, place: Place) -> bool:
    """Whether hidden states can go from GPU to GPU: each process of this machine has one of its own."""
    if pick_device(config.model.device).type != "cuda" or ":" in config.model.device:
        return False
    return torch.cuda.device_count() >= place.local_processes
