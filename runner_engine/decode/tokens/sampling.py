"""From logits to the next token: greedy or sampled, each row independently of the others.

A sampled row depends on its seed, its id and its own logits only. Its random numbers come from its own generator, and
penalties count its own tokens, not the padding: the repetition penalty those of prompt and answer, the frequency and
the presence penalty those of the answer, as in vLLM. On a CPU with kernels, one call into C picks for all rows.
Elsewhere transformers' warpers do it, and rows with equal settings share their operations.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from runner_base import is_memory_error
from runner_base.errors import lost_gpu
from runner_engine.decode.rows import NO_TOKEN, NOT_SAMPLED, Row
from runner_engine.devices.gpu import sent
from runner_engine.kernels import native, picking
from runner_engine.sessions import RequestId
from runner_engine.settings.sampling import GREEDY, PARAMETERS, Sampling, active_parameters

log = logging.getLogger(__name__)


class _Group(NamedTuple):
    """Rows with equal sampling settings."""

    sampling: Sampling
    places: list[int]  # their positions in the batch
    rows: torch.Tensor | slice  # the same, as an index
    lines: torch.Tensor  # their lines in the history


class _History:
    """The tokens that penalties need: whether a row has a token, and how often its answer has
    it."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self.seen = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self.counts = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device)

    def begin(self, row: int, prompt: list[int], answer: list[int]) -> None:
        """Add a row's tokens so far."""
        self.seen[row, torch.tensor(prompt + answer, dtype=torch.long, device=self.seen.device)] = True
        tokens = torch.tensor(answer, dtype=torch.long, device=self.seen.device)
        self.counts[row].index_add_(0, tokens, torch.ones_like(tokens, dtype=torch.int32))

    def add(self, lines: torch.Tensor, tokens: torch.Tensor) -> None:
        """Add the next token of each of these lines."""
        self.seen[lines, tokens] = True
        self.counts[lines, tokens] += 1

    def select(self, lines: list[int]) -> _History:
        """Return the history of these lines, in this order."""
        if lines == list(range(len(self.seen))):
            return self
        selection = _History(0, 0, self.seen.device)
        selection.seen, selection.counts = self.seen[lines], self.counts[lines]
        return selection

    def join(self, other: _History) -> None:
        """Append the lines of another history."""
        self.seen, self.counts = (torch.cat([self.seen, other.seen]), torch.cat([self.counts, other.counts]))


