"""Formats gate verdicts as text, as one line for a chat message, and as Markdown."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator

from runner_base import Column, format_count, format_duration
from runner_base.render.notes import render_note
from runner_compare.features.noise_floor.render import format_noise_floors
from runner_compare.features.recovery.render.text import CardSection
from runner_compare.release_gate.render.notes import NOTES
from runner_compare.release_gate.verdicts import (
    POOLED,
    WORST_FIRST,
    CandidateVerdict,
    Check,
    GateReport,
    GateVerdict,
    Tier,
)
from runner_compare.render.effects import explain_impossible_verdict, format_effect, get_sample_unit_name
from runner_compare.render.escaping import escape_markdown
from runner_compare.render.labels import format_rounded_count
from runner_compare.render.margins import format_margin, format_margin_verdict
from runner_compare.render.quantities import ACCURACIES, find_quantity, suggest_more_questions_or_clusters
from runner_compare.statistics import ALPHA, Decision, MarginVerdict
from runner_compare.statistics.run_ratios import compute_min_runs_per_job

WARNING = "WARN"
UNDECIDED = "ASK: the data do not suffice for a decision, so more questions are needed (exit code 3)"
WIDTH = max(map(len, GateVerdict))
GAP = "   "
LINE_WIDTH, NARROWEST = 100, 30  # of a line, and of the column of reasons


def format_gate_report(report: GateReport) -> str:
    """Return the report as text: the overall verdict first, then one line per check."""
    lines = textwrap.wrap(
        f"{report.verdict:<{WIDTH}}{GAP}{_describe_compared_candidates(report)}",
        LINE_WIDTH,
        subsequent_indent=" " * len(f"{'':<{WIDTH}}{GAP}"),
        break_on_hyphens=False,
        break_long_words=False,
    )
    rows = [
        (
            get_verdict_name(check),
            candidate.name if number == 0 else "",
            format_difference(check),
            describe_check(check),
        )
        for candidate in report.candidates
        for number, check in enumerate(select_gate_checks_to_print(candidate))
    ]
    names, differences = (max((len(row[column]) for row in rows), default=0) for column in (1, 2))
    for verdict, name, difference, text in rows:
        begin = f"  {verdict:<{WIDTH}}{GAP}{name:<{names}}{GAP}{difference:<{differences}}{GAP}"
        wrapped = textwrap.wrap(text, max(LINE_WIDTH - len(begin), NARROWEST)) or [""]
        lines += [
            f"{begin if number == 0 else ' ' * len(begin)}{part}".rstrip()
            for number, part in enumerate(wrapped)
        ]
    for line in _format_last_lines(report):
        lines += textwrap.wrap(line, LINE_WIDTH)
    if report.verdict is GateVerdict.ask:
        lines.append(UNDECIDED)
    return "\n".join(lines)


def _format_last_lines(report: GateReport) -> list[str]:
    nights = [] if report.night is None else [_describe_night(report.night)]
    return [*format_noise_floors(report.noise_floors), *nights]


def _describe_night(night: int) -> str:
    return f"night {night} against this baseline; false NO-GO ≤ 5 % over all nights"


def format_one_line_report(report: GateReport) -> str:
    """Return the report as one line, for a chat message."""
    counts = Counter(candidate.verdict for candidate in report.candidates)
    named = [
        f"{verdict} {', '.join(candidate.name for candidate in report.candidates if candidate.verdict is verdict)}"
        for verdict in WORST_FIRST
        if counts[verdict]
    ]
    return f"{report.verdict}: {' · '.join(named)} (baseline {report.baseline_setting})"


def format_gate_report_as_markdown(report: GateReport) -> str:
    """Return the report as Markdown, for the summary of a CI job."""
    lines = [
        f"## {report.verdict}: {escape_markdown(_describe_compared_candidates(report))}",
        "",
        "| verdict | candidate | difference | reason |",
        "|---|---|---|---|",
    ]
    for verdict, *cells in _list_check_cells(report):
        lines.append(f"| **{verdict}** | {' | '.join(map(escape_markdown, cells))} |")
    if last := _format_last_lines(report):
        lines += ["", "  \n".join(map(escape_markdown, last))]
    return "\n".join(lines) + "\n"


def _list_check_cells(report: GateReport) -> list[tuple[str, str, str, str]]:
    """Return verdict, candidate, difference and reason of every check."""
    return [
        (get_verdict_name(check), candidate.name, format_difference(check), describe_check(check))
        for candidate in report.candidates
        for check in sort_checks(candidate)
    ]


def build_verdict_section(report: GateReport) -> CardSection:
    """Return the verdicts of all rules as a table of a card."""
    names = ("verdict", "candidate", "difference", "reason")
    cells = zip(*_list_check_cells(report), strict=True)
    columns = [Column(name, [*values], False) for name, values in zip(names, cells, strict=True)]
    return CardSection(f"{report.verdict}: {_describe_compared_candidates(report)}", columns)


def format_error_markdown(message: str) -> str:
    """Return the Markdown summary of a gate that could not run."""
    return f"## ERROR: the gate could not run\n\n{escape_markdown(message)}\n"


def sort_checks(candidate: CandidateVerdict) -> list[Check]:
    """Return a candidate's checks, sorted from the worst verdict to the best. Details come after the
    checks that decide.
    """
    return sorted(
        candidate.checks,
        key=lambda check: (
            check.tier is not Tier.must,
            check.is_detail and check.verdict is not GateVerdict.no_go,
            WORST_FIRST.index(check.verdict),
        ),
    )


def select_gate_checks_to_print(candidate: CandidateVerdict) -> list[Check]:
    """Return the checks that the text shows: those that failed, and those of margins. If there are none, all."""
    checks = sort_checks(candidate)
    return [check for check in checks if check.decision or check.verdict is not GateVerdict.go] or checks


def get_verdict_name(check: Check) -> str:
    """Return the verdict's name. A failed check of the tier `should` is a warning. A detail that does not
    count has none.
    """
    if check.tier is Tier.must and not check.is_decisive:
        return ""
    is_warning = check.tier is Tier.should and check.verdict is not GateVerdict.go
    return WARNING if is_warning else check.verdict.value


def describe_check(check: Check) -> str:
    """Describe the result of a check, without the measured difference."""
    where = f"{_describe_panel(check)}: " if check.panel else ""
    if check.tier is Tier.should:
        where = f"optional (should), {where}" if where else "optional (should): "
    if check.decision is None:
        return where + render_note(check.reason, NOTES)
    return where + "; ".join(_describe_margin_check(check))


def _describe_panel(check: Check) -> str:
    if check.panel != POOLED or check.decision is None:
        return check.panel
    return f"{check.panel}, {check.decision.n:,} {get_sample_unit_name(check.decision)}"


def _describe_margin_check(check: Check) -> Iterator[str]:
    decision = check.decision
    assert decision is not None
    assert decision.verdict is not None
    measure = f"{decision.measure}: " if decision.is_ratio else ""
    if decision.verdict is MarginVerdict.undecided and not check.is_decisive:
        yield f"{measure}a loss of more than {format_margin(decision)} is possible, but not shown"
        return
    if decision.verdict is MarginVerdict.undecided:
        yield f"{measure}{_describe_undecided_loss(check, decision)}"
    else:
        yield measure + format_margin_verdict(decision.verdict, format_margin(decision))
    if text := render_note(check.reason, NOTES):
        yield text
    if check.verdict is GateVerdict.no_go and "losses" in decision.counts and not decision.is_ratio:
        losses, wins = decision.counts["losses"], decision.counts["wins"]
        if losses is not None:
            yield f"{losses} lost, {wins} won"
    if check.verdict is not GateVerdict.ask:
        return
    if decision.depends_on_cut_off_answers:
        yield f"{decision.cut_off[0]} answers cut off: raise generation.max_new_tokens"
    elif decision.is_ratio and (missing_runs := _describe_missing_runs(decision)):
        yield missing_runs
    elif why := explain_impossible_verdict(decision):
        yield why
    elif hint := "" if check.further_questions else suggest_more_questions_or_clusters(decision):
        yield hint


def _describe_undecided_loss(check: Check, decision: Decision) -> str:
    """Describe an undecided margin, and the number of further questions if more questions would decide."""
    undecided = f"a loss of more than {format_margin(decision)} is neither shown nor excluded"
    if decision.depends_on_cut_off_answers or decision.is_ratio or explain_impossible_verdict(decision):
        return undecided  # more questions would not decide
    unit = get_sample_unit_name(decision)
    if not check.further_questions:
        return f"needs more {unit}: {undecided}"
    time = "" if check.further_s is None else f" ({format_duration(check.further_s)})"
    return f"needs about {format_rounded_count(check.further_questions)} more {unit}{time}: {undecided}"


def _describe_missing_runs(decision: Decision) -> str:
    """Describe how many runs a test of speed or memory needs; "" if there are enough."""
    runs = min(decision.n, decision.baseline_n)
    needed = compute_min_runs_per_job(ALPHA / decision.comparisons)
    return "" if runs >= needed else f"{format_count(runs, 'run')}, a test needs {needed} of each job"


def format_difference(check: Check) -> str:
    if check.decision is None:
        return ""
    return "×" * check.decision.is_ratio + format_effect(check.decision)


def _describe_compared_candidates(report: GateReport) -> str:
    candidates = format_count(len(report.candidates), "candidate")
    error = ""
    if report.policy.has_margins and len(report.candidates) > 1:
        wrong = "a wrong verdict for each candidate" if report.policy.is_each else "any wrong verdict"
        error = f"; at most 5 % chance of {wrong}"
    counts = _format_question_and_cluster_counts(report)
    return f"{candidates} against baseline {report.baseline_setting}{counts}{error}"


def _format_question_and_cluster_counts(report: GateReport) -> str:
    """Return the number of questions, and whether the tests treat them as independent or as clusters."""
    if not report.num_questions:
        return ""
    decisions = [check.decision for candidate in report.candidates for check in candidate.checks]
    clusters = {
        each.counts.get("clusters") for each in decisions if each and find_quantity(each) is ACCURACIES
    }
    count = clusters.pop() if len(clusters) == 1 else 0
    if count is None:
        return f", {format_count(report.num_questions, 'independent question')}"
    return f", {format_count(report.num_questions, 'question')}" + f" in {count:,} clusters" * bool(count)
