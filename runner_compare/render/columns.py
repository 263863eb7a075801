"""A table's columns, the legend below them, and which of them fit a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from runner_base import Column, Use
from runner_base.fields import NOTES
from runner_base.tables import short_paths
from runner_compare.features.cut_offs.render import ends_of
from runner_compare.features.registry import every_section
from runner_compare.metrics import ENDS, LOG_LIKELIHOODS, OF_QUESTION, described, of_plug_ins
from runner_compare.model.data import ABSENT, Run, Table, TableRow, label
from runner_compare.render.effects import (
    UNTESTED,
    detectable,
    difference_head,
    difference_of,
    legend,
    margin_decision,
    margin_verdict,
    p_value,
    pairs_of,
    value_of,
)
from runner_compare.render.labels import number, versus
from runner_compare.render.margins import margin_words
from runner_compare.render.quantities import METHODS, fill, quantity
from runner_compare.section import Slot
from runner_compare.statistics import Decision

USES = {"kl_nats_per_token": Use.result, "model_mib": Use.memory, "decode_tok_per_s": Use.speed,
        "prefill_tok_per_s": Use.speed}  # fmt: skip
# In tables of likelihoods, after the comparison: each with its drop_order
OF_LIKELIHOODS = {"kl_nats_per_token": 0, "top_1_agreement": 0, "acc": 0, "acc_norm": 5, "perplexity": 3,
                  "bits_per_byte": 4, "weight_mib": 2, "model_mib": 0, "peak_rss_mib": 4, "prefill_tok_per_s": 0,
                  "load_s": 1}  # fmt: skip
# The columns of a comparison of accuracies. On a narrow terminal those with the lowest numbers go
# first; 0 stays.
OF_SCORED = {"no_answer": 0, "cut_off": 0, **dict.fromkeys(OF_QUESTION, 0), "weight_mib": 4, "stored_mib": 4,
             "model_mib": 0, "peak_rss_mib": 4, "play_s": 0, "decode_tok_per_s": 0,
             "joules_per_question": 0, "energy_wh": 3, "energy_cost": 2, "load_s": 3,
             "new_tokens": 2}  # fmt: skip
SHOWN_IF_ANY = ("no_answer", "cut_off")  # not shown if they are 0 in every row
# The columns of any other comparison: first the purpose of the tasks, then what most tasks have.
HEADLINES = ("best_decode_tok_per_s", "best_output_tok_per_s", "best_ttft_s", "best_batch_size", "load_peak_rss_mib",
             "steady_rss_mib", "peak_over_baseline_mib", "predicted_total_mib", "largest_part_mib", "stored_mib",
             "weight_mib", "peak_rss_mib", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "seconds")  # fmt: skip
WITH_INTERVAL = ("kl_nats_per_token",)
LONGEST = 60  # characters of a value


def columns(table: Table) -> list[Column]:
    """Return a table's columns for people."""
    if table.unit is not None:
        return [*naming(table), *_of_likelihoods(table, table.unit)]
    if table.number is not None:
        return [*naming(table), *_of_numbers(table, table.number)]
    if table.scored:
        return [*naming(table), *_of_accuracies(table)]
    rows = table.rows
    measurements = (_number_of(rows, name, name) for name in headline_metrics(rows))
    return [*naming(table), *(replace(column, use=Use.result) for column in measurements)]


def naming(table: Table) -> list[Column]:
    """Return the columns that tell rows from one another."""
    rows = table.rows
    names = [tuple(row.config[key] for key in table.keys) for row in rows]
    by_job = not table.keys or len(set(names)) < len(names)  # or two runs have the same config
    columns = [Column("job", [row.run.job_id for row in rows], False, use=Use.job)] * by_job
    columns += [_setting(label(key), [row.config[key] for row in rows]) for key in table.keys]
    return columns + [_setting(key, [row.run.value(key) for row in rows]) for key in varying_notes(rows)]


def naming_of(table: Table, rows: Sequence[TableRow]) -> list[Column]:
    """Return the columns that name some rows of a table, which may recur."""
    places = [table.rows.index(row) for row in rows]
    return [
        replace(
            column,
            cells=[column.cells[index] for index in places],
            whole=[column.whole[index] for index in places if column.whole],
        )
        for column in naming(table)
    ]


