"""One-line conclusion over all rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner_base.tables import shorten_paths
from runner_compare.model.data import CLUSTER, TableRow, key_label
from runner_compare.render.effects import sample_unit
from runner_compare.render.findings import join_words
from runner_compare.render.labels import format_rounded_count, is_self_explanatory, row_name
from runner_compare.render.margins import format_margin
from runner_compare.render.notes import render_notes
from runner_compare.render.quantities import ACCURACIES, effect_unit, find_quantity
from runner_compare.statistics import Decision, Finding, MarginVerdict, Method

# differences of accuracies for which a number of questions is given
TARGETS = (0.05, 0.02, 0.01, 0.005)
MAX_NAMES = 3  # candidates that a sentence names; of more, it gives the number


@dataclass(frozen=True)
class Item:
    """A comparison of the table, with the candidate's name in sentences."""

    row: TableRow
    decision: Decision
    name: str


def conclusion_text(rows: Sequence[TableRow]) -> str:
    """Return the conclusion over all rows; "" if nothing was compared."""
    return " ".join(conclusion_sentences(rows))


def conclusion_sentences(rows: Sequence[TableRow]) -> list[str]:
    """Return up to three conclusion sentences: losses, other findings, and undecided comparisons."""
    items = [
        Item(row, decision, candidate_name(row, rows, decision)) for row in rows for decision in row.effects
    ]
    skipped = sum(row.note is not None for row in rows)
    if not items:
        return [f"{_format_run_count(skipped)} could not be compared."] * bool(skipped)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(verdict_phrase(item.decision), []).append(item)
    losses = {phrase: of for phrase, of in groups.items() if _is_loss(of[0].decision)}
    open_items = [item for item in items if item.decision.is_undecided]
    others = {phrase: of for phrase, of in groups.items() if phrase not in losses and of[0] not in open_items}
    sentences = [_join_verdict_groups(found, len(items)) for found in (losses, others) if found]
    last = _undecided_sentence(open_items, len(items)) if open_items else ""
    if skipped:
        last = f"{last}; {_format_run_count(skipped)} could not be compared".removeprefix("; ")
    return sentences + [f"{last}."] * bool(last)


def candidate_name(row: TableRow, all_rows: Sequence[TableRow], decision: Decision | None = None) -> str:
    """Return a candidate's name in sentences: `fp4 on test`, or `nf4 (load_s)` for one of several
    measures.
    """
    base = row.baseline
    if base is None:
        return row_name(row, [*row.config])
    own = [key for key in row.config if row.config[key] != base.config[key]]
    shared = [
        key
        for key in row.config
        if key not in own and row.config[key] is not None and len({of.config.get(key) for of in all_rows}) > 1
    ]
    name = ", ".join(_format_config_value(row, base, key) for key in own if row.config[key] is not None)
    on = ", ".join(_format_config_value(row, base, key) for key in shared)
    measure = f" ({decision.measure})" if decision is not None and decision.is_ratio else ""
    return f"{name or row.run.job_id}{f' on {on}' if on else ''}{measure}"


def _format_config_value(row: TableRow, base: TableRow, key: str) -> str:
    """Format a config value: alone if self-explanatory (a format, path or word), else as
    `KEY=VALUE`.
    """
    value, base_value = row.config[key] or "", base.config[key] or ""
    if "/" in value:
        return shorten_paths([value, base_value])[0].removeprefix("…/")
    is_word = is_self_explanatory(key) or (value[:1].isalpha() and value not in ("true", "false", "null"))
    return value if is_word else f"{key_label(key)}={value}"


def verdict_phrase(decision: Decision) -> str:
    """Return a comparison's verdict as a phrase that follows `is` or `are`."""
    verdict, finding = decision.verdict, decision.finding
    if verdict is None or verdict is MarginVerdict.better:
        return "undecided" if finding is Finding.open else str(finding)
    margin = format_margin(decision)
    if verdict is MarginVerdict.undecided:
        return "undecided" if finding is Finding.open else f"{finding}, perhaps by more than {margin}"
    return {
        MarginVerdict.as_good: f"as good within {margin}",
        MarginVerdict.worse_but_within: f"worse by less than {margin}",
        MarginVerdict.worse_by_more: f"worse by more than {margin}",
    }[verdict]


def _is_loss(decision: Decision) -> bool:
    worse = (MarginVerdict.worse_but_within, MarginVerdict.worse_by_more)
    return decision.finding is Finding.worse or decision.verdict in worse


