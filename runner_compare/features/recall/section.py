"""How far back the models of a table can look: recall by length and depth, the effective length,
and who is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runner_base import Column, ConfigError, Picture, Use, few
from runner_compare.features.recall.compute import MARGIN, RecallFindings, families_of, share_error
from runner_compare.features.recall.pictures import recall_pictures
from runner_compare.features.recall.render import (
    IN_SEVERAL_PLACES,
    below_words,
    cell_words,
    depth_sentences,
    effective_sentence,
    findings_record,
    percent,
    reached_words,
)
from runner_compare.model.data import ABSENT, NotPaired, Run, Table, TableRow
from runner_compare.model.error_families import ErrorFamily, error_sentences, errors_record, rows_family
from runner_compare.model.outcomes import Answers
from runner_compare.reader import Reader
from runner_compare.render.columns import naming_at
from runner_compare.render.effects import p_value
from runner_compare.render.labels import MAX_NAMES, name_of, versus
from runner_compare.render.quantities import points
from runner_compare.section import Section
from runner_compare.statistics import Compared, Decision, Finding, judge, points_of_margin
from runner_compare.ways import Asked
from runner_compare.ways.verdicts import compare_answers

OPTION = "--recall-margin"
RECALL = "recall_accuracy"  # a metric that only jobs have that asked for something in long texts
JOB_MARGIN = "task.margin"  # in points
MOST_LINES = 40  # of the table of depths
BY_DEPTH = "recall by length and depth, %"
AT_EACH_LENGTH = "recall at each length against the baseline, points"


@dataclass
class RecallOfTable:
    """What the rows of a table say, by run id, and the comparisons at each length."""

    findings: dict[str, RecallFindings] = field(default_factory=dict)
    compared: dict[str, dict[int, Decision]] = field(default_factory=dict)  # by run id and length


class Recall(Section):
    """Recall in long texts."""

    def add(self, table: Table, reader: Reader) -> None:
        """Read where each question asked, and compare the rows with their baselines at each
        length."""
        add_recall(table, reader)

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the tables of lengths, of depths, and of comparisons at each length."""
        kept = table.of(RecallOfTable)
        if not kept.findings:
            return {}
        margin = points_of_margin(margin_of(table))
        shown = {
            f"effective length within {margin} of the shortest, and recall by length, %": length_columns(
                table
            )
        }
        if lines := depth_lines(table):
            shown[BY_DEPTH] = lines
        return shown | ({AT_EACH_LENGTH: compared_columns(table)} if kept.compared else {})

    def sentences(self, table: Table) -> list[str]:
        """Say how far each row reaches, where in the texts something is lost, and at which lengths
        rows differ."""
        kept = table.of(RecallOfTable)
        shown = [(name_of(row, table.keys), kept.findings[row.run.run_id]) for row in _rows(table)]
        said = _together([(name, effective_sentence(findings)) for name, findings in shown])
        said += _together(
            [(name, sentence) for name, findings in shown for sentence in depth_sentences(findings)]
        )
        return [
            *said,
            *furthest_sentence(table),
            *compared_sentences(table),
            *error_sentences(error_families(table)),
        ]

    def legend(self, table: Table, explain: bool) -> str:
        """Return what an effective length is."""
        if not table.of(RecallOfTable).findings:
            return ""
        margin = points_of_margin(margin_of(table))
        is_over_texts = all(own.is_over_texts for own in table.of(RecallOfTable).findings.values())
        about_texts = (
            "each text is a cluster, so they hold for further texts of this filler"
            if is_over_texts
            else "for the texts that were asked: another text may reach more or less"
        )
        return (
            "Effective length: the longest one up to which recall is not below that of the shortest by more than "
            f"{margin} ({OPTION}). Reaches: a test shows it there and at all shorter lengths; less than: a test "
            "shows that it is not; what is between is not decided. All of them hold together in 95 %"
            f", {about_texts}."
        )

    def record(self, table: Table) -> dict[str, Any]:
        """Return which comparisons share an error."""
        return errors_record(error_families(table)) if table.of(RecallOfTable).findings else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's answers say, with its comparisons."""
        kept = table.of(RecallOfTable)
        findings = kept.findings.get(row.run.run_id)
        if findings is None:
            return {}
        compared = [
            decision_record(length, decision)
            for length, decision in kept.compared.get(row.run.run_id, {}).items()
        ]
        return {"recall": findings_record(findings) | {"compared": compared}}

    def sheet(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the effective length, and recall by length, as columns of CSV."""
        findings = table.of(RecallOfTable).findings.get(row.run.run_id)
        if findings is None:
            return {}
        found = findings.effective
        lengths = {f"recall_{length.length}": length.share for length in findings.lengths}
        if found is None:
            return lengths
        return {"effective_length_at_least": found.at_least, "effective_length_below": found.below} | lengths

    def figures(self, table: Table) -> list[Picture]:
        """Return the curves over lengths, and the heat maps of length and depth."""
        rows = _rows(table)
        findings = table.of(RecallOfTable).findings
        return recall_pictures([(row, findings[row.run.run_id]) for row in rows], table.keys)


def _rows(table: Table) -> list[TableRow]:
    """Return the rows that asked for something in long texts."""
    findings = table.of(RecallOfTable).findings
    return [row for row in table.rows if row.run.run_id in findings]


def margin_of(table: Table) -> float:
    """Return the margin of the table's effective lengths."""
    return next(iter(table.of(RecallOfTable).findings.values())).margin


def recorded_margin(table: Table) -> float:
    """Return the margin that all jobs of a table have recorded, or the usual one."""
    recorded = {row.run.value(JOB_MARGIN) for row in table.rows}
    if len(recorded) > 1 or None in recorded:
        return MARGIN
    return float(recorded.pop() or 0) / 100


def add_recall(table: Table, reader: Reader) -> None:
    """Read the answers of each row, and compare them with its baseline's at each length."""
    kept = table.of(RecallOfTable)
    if not table.scored or not any(RECALL in row.run.metrics for row in table.rows):
        return
    answers: dict[str, Answers] = {}
    for row in table.rows:
        try:
            own = reader.of(row.run)
        except NotPaired:
            continue
        answers[row.run.run_id] = {
            question: outcome for question, outcome in own.items() if outcome.recall is not None
        }
    margin = recorded_margin(table)
    kept.findings = share_error(
        {run_id: RecallFindings(tuple(own.values()), margin) for run_id, own in answers.items() if own}
    )
    tests = [
        (row, length, compared)
        for row in table.settings
        if row.run.run_id in answers and row.baseline is not None and row.baseline.run.run_id in answers
        for length, compared in _compared(row.run, row.baseline.run, answers, reader).items()
    ]
    decisions = judge([compared for *_, compared in tests])
    for (row, length, _), decision in zip(tests, decisions, strict=True):
        kept.compared.setdefault(row.run.run_id, {})[length] = decision


def error_families(table: Table) -> list[ErrorFamily]:
    """Return the groups of statements of which each shares one error."""
    kept = table.of(RecallOfTable)
    findings = [*kept.findings.values()]
    if not findings:
        return []
    counts = {
        "recall at each length": sum(map(len, kept.compared.values())),
        "effective lengths": sum(own.effective is not None for own in findings),
        "effective lengths by kind": sum(len(own.by_kind) for own in findings),
        "depths": sum(len(own.lost_depths) for own in findings),
    }
    return [*rows_family(table), *(ErrorFamily(what, count) for what, count in counts.items() if count)]


def with_margin(tables: list[Table], margin: str) -> None:
    """Decide about effective lengths by another margin, in points; ConfigError if there is none to
    decide about."""
    try:
        share = float(margin) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(
            "must be more than 0 and less than 100 points of recall, e.g. 10",
            key=OPTION,
            value=margin,
            code="bad_value",
        )
    kept = [table.of(RecallOfTable) for table in tables]
    if not any(of_table.findings for of_table in kept):
        raise ConfigError(
            "no job among these asked for something in long texts", key=OPTION, value=margin, code="empty"
        )
    for of_table in kept:
        of_table.findings = share_error(
            {run_id: replace(own, margin=share) for run_id, own in of_table.findings.items()}
        )


def _compared(run: Run, base: Run, answers: Mapping[str, Answers], reader: Reader) -> dict[int, Compared]:
    """Compare two rows at each length that both have."""
    compared: dict[int, Compared] = {}
    own, other = _by_length(answers[run.run_id]), _by_length(answers[base.run_id])
    for length in sorted(own.keys() & other.keys()):
        try:
            compared[length] = compare_answers(run, base, (own[length], other[length]), reader, Asked())
        except NotPaired:
            continue  # other questions, prompts or rules: the note of the row says so
    return compared


def _by_length(answers: Answers) -> dict[int, Answers]:
    """Return the answers at each length; where each is one to a question of its own, they are
    independent."""
    by_length: dict[int, Answers] = {}
    for question, outcome in answers.items():
        if outcome.recall is not None:
            by_length.setdefault(outcome.recall.length, {})[question] = outcome
    return {
        length: {
            question: outcome._replace(cluster=family)
            for (question, outcome), family in zip(own.items(), families_of([*own.values()]), strict=True)
        }
        for length, own in by_length.items()
    }


# ------------------------------------------------------------------------------------------ columns


def length_columns(table: Table) -> list[Column]:
    """Return the columns of effective lengths, and of recall at each length."""
    rows = _rows(table)
    findings = [table.of(RecallOfTable).findings[row.run.run_id] for row in rows]
    columns = [
        *_naming(table, rows),
        Column("reaches", [reached_words(of_row.effective) for of_row in findings], use=Use.result),
        Column("less\nthan", [below_words(of_row.effective) for of_row in findings], use=Use.result),
    ]
    shares = [{length.length: length.share for length in of_row.lengths} for of_row in findings]
    for length in sorted({length for of_row in shares for length in of_row}):
        cells = [percent(of_row[length]) if length in of_row else ABSENT for of_row in shares]
        columns.append(Column(f"{length:,}", cells, use=Use.difference))
    return columns


def depth_lines(table: Table) -> list[Column]:
    """Return the columns of recall at each depth, a line for each length of a row; none if these
    are too many."""
    kept = table.of(RecallOfTable).findings
    lines = [(row, length) for row in _rows(table) for length in kept[row.run.run_id].lengths]
    depths = sorted({depth for findings in kept.values() for depth in findings.depths})
    if len(lines) > MOST_LINES or not depths:
        return []
    columns = [
        *_naming(table, [row for row, _ in lines]),
        Column("tokens", [f"{length.length:,}" for _, length in lines], use=Use.setting),
    ]
    heads: list[tuple[str, float | None]] = [(f"{depth:g}", depth) for depth in depths]
    for head, depth in (*heads, (IN_SEVERAL_PLACES, None)):
        cells = [cell_words(kept[row.run.run_id].cell(length.length, depth)) for row, length in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=Use.result))
    intervals = [f"{percent(cell.share)} [{percent(cell.low)}, {percent(cell.high)}]" for _, cell in lines]
    return [*columns, Column("all", intervals, use=Use.result)]


