"""From completions to samples: what is kept of each text, and which samples on disk belong to a
job. Not a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from runner.records.divergences import DivergenceFile, TokenDivergences
from runner.records.top_k import TopK, TopKFile
from runner.scorers import Divergence
from runner.tasks import Unjudged
from runner.tasks.likelihood.continuations import Continuation
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner.tasks.likelihood.lengths import check_window
from runner.tasks.likelihood.positions import LEAST, sums_by_position
from runner_base import Likelihood, Sample
from runner_base.notes import Note, note
from runner_engine import Completion, EngineReport


class Reference(Protocol):
    """The model that a job is compared with: what it kept, or loaded beside the job's own."""

    def divergence(self, completion: Completion) -> Divergence:
        """Return the divergence from the reference over one text."""

    def logprobs(self, index: int) -> Sequence[float]:
        """Return the log-probabilities of the text's tokens under the reference; none if they are
        not known."""


class Scoring(Unjudged):
    """Turns completions into samples, and checks which samples on disk belong to this job."""

    def __init__(
        self,
        pieces: dict[int, Continuation],
        task: LikelihoodConfig,
        reference: Reference | None,
        kept: TopKFile | None,
        apart: DivergenceFile | None,
    ) -> None:
        self.pieces, self.task, self.reference, self.kept, self.apart = (pieces, task, reference, kept, apart)
        windows_of_texts = [
            piece for piece in pieces.values() if piece.question is None and piece.context is None
        ]
        self.sums_by_position = max((piece.most_tokens for piece in windows_of_texts), default=0) > LEAST

    def look(self, report: EngineReport) -> None:
        """Reject windows that are longer than what the loaded model can read."""
        longest = max(
            (piece.most_tokens for piece in self.pieces.values() if piece.question is None), default=0
        )
        check_window(self.task, longest, report.metrics.get("max_positions", math.inf))

    def __call__(self, sample: Sample, *completions: Completion) -> Sample:
        """Return the sample of a continuation; the tokens that a reference keeps are written to
        disk first."""
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
        if self.reference is not None and self.apart is not None:
            far, reference_logprobs = (
                self.reference.divergence(completion),
                self.reference.logprobs(piece.index),
            )
            self.apart.add(
                piece.index, TokenDivergences.of(far, completion.logprobs or [], reference_logprobs)
            )
            divergences = far.estimated or far.least
            scored = replace(
                scored,
                kl_nats=far.kl_nats,
                truncation_nats=far.truncation_nats,
                kl_variance=far.kl_variance,
                top_1_agreed=far.agreed,
            )
        if self.sums_by_position:
            before, logprobs = len(piece.request.prompt), completion.logprobs or []
            scored = replace(scored, by_position=sums_by_position(before, logprobs, divergences))
        if self.kept is not None:
            drawn = completion.drawn_logprobs or []
            self.kept.add(
                piece.index, TopK.of(completion.top_logprobs or [], drawn, completion.logprobs or [])
            )
        return replace(sample, likelihood=scored)

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a sample on disk does not belong to this job; None if it does."""
        piece, scored = self.pieces[sample.index], sample.likelihood
        if (sample.question, sample.gold) != (piece.question, piece.gold):
            return note("other_text", index=sample.index)
        if sample.failed:
            return None
        if scored is None:
            return note("no_likelihood")
        is_window = piece.question is None
        if is_window and tuple(sample.answer.token_ids) != piece.request.continuation:
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
