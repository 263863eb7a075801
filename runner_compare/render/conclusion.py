"""Formats the conclusion of a table: a few sentences on which candidates are better or worse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner_base import format_count
from runner_base.tables import shorten_paths
from runner_compare.model.adapter_names import MERGING, describe_adapter_merging
from runner_compare.model.data import TableRow, key_label
from runner_compare.render.effects import get_sample_unit_name
from runner_compare.render.findings import join_words_with_and
from runner_compare.render.labels import (
    format_rounded_count,
    format_row_name,
    get_cluster_noun,
    is_self_explanatory,
)
from runner_compare.render.margins import UNDECIDED, format_margin
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import ACCURACIES, effect_unit, find_quantity
from runner_compare.statistics import Decision, Finding, MarginVerdict, Method

# differences of accuracies for which a number of questions is given
TARGETS = (0.05, 0.02, 0.01, 0.005)
MAX_NAMES = 3  # candidates that a sentence names; of more, it gives the number
NO_LOSS = "no loss above"
COMPARED = {finding: f"{finding} than the baseline" for finding in (Finding.better, Finding.worse)}
VERBS = {False: ("is", "are"), True: ("has", "have")}  # by whether a verdict is that there is no loss
MAX_CANDIDATES = 4  # candidates that get a sentence each, where each was compared several times


@dataclass(frozen=True)
class Item:
    """A comparison with the candidate's name."""

    row: TableRow
    decision: Decision
    candidate: str  # e.g. `fp4`
    condition: str  # what else the runs have in common with their baseline, e.g. `test`

    @property
    def name(self) -> str:
        """The candidate with its condition, e.g. `fp4 on test`."""
        return _join_name(self.candidate, self.condition)


def conclusion_text(rows: Sequence[TableRow]) -> str:
    return " ".join(format_conclusion_sentences(rows))


def format_conclusion_sentences(rows: Sequence[TableRow]) -> list[str]:
    """Return a conclusion: one sentence per candidate or per verdict, and one on runs that were not
    compared.
    """
    items = [
        Item(row, decision, *_describe_candidate_and_shared_settings(row, rows, decision))
        for row in rows
        for decision in row.effects
    ]
    skipped = sum(row.note is not None for row in rows)
    if not items:
        return [f"{_format_run_count(skipped)} could not be compared."] * bool(skipped)
    open_items = [item for item in items if item.decision.is_undecided]
    sentences = _format_sentences_by_candidate(items, open_items) or _format_sentences_by_verdict(
        items, open_items
    )
    if skipped:
        sentences.append(f"{_format_run_count(skipped)} could not be compared.")
    return sentences


def _format_sentences_by_verdict(items: Sequence[Item], open_items: Sequence[Item]) -> list[str]:
    """Return up to three sentences: losses, other findings, and undecided comparisons."""
    losses = _group_candidates_by_verdict(filter(_is_loss, items))
    others = _group_candidates_by_verdict(
        item for item in items if not item.decision.is_undecided and not _is_loss(item)
    )
    noun = "candidate" if len({item.candidate for item in items}) == len(items) else "comparison"
    total = format_count(len(items), noun)
    sentences = [_join_verdicts_into_sentence(found, total) for found in (losses, others) if found]
    return [*sentences, _format_undecided_candidates_sentence(open_items, total)] if open_items else sentences


def _format_sentences_by_candidate(items: Sequence[Item], open_items: Sequence[Item]) -> list[str]:
    """Return a sentence for each candidate that was compared several times, e.g. on several splits.

    Empty if the candidates are many or were compared once each.
    """
    by_candidate: dict[str, list[Item]] = {}
    for item in items:
        by_candidate.setdefault(item.candidate, []).append(item)
    conditions = {item.condition for item in items}
    are_repeated = any(len({item.condition for item in of}) > 1 for of in by_candidate.values())
    if not are_repeated or len(by_candidate) > MAX_CANDIDATES or "" in conditions:
        return []
    sentences = []
    for candidate, of in sorted(by_candidate.items(), key=lambda pair: not any(map(_is_loss, pair[1]))):
        groups = _group_candidates_by_verdict(sorted(of, key=lambda item: item.decision.is_undecided))
        found = [
            f"{phrase} {_format_comparison_conditions(alike, len(of))}" for phrase, alike in groups.items()
        ]
        sentences.append(f"{candidate} {join_words_with_and(_add_verbs_to_phrases(found))}.")
    advice = format_advice_for_undecided_comparisons(open_items) if open_items else ""
    return [*sentences, f"{UNDECIDED.capitalize()}: {advice}."] if advice else sentences


