"""Runs and times batches of sequences with equal lengths: latency per token, prefill and decode speed,
memory, energy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from statistics import mean, median

from runner.config.measures import SweepConfig
from runner.core.energy import EnergyCounters
from runner.speed.real_prompts import RealPrompts
from runner.speed.speculation_pairs import GAINS, run_with_and_without_speculation
from runner.speed.synthetic import VOCABULARY, create_random_requests
from runner_base import is_out_of_memory_error, machine, to_one_line
from runner_base.notes import Note, note
from runner_base.spreads import compute_percentiles, compute_relative_spread
from runner_engine import (
    Completion,
    Engine,
    EngineReport,
    EngineStats,
    ModelArithmetic,
    Request,
    complete_requests,
)
from runner_engine.devices import gpu
from runner_engine.sessions import BatchShape, SequenceShortage

SPEEDS = ("prefill_tok_per_s", "decode_tok_per_s", "output_tok_per_s")
GAPS = ("itl_p50_s", "itl_p95_s", "itl_p99_s")
# compared with the machine's limits
WORK = ("prefill_gflop_per_s", "decode_gflop_per_s", "decode_gb_per_s")
ENERGY = ("energy_j", "energy_j_per_token")
# in this order, as far as an engine reports them
FIGURES = ("ttft_s", *GAPS, *SPEEDS, "seconds", *WORK, *ENERGY, *GAINS)
NOISY = 0.1  # share of a speed's median: quartiles further apart mean that the machine was too noisy
ENOUGH_TO_TELL = 3  # repeats


@dataclass
class Cell:
    """One combination of a sweep's settings, such as a batch size and a prompt length, with its
    measurements.
    """

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    shared_prefix: float = 0.0
    key: str = ""  # its name in metrics
    # of real prompts, in tokens: `prompt_tokens` is their median
    lengths: list[int] = field(default_factory=list)
    # figures of each run after the warm-up
    repeats: list[dict[str, float]] = field(default_factory=list)
    peak_rss_mib: float = 0.0
    cuda_peak_mib: float | None = None
    note: Note | None = None  # why there are no numbers

    @property
    def shared_prefix_tokens(self) -> int:
        return int(self.shared_prefix * self.prompt_tokens)

    @property
    def metric_names(self) -> list[str]:
        return (
            [name for name in FIGURES if all(name in repeat for repeat in self.repeats)]
            if self.repeats
            else []
        )

    def values(self, name: str) -> list[float]:
        """Return the values of one metric in all runs after the warm-up."""
        return [repeat[name] for repeat in self.repeats]

    def median(self, name: str) -> float:
        return median(self.values(name))

    @property
    def noise(self) -> float | None:
        """Interquartile range of the speed, divided by the median speed. None with too few runs."""
        if self.note or len(self.repeats) < ENOUGH_TO_TELL:
            return None
        return max(compute_relative_spread(self.values(name)) for name in SPEEDS if name in self.metric_names)

    @property
    def is_noisy(self) -> bool:
        return self.noise is not None and self.noise > NOISY


def create_sweep_cells(task: SweepConfig) -> list[Cell]:
    cells = []
    # the lengths of real ones are known after they have been sent
    prompts = task.prompt_tokens or [0]
    for batch, prompt, new, share in product(task.batch_sizes, prompts, task.new_tokens, task.shared_prefix):
        key = f"batch_{batch}_prompt_{prompt}" if prompt else f"batch_{batch}_prompts"
        key += f"_new_{new}" if len(task.new_tokens) > 1 else ""
        key += f"_shared_{100 * share:g}" if len(task.shared_prefix) > 1 else ""
        cells.append(Cell(batch, prompt, new, share, key))
    return cells


class BatchShortageError(Exception):
    """Error for a batch that the engine cannot run at once, because memory is too small."""

    def __init__(self, shortage: SequenceShortage) -> None:
        super().__init__(shortage)
        self.shortage = shortage


@dataclass
class TimedBatch:
    """Result of one timed batch: completions, duration and energy."""

    completions: list[Completion]
    started: float
    seconds: float
    joules: float | None  # None: there is no counter
    spent: EngineStats

    @property
    def new_tokens(self) -> int:
        return sum(completion.answer.num_tokens for completion in self.completions)

    @property
    def speed(self) -> dict[str, float]:
        """Speeds that the engine reports, or else new tokens per second including prefill."""
        known = {name: self.spent.speed_metrics[name] for name in SPEEDS if name in self.spent.speed_metrics}
        return known or {"output_tok_per_s": self.new_tokens / self.seconds}


@dataclass
class CellRunner:
    """Runs and times each combination of a sweep's settings on a loaded engine."""

    engine: Engine
    report: EngineReport
    seed: int
    arithmetic: ModelArithmetic | None
    energy: EnergyCounters
    real: RealPrompts | None = None  # instead of random tokens
    guesses: bool = False  # at every step: each batch then runs without guesses, too
    in_pieces: bool = False  # tokens came in pieces of text, which may have several tokens

    @property
    def vocab_size(self) -> int:
        """Number of token ids from which random prompts are drawn."""
        return int(self.report.metrics.get("vocab_size", VOCABULARY))

    def run_sweep_cell(self, cell: Cell, round_number: int) -> dict[str, float] | None:
        """Run one combination of a sweep's settings and return its metrics, or None if the run failed."""
        if self.real is None:
            shape = cell.batch_size, cell.prompt_tokens, cell.new_tokens
            requests = create_random_requests(
                *shape, self.vocab_size, self.seed, round_number, cell.shared_prefix_tokens
            )
        else:
            requests = self.real.take_next_prompt_batch(cell.batch_size, cell.new_tokens)
        if round_number == 0:
            machine.reset_peak_rss()  # only once: it frees memory, and allocating it again costs time
            gpu.reset_peak_gpu_memory()
        try:
            if self.guesses:
                timed, gains = run_with_and_without_speculation(requests, round_number, self._run_batch)
            else:
                timed, gains = self._run_batch(requests), {}
        except BatchShortageError as error:
            cell.note = note("fewer_rows", shortage=error.shortage)
            return None
        except Exception as error:
            if not is_out_of_memory_error(error):
                raise
            cell.note = note("out_of_memory", reason=to_one_line(error, 200))
            return None
        cell.note = find_completion_failure_note(timed.completions, cell.new_tokens)
        if cell.note is not None:
            return None
        self.in_pieces |= has_chunked_times(timed.completions)
        prompt_tokens = cell.prompt_tokens
        if self.real is not None:
            lengths = self.real.record_prompt_lengths(timed.completions)
            cell.lengths += lengths
            prompt_tokens = round(mean(lengths))
        if round_number == 0:
            cell.peak_rss_mib, cell.cuda_peak_mib = machine.peak_rss_mib(), gpu.get_peak_gpu_memory_mib()
        figures = (
            compute_latency_metrics(timed.completions, timed.started)
            | timed.speed
            | {"seconds": timed.seconds}
            # a pass that checks guesses is no single step, and the draft computes and reads, too
            | ({} if self.guesses else self._compute_hardware_rates(cell, prompt_tokens, timed.spent))
            | gains
        )
        joules, new = timed.joules, timed.new_tokens
        return figures | ({} if joules is None else {"energy_j": joules, "energy_j_per_token": joules / new})

    def _run_batch(self, requests: Sequence[Request]) -> TimedBatch:
        engine, rows = self.engine, len(requests)
        before, shortages_before = replace(engine.stats), len(engine.stats.row_shortages)
        energy = self.energy.read_counters()
        started = time.perf_counter()
        completions = complete_requests(
            engine, requests, rows, lambda _: self._raise_on_shortage(shortages_before)
        )
        seconds = time.perf_counter() - started
        joules = self.energy.compute_joules(energy)
        return TimedBatch(completions, started, seconds, joules, engine.stats - before)

    def _raise_on_shortage(self, shortages_before: int) -> None:
        if shortages := self.engine.stats.row_shortages[shortages_before:]:
            raise BatchShortageError(shortages[0])

    def _compute_hardware_rates(self, cell: Cell, prompt_tokens: int, stats: EngineStats) -> dict[str, float]:
        """Return the achieved FLOP/s and bytes/s. Empty if the model's FLOP count is unknown."""
        if self.arithmetic is None or not (stats.prefill_s and stats.decode_s):
            return {}
        shared = round(stats.shared_tokens / cell.batch_size)  # the engine may not use it
        shape = BatchShape(cell.batch_size, prompt_tokens, cell.new_tokens, shared)
        return {
            "prefill_gflop_per_s": self.arithmetic.compute_prefill_gflop(shape) / stats.prefill_s,
            "decode_gflop_per_s": self.arithmetic.compute_decode_gflop(shape) / stats.decode_s,
            "decode_gb_per_s": self.arithmetic.compute_gb_read_while_decoding(shape) / stats.decode_s,
        }


