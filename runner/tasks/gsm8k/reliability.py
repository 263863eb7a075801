"""Checks how reliable the accuracy of task=gsm8k is, with metrics, warnings, and two checks that send
extra requests.

Not a task. The report costs nothing and comes with every score. The checks send more questions:
`task.check_invariance` repeats the first ones, a few next to the others
(repeated_questions.py), or a given number alone and in another order.
`task.check_contamination` sends perturbed questions, the same stories with other numbers. Both
have files of their own next to the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.config.extractors import OF_NUMBERS, Extractor
from runner.core.prompt_facts import TWO_BOS
from runner.tasks import TaskContext, collect_extra_answers
from runner.tasks.gsm8k.judging import Judge, JudgedSample
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner.tasks.gsm8k.repeated_questions import AGAIN, SecondAnswerJudge
from runner_base import FinishReason, Sample, compute_thinking_metrics
from runner_base.notes import Note, note
from runner_compare.statistics import ENDED, FOUND, Finding, McNemarTest
from runner_compare.statistics import decide_comparisons_with_holm as judge_tests
from runner_compare.statistics.votes import reported_answer_counts
from runner_engine import Request

TWINS = "twins.jsonl"


@dataclass
class CheckOutcome:
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# --------------------------------------------------------------------------------------- the report


def compute_reliability_metrics(
    judged_samples: Sequence[JudgedSample], facts: Mapping[str, str]
) -> dict[str, float]:
    """Return the accuracy by extractor, and counts of truncated and otherwise doubtful answers."""
    ways = judged_samples[0].votes if judged_samples else ()
    verdicts = {way: [judgement.votes[way].verdict for judgement in judged_samples] for way in ways}
    report: dict[str, float] = {
        f"accuracy/{way}": sum(judgement.votes[way].estimate_pass_at_k(1) for judgement in judged_samples)
        / len(judged_samples)
        for way in ways
    }
    if Extractor.strict in verdicts:
        pairs = zip(verdicts[Extractor.strict], verdicts[Extractor.flexible], strict=True)
        report["extractors_differ"] = sum(strict is not flexible for strict, flexible in pairs)
        report |= _count_extracted_answers(judged_samples)
    reasons = [answer.finish_reason for judgement in judged_samples for answer in judgement.sample.answers]
    report["stopped_by_length"] = reasons.count(FinishReason.length)
    report |= compute_thinking_metrics([judgement.sample for judgement in judged_samples])
    parts = [answer.parts for judgement in judged_samples for answer in judgement.answers]
    report["thinking_removed"] = sum(part.has_thinking and not part.is_open for part in parts)
    report["cut_off_thinking"] = sum(part.is_open for part in parts)
    return report | ({"double_bos": float(facts["bos"] == TWO_BOS)} if "bos" in facts else {})


def _count_extracted_answers(judged_samples: Sequence[JudgedSample]) -> dict[str, float]:
    pairs = [
        (text, judgement)
        for judged_sample in judged_samples
        for text, judgement in zip(judged_sample.sample.answers, judged_sample.answers, strict=True)
        if text.finish_reason is FinishReason.stop
    ]
    found = Counter(
        way for _, judgement in pairs for way, answer in judgement.found.items() if answer is not None
    )
    return {ENDED: len(pairs), **{f"{FOUND}{each.value}": found[each.value] for each in OF_NUMBERS}}


def build_reliability_warnings(metrics: Mapping[str, float], facts: Mapping[str, str]) -> list[Note]:
    """Return warnings about prompts and answers that make the accuracy unreliable."""
    warned = []
    if metrics.get("double_bos"):
        warned.append(note("two_bos", "warning"))
    if facts.get("chat_template") == "there, and not used":
        warned.append(note("chat_template_unused", "warning"))
    if removed := int(metrics["thinking_removed"]):
        warned.append(note("thinking_removed", "warning", answers=removed))
    if thinking := int(metrics["cut_off_thinking"]):
        warned.append(note("cut_off_thinking", "warning", answers=thinking))
    return warned


def build_uncompared_answer_notes(judged_samples: Sequence[JudgedSample]) -> list[Note]:
    found = tuple(
        (judgement.sample.index, answer.why_not)
        for judgement in judged_samples
        for answer in judgement.answers
        if answer.why_not
    )
    return [note("answers_not_compared", "warning", reasons=found)] if found else []


def compute_pass_at_k_metrics(
    judged_samples: Sequence[JudgedSample], task: Gsm8kConfig
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return pass@k, maj@k and pass^k for k = 1, 2, 4 …, as metrics and table rows."""
    if task.samples == 1:
        return {}, []
    votes = [judgement.votes[task.judged_by] for judgement in judged_samples]
    metrics: dict[str, float] = {"answers_each": task.samples, "tied_votes": sum(vote.tied for vote in votes)}
    rows = []
    for k in reported_answer_counts(task.samples):
        passed = sum(vote.estimate_pass_at_k(k) for vote in votes) / len(votes)
        elected = sum(vote.estimate_majority_at_k(k) for vote in votes) / len(votes)
        all_right = sum(vote.estimate_pass_hat_k(k) for vote in votes) / len(votes)
        metrics |= {f"pass_at_k/{k}": passed, f"maj_at_k/{k}": elected, f"pass_hat_k/{k}": all_right}
        rows.append({"k": k, "pass@k": passed, "maj@k": elected, "pass^k": all_right})
    return metrics, rows


