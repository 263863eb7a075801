"""Judges answers of task=recall by the values that they contain, regardless of the wording."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runner.config.extractors import Extractor
from runner.scorers import judge_answer
from runner.tasks.recall.cases import RenderedCase, ValueForm
from runner.tasks.recall.kinds import kind_shares_text
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS
from runner_base import Answer, ClusterUnit, FinishReason, Sample, Verdict
from runner_base.notes import Note, note

FOUND = "recall"  # what was found in an answer, in its sample
# 4,713,920 or 4 713 920: groups of three digits behind separators are one number
SEPARATED = re.compile(r"(?<![\d.,])\d{1,3}(?:[,.' \u00a0\u202f]\d{3})+(?![\d]|[.,]\d)")
PAIR = re.compile(rf"\b({'|'.join(ADJECTIVES)})[- ]({'|'.join(NOUNS)})\b", re.IGNORECASE)
UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class PlacedCase:
    """A recall case with its final text, and its kind, length, depth and number."""

    kind: str
    length: int
    depth: float | None
    number: int
    asked: RenderedCase
    text: int | None = None  # the haystack; None: there is one, or the question has its own
    cluster_unit: ClusterUnit = ClusterUnit.question

    @property
    def question(self) -> str:
        """The question and its instructions, without the long text."""
        return self.asked.question

    @property
    def gold(self) -> str:
        return ", ".join(self.asked.gold)

    @property
    def cluster(self) -> str:
        """Cluster of dependent questions with different lengths and depths.

        With enough haystacks, each haystack is a cluster.
        """
        if self.cluster_unit is ClusterUnit.text:
            return f"text {self.text}"
        names = (
            (self.kind, self.number) if kind_shares_text(self.kind) else (self.kind, self.depth, self.number)
        )
        return "/".join(str(name) for name in names if name is not None)


class Judge:
    """Adds verdicts, and the depths of needles in the text, to recall samples."""

    def __init__(self, placed_cases: Mapping[int, PlacedCase]) -> None:
        self.placed = placed_cases

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        case = self.placed[sample.index]
        found, verdict = extract_and_judge_values(sample.answer, case.asked)
        answer = replace(sample.answer, extracted={FOUND: found}, verdict=verdict)
        return replace(
            sample,
            answer=answer,
            question=case.question,
            gold=case.gold,
            cluster=case.cluster,
            recall_kind=case.kind,
            recall_length=case.length,
            recall_depth=case.depth,
            recall_case=case.number,
            recall_text=case.text,
            recall_cluster_unit=case.cluster_unit,
        )

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a stored sample does not belong to this job. None if the sample is valid."""
        case = self.placed[sample.index]
        if (sample.question, sample.gold, sample.recall_length) != (case.question, case.gold, case.length):
            return note("other_question", index=sample.index)
        if sample.recall_cluster_unit is None:  # of an earlier version
            sample = replace(sample, recall_cluster_unit=case.cluster_unit)
        return None if self(sample) == sample else note("judged_differently")

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Convert another job's sample to a sample of this job. Returns None if the questions differ."""
        case = self.placed[sample.index]
        is_same = (sample.question, sample.gold, sample.recall_length) == (
            case.question,
            case.gold,
            case.length,
        )
        return self(sample) if is_same else None


def extract_and_judge_values(answer: Answer, rendered_case: RenderedCase) -> tuple[str | None, Verdict]:
    if rendered_case.form is ValueForm.total:
        return _judge_numeric_answer(answer, rendered_case.gold[0])
    parts = answer.parts
    is_whole = answer.finish_reason is FinishReason.stop or answer.is_stuck_in_loop
    if answer.finish_reason is FinishReason.error or parts.is_open:
        return None, Verdict.no_answer if answer.is_stuck_in_loop else Verdict.cut_off
    wanted = len(rendered_case.gold)
    first = find_distinct_answer_values(parts.answer, rendered_case)[:wanted]
    found = ", ".join(first) or None
    if {*first} == {value.lower() for value in rendered_case.gold}:
        return found, Verdict.correct
    if not is_whole and len(first) < wanted:
        return found, Verdict.cut_off
    return found, Verdict.wrong if first else Verdict.no_answer


def find_distinct_answer_values(text: str, rendered_case: RenderedCase) -> list[str]:
    """Return the distinct values of a given form in a text, in order of appearance and in lower case."""
    match rendered_case.form:
        case ValueForm.number:
            joined = SEPARATED.sub(lambda number: re.sub(r"\D", "", number[0]), text)
            found: Sequence[str] = re.findall(rf"(?<!\d)\d{{{len(rendered_case.gold[0])}}}(?!\d)", joined)
        case ValueForm.pair:
            found = [f"{adjective}-{noun}" for adjective, noun in PAIR.findall(text)]
        case ValueForm.uuid:
            found = UUID.findall(text)
        case _:
            known = {word.lower() for word in rendered_case.known}
            found = [word for word in WORD.findall(text) if word.lower() in known]
    return [*dict.fromkeys(value.lower() for value in found)]


def _judge_numeric_answer(answer: Answer, gold: str) -> tuple[str | None, Verdict]:
    """Judge a numeric answer with the strict extractor, or with the flexible one if strict finds nothing."""
    judgement = judge_answer(answer, gold)
    way = Extractor.strict if judgement.found[Extractor.strict] is not None else Extractor.flexible
    return judgement.found[way], judgement.verdicts[way]