class Sampler:
    """Picks the next token of every row, by its tokens so far, its sampling settings and its random
    numbers."""

    def __init__(
        self,
        vocab_size: int,
        device: torch.device,
        prompts: Sequence[list[int]] = (),
        samplings: Sequence[Sampling] = (),
        generators: Sequence[torch.Generator | None] = (),
        answers: Sequence[list[int]] = (),
    ) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.samplings = list(samplings)  # one per row, like the generators
        self.generators = list(generators)
        self.history: _History | None = None  # only if a row has a penalty
        self.lines: list[int] = []  # each row's line in the history, so that rows come and go without copies
        self._invalidate()
        if any(map(_has_penalty, self.samplings)):
            self.history, self.lines = (
                _History(len(self.samplings), vocab_size, device),
                list(range(len(self.samplings))),
            )
            for row, prompt in enumerate(prompts):
                self.history.begin(row, prompt, answers[row] if answers else [])

    def _invalidate(self) -> None:
        """Drop what was computed for the current rows."""
        self._groups: list[_Group] | None = None
        self._settings: picking.RowSettings | None = None

    def is_greedy(self, row: int) -> bool:
        """Whether a row takes the most probable token, without penalties."""
        return self.samplings[row] is GREEDY

    def only(self, rows: Sequence[int]) -> Sampler:
        """Return a sampler of some of the rows, with their own random numbers and history."""
        some = Sampler(self.vocab_size, self.device)
        some.samplings = [self.samplings[row] for row in rows]
        some.generators = [self.generators[row] for row in rows]
        some.history = self.history
        some.lines = [] if self.history is None else [self.lines[row] for row in rows]
        return some

    def take(self, other: Sampler) -> None:
        """Append the rows of another sampler."""
        if self.history is not None or other.history is not None:
            history = self._histories()
            history.join(other._histories())
            self.history, self.lines = history, list(range(len(history.seen)))
        self.samplings = self.samplings + other.samplings
        self.generators = self.generators + other.generators
        self._invalidate()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self.samplings = [self.samplings[row] for row in rows]
        self.generators = [self.generators[row] for row in rows]
        self.lines = [self.lines[row] for row in rows] if self.history is not None and rows else []
        if not self.lines:
            self.history = None
        self._invalidate()

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V].

        It is NO_TOKEN where the logits are not numbers, and NOT_SAMPLED for a row whose settings
        raise an error.
        """
        if all(sampling is GREEDY for sampling in self.samplings):
            return picking.argmax(logits)
        if (
            self.history is not None and logits.shape[1] != self.vocab_size
        ):  # C would read beyond the history's rows
            raise ValueError(f"rows of {logits.shape[1]} logits; the history is of {self.vocab_size} tokens")
        # once for all rows, whatever fails below
        uniform = _uniform(self.generators, logits.device)
        compiled, every = picking.for_logits(logits), list(range(len(self.samplings)))
        if compiled is not None:
            return self._isolated(every, partial(self._pick_at_once, compiled, logits, uniform))
        if self._groups is None:
            self._groups = self._grouped()
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
        for group in self._groups:
            pick = partial(self._pick_alike, group, logits=logits, uniform=uniform)
            tokens[group.rows] = self._isolated(group.places, pick)
        return tokens

    def _isolated(self, rows: list[int], pick: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """Pick for these rows together; if that raises, for each one alone, so that an error ends
        its own row only."""
        try:
            return pick(rows)
        except Exception as error:
            if is_memory_error(error) or lost_gpu(error):
                raise
            if len(rows) == 1:
                log.exception("a row's next token could not be sampled: %s", self.samplings[rows[0]])
                return torch.tensor([NOT_SAMPLED], device=self.device)
        return torch.cat([self._isolated([row], pick) for row in rows])

    def _pick_at_once(
        self, compiled: native.Kernels, logits: torch.Tensor, uniform: torch.Tensor, rows: list[int]
    ) -> torch.Tensor:
        """Pick for these rows in one call into C."""
        if len(rows) < len(self.samplings):
            return picking.sample(compiled, logits[rows], self._row_settings(rows), uniform[rows])
        if self._settings is None:
            self._settings = self._row_settings(rows)
        return picking.sample(compiled, logits, self._settings, uniform)

    def _row_settings(self, rows: Sequence[int]) -> picking.RowSettings:
        """Return the settings of these rows, and the addresses of their lines in the history."""
        samplings = [self.samplings[row] for row in rows]
        numbers = torch.tensor([sampling.numbers for sampling in samplings], dtype=torch.float64)
        addresses = torch.zeros(2, len(samplings), dtype=torch.long)
        if self.history is not None:
            for address, table in zip(addresses, (self.history.seen, self.history.counts), strict=True):
                offsets = (
                    torch.tensor([self.lines[row] for row in rows]) * self.vocab_size * table.element_size()
                )
                address.copy_(offsets + table.data_ptr())
            addresses[:, [not _has_penalty(sampling) for sampling in samplings]] = 0
        return picking.RowSettings(numbers, *addresses)

    def _pick_alike(
        self, group: _Group, places: list[int], logits: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        """Return the next tokens of rows with equal settings: a group, or one of its rows."""
        group = group if places is group.places else self._group(places)
        sampling, logits = group.sampling, logits[group.rows]
        if sampling is GREEDY:
            return picking.argmax(logits)
        scores = logits.float()
        is_bad = scores.isnan().any(dim=-1)
        has_penalty = _has_penalty(sampling)
        if has_penalty:
            assert self.history is not None
            scores = _penalized(
                sampling, scores, self.history.seen[group.lines], self.history.counts[group.lines]
            )
        tokens = (
            scores.argmax(dim=-1)
            if sampling.temperature == 0
            else _draw(sampling, scores, uniform[group.rows])
        )
        tokens.masked_fill_(is_bad, NO_TOKEN)
        if has_penalty:
            assert self.history is not None
            self.history.add(group.lines, tokens.clamp(min=0))
        return tokens

    def _histories(self) -> _History:
        """Return the history in the order of the rows; an empty one if there is none."""
        if self.history is None:
            return _History(len(self.samplings), self.vocab_size, self.device)
        return self.history.select(self.lines)

    def _grouped(self) -> list[_Group]:
        """Group the rows by their settings; usually all have the same."""
        rows_of: dict[tuple[float, ...], list[int]] = {}
        # by the values as they are: seeds may differ, and `numbers` would fail for all rows where
        # one has a wrong value
        for row, sampling in enumerate(self.samplings):
            rows_of.setdefault(tuple(getattr(sampling, name) for name in PARAMETERS), []).append(row)
        return [self._group(rows) for rows in rows_of.values()]

    def _group(self, rows: list[int]) -> _Group:
        """Return these rows, which have equal settings, as a group."""
        lines = [self.lines[row] if self.lines else 0 for row in rows]
        is_every = len(rows) == len(self.samplings)
        return _Group(
            self.samplings[rows[0]],
            rows,
            slice(None) if is_every else sent(torch.tensor(rows), self.device),
            sent(torch.tensor(lines), self.device),
        )


def leave_only(logits: torch.Tensor, tokens: Mapping[int, int]) -> None:
    """Leave these rows of logits [B, V] one token to choose from."""
    if not tokens:
        return
    with torch.inference_mode():  # in which the logits were made
        for row, token in tokens.items():
            logits[row].fill_(-math.inf)
            logits[row, token] = 0.0


def sampler_of(rows: Sequence[Row], vocab_size: int, device: torch.device) -> Sampler:
    """Return a sampler of these rows; it continues their random numbers."""
    for row in rows:
        if row.generator is None:
            row.generator = generator_of(row.sampling, row.request.effective_random_id, row.choice)
            for _ in (
                row.tokens if row.generator is not None else ()
            ):  # of an answer that was begun: one for each
                _uniform([row.generator], torch.device("cpu"))
    prompts, samplings = [row.prompt for row in rows], [row.sampling for row in rows]
    generators, answers = [row.generator for row in rows], [row.tokens for row in rows]
    return Sampler(vocab_size, device, prompts, samplings, generators, answers)


def generator_of(sampling: Sampling, request_id: RequestId, choice: int = 0) -> torch.Generator | None:
    """Return a row's random numbers, which depend on seed, id and choice only; None if it is
    greedy."""
    if not sampling.temperature:
        return None
    name = f"{sampling.seed}:{request_id}" + (f":{choice}" if choice else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=256)
def _has_penalty(sampling: Sampling) -> bool:
    return bool(active_parameters(sampling, lambda one: one.for_greedy))


def _penalized(
    sampling: Sampling, scores: torch.Tensor, seen: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return scores [B, V] after the penalties."""
    assert sampling.repetition_penalty is not None
    if sampling.repetition_penalty != 1:
        lowered = torch.where(
            scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty
        )
        scores = torch.where(seen, lowered, scores)
    if sampling.frequency_penalty or sampling.presence_penalty:
        assert sampling.frequency_penalty is not None
        assert sampling.presence_penalty is not None
        scores = scores - (sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0))
    return scores