def _join_verdict_groups(groups: dict[str, list[Item]], total: int) -> str:
    parts = []
    for phrase, items in groups.items():
        several = len(items) > 1
        parts.append(f"{_name_candidates(items, total)} {'are' if several else 'is'} {phrase}")
    return f"{'; '.join(parts)}."


def _name_candidates(items: Sequence[Item], total: int) -> str:
    """Return the candidates' names, or their number if there are many."""
    names = list(dict.fromkeys(item.name for item in items))
    if len(names) > MAX_NAMES:
        return f"All {total}" if len(items) == total else f"{len(items)} of {total}"
    return join_words(names)


def _format_run_count(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _undecided_sentence(items: Sequence[Item], total: int) -> str:
    """Return a sentence with the undecided candidates and the data that would decide."""
    are = "is" if len(items) == 1 else "are"
    help_ = advice_for_undecided(items)
    return f"{_name_candidates(items, total)} {are} undecided{f': {help_}' if help_ else ''}"


def advice_for_undecided(items: Sequence[Item]) -> str:
    """Return advice on the data that would decide undecided comparisons; "" if unknown."""
    decisions = [item.decision for item in items]
    first = decisions[0]
    if any(not decision.is_tested for decision in decisions):
        return "measure each setting more often"
    if any(decision.hinges_on_cut_off for decision in decisions):
        return "cut-off answers decide it, so raise generation.max_new_tokens"
    for reasons in (
        [render_notes(decision.no_evidence) for decision in decisions],
        [render_notes(decision.unplanned) for decision in decisions],
    ):
        if all(reasons):
            more = "" if first.no_evidence else ", and more questions would not decide"
            return f"{'; '.join(dict.fromkeys(reasons))}{more}"
    if all(decision.baseline_low is not None for decision in decisions):
        return "the baseline may solve too few questions to lose more than the margin, so ask easier ones"
    if any(decision.method is Method.over_seeds for decision in decisions):
        return "more seeds and more questions would help"
    if any(not decision.test.knows_power for decision in decisions):
        return ""
    if first.verdict is not None:
        return _advice_for_margin(items)
    return "" if first.is_ratio else _advice_for_detection(items)


def _advice_for_margin(items: Sequence[Item]) -> str:
    if all(item.decision.needed is not None for item in items):
        hardest = max((item.decision for item in items), key=lambda decision: decision.needed or 0)
        more = max(0, (hardest.needed or 0) - hardest.n)
        if more:
            return f"about {format_rounded_count(more)} more {sample_unit(hardest)} or a larger margin would help"
    if units := _scarce_cluster_nouns(items):
        return f"more {units[0]} or a larger margin would help, more questions per {units[1]} hardly"
    return f"more {sample_unit(items[0].decision)} or a larger margin would help"


def _scarce_cluster_nouns(items: Sequence[Item]) -> tuple[str, str] | None:
    """Return the plural and singular noun for clusters if there are too few of them, else None."""
    few = next((item for item in items if item.decision.counts.get("few")), None)
    if few is None:
        return None
    if not few.decision.counts.get("clusters"):
        return None
    by = few.row.run.get_value(CLUSTER) or ""
    word = by if by.isalpha() and by not in ("null", "auto") else "cluster"
    return f"{word}s", word


def _advice_for_detection(items: Sequence[Item]) -> str:
    """Return which differences may go undetected, and how many questions detect smaller ones."""
    decisions = [item.decision for item in items]
    hardest = max(decisions, key=lambda decision: decision.detectable or float("inf"))
    counted = sample_unit(hardest)
    if hardest.detectable is None:
        shown = f"{hardest.n:,} {counted} are too few to show any difference"
    else:
        size = f"{find_quantity(hardest).write_detectable(hardest.detectable)} {effect_unit(hardest)}"
        shown = f"a difference below {size} may not show"
    if tells_more := render_notes(hardest.tells_more):
        return f"{shown} ({tells_more})"
    if find_quantity(hardest) is not ACCURACIES:  # no difference in nats is small for every model
        return f"{shown}; more {counted} would help"
    if units := _scarce_cluster_nouns(items):
        return f"{shown}; more {units[0]} would help, more questions per {units[1]} hardly"
    if any(decision.counts.get("few") for decision in decisions):
        return f"{shown}; more questions would help, more answers to each hardly"
    for target in TARGETS:
        if not hardest.can_plan_detection or (
            hardest.detectable is not None and target >= hardest.detectable
        ):
            continue
        needed = hardest.test.sample_size_to_detect(target, hardest.strictest_level)
        if needed is not None and needed > hardest.n:
            return f"{shown}; {format_rounded_count(needed)} questions would show {100 * target:g} points"
    return f"{shown}; more {counted} would help"