def varying_notes(rows: Sequence[TableRow]) -> list[str]:
    """Return the user's own keys (notes.KEY) in which runs differ."""
    keys = dict.fromkeys(key for row in rows for key in row.run.params if key.startswith(f"{NOTES}."))
    return [key for key in keys if len({row.run.value(key) for row in rows}) > 1]


def _setting(name: str, values: Sequence[str | None]) -> Column:
    """Return the column of a key, with long values cut; a terminal shows of long paths what
    differs."""
    texts = [ABSENT if value is None else value for value in values]
    cells = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in texts]
    whole = texts if short_paths(texts) != texts else cells
    return Column(name, cells, False, use=Use.setting, whole=whole)


def _of_accuracies(table: Table) -> list[Column]:
    rows = table.rows
    columns = [
        Column("n", [_asked(row.run) for row in rows]),
        Column("accuracy", list(map(accuracy_of, rows)), use=Use.result),
    ]
    columns += _of_sections(table, Slot.accuracy)
    if table.baseline:
        *test, smallest = effect_columns(rows, "points")
        columns += [*test, Column("wins/losses\n/ties", _cells(rows, pairs_of)), smallest]
    columns += _of_sections(table, Slot.comparison)
    for name, drop_order in OF_SCORED.items():
        values = [row.run.metrics.get(name) for row in rows]
        if any(values) if name in SHOWN_IF_ANY else any(value is not None for value in values):
            columns.append(_number_of(rows, name, described(name).head, drop_order))
    columns += [
        _number_of(rows, name, described(name).head, 1)
        for name in of_plug_ins(row.run.metrics for row in rows)
    ]
    columns += _of_sections(table, Slot.last)
    return columns


def _of_sections(table: Table, slot: Slot) -> list[Column]:
    return [column for section in every_section() for column in section.columns(table).get(slot, [])]


def _of_likelihoods(table: Table, unit: str) -> list[Column]:
    rows, key = table.rows, LOG_LIKELIHOODS[unit]
    columns = [
        _number_of(rows, "n", "n"),
        Column(
            f"log-likelihood\nnats/{unit}",
            [_with_interval(row.run, key, ".4f") for row in rows],
            use=Use.result,
        ),
    ]
    if table.baseline:
        columns += effect_columns(rows, f"nats/{unit}")
    for name, drop_order in OF_LIKELIHOODS.items():
        if any(name in row.run.metrics for row in rows):
            columns.append(measured(name, [row.run for row in rows], drop_order))
    return columns


def _of_numbers(table: Table, name: str) -> list[Column]:
    columns = [_number_of(table.rows, "n", "n"), replace(_number_of(table.rows, name, name), use=Use.result)]
    return columns + (effect_columns(table.rows, name) if table.baseline else [])


def effect_columns(rows: list[TableRow], unit: str) -> list[Column]:
    """Return the columns of each row's difference to its baseline."""
    return [
        Column(difference_head(unit, rows), list(map(difference_of, rows)), use=Use.difference),
        *[Column(f"Δ {unit}\nwithout limit", _cells(rows, ends_of), drop_order=1)]
        * any(effect and effect.ends for effect in (row.effect for row in rows)),
        Column("p", _cells(rows, lambda effect: p_value(effect.p)), drop_order=8),
        Column("Holm", _cells(rows, lambda effect: p_value(effect.p_holm)), use=Use.verdict),
        *margin_column(rows),
        Column(f"min. detectable\n{unit}", _cells(rows, detectable), drop_order=6),
    ]


def margin_column(rows: Sequence[TableRow | None]) -> list[Column]:
    """Return the verdicts about the margin, if the user gave one; where there is little room, its
    head has it."""
    effects = [row.effect if row and row.effect and row.effect.verdict else None for row in rows]
    margins = {margin_words(effect) for effect in effects if effect}
    if not margins:
        return []
    cells = [margin_verdict(effect, margin_words(effect)) if effect else "" for effect in effects]
    column = Column("margin", cells, False, use=Use.verdict)
    if len(margins) == 1:
        (margin,) = margins
        short = [margin_verdict(effect) if effect else "" for effect in effects]
        column.narrow = replace(column, head=f"margin\n{margin}", cells=short)
    return [column]