def compared_columns(table: Table) -> list[Column]:
    """Return the columns of the differences to the baseline, a column for each length."""
    compared = table.of(RecallOfTable).compared
    rows = [row for row in _rows(table) if row.run.run_id in compared]
    columns = [Column("comparison", [versus(row, table.keys) for row in rows], False, use=Use.setting)]
    for length in sorted({length for of_row in compared.values() for length in of_row}):
        decisions = [compared[row.run.run_id].get(length) for row in rows]
        cells = [ABSENT if decision is None else _difference_cell(decision) for decision in decisions]
        columns.append(Column(f"{length:,}", cells, use=Use.difference))
    return columns


def _difference_cell(decision: Decision) -> str:
    """Return a difference in points, with the finding if one is shown."""
    finding = "" if decision.finding is Finding.open else f" {decision.finding}"
    return f"{points(decision.value)}{finding}"


def _naming(table: Table, rows: list[TableRow]) -> list[Column]:
    """Return the columns that name some rows of a table."""
    return naming_at(table, [table.rows.index(row) for row in rows])


# ----------------------------------------------------------------------------------- words and data


def _together(said: list[tuple[str, str]]) -> list[str]:
    """Return what is said of rows, those of which the same is said together; of many rows, the
    tables have the rest."""
    names: dict[str, list[str]] = {}
    for name, sentence in said:
        names.setdefault(sentence, []).append(name)
    return [f"{few(of_words, MAX_NAMES)}: {sentence}" for sentence, of_words in [*names.items()][:MAX_NAMES]]


