"""Runs and times a batch of one shape: first tokens, gaps between tokens, prefill and decode,
memory, energy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from statistics import mean, median

from runner.config.measures import SweepConfig
from runner.core.energy import Energy
from runner.speed.by_turns import GAINS, run_by_turns
from runner.speed.real_prompts import RealPrompts
from runner.speed.synthetic import VOCABULARY, synthetic_requests
from runner_base import is_memory_error, machine, one_line
from runner_base.notes import Note, note
from runner_base.spreads import percentiles, relative_spread
from runner_engine import Arithmetic, Completion, Engine, EngineReport, EngineStats, Request, complete
from runner_engine.devices import gpu
from runner_engine.sessions import RowShortage, Shape

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
    """One combination of the axes, and its measurements."""

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
    def shared_tokens(self) -> int:
        """The number of first prompt tokens that all rows share."""
        return int(self.shared_prefix * self.prompt_tokens)

    @property
    def figures(self) -> list[str]:
        """The names of the figures that every repeat has."""
        return (
            [name for name in FIGURES if all(name in repeat for repeat in self.repeats)]
            if self.repeats
            else []
        )

    def values(self, name: str) -> list[float]:
        """Return one figure of every run after the warm-up."""
        return [repeat[name] for repeat in self.repeats]

    def median(self, name: str) -> float:
        """Return the median of a figure's values."""
        return median(self.values(name))

    @property
    def noise(self) -> float | None:
        """The distance between the quartiles of a speed, as a share of its median; None with too
        few repeats."""
        if self.note or len(self.repeats) < ENOUGH_TO_TELL:
            return None
        return max(relative_spread(self.values(name)) for name in SPEEDS if name in self.figures)

    @property
    def is_noisy(self) -> bool:
        """Whether the machine was too noisy for a conclusion."""
        return self.noise is not None and self.noise > NOISY


def cells_of(task: SweepConfig) -> list[Cell]:
    """Return every combination of the axes; a key has new tokens and shares only if there are
    several."""
    cells = []
    # the lengths of real ones are known after they have been sent
    prompts = task.prompt_tokens or [0]
    for batch, prompt, new, share in product(task.batch_sizes, prompts, task.new_tokens, task.shared_prefix):
        key = f"batch_{batch}_prompt_{prompt}" if prompt else f"batch_{batch}_prompts"
        key += f"_new_{new}" if len(task.new_tokens) > 1 else ""
        key += f"_shared_{100 * share:g}" if len(task.shared_prefix) > 1 else ""
        cells.append(Cell(batch, prompt, new, share, key))
    return cells


class FewerRowsError(Exception):
    """The engine lacks the memory for a whole batch."""

    def __init__(self, shortage: RowShortage) -> None:
        super().__init__(shortage)
        self.shortage = shortage


@dataclass
class Timed:
    """A batch that was run once."""

    completions: list[Completion]
    started: float
    seconds: float
    joules: float | None  # None: there is no counter
    spent: EngineStats

    @property
    def new_tokens(self) -> int:
        return sum(completion.answer.tokens for completion in self.completions)

    @property
    def speed(self) -> dict[str, float]:
        """The speeds that the engine knows, or that of whole answers."""
        known = {name: self.spent.speed[name] for name in SPEEDS if name in self.spent.speed}
        return known or {"output_tok_per_s": self.new_tokens / self.seconds}


