"""Judges the answers of task=gsm8k, each once: where its completion ends, or where it is read from the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runner.config.gsm8k import Gsm8kConfig
from runner.datasets.gsm8k import Item
from runner.scorers.named import scorer_of
from runner.scorers.verdicts import WHY_NOT, Judgement, judge
from runner.scorers.votes import Vote, elect
from runner.tasks.completing import Samples, sample_of
from runner_base import FinishReason, Sample
from runner_engine import Completion


@dataclass(frozen=True)
class Judged:
    """A question's sample with its verdict, what was found in each answer, and how these voted."""

    sample: Sample
    answers: Sequence[Judgement]
    votes: Mapping[str, Vote]  # by extractor or scorer


class Judge(Samples):
    """Makes judged samples of completions, and keeps what was found in them for the reports."""

    def __init__(self, task: Gsm8kConfig, items: Mapping[int, Item]) -> None:
        self.task, self.items = task, items
        self._judged: dict[int, Judged] = {}  # by the number of the question: what was judged last

    def __call__(self, *choices: Completion) -> Sample:
        """Return the completions of a question as a judged sample."""
        return self.judged(sample_of(*choices)).sample

    def rejection_reason(self, sample: Sample) -> str | None:
        """Say why a sample does not belong to this job; None if it does."""
        item = self.items.get(sample.index)
        if item is None or (sample.question, sample.gold) != (item.question, item.gold):
            return f"holds another question or gold answer than question {sample.index} of this job"
        if len(sample.answers) != self.task.samples:
            return f"holds {len(sample.answers)} answers, and this job asks for {self.task.samples}"
        today = self.judged(sample).sample
        # whether an expression can be compared in time may depend on what else the machine does
        is_same = today == sample or any(WHY_NOT in (it.extracted or {}) for it in (*today.answers, *sample.answers))
        return None if is_same else "was judged differently than its text is today"

    def adopted(self, sample: Sample) -> Sample | None:
        """Return another job's sample as one of this job, judged anew; None if it answers another question.

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
        item, task = self.items[sample.index], self.task
        scorer = task.gold_scorer
        judgements = [judge(one, item.gold, scorer) for one in sample.answers]
        among = () if scorer is None else (scorer_of(scorer).among,)
        votes = {way: elect(judgements, way, *among) for way in task.ways_to_judge}
        choices = [
            replace(answer, extracted=one.found | one.reasons, verdict=one.verdicts[task.judged_by])
            for answer, one in zip(sample.answers, judgements, strict=True)
        ]
        elected = votes[task.judged_by]
        answer = choices[elected.winner]
        if sample.choices is not None:
            answer = replace(
                answer.without_tokens(),
                finish_reason=FinishReason.error if sample.failed else answer.finish_reason,
                extracted={way: vote.answer for way, vote in votes.items()},
                verdict=elected.verdict,
            )
            sample = replace(sample, choices=choices)
        sample = replace(sample, question=item.question, gold=item.gold, cluster=item.cluster, left_out=item.left_out)
        sample = replace(sample, answer=answer)
        self._judged[sample.index] = judged = Judged(sample, judgements, votes)
        return judged
