"""Judges the answers of task=gsm8k, each once: where its completion ends, or where it is read from
the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from runner.datasets.chosen import JudgedKeys, with_recorded_cluster
from runner.scorers import WHY_NOT, Judgement, Vote, elect, judge, scorer_of
from runner_base import FinishReason, Sample
from runner_base.notes import Note, note


class Question(Protocol):
    """What must be known of a question."""

    @property
    def question(self) -> str:
        """Its text."""

    @property
    def gold(self) -> str:
        """The right answer."""

    @property
    def cluster(self) -> str | None:
        """The family of questions that it belongs to."""

    @property
    def left_out(self) -> bool:
        """It does not count in the score."""


class JudgingKeys(JudgedKeys, Protocol):
    """The keys of the task that say how its answers are judged."""

    samples: int  # answers to each question

    @property
    def gold_scorer(self) -> str | None:
        """The scorer that judges; None: the extractors."""

    @property
    def judged_by(self) -> str:
        """The extractor or scorer whose verdict counts."""

    @property
    def ways_to_judge(self) -> list[str]:
        """The extractors, or the scorer, that answers are kept of."""


@dataclass(frozen=True)
class Judged:
    """A question's sample with its verdict, what was found in each answer, and how these voted."""

    sample: Sample
    answers: Sequence[Judgement]
    votes: Mapping[str, Vote]  # by extractor or scorer


class Judge:
    """Gives samples their verdicts, and keeps what was found in them for the reports."""

    def __init__(self, task: JudgingKeys, items: Mapping[int, Question]) -> None:
        self.task, self.items = task, items
        self._judged: dict[int, Judged] = {}  # by the number of the question: what was judged last

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        """Return a new sample with its question and its verdict."""
        return self.judged(sample).sample

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a sample does not belong to this job; None if it does."""
        item = self.items.get(sample.index)
        if item is None or (sample.question, sample.gold) != (item.question, item.gold):
            return note("other_question", index=sample.index)
        if len(sample.answers) != self.task.samples:
            return note("other_count", answers=len(sample.answers), wanted=self.task.samples)
        today = with_recorded_cluster(self.task, self.judged(sample).sample, sample)
        # whether an expression can be compared in time may depend on what else the machine does
        is_uncertain = any(
            WHY_NOT in (answer.extracted or {}) for answer in (*today.answers, *sample.answers)
        )
        return None if today == sample or is_uncertain else note("judged_differently")

    def adopted(self, sample: Sample) -> Sample | None:
        """Return another job's sample as one of this job, judged anew; None if it answers another
        question.

        The other job may read answers by another rule, and may count other questions, in families.
        """
        item = self.items.get(sample.index)
        if item is None or sample.question != item.question or len(sample.answers) != self.task.samples:
            return None
        return self.judged(sample).sample

    def judged(self, sample: Sample) -> Judged:
        """Return a sample with its question and its verdict; several answers vote on one."""
        known = self._judged.get(sample.index)
        if known is not None and known.sample == sample:
            return known
        item, way = self.items[sample.index], self.task.judged_by
        judgements = [judge(answer, item.gold, self.task.gold_scorer) for answer in sample.answers]
        votes = self._votes(judgements)
        answers = [
            replace(answer, extracted=judgement.found | judgement.reasons, verdict=judgement.verdicts[way])
            for answer, judgement in zip(sample.answers, judgements, strict=True)
        ]
        answer = answers[votes[way].winner]
        if sample.choices is not None:
            answer = replace(
                answer.without_tokens(),
                finish_reason=FinishReason.error if sample.failed else answer.finish_reason,
                extracted={name: vote.answer for name, vote in votes.items()},
                verdict=votes[way].verdict,
            )
            sample = replace(sample, choices=answers)
        sample = replace(
            sample, question=item.question, gold=item.gold, cluster=item.cluster, left_out=item.left_out
        )
        sample = replace(sample, answer=answer)
        self._judged[sample.index] = judged = Judged(sample, judgements, votes)
        return judged

    def _votes(self, judgements: Sequence[Judgement]) -> dict[str, Vote]:
        """Return the votes of a question's answers, by extractor or scorer."""
        scorer = self.task.gold_scorer
        if scorer is None:
            return {way: elect(judgements, way) for way in self.task.ways_to_judge}
        return {way: elect(judgements, way, scorer_of(scorer).among) for way in self.task.ways_to_judge}
