"""Runs the parts of one pipeline process in order, with one KV cache per micro-batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import TransportBackend, as_parts_config
from runner.options.parts.pipeline.ranks import ProcessRank, load_manifest
from runner.options.parts.pipeline.transport import (
    Packet,
    PacketType,
    decode_forced_tokens,
    make_sampler,
    make_token_mask,
)
from runner.options.parts.sharding.load_part import load_part
from runner.options.parts.sharding.manifest import MODEL_FILES
from runner.options.parts.sharding.stage import Stage
from runner.options.parts.sharding.strategies import assign_parts_to_processes
from runner_base import MIB, ConfigError, machine
from runner_base.dtypes import resolve_dtype
from runner_engine.checkpoints import read_model_config
from runner_engine.decode.tokens import Sampler, force_tokens
from runner_engine.models.load_target import select_device, select_torch_dtype


@dataclass
class BatchState:
    """State of a micro-batch between two steps: attention mask, positions, KV caches and sampler."""

    mask: torch.Tensor  # [B, T] of all tokens so far; 0 is padding
    positions: torch.Tensor  # [B, tokens of the last pass]
    caches: list[Any]  # one per part
    sampler: Sampler | None  # in the last process


class StageWorker:
    """Runs the loaded parts of one pipeline process."""

    def __init__(self, config: RunnerConfig, rank: ProcessRank) -> None:
        manifest = load_manifest(config)
        cuts = assign_parts_to_processes(manifest, rank.processes)
        self.config, self.rank = config, rank
        model = as_parts_config(config.model)
        self.device, has_own_gpu = select_device(model.device), False
        if self.device.type == "cuda" and ":" not in model.device:  # one GPU after another
            gpus = torch.cuda.device_count()
            self.device = torch.device("cuda", rank.local_rank % gpus)
            has_own_gpu = gpus >= rank.local_processes
        if model.backend is TransportBackend.nccl and not has_own_gpu:
            need = f"nccl needs one GPU per process, but processes share {self.device}. Use auto or gloo"
            raise ConfigError(need, key="model.backend", value="nccl", code="unsupported")
        # otherwise through main memory
        self.gpu_to_gpu = has_own_gpu and model.backend is not TransportBackend.gloo
        settings = read_model_config(manifest.folder / MODEL_FILES)
        name = resolve_dtype(model.dtype, settings, self.device.type)
        self.dtype, self.notes = select_torch_dtype(name, model.dtype, settings)
        self.threads = model.threads or max(
            1, machine.num_threads_for_model(manifest.totals.unique_params) // rank.local_processes
        )
        torch.set_num_threads(self.threads)
        attention = None if model.attention.value == "auto" else model.attention.value
        self.stages: list[Stage] = [
            load_part(manifest.folder, part_id, self.device, self.dtype, attention)
            for part_id in range(cuts[rank.rank], cuts[rank.rank + 1])
        ]
        self.is_last = self.stages[-1].is_last  # it has the head
        self.busy_s = 0.0
        self._states: dict[int, BatchState] = {}

    def run_step(self, packet: Packet, tokens: torch.Tensor | None = None) -> Packet | None:
        """Run a micro-batch through this process's parts for one step, and return the packet for the next
        process.

        The first process gets token ids [B, T] in addition to the packet. The others get hidden
        states in the packet.
        """
        if packet.kind is PacketType.end:
            self._states.pop(packet.batch, None)
            return None if self.is_last else packet
        started = time.perf_counter()
        if packet.kind is PacketType.prefill:
            state = self._states[packet.batch] = self._start_micro_batch(packet)
        else:
            state = self._states[packet.batch]
            self._prepare_next_token(state, packet.numbers)
        values = packet.hidden if tokens is None else tokens.to(self.device)
        assert values is not None
        for stage, cache in zip(self.stages, state.caches, strict=True):
            values = stage(values, state.mask, state.positions, cache, last_only=True)
        if state.sampler is None:
            answer = Packet(packet.kind, packet.batch, packet.numbers, values)
        else:
            logits = values[:, -1]
            force_tokens(logits, decode_forced_tokens(packet))
            sampled = state.sampler.sample(logits)
            answer = Packet(PacketType.tokens, packet.batch, sampled[:, None].cpu())
        if self.device.type == "cuda":
            # otherwise the time would count as waiting of the next process
            torch.cuda.synchronize(self.device)
        self.busy_s += time.perf_counter() - started
        return answer

    def _start_micro_batch(self, packet: Packet) -> BatchState:
        """Create a new micro-batch. Prompts are padded on the left, and the attention mask hides the
        padding.
        """
        numbers = packet.numbers
        assert numbers is not None
        mask = make_token_mask(numbers).to(self.device)
        positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
        vocab_size = self.stages[-1].model.config.vocab_size
        sampler = make_sampler(numbers, vocab_size, self.device) if self.is_last else None
        return BatchState(mask, positions, [stage.new_cache() for stage in self.stages], sampler)

    def _prepare_next_token(self, state: BatchState, active_indices: torch.Tensor | None) -> None:
        """Remove finished sequences from a micro-batch, and extend its attention mask and positions by
        one token.
        """
        if active_indices is not None:
            rows = active_indices[:, 0].to(self.device)
            state.mask, state.positions = state.mask[rows], state.positions[rows]
            for cache in state.caches:
                cache.batch_select_indices(rows)
            if state.sampler is not None:
                state.sampler.keep_sequences_at_indices(active_indices[:, 0].tolist())
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
        state.positions = state.positions[:, -1:] + 1

    def describe_parts(self) -> list[dict[str, Any]]:
        """Return one JSON record per loaded part: layers, device, size and load time."""
        return [
            {
                "part": stage.part_id,
                "layers": f"{stage.span[0]}-{stage.span[1]}",
                "process": self.rank.rank,
                "device": str(stage.device),
                "mib": stage.nbytes / MIB,
                "load_s": stage.load_s,
            }
            for stage in self.stages
        ]

    def collect_process_metrics(self) -> dict[str, float]:
        figures = {"busy_s": self.busy_s, "peak_rss_mib": machine.peak_rss_mib()}
        if self.device.type == "cuda":
            figures["gpu_mib"] = torch.cuda.max_memory_allocated(self.device) / MIB
        return figures
