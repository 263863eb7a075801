"""Renders the recall of compared runs as table columns, sentences and JSON data."""

from __future__ import annotations

from runner_base import Column, ColumnUse, join_first_names
from runner_compare.features.recall.compute import (
    OPTION,
    TableRecall,
    list_recall_error_families,
    list_recall_rows,
    table_margin,
)
from runner_compare.features.recall.render.recall_text import (
    IN_SEVERAL_PLACES,
    explain_undecided_effective_context_length,
    format_cell,
    format_depth_recall_loss_sentences,
    format_effective_context_length_sentence,
    format_percent,
    format_reached,
    format_short_depth_recall_loss_sentences,
    format_shortest_length_losing_recall,
)
from runner_compare.model.data import ABSENT, Table
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.compared_parts import (
    build_subset_columns,
    format_subset_sentences,
    format_undecided_comparison_sentences,
    summarize_subset_findings_per_row,
)
from runner_compare.render.error_families import format_error_rate_sentences
from runner_compare.render.labels import MAX_NAMES, format_row_name
from runner_compare.render.margins import UNDECIDED, format_margin_points

MOST_LINES = 40  # of the table of depths
BY_DEPTH = "recall by length and depth, %"


def build_recall_tables(table: Table) -> dict[str, list[Column]]:
    compared = table.get_section_data(TableRecall).compared
    shown = {format_effective_length_title(table_margin(table)): build_columns_of_recall_by_length(table)}
    if lines := build_depth_columns(table):
        shown[BY_DEPTH] = lines
    if compared:
        lengths = sorted({length for of_row in compared.values() for length in of_row})
        heads = {length: f"{length:,}" for length in lengths}
        shown["difference in recall from the baseline at each length, points"] = build_subset_columns(
            table, compared, heads
        )
    return shown


def short_recall_tables(table: Table) -> dict[str, list[Column]]:
    return {format_effective_length_title(table_margin(table)): build_columns_of_recall_by_length(table)}


def format_short_recall_sentences(table: Table) -> list[str]:
    kept = table.get_section_data(TableRecall)
    shown = [
        (format_row_name(row, table.keys), kept.findings[row.run.run_id]) for row in list_recall_rows(table)
    ]
    return [
        *_merge_equal_sentences(
            [
                (name, text)
                for name, findings in shown
                if (text := explain_undecided_effective_context_length(findings))
            ]
        ),
        *_merge_equal_sentences(
            [
                (name, text)
                for name, findings in shown
                for text in format_short_depth_recall_loss_sentences(findings)
            ]
        ),
        *summarize_subset_findings_per_row("recall", table, kept.compared, "at {:,} tokens".format),
    ]


def format_effective_length_title(margin: float, by_kind: bool = False) -> str:
    condition = f"recall within {format_margin_points(margin)} of the shortest text's"
    kinds = " by kind of question" * by_kind
    return f"effective length in tokens{kinds} ({condition}); recall in % by length"


def build_columns_of_recall_by_length(table: Table) -> list[Column]:
    rows = list_recall_rows(table)
    findings = [table.get_section_data(TableRecall).findings[row.run.run_id] for row in rows]
    columns = [
        *build_row_name_columns_for(table, rows),
        Column(
            "effective\nlength ≥",
            [format_reached(of_row.effective_length) for of_row in findings],
            use=ColumnUse.result,
        ),
        Column(
            "effective\nlength <",
            [format_shortest_length_losing_recall(of_row.effective_length) for of_row in findings],
            use=ColumnUse.result,
        ),
    ]
    shares = [{length.length: length.share for length in of_row.length_recalls} for of_row in findings]
    for length in sorted({length for of_row in shares for length in of_row}):
        cells = [format_percent(of_row[length]) if length in of_row else ABSENT for of_row in shares]
        columns.append(Column(f"% at\n{length:,}", cells, use=ColumnUse.difference))
    return columns