@dataclass
class Stopwatch:
    """Runs cells on a loaded engine."""

    engine: Engine
    report: EngineReport
    seed: int
    arithmetic: Arithmetic | None
    energy: Energy
    real: RealPrompts | None = None  # instead of random tokens
    guesses: bool = False  # at every step: each batch then runs without guesses, too
    in_pieces: bool = False  # tokens came in pieces of text, which may have several tokens

    @property
    def vocab_size(self) -> int:
        """The number of token ids for random prompts."""
        return int(self.report.metrics.get("vocab_size", VOCABULARY))

    def run(self, cell: Cell, number: int) -> dict[str, float] | None:
        """Run a cell once and return its figures; None with a note in the cell if it does not
        fit."""
        if self.real is None:
            shape = cell.batch_size, cell.prompt_tokens, cell.new_tokens
            requests = synthetic_requests(*shape, self.vocab_size, self.seed, number, cell.shared_tokens)
        else:
            requests = self.real.take(cell.batch_size, cell.new_tokens)
        if number == 0:
            machine.reset_peak()  # only once: it frees memory, and allocating it again costs time
            gpu.restart_peak()
        try:
            if self.guesses:
                timed, gains = run_by_turns(requests, number, self._batch)
            else:
                timed, gains = self._batch(requests), {}
        except FewerRowsError as error:
            cell.note = note("fewer_rows", shortage=error.shortage)
            return None
        except Exception as error:
            if not is_memory_error(error):
                raise
            cell.note = note("out_of_memory", reason=one_line(error, 200))
            return None
        cell.note = failure_of(timed.completions, cell.new_tokens)
        if cell.note is not None:
            return None
        self.in_pieces |= seen_in_pieces(timed.completions)
        prompt_tokens = cell.prompt_tokens
        if self.real is not None:
            lengths = self.real.note(timed.completions)
            cell.lengths += lengths
            prompt_tokens = round(mean(lengths))
        if number == 0:
            cell.peak_rss_mib, cell.cuda_peak_mib = machine.peak_rss_mib(), gpu.peak_mib()
        figures = (
            latencies(timed.completions, timed.started)
            | timed.speed
            | {"seconds": timed.seconds}
            # a pass that checks guesses is no single step, and the draft computes and reads, too
            | ({} if self.guesses else self._work(cell, prompt_tokens, timed.spent))
            | gains
        )
        joules, new = timed.joules, timed.new_tokens
        return figures | ({} if joules is None else {"energy_j": joules, "energy_j_per_token": joules / new})

    def _batch(self, requests: Sequence[Request]) -> Timed:
        engine, rows = self.engine, len(requests)
        before, shortages_before = replace(engine.stats), len(engine.stats.row_shortages)
        energy = self.energy.read()
        started = time.perf_counter()
        completions = complete(engine, requests, rows, lambda _: self._check_whole(shortages_before))
        seconds = time.perf_counter() - started
        joules = self.energy.joules(energy)
        return Timed(completions, started, seconds, joules, engine.stats - before)

    def _check_whole(self, shortages_before: int) -> None:
        """Raise FewerRowsError at once if the engine continues with fewer rows: that is another
        cell."""
        if shortages := self.engine.stats.row_shortages[shortages_before:]:
            raise FewerRowsError(shortages[0])

    def _work(self, cell: Cell, prompt_tokens: int, spent: EngineStats) -> dict[str, float]:
        """Return the rates of computing and reading; empty if the model's arithmetic is unknown."""
        if self.arithmetic is None or not (spent.prefill_s and spent.decode_s):
            return {}
        shared = round(spent.shared_tokens / cell.batch_size)  # the engine may not use it
        shape = Shape(cell.batch_size, prompt_tokens, cell.new_tokens, shared)
        return {
            "prefill_gflop_per_s": self.arithmetic.prefill_gflop(shape) / spent.prefill_s,
            "decode_gflop_per_s": self.arithmetic.decode_gflop(shape) / spent.decode_s,
            "decode_gb_per_s": self.arithmetic.decode_gb(shape) / spent.decode_s,
        }


def failure_of(completions: Sequence[Completion], new_tokens: int) -> Note | None:
    """Return why a run does not count; None if it counts."""
    for completion in completions:
        if completion.error:
            return note("error", reason=completion.error)
    tokens = {completion.answer.tokens for completion in completions}
    return None if tokens == {new_tokens} else note("too_short", tokens=min(tokens), wanted=new_tokens)


def latencies(completions: Sequence[Completion], started: float) -> dict[str, float]:
    """Return when the first token came (the median of the rows) and the gaps between the tokens of
    each row."""
    firsts = [
        completion.token_times[0] - started if completion.token_times else completion.first_token_s
        for completion in completions
    ]
    gaps = percentiles(gap for completion in completions for gap in gaps_of(completion))
    return {"ttft_s": median(firsts), **{f"itl_{rank}_s": gap for rank, gap in gaps.items()}}


def gaps_of(completion: Completion) -> Iterator[float]:
    """Yield the seconds from each token of an answer to the next one."""
    return (later - earlier for earlier, later in pairwise(completion.token_times or ()))


def seen_in_pieces(completions: Sequence[Completion]) -> bool:
    """Whether times are those of pieces of text, which may have several tokens."""
    return any(
        completion.token_times is not None and len(completion.token_times) != completion.answer.tokens
        for completion in completions
    )
