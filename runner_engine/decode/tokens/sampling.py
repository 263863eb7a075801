"""Samples the next token of each sequence from its logits. The sequences do not affect each other.

A sampled sequence depends only on its seed, its id and its own logits. Its random numbers
come from its own generator. Penalties count its own tokens without padding: the
repetition penalty those of prompt and answer, the frequency and presence penalties those
of the answer, as in vLLM. On a CPU with kernels, one C call samples for all sequences.
Elsewhere transformers' warpers do it, and sequences with equal settings share their
operations.
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

from runner_base import is_out_of_memory_error
from runner_base.errors import get_fatal_gpu_error_message
from runner_engine.decode.sequences import NO_TOKEN, NOT_SAMPLED, TokenSequence
from runner_engine.devices.gpu import copy_to_device
from runner_engine.kernels import native, token_selection
from runner_engine.sessions import RequestId
from runner_engine.settings.sampling import GREEDY, PARAMETERS, Sampling, get_effective_parameters

log = logging.getLogger(__name__)


class _SamplingGroup(NamedTuple):
    """Sequences with equal sampling settings."""

    sampling: Sampling
    places: list[int]  # their positions in the batch
    rows: torch.Tensor | slice  # the same, as an index
    lines: torch.Tensor  # their lines in the history


class _TokenHistory:
    """Earlier tokens of each sequence, to which penalties apply.

    Records which tokens a sequence contains, and how often its answer contains each token.
    """

    def __init__(self, num_sequences: int, vocab_size: int, device: torch.device) -> None:
        self.seen = torch.zeros(num_sequences, vocab_size, dtype=torch.bool, device=device)
        self.counts = torch.zeros(num_sequences, vocab_size, dtype=torch.int32, device=device)

    def add_sequence_to_history(self, sequence_index: int, prompt: list[int], answer: list[int]) -> None:
        self.seen[
            sequence_index, torch.tensor(prompt + answer, dtype=torch.long, device=self.seen.device)
        ] = True
        tokens = torch.tensor(answer, dtype=torch.long, device=self.seen.device)
        self.counts[sequence_index].index_add_(0, tokens, torch.ones_like(tokens, dtype=torch.int32))

    def append_tokens(self, indices: torch.Tensor, tokens: torch.Tensor) -> None:
        self.seen[indices, tokens] = True
        self.counts[indices, tokens] += 1

    def select_sequences(self, indices: list[int]) -> _TokenHistory:
        """Return the token histories of these sequences, in the given order."""
        if indices == list(range(len(self.seen))):
            return self
        selection = _TokenHistory(0, 0, self.seen.device)
        selection.seen, selection.counts = self.seen[indices], self.counts[indices]
        return selection

    def append_history(self, other_history: _TokenHistory) -> None:
        self.seen, self.counts = (
            torch.cat([self.seen, other_history.seen]),
            torch.cat([self.counts, other_history.counts]),
        )


class Sampler:
    """Samples the next token of each sequence by its sampling settings, random generator and earlier
    tokens.
    """

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
        self.history: _TokenHistory | None = None  # only if a row has a penalty
        self.lines: list[int] = []  # each row's line in the history, so that rows come and go without copies
        self._discard_cached_groups()
        if any(map(_has_penalty, self.samplings)):
            self.history, self.lines = (
                _TokenHistory(len(self.samplings), vocab_size, device),
                list(range(len(self.samplings))),
            )
            for row, prompt in enumerate(prompts):
                self.history.add_sequence_to_history(row, prompt, answers[row] if answers else [])

    def _discard_cached_groups(self) -> None:
        self._groups: list[_SamplingGroup] | None = None
        self._settings: token_selection.SequenceSampling | None = None

    def is_greedy(self, index: int) -> bool:
        """Whether a sequence uses greedy decoding without penalties."""
        return self.samplings[index] is GREEDY

    def select_sequences(self, indices: Sequence[int]) -> Sampler:
        """Return a sampler for a subset of the sequences.

        Both samplers share random generators and token history.
        """
        some = Sampler(self.vocab_size, self.device)
        some.samplings = [self.samplings[row] for row in indices]
        some.generators = [self.generators[row] for row in indices]
        some.history = self.history
        some.lines = [] if self.history is None else [self.lines[row] for row in indices]
        return some

    def append_sampler(self, other_sampler: Sampler) -> None:
        if self.history is not None or other_sampler.history is not None:
            history = self._get_ordered_history()
            history.append_history(other_sampler._get_ordered_history())
            self.history, self.lines = history, list(range(len(history.seen)))
        self.samplings = self.samplings + other_sampler.samplings
        self.generators = self.generators + other_sampler.generators
        self._discard_cached_groups()

    def keep_sequences_at_indices(self, indices: Sequence[int]) -> None:
        """Keep only the sequences at these indices, in the given order."""
        self.samplings = [self.samplings[row] for row in indices]
        self.generators = [self.generators[row] for row in indices]
        self.lines = [self.lines[row] for row in indices] if self.history is not None and indices else []
        if not self.lines:
            self.history = None
        self._discard_cached_groups()

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V].

        The id is NO_TOKEN where logits are not numbers, and NOT_SAMPLED for a sequence whose
        settings raise an error.
        """
        if all(sampling is GREEDY for sampling in self.samplings):
            return token_selection.argmax(logits)
        if (
            self.history is not None and logits.shape[1] != self.vocab_size
        ):  # C would read beyond the history's rows
            raise ValueError(f"got {logits.shape[1]} logits for a vocabulary of {self.vocab_size} tokens")
        # once for all rows, whatever fails below
        uniform = _draw_uniform_numbers(self.generators, logits.device)
        compiled, every = token_selection.get_kernels_for_logits(logits), list(range(len(self.samplings)))
        if compiled is not None:
            return self._sample_with_error_isolation(
                every, partial(self._sample_with_kernels, compiled, logits, uniform)
            )
        if self._groups is None:
            self._groups = self._group_sequences_by_settings()
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
        for group in self._groups:
            pick = partial(self._sample_tokens_of_group, group, logits=logits, uniform=uniform)
            tokens[group.rows] = self._sample_with_error_isolation(group.places, pick)
        return tokens

    def _sample_with_error_isolation(
        self, indices: list[int], sample: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Sample tokens for several sequences together.

        After an error, samples each sequence alone, so that only one sequence fails.
        """
        try:
            return sample(indices)
        except Exception as error:
            if is_out_of_memory_error(error) or get_fatal_gpu_error_message(error):
                raise
            if len(indices) == 1:
                log.exception("sampling the next token of a sequence failed: %s", self.samplings[indices[0]])
                return torch.tensor([NOT_SAMPLED], device=self.device)
        return torch.cat([self._sample_with_error_isolation([row], sample) for row in indices])

    def _sample_with_kernels(
        self, kernels: native.Kernels, logits: torch.Tensor, uniform: torch.Tensor, indices: list[int]
    ) -> torch.Tensor:
        if len(indices) < len(self.samplings):
            return token_selection.sample_tokens(
                kernels, logits[indices], self._build_kernel_sampling_settings(indices), uniform[indices]
            )
        if self._settings is None:
            self._settings = self._build_kernel_sampling_settings(indices)
        return token_selection.sample_tokens(kernels, logits, self._settings, uniform)

    def _build_kernel_sampling_settings(self, indices: Sequence[int]) -> token_selection.SequenceSampling:
        samplings = [self.samplings[row] for row in indices]
        numbers = torch.tensor([sampling.as_numbers for sampling in samplings], dtype=torch.float64)
        addresses = torch.zeros(2, len(samplings), dtype=torch.long)
        if self.history is not None:
            for address, table in zip(addresses, (self.history.seen, self.history.counts), strict=True):
                offsets = (
                    torch.tensor([self.lines[row] for row in indices])
                    * self.vocab_size
                    * table.element_size()
                )
                address.copy_(offsets + table.data_ptr())
            addresses[:, [not _has_penalty(sampling) for sampling in samplings]] = 0
        return token_selection.SequenceSampling(numbers, *addresses)

    def _sample_tokens_of_group(
        self, group: _SamplingGroup, indices: list[int], logits: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        group = group if indices is group.places else self._create_sampling_group(indices)
        sampling, logits = group.sampling, logits[group.rows]
        if sampling is GREEDY:
            return token_selection.argmax(logits)
        scores = logits.float()
        is_bad = scores.isnan().any(dim=-1)
        has_penalty = _has_penalty(sampling)
        if has_penalty:
            assert self.history is not None
            scores = _apply_penalties(
                sampling, scores, self.history.seen[group.lines], self.history.counts[group.lines]
            )
        tokens = (
            scores.argmax(dim=-1)
            if sampling.temperature == 0
            else _sample_by_inverse_cdf(sampling, scores, uniform[group.rows])
        )
        tokens.masked_fill_(is_bad, NO_TOKEN)
        if has_penalty:
            assert self.history is not None
            self.history.append_tokens(group.lines, tokens.clamp(min=0))
        return tokens

    def _get_ordered_history(self) -> _TokenHistory:
        if self.history is None:
            return _TokenHistory(len(self.samplings), self.vocab_size, self.device)
        return self.history.select_sequences(self.lines)

    def _group_sequences_by_settings(self) -> list[_SamplingGroup]:
        rows_of: dict[tuple[float, ...], list[int]] = {}
        # by the values as they are: seeds may differ, and `numbers` would fail for all rows where
        # one has a wrong value
        for row, sampling in enumerate(self.samplings):
            rows_of.setdefault(tuple(getattr(sampling, name) for name in PARAMETERS), []).append(row)
        return [self._create_sampling_group(rows) for rows in rows_of.values()]

    def _create_sampling_group(self, indices: list[int]) -> _SamplingGroup:
        lines = [self.lines[row] if self.lines else 0 for row in indices]
        is_every = len(indices) == len(self.samplings)
        return _SamplingGroup(
            self.samplings[indices[0]],
            indices,
            slice(None) if is_every else copy_to_device(torch.tensor(indices), self.device),
            copy_to_device(torch.tensor(lines), self.device),
        )


def force_tokens(logits: torch.Tensor, token_by_index: Mapping[int, int]) -> None:
    """Force the given tokens by masking all other logits of their sequences, in place."""
    if not token_by_index:
        return
    with torch.inference_mode():  # in which the logits were made
        for row, token in token_by_index.items():
            logits[row].fill_(-math.inf)
            logits[row, token] = 0.0


def create_sampler(sequences: Sequence[TokenSequence], vocab_size: int, device: torch.device) -> Sampler:
    """Create a sampler that continues the sequences' random number generators."""
    for row in sequences:
        if row.generator is None:
            row.generator = create_random_generator(row.sampling, row.request.effective_random_id, row.choice)
            for _ in (
                row.tokens if row.generator is not None else ()
            ):  # of an answer that was begun: one for each
                _draw_uniform_numbers([row.generator], torch.device("cpu"))
    prompts, samplings = [row.prompt for row in sequences], [row.sampling for row in sequences]
    generators, answers = [row.generator for row in sequences], [row.tokens for row in sequences]
    return Sampler(vocab_size, device, prompts, samplings, generators, answers)


def create_random_generator(
    sampling: Sampling, request_id: RequestId, choice: int = 0
) -> torch.Generator | None:
    """Create a random generator from seed, request id and choice index. Returns None for greedy sampling."""
    if not sampling.temperature:
        return None
    name = f"{sampling.seed}:{request_id}" + (f":{choice}" if choice else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=256)
def _has_penalty(sampling: Sampling) -> bool:
    return bool(get_effective_parameters(sampling, lambda one: one.for_greedy))


def _apply_penalties(
    sampling: Sampling, scores: torch.Tensor, seen_tokens: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    assert sampling.repetition_penalty is not None
    if sampling.repetition_penalty != 1:
        lowered = torch.where(
            scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty
        )
        scores = torch.where(seen_tokens, lowered, scores)
    if sampling.frequency_penalty or sampling.presence_penalty:
        assert sampling.frequency_penalty is not None
        assert sampling.presence_penalty is not None
        scores = scores - (sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0))
    return scores


def _apply_logits_warpers(sampling: Sampling, scores: torch.Tensor) -> torch.Tensor:
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(float(sampling.temperature or 1.0))(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(int(sampling.top_k))(None, scores)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = _apply_top_p(sampling.top_p, scores)
    if sampling.min_p:  # a share of the largest probability is a difference from the largest score
        scores = scores.masked_fill(
            scores < scores.amax(dim=-1, keepdim=True) + math.log(sampling.min_p), -math.inf
        )
    return scores


def _apply_top_p(top_p: float, scores: torch.Tensor) -> torch.Tensor:
    """Apply top-p with a stable sort, so that ties give the same results on all processors."""
    ordered, tokens = scores.sort(dim=-1, stable=True)
    is_removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    is_removed[:, -1] = False
    return scores.masked_fill(is_removed.scatter(1, tokens, is_removed), -math.inf)


def _draw_uniform_numbers(generators: Sequence[torch.Generator | None], device: torch.device) -> torch.Tensor:
    """Draw the next random number of each sequence: float64 [B], with 0 for greedy sequences."""
    numbers = torch.zeros(len(generators), dtype=torch.float64)
    for row, generator in enumerate(generators):
        if generator is not None:
            numbers[row : row + 1].uniform_(generator=generator)
    return copy_to_device(numbers, device)


def _sample_by_inverse_cdf(
    sampling: Sampling, scores: torch.Tensor, uniform_numbers: torch.Tensor
) -> torch.Tensor:
    # inverse of the cumulative distribution, at one uniform number per row
    cumulative = _apply_logits_warpers(sampling, scores).double().softmax(dim=-1).cumsum(dim=-1)
    points = uniform_numbers[:, None] * cumulative[:, -1:]
    tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
    return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)
