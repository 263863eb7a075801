"""Message templates for the comparison's notes, by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner_base import join_first_names
from runner_base.notes import Note
from runner_base.render.notes import Template, render_note
from runner_base.texts import describe_quantized_fraction
from runner_compare.model.data import ABSENT
from runner_compare.render.margins import format_margin, format_verdict
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
    """Render several notes as one text; "" without notes."""
    return "; ".join(render_note(note, NOTES) for note in notes if note)


def _format_size(effect: Effect) -> str:
    return f"{find_quantity(effect).write(abs(effect.value)).removeprefix('+')} {effect_unit(effect)}"


def _compared_while_running_text(jobs: Sequence[str]) -> str:
    several = len(jobs) > 1
    return f"{' and '.join(jobs)} {'were' if several else 'was'} compared while running"


def _single_set_findings_text(names: Mapping[str, Decision]) -> str:
    shown: dict[str, list[str]] = {}
    for name, decision in names.items():
        what = str(decision.finding)
        if decision.verdict is MarginVerdict.worse_by_more:
            what = format_verdict(decision.verdict, format_margin(decision))
        shown.setdefault(what, []).append(name)
    return f"by themselves: {', '.join(f'{what} on {join_first_names(where, 4)}' for what, where in shown.items())}"


def _other_context_text(settings: Mapping[str, tuple[str | None, str | None]]) -> str:
    each = ", ".join(f"{key}={own} here, {base} in the baseline" for key, (own, base) in settings.items())
    return f"the same tokens follow another context{f' ({each})' if each else ''}"


def _paired_by_text_note(
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
        f"paired by the text of {n:,} questions, of {asked[1]:,} "
        f"here and {asked[0]:,} in the baseline. "
        f"Also different: the prompts ({tools[0]}'s, here {tools[1]}'s), "
        f"the scorers ({scorers[0]}, here {scorers[1]}){differing}"
    )


def _few_read_text(unread: Sequence[tuple[float, float]], is_none: bool) -> str:
    counts = " and ".join(f"{count:,.0f} of {answers:,.0f}" for count, answers in unread)
    return f"{'no answer' if is_none else 'few answers'} could be read on either side ({counts} are missing)"


NOTES: dict[str, Template] = {
    # beside the difference of a row
    "paired_on_counted": "paired on the {shared:,} questions that count in both: of {here:,} here, {there:,} there",
    "paired_by_text": _paired_by_text_note,
    "unpaired": "not paired question by question: {why}",
    "different_prompts": "different prompts for {different} of {n} questions",
    "different_prompts_before": "different prompts before {different} of {n} documents",
    "different_engines": "different engines: {here} here, {there} in the baseline",
    "other_context": _other_context_text,
    "in_families": "{n:,} clusters of documents by {field}",
    "windows_are_samples": "the windows of one document count as samples",
    "stopped_early": lambda jobs, n: (
        f"{' and '.join(jobs)} stopped early: paired on the {n} questions that both have"
    ),
    "watched": _compared_while_running_text,
    "of_votes": "the difference is of votes of {answers} answers, which the job compared while it ran",
    "errors_not_solved": "questions that ended in an error count as not solved here; the job itself left them out",
    "also_differ": "also different: {settings}",
    "ignored": "ignored: {settings}",
    "within_noise": lambda effect: (
        f"the difference is no larger than between two runs of the baseline ({_format_size(effect)})"
    ),
    "beside_noise": lambda effect: (
        f"two runs of the baseline also differ beyond chance ({_format_size(effect)})"
    ),
    "shares_changed": "{changed:,} of {n:,} questions have another accuracy",
    "verdicts_changed": "{changed:,} of {n:,} questions have another verdict",
    "answers_changed": "{changed:.0f} of {asked:.0f} answers of {job} change when the question is asked again",
    "little_quantized": lambda name, job, shares: (
        f"{name} of {job} quantizes only {describe_quantized_fraction(*shares)}"
    ),
    "by_themselves": _single_set_findings_text,
    "sets_differ": "the sets differ, so the mean does not hold for each of them: {shown}",
    # why nothing is decided, and what would tell more
    "mostly_cut_off": "most answers are cut off",
    "cut_off_decides": "cut-off answers decide it",
    "none_solved": "neither solves any question",
    "few_read": _few_read_text,
    "no_evidence": "{why}; {fix}",
    "ask_easier": "ask easier ones",
    "read_some": "read some of the answers",
    "larger_limit": f"raise {LIMIT}",
    "all_solved": "both solve every question: ask harder ones",
    # why there is no plan
    "plan_watched": "it was compared while it ran",
    "plan_over_seeds": "seeds count too, and more questions add none",
    "plan_means": "unknown for clusters of questions and for several answers to a question",
    "plan_unpaired": "the comparison is unpaired",
    "plan_too_low": "the baseline solves too few questions to lose more than the margin",
    "plan_few_families": "fewer than {least} clusters are too few",
    "plan_too_many": "ten million are not enough",
    # why a row is not considered for the front
    "measured_beside": "measured {what}",
    "other_machine": "measured on another machine: {machine}",
}
