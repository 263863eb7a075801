"""Judges the answers of task=gsm8k, both new answers and answers read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from runner.datasets.question_subsets import ClusterConfig, restore_recorded_cluster
from runner.scorers import WHY_NOT, Judgement, VoteResult, count_majority_votes, judge_answer, load_scorer
from runner_base import FinishReason, Sample, Verdict
from runner_base.notes import Note, note


class Question(Protocol):
    """Protocol of a question with gold answer and cluster."""

    @property
    def question(self) -> str: ...

    @property
    def gold(self) -> str:
        """The right answer."""

    @property
    def cluster(self) -> str | None:
        """Cluster of dependent questions that contains this question, or None."""

    @property
    def left_out(self) -> bool:
        """Whether this question is excluded from the score."""


class JudgingConfig(ClusterConfig, Protocol):
    """Protocol of the task's config keys that control how answers are judged."""

    samples: int  # answers to each question

    @property
    def gold_scorer(self) -> str | None:
        """Name of the scorer that judges answers. None if extractors judge."""

    @property
    def judged_by(self) -> str:
        """Name of the extractor or scorer that determines the verdict."""

    @property
    def verdict_sources(self) -> list[str]:
        """Names of the extractors, or of the scorer, that judge each answer."""


@dataclass(frozen=True)
class JudgedSample:
    """A sample with its verdict, the extracted answers and the majority votes."""

    sample: Sample
    answers: Sequence[Judgement]
    votes: Mapping[str, VoteResult]  # by extractor or scorer


class Judge:
    """Adds verdicts to samples of task=gsm8k, and caches judgements for the metrics."""

    def __init__(self, task: JudgingConfig, items: Mapping[int, Question]) -> None:
        self.task, self.items = task, items
        self._judged: dict[int, JudgedSample] = {}  # by the number of the question: what was judged last

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        """Return the new sample with its question and verdict."""
        return self.judge_sample(sample).sample

    def rejection_reason(self, sample: Sample) -> Note | None:
        item = self.items.get(sample.index)
        if item is None or (sample.question, sample.gold) != (item.question, item.gold):
            return note("other_question", index=sample.index)
        if len(sample.answers) != self.task.samples:
            return note("other_count", answers=len(sample.answers), wanted=self.task.samples)
        today = restore_recorded_cluster(self.task, self.judge_sample(sample).sample, sample)
        # whether an expression can be compared in time may depend on what else the machine does
        is_uncertain = any(
            WHY_NOT in (answer.extracted or {}) for answer in (*today.answers, *sample.answers)
        )
        # earlier versions left the verdict on an answer in a loop open
        is_open_loop = any(
            answer.verdict is Verdict.cut_off and answer.is_stuck_in_loop for answer in sample.answers
        )
        return None if today == sample or is_uncertain or is_open_loop else note("judged_differently")

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Judge another job's sample for this job. Returns None if the sample belongs to another question.

        The other job may use other extractors, and other clusters of questions.
        """
        item = self.items.get(sample.index)
        if item is None or sample.question != item.question or len(sample.answers) != self.task.samples:
            return None
        return self.judge_sample(sample).sample

    def judge_sample(self, sample: Sample) -> JudgedSample:
        """Return the sample with its question and verdict. If a question has several answers, their
        majority decides.
        """
        known = self._judged.get(sample.index)
        if known is not None and known.sample == sample:
            return known
        item, way = self.items[sample.index], self.task.judged_by
        judgements = [judge_answer(answer, item.gold, self.task.gold_scorer) for answer in sample.answers]
        votes = self._count_votes_by_extractor(judgements)
        answers = [
            replace(
                answer,
                extracted=judgement.found | judgement.failure_reason_entry,
                verdict=judgement.verdicts[way],
            )
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
        self._judged[sample.index] = judged = JudgedSample(sample, judgements, votes)
        return judged

    def _count_votes_by_extractor(self, judgements: Sequence[Judgement]) -> dict[str, VoteResult]:
        scorer = self.task.gold_scorer
        if scorer is None:
            return {way: count_majority_votes(judgements, way) for way in self.task.verdict_sources}
        return {
            way: count_majority_votes(judgements, way, load_scorer(scorer).find_equal_answer)
            for way in self.task.verdict_sources
        }
