"""Judges of task=multiple_choice: by the likelihoods of the choices, or by the letter of an answer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from runner.options.multiple_choice.extraction import extract_letter
from runner.options.multiple_choice.keys import ChoiceMetric, ClusterKey
from runner.options.multiple_choice.questions import ChoiceQuestion
from runner.scorers import LETTERS
from runner.tasks import QuestionJudge
from runner_base import Answer, FinishReason, Likelihood, Sample, Verdict
from runner_base.scored_choices import select_choice
from runner_engine import Completion

LETTER, RULE = "letter", "rule"  # what a sample records of a generated answer


class ChoiceJudge(QuestionJudge):
    """Adds question, gold letters and verdict to samples, and recognizes samples of other jobs."""

    def __init__(self, questions: Mapping[int, ChoiceQuestion], cluster: ClusterKey) -> None:
        self.questions, self.cluster = questions, cluster

    @abstractmethod
    def judge_answer(self, sample: Sample) -> Sample:
        """Return the sample with the verdict. Samples that ended in an error have none."""

    def __call__(self, sample: Sample, *completions: Completion) -> Sample:
        question = self.questions[sample.index]
        sample = replace(
            sample,
            question=question.text,
            gold=question.gold_letters,
            cluster=question.subject if self.cluster is ClusterKey.subject else None,
            category=question.subject,
            choices=None,
        )
        if completions:
            sample = self.add_scores(sample, *completions)
        return sample if sample.failed else self.judge_answer(sample)

    def add_scores(self, sample: Sample, *_completions: Completion) -> Sample:
        return sample

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Convert another job's sample to a sample of this job. Returns None for another question."""
        return None if sample.failed else super().adopt_sample(sample)

    def has_same_question(self, sample: Sample) -> bool:
        question = self.questions.get(sample.index)
        return question is not None and (sample.question, sample.gold) == (
            question.text,
            question.gold_letters,
        )


class LikelihoodChoiceJudge(ChoiceJudge):
    """Judge that takes the most probable choice as the answer. `metric` says what is compared."""

    def __init__(
        self, questions: Mapping[int, ChoiceQuestion], cluster: ClusterKey, metric: ChoiceMetric
    ) -> None:
        super().__init__(questions, cluster)
        self.metric = metric

    def add_scores(self, sample: Sample, *completions: Completion) -> Sample:
        if sample.failed:
            return sample
        question = self.questions[sample.index]
        scored = [
            Likelihood(
                sample.index,
                math.fsum(completion.logprobs or ()),
                len(completion.answer.token_ids),
                len(text.encode()),
                len(text),
                sum(completion.greedy or ()),
                index not in question.gold,
            )
            for index, (completion, text) in enumerate(
                zip(completions, _list_counted_texts(question), strict=True)
            )
        ]
        return replace(sample, choice_likelihoods=scored)

    def judge_answer(self, sample: Sample) -> Sample:
        scored = sample.choice_likelihoods or []
        chosen = {metric: select_choice(scored, metric.value) for metric in ChoiceMetric}
        index = chosen[self.metric]
        verdict = Verdict.wrong if scored[index].is_other else Verdict.correct
        answer = Answer(
            self.questions[sample.index].choices[index],
            [],
            FinishReason.stop,
            extracted={metric.value: LETTERS[choice] for metric, choice in chosen.items()},
            verdict=verdict,
        )
        return replace(sample, answer=answer)

    def has_same_question(self, sample: Sample) -> bool:
        """Whether question, choices and sizes of the scored texts are those of this job."""
        if not super().has_same_question(sample):
            return False
        if sample.failed:
            return True
        question = self.questions[sample.index]
        sizes = [
            (len(text), len(text.encode()), index not in question.gold)
            for index, text in enumerate(_list_counted_texts(question))
        ]
        scored = sample.choice_likelihoods or []
        return sizes == [(each.characters, each.bytes, each.is_other) for each in scored]


def _list_counted_texts(question: ChoiceQuestion) -> list[str]:
    """Return the scored texts whose characters and bytes count: lm-eval leaves out the blank before them."""
    return [text.removeprefix(" ") for text in question.continuations]


class LetterJudge(ChoiceJudge):
    """Judge that reads the letter in a generated answer."""

    def judge_answer(self, sample: Sample) -> Sample:
        question, answer = self.questions[sample.index], sample.answer
        text = "" if answer.parts.is_open else answer.parts.answer
        found = extract_letter(text, question.choices)
        if found is not None:
            is_right = LETTERS.index(found.letter) in question.gold
            verdict = Verdict.correct if is_right else Verdict.wrong
        else:
            verdict = Verdict.cut_off if answer.is_unfinished else Verdict.no_answer
        extracted: dict[str, str | None] = {
            LETTER: None if found is None else found.letter,
            RULE: None if found is None else found.rule.value,
        }
        return replace(sample, answer=replace(answer, extracted=extracted, verdict=verdict))
