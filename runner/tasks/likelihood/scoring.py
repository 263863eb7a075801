"""Converts completions to likelihood samples, and rejects stored samples of other jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from runner.records.divergences import DivergenceFile, TokenDivergences
from runner.records.top_k import TopK, TopKFile
from runner.scorers import Divergence
from runner.tasks import NoJudge
from runner.tasks.likelihood.continuations import Continuation
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.lengths import check_longest_window_fits_context
from runner.tasks.likelihood.position_sums import (
    LEAST,
    sum_logprobs_by_position_range,
    sum_scores_by_generated_position,
)
from runner_base import Likelihood, Sample
from runner_base.notes import Note, note
from runner_engine import Completion, EngineReport


class Reference(Protocol):
    """Interface of a reference, which is either a finished job or a second loaded model."""

    def compute_divergence(self, completion: Completion) -> Divergence:
        """Return the divergence from the reference on one text."""

    def pop_reference_logprobs(self, index: int) -> Sequence[float]:
        """Return the reference's log-probabilities of a text's tokens. Empty if they are unknown."""


class LikelihoodJudge(NoJudge):
    """Judge that converts completions to likelihood samples, and checks which stored samples belong to
    this job.
    """

    def __init__(
        self,
        continuations: dict[int, Continuation],
        task: LikelihoodConfig,
        reference: Reference | None,
        top_k_file: TopKFile | None,
        divergence_file: DivergenceFile | None,
    ) -> None:
        self.pieces, self.task, self.reference, self.kept, self.apart = (
            continuations,
            task,
            reference,
            top_k_file,
            divergence_file,
        )
        windows_of_texts = [
            piece
            for piece in continuations.values()
            if piece.question is None and piece.context is None and not piece.is_answer
        ]
        self.sums_by_position = max((piece.num_tokens for piece in windows_of_texts), default=0) > LEAST

    def check_windows_fit_context(self, report: EngineReport) -> None:
        """Raise ConfigError for windows longer than the context length that the loaded model reports."""
        windows = [piece for piece in self.pieces.values() if piece.question is None and not piece.is_answer]
        longest = max((piece.num_tokens for piece in windows), default=0)
        check_longest_window_fits_context(self.task, longest, report.metrics.get("max_positions", math.inf))

    def __call__(self, sample: Sample, *completions: Completion) -> Sample:
        """Return the likelihood sample of a completion. Stores its top-k tokens on disk first."""
        (completion,) = completions
        piece = self.pieces[sample.index]
        sample = replace(
            sample, question=piece.question, gold=piece.gold, cluster=piece.cluster, category=piece.category
        )
        if sample.failed:
            return sample
        scored = Likelihood(
            piece.unit,
            math.fsum(completion.logprobs or []),
            len(completion.answer.token_ids),
            piece.bytes,
            piece.characters,
            sum(completion.greedy or []),
            piece.is_other,
            context=piece.context,
        )
        divergences: Sequence[float] = ()
        agreed: list[bool] = []
        if self.reference is not None and self.apart is not None:
            far, reference_logprobs = (
                self.reference.compute_divergence(completion),
                self.reference.pop_reference_logprobs(piece.sample_index),
            )
            self.apart.append_sample(
                piece.sample_index,
                TokenDivergences.from_divergence_and_logprobs(
                    far, completion.logprobs or [], reference_logprobs
                ),
            )
            divergences = far.estimated or far.least
            agreed = [reference_first == first for reference_first, first in far.firsts]
            scored = replace(
                scored,
                kl_nats=far.kl_nats,
                truncation_nats=far.truncation_nats,
                kl_variance=far.kl_variance,
                top_1_agreed=far.agreed,
            )
        if self.sums_by_position:
            before, logprobs = len(piece.request.prompt), completion.logprobs or []
            scored = replace(
                scored, by_position=sum_logprobs_by_position_range(before, logprobs, divergences)
            )
        if piece.is_answer:
            by_position = sum_scores_by_generated_position(completion.logprobs or [], divergences, agreed)
            scored = replace(scored, by_answer_position=by_position)
        if self.kept is not None:
            drawn = completion.drawn_logprobs or []
            self.kept.append_sample(
                piece.sample_index,
                TopK.from_engine_tokens(completion.top_logprobs or [], drawn, completion.logprobs or []),
            )
        return replace(sample, likelihood=scored)

    def rejection_reason(self, sample: Sample) -> Note | None:
        piece, scored = self.pieces[sample.index], sample.likelihood
        if (sample.question, sample.gold) != (piece.question, piece.gold):
            return note("other_text", index=sample.index)
        if sample.failed:
            return None
        if scored is None:
            return note("no_likelihood")
        has_tokens = piece.question is None and not isinstance(piece.request.continuation, str)
        if has_tokens and tuple(sample.answer.token_ids) != piece.request.continuation:
            return note("other_tokens", index=sample.index)
        known = (
            piece.unit,
            piece.bytes,
            piece.characters,
            piece.is_other,
            len(sample.answer.token_ids),
            piece.context,
        )
        counted = (
            scored.unit,
            scored.bytes,
            scored.characters,
            scored.is_other,
            scored.tokens,
            scored.context,
        )
        if counted != known:
            return note("counted_differently")
        if (scored.kl_nats is None) != (self.reference is None):
            return note("other_reference")
        if self.kept is not None and sample.index not in self.kept.widths:
            return note("no_line", file=self.kept.path.name)
        return None