def _cells(rows: list[TableRow], text: Callable[[Decision], str]) -> list[str]:
    return [text(row.effect) if row.effect else "" for row in rows]


def ratio_columns(table: Table) -> list[Column]:
    """Return the columns of the table of ratios: one line for each run and measure."""
    lines = [(row, effect) for row in table.rows for effect in row.ratios]
    counted = "/".join(dict.fromkeys(quantity(effect).counted for _, effect in lines))
    columns = [
        Column("comparison", [versus(row, table.keys) for row, _ in lines], False, use=Use.setting),
        Column("measure", [effect.measure for _, effect in lines], False, use=Use.setting),
        Column("ratio", [f"×{value_of(effect)}" for _, effect in lines], use=Use.difference),
        Column(counted, [fill(METHODS[effect.method].sample, effect) for _, effect in lines]),
        Column("p", [p_value(effect.p) if effect.is_tested else ABSENT for _, effect in lines]),
        Column(
            "Holm",
            [p_value(effect.p_holm) if effect.is_tested else ABSENT for _, effect in lines],
            use=Use.verdict,
        ),
        Column(
            "finding",
            [str(effect.finding) if effect.is_tested else UNTESTED for _, effect in lines],
            False,
            use=Use.verdict,
        ),
    ]
    if any(effect.verdict for _, effect in lines):
        columns.append(
            Column("margin", [margin_decision(effect) for _, effect in lines], False, use=Use.verdict)
        )
    return columns


def accuracy_of(row: TableRow) -> str:
    """Return an accuracy in percent with its interval."""
    if row.run.interval is None:
        return ABSENT
    accuracy, low, high = row.run.interval
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _asked(run: Run) -> str:
    """Return how many questions were asked; of several seeds, of how many the same ones."""
    if run.score is None:
        return ABSENT
    seeds = len(run.parts) if run.over_seeds else 1
    each, seeds_words = run.answers_each, (f" × {seeds} seeds" if seeds > 1 else "")
    return number(run.score[1] / seeds) + (f" × {each} answers" if each > 1 else "") + seeds_words


def headline_metrics(rows: list[TableRow]) -> list[str]:
    """Return up to eight metrics that all rows have: headlines first, then the task's own ones by
    name."""
    shared = set.intersection(*(set(row.run.metrics) for row in rows))
    known = [name for name in HEADLINES if name in shared]
    return [*known, *sorted(name for name in shared - set(known) if "/" not in name)][:8]


def _number_of(rows: list[TableRow], name: str, head: str, drop_order: int = 0) -> Column:
    cells = [number(row.run.metrics.get(name)) for row in rows]
    return Column(head, cells, drop_order=drop_order, use=USES.get(name, Use.more))


def measured(name: str, runs: Sequence[Run | None], drop_order: int = 0) -> Column:
    """Return the column of a metric, with an interval for the metrics in WITH_INTERVAL."""
    write = partial(_with_interval, form=".2g") if name in WITH_INTERVAL else _plain
    cells = [ABSENT if run is None else write(run, name) for run in runs]
    return Column(described(name).head, cells, drop_order=drop_order, use=USES.get(name, Use.more))


def _plain(run: Run, name: str) -> str:
    return described(name).write(run.metrics[name]) if name in run.metrics else ABSENT


def _with_interval(run: Run, name: str, form: str) -> str:
    if name not in run.metrics:
        return ABSENT
    ends = [run.metrics[f"{name}{end}"] for end in ENDS[1:] if f"{name}{end}" in run.metrics]
    interval = f" [{', '.join(format(end, form) for end in ends)}]" if ends else ""
    return f"{run.metrics[name]:{form}}{interval}".replace("-", "−")


def summary(table: Table, with_front: bool = True) -> str:
    """Return the legend under a table with comparisons, and how the Pareto front is found."""
    effects = [effect for row in table.compared for effect in row.effects]
    parts = [legend(effects), *(section.legend(table, with_front) for section in every_section())]
    return " ".join(filter(None, parts))