def find_completion_failure_note(completions: Sequence[Completion], new_tokens: int) -> Note | None:
    for completion in completions:
        if completion.error:
            return note("error", reason=completion.error)
    tokens = {completion.answer.num_tokens for completion in completions}
    return None if tokens == {new_tokens} else note("too_short", tokens=min(tokens), wanted=new_tokens)


def compute_latency_metrics(completions: Sequence[Completion], start_time: float) -> dict[str, float]:
    """Return the median time to the first token, and percentiles of the gaps between tokens."""
    firsts = [
        completion.token_times[0] - start_time if completion.token_times else completion.first_token_s
        for completion in completions
    ]
    gaps = compute_percentiles(gap for completion in completions for gap in iterate_token_gaps_s(completion))
    return {"ttft_s": median(firsts), **{f"itl_{rank}_s": gap for rank, gap in gaps.items()}}


def iterate_token_gaps_s(completion: Completion) -> Iterator[float]:
    """Yield the seconds between consecutive tokens of an answer."""
    return (later - earlier for earlier, later in pairwise(completion.token_times or ()))


def has_chunked_times(completions: Sequence[Completion]) -> bool:
    """Return whether the engine reports times per text chunk instead of per token."""
    return any(
        completion.token_times is not None and len(completion.token_times) != completion.answer.num_tokens
        for completion in completions
    )