# --------------------------------------------------------------------------------------- the checks


def check_invariance(
    requests: list[Request], samples: Sequence[Sample], context: TaskContext, judge: Judge
) -> CheckOutcome:
    """Repeat questions in reverse order with batch size 1, and count the changed answers."""
    before = {sample.index: sample for sample in samples if not sample.failed}
    asked = [request for request in reversed(requests) if request.id in before]
    if not asked:
        return CheckOutcome()
    seconds = SecondAnswerJudge(judge, before)
    again, problems = collect_extra_answers("asking again", asked, context, AGAIN, seconds, batch_size=1)
    outcome = count_changed_answers(samples, again, "alone and in another order")
    return replace(outcome, problems=problems)


def count_changed_answers(
    first_samples: Sequence[Sample], repeated_samples: Sequence[Sample], repeat_description: str
) -> CheckOutcome:
    before = {sample.index: sample for sample in first_samples if not sample.failed}
    pairs = [
        (before[sample.index], sample)
        for sample in repeated_samples
        if not sample.failed and sample.index in before
    ]
    if not pairs:
        return CheckOutcome()
    texts = sum(
        [answer.parts for answer in old.answers] != [answer.parts for answer in new.answers]
        for old, new in pairs
    )
    verdicts = sum(
        (old.answer.verdict, old.answer.extracted) != (new.answer.verdict, new.answer.extracted)
        for old, new in pairs
    )
    metrics = {
        "asked_again": len(pairs),
        "texts_changed": texts,
        "answers_changed": verdicts,
        "texts_changed_share": texts / len(pairs),
        "answers_changed_share": verdicts / len(pairs),
    }
    notes = []
    if verdicts:
        notes.append(
            note("answers_changed", "warning", count=verdicts, asked=len(pairs), how=repeat_description)
        )
    return CheckOutcome(metrics, notes)


def check_contamination(
    requests: list[Request], samples: Sequence[Sample], context: TaskContext, judge: Judge, num_perturbed: int
) -> CheckOutcome:
    """Answer perturbed questions, and test whether the original questions are solved more often."""
    twins, problems = collect_extra_answers("asking twins", requests, context, TWINS, judge)
    before = {sample.index: sample for sample in samples if not sample.failed}
    answered = [(before[twin.index], twin) for twin in twins if twin.index in before and not twin.failed]
    solved = [(old.solved, new.solved) for old, new in answered]
    only_original, only_twin = solved.count((True, False)), solved.count((False, True))
    (effect,) = judge_tests([McNemarTest(only_original, only_twin, len(solved))])
    metrics: dict[str, float] = {
        "twins": len(solved),
        "originals_correct": sum(old for old, _ in solved),
        "twins_correct": sum(new for _, new in solved),
        "only_original_correct": only_original,
        "only_twin_correct": only_twin,
        "twins_p": effect.p,
    }
    notes = []
    if len(requests) < num_perturbed:
        notes.append(note("few_twins", count=len(requests), wanted=num_perturbed))
    is_hint = effect.finding is Finding.better
    notes.append(note("twins", only_original=only_original, only_twin=only_twin, p=effect.p, is_hint=is_hint))
    return CheckOutcome(metrics, notes, problems)