def build_depth_columns(table: Table) -> list[Column]:
    """Return a table of recall by depth, with one line per run and length; [] if it has too many lines."""
    kept = table.get_section_data(TableRecall).findings
    lines = [
        (row, length) for row in list_recall_rows(table) for length in kept[row.run.run_id].length_recalls
    ]
    depths = sorted({depth for findings in kept.values() for depth in findings.depths})
    if len(lines) > MOST_LINES or not depths:
        return []
    columns = [
        *build_row_name_columns_for(table, [row for row, _ in lines]),
        Column("tokens", [f"{length.length:,}" for _, length in lines], use=ColumnUse.setting),
    ]
    heads: list[tuple[str, float | None]] = [(f"{depth:g}", depth) for depth in depths]
    for head, depth in (*heads, (IN_SEVERAL_PLACES, None)):
        cells = [format_cell(kept[row.run.run_id].recall_at(length.length, depth)) for row, length in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=ColumnUse.result))
    intervals = [
        f"{format_percent(cell.share)} [{format_percent(cell.low)}, {format_percent(cell.high)}]"
        for _, cell in lines
    ]
    return [*columns, Column("all", intervals, use=ColumnUse.result)]


def format_recall_sentences(table: Table) -> list[str]:
    kept = table.get_section_data(TableRecall)
    shown = [
        (format_row_name(row, table.keys), kept.findings[row.run.run_id]) for row in list_recall_rows(table)
    ]
    return [
        *_merge_equal_sentences(
            [(name, format_effective_context_length_sentence(findings)) for name, findings in shown]
        ),
        *_merge_equal_sentences(
            [
                (name, text)
                for name, findings in shown
                for text in format_depth_recall_loss_sentences(findings)
            ]
        ),
        *format_longest_effective_context_sentences(table),
        *format_subset_sentences("recall", table, kept.compared, "at {:,}".format),
        *format_undecided_comparison_sentences("recall at each length", kept.compared),
        *format_error_rate_sentences(list_recall_error_families(table)),
    ]


def format_recall_legend(table: Table) -> str:
    about_texts = (
        "the lengths also hold for other texts of the same filler, because texts are clusters"
        if all(own.is_clustered_by_haystack for own in table.get_section_data(TableRecall).findings.values())
        else "the lengths hold only for the tested texts"
    )
    return (
        "Effective length: the longest text length at which recall is lower than at the shortest by at most "
        f"{format_margin_points(table_margin(table))} ({OPTION}). "
        "Length ≥: a test shows so at this and all shorter lengths. "
        f"Length <: a test shows the opposite. Lengths between are {UNDECIDED}. All bounds are "
        f"simultaneous 95 % bounds; {about_texts}."
    )


def _merge_equal_sentences(named_sentences: list[tuple[str, str]]) -> list[str]:
    """Merge identical sentences about several runs into one. Returns at most MAX_NAMES sentences."""
    names: dict[str, list[str]] = {}
    for name, sentence in named_sentences:
        names.setdefault(sentence, []).append(name)
    return [
        f"{join_first_names(of_words, MAX_NAMES)}: {sentence}"
        for sentence, of_words in [*names.items()][:MAX_NAMES]
    ]


def format_longest_effective_context_sentences(table: Table) -> list[str]:
    """Name the runs whose effective context length has the highest lower bound.

    Returns [] if all rows have the same length.
    """
    kept = table.get_section_data(TableRecall).findings
    reached = [
        (found.at_least, row)
        for row in list_recall_rows(table)
        if (found := kept[row.run.run_id].effective_length) is not None
    ]
    most = max((length for length, _ in reached), default=0)
    furthest = [format_row_name(row, table.keys) for length, row in reached if length == most]
    if len(furthest) == len(reached) or len(furthest) > MAX_NAMES:
        return []
    names = ", ".join(furthest)
    return [
        f"{names}: highest lower bound of the effective length ({most:,} tokens). Other runs may be equal."
    ]