def furthest_sentence(table: Table) -> list[str]:
    """Say which rows are shown to reach furthest; nothing where all do, or only one row is
    known."""
    kept = table.of(RecallOfTable).findings
    reached = [
        (found.at_least, row) for row in _rows(table) if (found := kept[row.run.run_id].effective) is not None
    ]
    most = max((length for length, _ in reached), default=0)
    furthest = [name_of(row, table.keys) for length, row in reached if length == most]
    if len(furthest) == len(reached) or len(furthest) > MAX_NAMES:
        return []
    names = ", ".join(furthest)
    return [
        f"shown to reach furthest: {names} ({most:,} tokens); a row that is shown to reach less may reach as far"
    ]


def compared_sentences(table: Table) -> list[str]:
    """Say at which lengths rows are better or worse than their baselines, and of which that is not
    shown."""
    compared = table.of(RecallOfTable).compared
    every = [
        (row, length, decision)
        for row in _rows(table)
        for length, decision in sorted(compared.get(row.run.run_id, {}).items())
    ]
    found = [
        (row, length, decision) for row, length, decision in every if decision.finding is not Finding.open
    ]
    said = []
    for row in {row.run.run_id: row for row, *_ in found}.values():
        parts = [
            f"{decision.finding} at {length:,} ({_difference(decision)})"
            for of_row, length, decision in found
            if of_row is row
        ]
        said.append(f"recall of {versus(row, table.keys)}: {'; '.join(parts)}")
    if len(found) < len(every):
        said.append(
            f"recall at each length: no difference shown in {len(every) - len(found)} of {len(every)} comparisons, "
            "which share 5 %"
        )
    return said


def _difference(decision: Decision) -> str:
    ends = f"[{', '.join(map(points, decision.simultaneous))}]"
    return f"{points(decision.value)} points {ends}, Holm {p_value(decision.p_holm)}"


def decision_record(length: int, decision: Decision) -> dict[str, Any]:
    """Return a comparison at one length as plain data."""
    return {
        "tokens": length,
        "questions": decision.n,
        "difference": decision.value,
        "difference_low": decision.low,
        "difference_high": decision.high,
        "simultaneous_low": decision.simultaneous_low,
        "simultaneous_high": decision.simultaneous_high,
        "p": decision.p,
        "p_holm": decision.p_holm,
        "finding": decision.finding,
    }


SECTION = Recall()