def _format_comparison_conditions(items: Sequence[Item], num_comparisons: int) -> str:
    """Name the conditions of comparisons, e.g. `on hard and test`, or count them if they are many."""
    if len(items) <= MAX_NAMES:
        return f"on {join_words_with_and([item.condition for item in items])}"
    if len(items) == num_comparisons:
        return f"in all {num_comparisons} comparisons"
    return f"in {len(items)} of {num_comparisons} comparisons"


def _group_candidates_by_verdict(items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(describe_comparison_verdict(item.decision), []).append(item)
    return groups


def format_candidate_name(row: TableRow, all_rows: Sequence[TableRow]) -> str:
    """Return a candidate's name for sentences, e.g. `fp4 on test`."""
    return _join_name(*_describe_candidate_and_shared_settings(row, all_rows))


def _join_name(candidate: str, condition: str) -> str:
    return f"{candidate} on {condition}" if condition else candidate


def _describe_candidate_and_shared_settings(
    row: TableRow, all_rows: Sequence[TableRow], decision: Decision | None = None
) -> tuple[str, str]:
    """Return a candidate's name, and the values that it shares with its baseline but not with all rows.

    If there are several measures, the last one includes the measure, e.g. `nf4 (load_s)`.
    """
    base = row.baseline
    if base is None:
        return format_row_name(row, [*row.config]), ""
    # how an adapter is merged is part of its name
    keys = [key for key in row.config if key not in MERGING or not describe_adapter_merging(row.run)]
    own = [key for key in keys if row.config[key] != base.config[key]]
    shared = [
        key
        for key in keys
        if key not in own and row.config[key] is not None and len({of.config.get(key) for of in all_rows}) > 1
    ]
    name = ", ".join(_format_config_value(row, base, key) for key in own if row.config[key] is not None)
    on = ", ".join(_format_config_value(row, base, key) for key in shared)
    measure = f" ({decision.measure})" if decision is not None and decision.is_ratio else ""
    name = name or row.run.job_id
    return (name, f"{on}{measure}") if on else (f"{name}{measure}", "")


def _format_config_value(row: TableRow, base: TableRow, key: str) -> str:
    """Format a config value as `KEY=VALUE`, or as the value alone if it is self-explanatory."""
    value, base_value = row.config[key] or "", base.config[key] or ""
    if "/" in value:
        return shorten_paths([value, base_value])[0].removeprefix("…/")
    is_word = is_self_explanatory(key) or (value[:1].isalpha() and value not in ("true", "false", "null"))
    return value if is_word else f"{key_label(key)}={value}"


def describe_comparison_verdict(decision: Decision) -> str:
    """Format a comparison's verdict for a sentence, e.g. `no loss above 2 points`."""
    verdict, finding = decision.verdict, decision.finding
    if verdict is None or verdict is MarginVerdict.better:
        return UNDECIDED if finding is Finding.open else COMPARED.get(finding, str(finding))
    margin = format_margin(decision)
    if verdict is MarginVerdict.undecided:
        return UNDECIDED if finding is Finding.open else f"{finding} (perhaps by more than {margin})"
    return {
        MarginVerdict.as_good: f"{NO_LOSS} {margin}",
        MarginVerdict.worse_but_within: f"worse by less than {margin}",
        MarginVerdict.worse_by_more: f"worse by more than {margin}",
    }[verdict]


def _is_loss(item: Item) -> bool:
    worse = (MarginVerdict.worse_but_within, MarginVerdict.worse_by_more)
    return item.decision.finding is Finding.worse or item.decision.verdict in worse


def _join_verdicts_into_sentence(groups: dict[str, list[Item]], total: str) -> str:
    parts = []
    for phrase, items in groups.items():
        verb = VERBS[phrase.startswith(NO_LOSS)][len(items) > 1]
        parts.append(f"{_format_candidate_names(items, total)} {verb} {phrase}")
    return f"{'; '.join(parts)}."


def _add_verbs_to_phrases(phrases: Sequence[str]) -> list[str]:
    """Put a verb before each phrase of a list, unless the phrase before has the same verb."""
    verbs = [VERBS[phrase.startswith(NO_LOSS)][0] for phrase in phrases]
    return [
        phrase if verb == previous else f"{verb} {phrase}"
        for phrase, verb, previous in zip(phrases, verbs, ["", *verbs], strict=False)
    ]


def _format_candidate_names(items: Sequence[Item], total: str) -> str:
    """Name up to three candidates, or count them if they are more. `total` is e.g. `6 candidates`."""
    names = list(dict.fromkeys(item.name for item in items))
    if len(names) > MAX_NAMES:
        return f"All {total}" if total.startswith(f"{len(items)} ") else f"{len(items)} of {total}"
    return join_words_with_and(names)


def _format_run_count(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _format_undecided_candidates_sentence(items: Sequence[Item], total: str) -> str:
    are = "is" if len(items) == 1 else "are"
    help_ = format_advice_for_undecided_comparisons(items)
    return f"{_format_candidate_names(items, total)} {are} {UNDECIDED}{f': {help_}' if help_ else ''}."


def format_advice_for_undecided_comparisons(items: Sequence[Item]) -> str:
    decisions = [item.decision for item in items]
    first = decisions[0]
    if any(not decision.is_tested for decision in decisions):
        return "measure each setting more often"
    if any(decision.depends_on_cut_off_answers for decision in decisions):
        return "the result depends on whether cut-off answers are correct, so raise generation.max_new_tokens"
    for reasons in (
        [render_notes(decision.no_evidence) for decision in decisions],
        [render_notes(decision.unplanned) for decision in decisions],
    ):
        if all(reasons):
            more = "" if first.no_evidence else ", and more questions would not change this"
            return f"{'; '.join(dict.fromkeys(reasons))}{more}"
    if all(decision.baseline_low is not None for decision in decisions):
        return "the baseline's accuracy may be below the margin, so use easier questions"
    if any(decision.method is Method.over_seeds for decision in decisions):
        return "use more seeds and more questions"
    if any(not decision.test.knows_power for decision in decisions):
        return ""
    if first.verdict is not None:
        return _suggest_samples_or_larger_margin(items)
    return "" if first.is_ratio else _format_undetected_difference_advice(items)


def _suggest_samples_or_larger_margin(items: Sequence[Item]) -> str:
    if all(item.decision.needed is not None for item in items):
        hardest = max((item.decision for item in items), key=lambda decision: decision.needed or 0)
        more = max(0, (hardest.needed or 0) - hardest.n)
        if more:
            return f"use about {format_rounded_count(more)} more {get_sample_unit_name(hardest)} or a larger margin"
    if limit := _explain_too_few_clusters(items):
        return f"{limit[0]}. {limit[1]}"
    return f"use more {get_sample_unit_name(items[0].decision)} or a larger margin"


def _explain_too_few_clusters(items: Sequence[Item]) -> tuple[str, str] | None:
    """Return a reason and an advice; None if there are enough clusters."""
    few = next((item for item in items if item.decision.counts.get("few")), None)
    if few is None:
        return None
    clusters = few.decision.counts.get("clusters")
    if not clusters:
        return None
    noun = get_cluster_noun(few.row.run)
    return f"the {clusters:,} {noun}s limit the precision", f"Add questions from new {noun}s"


def _format_undetected_difference_advice(items: Sequence[Item]) -> str:
    decisions = [item.decision for item in items]
    hardest = max(decisions, key=lambda decision: decision.detectable or float("inf"))
    counted = get_sample_unit_name(hardest)
    if hardest.detectable is None:
        shown = f"{hardest.n:,} {counted} are too few to detect any difference"
    else:
        size = f"{find_quantity(hardest).write_detectable(hardest.detectable)} {effect_unit(hardest)}"
        shown = f"differences below {size} may go undetected"
    if tells_more := render_notes(hardest.tells_more):
        return f"{shown} ({tells_more})"
    if find_quantity(hardest) is not ACCURACIES:  # no difference in nats is small for every model
        return f"{shown}; use more {counted}"
    if limit := _explain_too_few_clusters(items):
        return f"{shown}, because {limit[0]}. {limit[1]}"
    if any(decision.counts.get("few") for decision in decisions):
        return f"{shown}. Add questions: they limit the precision, not the answers per question"
    for target in TARGETS:
        if not hardest.can_plan_detection or (
            hardest.detectable is not None and target >= hardest.detectable
        ):
            continue
        needed = hardest.test.plan_sample_size_to_detect(target, hardest.strictest_level)
        if needed is not None and needed > hardest.n:
            return f"{shown}; use {format_rounded_count(needed)} questions to detect {100 * target:g} points"
    return f"{shown}; more {counted} would help"