def _warp(sampling: Sampling, scores: torch.Tensor) -> torch.Tensor:
    """Apply transformers' warpers; these do not use the ids, so None is enough."""
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(float(sampling.temperature or 1.0))(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(int(sampling.top_k))(None, scores)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = _nucleus(sampling.top_p, scores)
    if sampling.min_p:  # a share of the largest probability is a difference from the largest score
        scores = scores.masked_fill(
            scores < scores.amax(dim=-1, keepdim=True) + math.log(sampling.min_p), -math.inf
        )
    return scores


def _nucleus(top_p: float, scores: torch.Tensor) -> torch.Tensor:
    """Apply top-p like TopPLogitsWarper, but with a stable sort, so that ties do not depend on the
    processor."""
    ordered, tokens = scores.sort(dim=-1, stable=True)
    is_removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    is_removed[:, -1] = False
    return scores.masked_fill(is_removed.scatter(1, tokens, is_removed), -math.inf)


def _uniform(generators: Sequence[torch.Generator | None], device: torch.device) -> torch.Tensor:
    """Return the next random number of each row [B], in float64 to keep the tails; 0 for a greedy
    row."""
    numbers = torch.zeros(len(generators), dtype=torch.float64)
    for row, generator in enumerate(generators):
        if generator is not None:
            numbers[row : row + 1].uniform_(generator=generator)
    return sent(numbers, device)


def _draw(sampling: Sampling, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    # inverse of the cumulative distribution, at one uniform number per row
    cumulative = _warp(sampling, scores).double().softmax(dim=-1).cumsum(dim=-1)
    points = uniform[:, None] * cumulative[:, -1:]
    tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
    return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)
