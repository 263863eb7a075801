"""Message templates for the comparison's notes, by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner_base import join_first_names
from runner_base.notes import Note
from runner_base.render.notes import Template, render_note
from runner_base.texts import describe_quantized_fraction
from runner_compare.model.data import ABSENT
from runner_compare.render.margins import format_margin, format_margin_verdict
from runner_compare.render.quantities import effect_unit, find_quantity
from runner_compare.statistics import Decision, Effect, MarginVerdict
from runner_compare.statistics.floor_effects import LIMIT

# notes beside a difference that the default output shows: they limit the comparison, and a user can act on them
ACTED_ON = {
    "paired_by_text",
    "unpaired",
    "different_prompts",
    "different_prompts_before",
    "other_context",
    "errors_not_solved",
    "also_differ",
    "within_noise",
    "beside_noise",
    "answers_changed",
    "little_quantized",
    "sets_differ",
}
MAX_SETTINGS = 6  # that a note names


def render_notes(*notes: Note | None) -> str:
    return "; ".join(render_note(note, NOTES) for note in notes if note)


def _format_size(effect: Effect) -> str:
    return f"{find_quantity(effect).write(abs(effect.value)).removeprefix('+')} {effect_unit(effect)}"


def _compared_while_running_text(jobs: Sequence[str]) -> str:
    return f"{' and '.join(jobs)} used early stopping"


def _format_findings_per_question_set(names: Mapping[str, Decision]) -> str:
    shown: dict[str, list[str]] = {}
    for name, decision in names.items():
        what = str(decision.finding)
        if decision.verdict is MarginVerdict.worse_by_more:
            what = format_margin_verdict(decision.verdict, format_margin(decision))
        shown.setdefault(what, []).append(name)
    return f"by themselves: {', '.join(f'{what} on {join_first_names(where, 4)}' for what, where in shown.items())}"


def _other_context_text(settings: Mapping[str, tuple[str | None, str | None]]) -> str:
    each = ", ".join(f"{key}={own} here, {base} in the baseline" for key, (own, base) in settings.items())
    return f"the two runs scored the same tokens after different contexts{f' ({each})' if each else ''}"


def _describe_pairing_by_question_text(
    n: int,
    asked: tuple[int, int],
    tools: tuple[str, str],
    scorers: tuple[str, str],
    settings: Mapping[str, tuple[str | None, str | None]],
) -> str:
    shown = {key: [ABSENT if value is None else value for value in pair] for key, pair in settings.items()}
    each = [f"{key} ({base}, here {own})"[:120] for key, (base, own) in shown.items()]
    differing = f", these settings: {join_first_names(each, MAX_SETTINGS)}" if each else ""
    return (
        f"{n:,} questions are paired by text (this run has {asked[1]:,}, the baseline has {asked[0]:,}). "
        f"Also different: the prompts ({tools[0]} in the baseline, {tools[1]} in this run), "
        f"the scorers ({scorers[0]} in the baseline, {scorers[1]} in this run){differing}"
    )


def _describe_few_extracted_answers(unread: Sequence[tuple[float, float]], is_none: bool) -> str:
    counts = " and ".join(f"{count:,.0f} of {answers:,.0f}" for count, answers in unread)
    found = "no final answer" if is_none else "few final answers"
    return f"in both runs, {found} could be extracted (missing for {counts} questions)"


NOTES: dict[str, Template] = {
    # beside the difference of a row
    "paired_on_counted": "paired on {shared:,} questions (this run has {here:,}, the baseline has {there:,})",
    "paired_by_text": _describe_pairing_by_question_text,
    "unpaired": "not paired question by question: {why}",
    "different_prompts": "the prompts of {different} of {n} questions differ",
    "different_prompts_before": "the prompts before {different} of {n} documents differ",
    "different_engines": "different engines: {here} in this run, {there} in the baseline",
    "other_context": _other_context_text,
    "in_families": "{n:,} clusters of documents by {field}",
    "windows_are_samples": "each window of the document counts as one sample",
    "stopped_early": lambda jobs, n: (
        f"{' and '.join(jobs)} stopped early: paired on the {n} questions that both runs answered"
    ),
    "watched": _compared_while_running_text,
    "of_votes": "the difference is between majority votes of {answers} answers, "
    "because early stopping compared these votes",
    "errors_not_solved": "questions with errors count as not solved in this comparison; "
    "the job's accuracy excludes them",
    "also_differ": "also different: {settings}",
    "ignored": "ignored: {settings}",
    "within_noise": lambda effect: (
        f"the difference does not exceed the run-to-run noise of the baseline ({_format_size(effect)})"
    ),
    "beside_noise": lambda effect: (
        f"two runs of the baseline also differ significantly ({_format_size(effect)})"
    ),
    "shares_changed": "the accuracy of {changed:,} of {n:,} questions changed",
    "verdicts_changed": "the verdict of {changed:,} of {n:,} questions changed",
    "answers_changed": "in {job}, {changed:.0f} of {asked:.0f} answers change "
    "when the question is asked again",
    "little_quantized": lambda name, job, shares: (
        f"{name} of {job} quantizes only {describe_quantized_fraction(*shares)}"
    ),
    "by_themselves": _format_findings_per_question_set,
    "sets_differ": "the question sets have different effects: the mean does not apply to each set: {shown}",
    # why nothing is decided, and what would tell more
    "mostly_cut_off": "most answers are cut off",
    "cut_off_decides": "the result depends on whether cut-off answers are correct",
    "none_solved": "neither run solves any question",
    "few_read": _describe_few_extracted_answers,
    "no_evidence": "{why}; {fix}",
    "ask_easier": "use easier questions",
    "read_some": "read some of the answers",
    "larger_limit": f"raise {LIMIT}",
    "all_solved": "both runs solve every question, so use harder questions",
    # why there is no plan
    "plan_watched": "the run used early stopping",
    "plan_over_seeds": "more questions do not add seeds",
    "plan_means": "no sample size can be estimated for clusters of questions or several answers per question",
    "plan_unpaired": "the comparison is unpaired",
    "plan_too_low": "the baseline's accuracy is below the margin",
    "plan_few_families": "a sample size estimate needs at least {least} clusters",
    "plan_too_many": "the comparison would need more than ten million questions",
    # why a row is not considered for the front
    "measured_beside": "measured {what}",
    "other_machine": "measured on another machine: {machine}",
}
