"""Recall in a comparison: columns, sentences and plain data."""

from __future__ import annotations

from runner_base import Column, Use, few
from runner_compare.features.recall.compute import (
    OPTION,
    RecallOfTable,
    error_families,
    margin_of,
    recall_rows,
)
from runner_compare.features.recall.render.words import (
    IN_SEVERAL_PLACES,
    below_words,
    cell_words,
    depth_sentences,
    effective_sentence,
    percent,
    reached_words,
)
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.columns import naming_of
from runner_compare.render.compared_parts import open_sentence, part_columns, part_sentences
from runner_compare.render.error_families import error_sentences
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.render.margins import points_of_margin

MOST_LINES = 40  # of the table of depths
BY_DEPTH = "recall by length and depth, %"


def recall_tables(table: Table) -> dict[str, list[Column]]:
    """Return the columns of the tables of lengths, of depths, and of comparisons at each length, by their titles."""
    compared = table.of(RecallOfTable).compared
    shown = {lengths_title(margin_of(table)): length_columns(table)}
    if lines := depth_lines(table):
        shown[BY_DEPTH] = lines
    if compared:
        lengths = sorted({length for of_row in compared.values() for length in of_row})
        heads = {length: f"{length:,}" for length in lengths}
        shown["recall at each length against the baseline, points"] = part_columns(table, compared, heads)
    return shown


def lengths_title(margin: float, of: str = "of the shortest") -> str:
    return f"effective length within {points_of_margin(margin)} {of}, and recall by length, %"


def length_columns(table: Table) -> list[Column]:
    """Return the columns of effective lengths, and of recall at each length."""
    rows = recall_rows(table)
    findings = [table.of(RecallOfTable).findings[row.run.run_id] for row in rows]
    columns = [
        *naming_of(table, rows),
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
    lines = [(row, length) for row in recall_rows(table) for length in kept[row.run.run_id].lengths]
    depths = sorted({depth for findings in kept.values() for depth in findings.depths})
    if len(lines) > MOST_LINES or not depths:
        return []
    columns = [
        *naming_of(table, [row for row, _ in lines]),
        Column("tokens", [f"{length.length:,}" for _, length in lines], use=Use.setting),
    ]
    heads: list[tuple[str, float | None]] = [(f"{depth:g}", depth) for depth in depths]
    for head, depth in (*heads, (IN_SEVERAL_PLACES, None)):
        cells = [cell_words(kept[row.run.run_id].cell(length.length, depth)) for row, length in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=Use.result))
    intervals = [f"{percent(cell.share)} [{percent(cell.low)}, {percent(cell.high)}]" for _, cell in lines]
    return [*columns, Column("all", intervals, use=Use.result)]


def recall_sentences(table: Table) -> list[str]:
    """Say how far each row reaches, where in the texts something is lost, and at which lengths rows differ."""
    kept = table.of(RecallOfTable)
    shown = [(name_of(row, table.keys), kept.findings[row.run.run_id]) for row in recall_rows(table)]
    return [
        *_together([(name, effective_sentence(findings)) for name, findings in shown]),
        *_together([(name, text) for name, findings in shown for text in depth_sentences(findings)]),
        *furthest_sentence(table),
        *part_sentences("recall", table, kept.compared, "at {:,}".format),
        *open_sentence("recall at each length", kept.compared),
        *error_sentences(error_families(table)),
    ]


def recall_legend(table: Table) -> str:
    """Return what an effective length is."""
    about_texts = (
        "each text is a cluster, so they hold for further texts of this filler"
        if all(own.is_over_texts for own in table.of(RecallOfTable).findings.values())
        else "for the texts that were asked: another text may reach more or less"
    )
    return (
        "Effective length: the longest one up to which recall is not below that of the shortest by more than "
        f"{points_of_margin(margin_of(table))} ({OPTION}). Reaches: a test shows it there and at all shorter lengths; "
        "less than: a test shows that it is not; what is between is not decided. All of them hold together in 95 %"
        f", {about_texts}."
    )


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
        (found.at_least, row)
        for row in recall_rows(table)
        if (found := kept[row.run.run_id].effective) is not None
    ]
    most = max((length for length, _ in reached), default=0)
    furthest = [name_of(row, table.keys) for length, row in reached if length == most]
    if len(furthest) == len(reached) or len(furthest) > MAX_NAMES:
        return []
    names = ", ".join(furthest)
    return [
        f"shown to reach furthest: {names} ({most:,} tokens); a row that is shown to reach less may reach as far"
    ]
