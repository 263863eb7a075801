"""What an engine counts while it works: totals, what is now, and peaks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from runner.core.machine import MIB

TOTALS = ("load_s", "prefill_tokens", "shared_tokens", "prefill_s", "decode_tokens", "decode_s",
          "draft_tokens", "accepted_tokens")  # fmt: skip


@dataclass
class EngineStats:
    """Running totals of an engine, what is now, and peaks; subtract two snapshots to measure what lies between."""

    load_s: float = 0.0
    prefill_tokens: int = 0
    shared_tokens: int = 0  # of prompts; not computed again, because another prompt begins with them, too
    prefill_s: float = 0.0
    decode_tokens: int = 0  # tokens after each row's first
    decode_s: float = 0.0
    draft_tokens: int = 0  # guessed, and checked several at a time
    accepted_tokens: int = 0  # of them: what the model said, too
    rows_alive: int = 0  # now, as rows_waiting
    rows_waiting: int = 0
    kv_tokens: int = 0  # now: tokens whose keys and values are held, where the engine knows
    kept_tokens: int = 0  # now: places that are kept for prompts that come again
    packed_mib: float = 0.0  # now: weights in the order in which kernels read them; a checkpoint's own pages are let go
    under_way: float = 0.0  # now: what the rows that are alive have behind them, as a number of completions
    peak_rows: int = 0  # the most rows at once so far
    peak_kv_bytes: int = 0  # the most keys and values held at once so far
    peak_pass_tokens: int = 0  # the most that one pass has read, and the most that it has left logits after
    peak_pass_logits: int = 0
    peak_activation_bytes: int = 0  # what such a pass takes, by arithmetic; 0 where the engine does not know
    peak_cuda_bytes: int = 0  # of the allocator, where the model lies on GPUs as a whole
    notes: list[str] = field(default_factory=list)  # what went otherwise than asked for
    # of each process of an engine that has several, when a session ends with nothing under way
    processes: list[dict[str, float]] = field(default_factory=list)

    def __sub__(self, earlier: EngineStats) -> EngineStats:
        totals = {name: getattr(self, name) - getattr(earlier, name) for name in TOTALS}
        return replace(self, **totals, notes=[], processes=[])

    def __add__(self, later: EngineStats) -> EngineStats:
        totals = {name: getattr(self, name) + getattr(later, name) for name in TOTALS}
        peaks = [field.name for field in fields(self) if field.name.startswith("peak_")]
        highest = {name: max(getattr(self, name), getattr(later, name)) for name in peaks}
        return replace(later, **totals, **highest, notes=list(dict.fromkeys(self.notes + later.notes)))

    def own_memory(self, weight_mib: float | None) -> dict[str, float]:
        """What a model with these weights held of its own at most; nothing by an engine that does not see it."""
        if weight_mib is None or not self.peak_activation_bytes:
            return {}
        parts = {"kv_peak_mib": self.peak_kv_bytes / MIB, "activation_mib": self.peak_activation_bytes / MIB}
        if cuda_mib := self.peak_cuda_bytes / MIB:
            return parts | {"cuda_peak_mib": cuda_mib, "model_mib": cuda_mib}
        return parts | {"model_mib": weight_mib + sum(parts.values())}

    @property
    def speed(self) -> dict[str, float]:
        """What is to be said of speed; nothing by an engine that does not see its model at work."""
        if not self.prefill_s:
            return {}
        return {
            "prefill_tok_per_s": self.prefill_tok_per_s,
            "decode_tok_per_s": self.decode_tok_per_s,
            "shared_prompt_tokens": self.shared_tokens,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
        }

    @property
    def busy_shares(self) -> list[float]:
        """How much of the time that something was under way each process has computed."""
        seconds = self.prefill_s + self.decode_s
        return [min(1.0, one["busy_s"] / seconds) if seconds else 0.0 for one in self.processes]

    @property
    def of_processes(self) -> dict[str, float]:
        """What is to be said of several processes together; nothing by an engine that is one."""
        if not self.processes:
            return {}
        peaks, busy = [one["peak_rss_mib"] for one in self.processes], self.busy_shares
        found = {
            "bubble_share": 1 - sum(busy) / len(busy),
            "peak_rss_mib": max(peaks),
            "sum_peak_rss_mib": sum(peaks),
        }
        if all("gpu_mib" in one for one in self.processes):
            found["gpu_mib"] = max(one["gpu_mib"] for one in self.processes)
        return found

    def tables(self, parts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Return the table of a model's parts, with how busy its processes were and what they held."""
        if not self.processes:
            return {}
        busy, peaks = self.busy_shares, [one["peak_rss_mib"] for one in self.processes]
        rows = [part | {"busy_share": busy[(at := part["process"])], "peak_rss_mib": peaks[at]} for part in parts]
        return {"the parts of the model": rows}

    @property
    def prefill_tok_per_s(self) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tok_per_s(self) -> float:
        """New tokens a second after the first of each row, over all rows of a batch."""
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0


@dataclass
class RowCount:
    """What one of several decoders has on its way, as a share of what the engine's stats say."""

    stats: EngineStats
    alive: int = 0
    waiting: int = 0

    def now(self, alive: int, waiting: int) -> None:
        """Say how many rows it has."""
        self.stats.rows_alive += alive - self.alive
        self.stats.rows_waiting += waiting - self.waiting
        self.stats.peak_rows = max(self.stats.peak_rows, self.stats.rows_alive)
        self.alive, self.waiting = alive, waiting
