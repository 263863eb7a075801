"""Statistics of an engine: totals, current values and peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from typing import Any

from runner_base import MIB
from runner_base.notes import Note
from runner_engine.sessions.shortages import SequenceShortage

TOTALS = ("load_s", "prefill_tokens", "shared_tokens", "prefill_s", "decode_tokens", "decode_s",
          "draft_tokens", "accepted_tokens")  # fmt: skip
BY_PLACE = ("drafted_at", "accepted_at")  # totals, too, by the place in a guess


@dataclass
class EngineStats:
    """Totals, current values and peaks of an engine.

    The difference of two snapshots describes an interval.
    """

    load_s: float = 0.0
    prefill_tokens: int = 0
    shared_tokens: int = 0  # of prompts, not computed again because another prompt begins with them
    prefill_s: float = 0.0
    decode_tokens: int = 0  # tokens after each row's first
    decode_s: float = 0.0
    draft_tokens: int = 0  # proposed by speculative decoding
    accepted_tokens: int = 0  # the draft tokens that the model confirmed
    # where tokens are guessed at every step: how often the first, the second … token of a guess was
    # looked at, and was right
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    rows_alive: int = 0  # now, like rows_waiting
    rows_waiting: int = 0
    kv_tokens: int = 0  # now: tokens in the KV cache, if the engine knows
    kept_tokens: int = 0  # now: tokens in the prompt cache
    kept_bytes: int = 0  # now: memory of the prompt cache
    max_kept_bytes: int = 0  # limit of that memory
    packed_mib: float = 0.0  # now: weights in the kernels' layout; they replace the checkpoint's pages
    under_way: float = 0.0  # now: passed work beyond the finished requests, in mean requests
    peak_rows: int = 0  # most rows at once so far
    peak_kv_bytes: int = 0  # most bytes of the KV cache so far
    peak_pass_tokens: int = 0  # most tokens that one pass has read, and most for which it computed logits
    peak_pass_logits: int = 0
    peak_activation_bytes: int = 0  # what such a pass needs, computed from its shapes; 0 if unknown
    peak_cuda_bytes: int = 0  # of the allocator, if the whole model is on GPUs
    can_continue: bool = False  # an answer that was begun goes on with the tokens that it would have had
    rows_are_independent: bool = (
        False  # known: the bits of a row's answer are the same whatever rows go along
    )
    expert_use: str = ""  # of a mixture: how unevenly its experts were used, once enough choices were counted
    decoding_graphs: str = ""  # on a GPU: how many steps were recorded ones, or why none was
    notes: list[Note] = field(default_factory=list)  # deviations from what was requested
    row_shortages: list[SequenceShortage] = field(default_factory=list)  # others of them, as values
    # one entry per process, if the engine has several; set when a session ends with nothing under
    # way
    processes: list[dict[str, float]] = field(default_factory=list)
    # one entry per server, if the model has several
    servers: list[dict[str, Any]] = field(default_factory=list)

    def __sub__(self, earlier: EngineStats) -> EngineStats:
        totals = {name: getattr(self, name) - getattr(earlier, name) for name in TOTALS}
        totals |= {name: add_counts(getattr(self, name), getattr(earlier, name), -1) for name in BY_PLACE}
        return replace(self, **totals, notes=[], row_shortages=[], processes=[])

    def __add__(self, later: EngineStats) -> EngineStats:
        totals = {name: getattr(self, name) + getattr(later, name) for name in TOTALS}
        totals |= {name: add_counts(getattr(self, name), getattr(later, name)) for name in BY_PLACE}
        peaks = [field.name for field in fields(self) if field.name.startswith("peak_")]
        highest = {name: max(getattr(self, name), getattr(later, name)) for name in peaks}
        notes = list(dict.fromkeys(self.notes + later.notes))
        shortages = list(dict.fromkeys(self.row_shortages + later.row_shortages))
        return replace(later, **totals, **highest, notes=notes, row_shortages=shortages)

    def compute_peak_memory_metrics(self, weight_mib: float | None) -> dict[str, float]:
        """Return the model's peak memory in MiB, by kind of memory.

        Empty if the engine cannot measure it.
        """
        if weight_mib is None or not self.peak_activation_bytes:
            return {}
        parts = {"kv_peak_mib": self.peak_kv_bytes / MIB, "activation_mib": self.peak_activation_bytes / MIB}
        if cuda_mib := self.peak_cuda_bytes / MIB:
            return parts | {"cuda_peak_mib": cuda_mib, "model_mib": cuda_mib}
        return parts | {"model_mib": weight_mib + sum(parts.values())}

    @property
    def speed_metrics(self) -> dict[str, float]:
        """Return metrics of speed and speculative decoding.

        Empty if the engine cannot measure the speed of its model.
        """
        if not self.prefill_s:
            return {}
        # else no row went on
        decoded = {"decode_tok_per_s": self.decode_tok_per_s} if self.decode_tokens else {}
        return {
            "prefill_tok_per_s": self.prefill_tok_per_s,
            **decoded,
            "computed_prompt_tokens": self.prefill_tokens,
            "shared_prompt_tokens": self.shared_tokens,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
            **self.draft_acceptance_metrics,
        }

    @property
    def draft_acceptance_metrics(self) -> dict[str, float]:
        """Acceptance rate of draft tokens, in total and by position in the draft.

        Draft tokens after a rejected one are not counted. Empty unless tokens are drafted at
        every step.
        """
        pairs = zip(self.drafted_at, self.accepted_at, strict=True)
        by_place = {
            f"acceptance_share/token_{place}": right / looked_at
            for place, (looked_at, right) in enumerate(pairs, start=1)
            if looked_at
        }
        whole = {"acceptance_share": self.accepted_tokens / self.draft_tokens} if by_place else {}
        return whole | by_place

    @property
    def busy_fraction_per_process(self) -> list[float]:
        """Fraction of the engine's active time that each process spent computing."""
        seconds = self.prefill_s + self.decode_s
        return [min(1.0, process["busy_s"] / seconds) if seconds else 0.0 for process in self.processes]

    @property
    def multiprocess_engine_metrics(self) -> dict[str, float]:
        """Metrics of an engine that has several processes.

        Empty for a single process.
        """
        if not self.processes:
            return {}
        peaks, busy = [process["peak_rss_mib"] for process in self.processes], self.busy_fraction_per_process
        metrics = {
            "bubble_share": 1 - sum(busy) / len(busy),
            "peak_rss_mib": max(peaks),
            "sum_peak_rss_mib": sum(peaks),
        }
        if all("gpu_mib" in process for process in self.processes):
            metrics["gpu_mib"] = max(process["gpu_mib"] for process in self.processes)
        return metrics

    def build_tables(self, model_parts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        tables = {"the servers of the model": self.servers} if self.servers else {}
        if not self.processes:
            return tables
        busy, peaks = self.busy_fraction_per_process, [process["peak_rss_mib"] for process in self.processes]
        rows = [
            part | {"busy_share": busy[(at := part["process"])], "peak_rss_mib": peaks[at]}
            for part in model_parts
        ]
        return tables | {"the parts of the model": rows}

    @property
    def prefill_tok_per_s(self) -> float:
        """Prefilled prompt tokens per second. Tokens of a shared prefix count once."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tok_per_s(self) -> float:
        """Decoded tokens per second over all sequences, excluding the first token of each sequence."""
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0


def add_counts(left: Sequence[int], right: Sequence[int], sign: int = 1) -> list[int]:
    """Add two lists element by element, or subtract the second list if sign is -1.

    The lists may have different lengths.
    """
    return [first + sign * second for first, second in zip_longest(left, right, fillvalue=0)]


@dataclass
class SequenceCount:
    """Counts the sequences of one decoder and adds the count to the engine's totals."""

    stats: EngineStats
    alive: int = 0
    waiting: int = 0

    def update(self, num_active: int, num_waiting: int) -> None:
        """Set the decoder's sequence counts, and update the engine's totals."""
        self.stats.rows_alive += num_active - self.alive
        self.stats.rows_waiting += num_waiting - self.waiting
        self.stats.peak_rows = max(self.stats.peak_rows, self.stats.rows_alive)
        self.alive, self.waiting = num_active, num_waiting
