"""Renders the cost per correct answer as a table and sentences."""

from __future__ import annotations

from runner_base import Column, ColumnUse, join_first_names
from runner_compare.features.right_answers.compute import (
    COUNTED,
    SERVER,
    TableCostEstimates,
    compute_costs_per_correct_answer,
    row_engines,
)
from runner_compare.features.thinking.compute import count_correct_answers
from runner_compare.features.thinking.render import build_metric_column, format_cost
from runner_compare.model.data import Run, Table
from runner_compare.render.columns import build_row_name_columns, format_accuracy
from runner_compare.render.findings import join_words_with_and
from runner_compare.render.labels import MAX_NAMES, format_row_name

TITLE = "cost per correct answer (cost of all answers divided by the number of correct answers)"
OF_JOBS = (COUNTED, "energy_prefill_j", "energy_decode_j", "idle_w")
HEADS = {"seconds": "s", "tokens": "tokens", "money": "money", "joules": "J"}
NAMES = {"seconds": "time", "tokens": "tokens", "money": "money", "joules": "energy"}
LEGEND = (
    "Right answers: time is wall-clock time from the loaded model to the last answer. Money is that of the server in "
    "USD, or of the energy with its idling at price_kwh. J are what the processors used above their idling. Intervals "
    "are over questions; they do not contain how much a job's time varies."
)


def build_cost_table_columns(table: Table) -> list[Column]:
    rows = table.rows
    costs = [compute_costs_per_correct_answer(row.run) for row in rows]
    estimates = [table.get_section_data(TableCostEstimates).of_rows.get(row.run.run_id, {}) for row in rows]
    shown, engines = build_row_name_columns(table), row_engines(table)
    if len(set(engines)) > 1:
        shown.append(Column("engine", engines, False, use=ColumnUse.setting))
    shown.append(Column("accuracy", list(map(format_accuracy, rows)), use=ColumnUse.result))
    for key, head in HEADS.items():
        form = ",.1f" if key == "tokens" else ".3g"
        cells = [
            format_cost(cost.get(key), ends.get(key), form)
            for cost, ends in zip(costs, estimates, strict=True)
        ]
        shown.append(Column(f"{head} /right\nanswer", cells, use=ColumnUse.result))
    return shown + [
        build_metric_column(rows, key) for key in OF_JOBS if any(key in row.run.metrics for row in rows)
    ]


def format_missing_cost_sentences(table: Table) -> list[str]:
    missing: dict[str, dict[str, list[str]]] = {}  # names of rows, by cost and reason
    costs = [compute_costs_per_correct_answer(row.run) for row in table.rows]
    for key in HEADS:
        for row, cost in zip(table.rows, costs, strict=True):
            if key not in cost:
                names = missing.setdefault(key, {}).setdefault(explain_missing_cost(row.run, key), [])
                names.append(format_row_name(row, table.keys))
    if not missing:
        return []
    parts = []
    if known := [NAMES[key] for key in HEADS if key not in missing]:
        parts.append(f"{join_words_with_and(known)} {_verb_form(known)} known of all rows")
    for key, rows_by_reason in missing.items():
        rows = [f"{join_first_names(names, MAX_NAMES)} ({why})" for why, names in rows_by_reason.items()]
        parts.append(f"{NAMES[key]} {_verb_form([NAMES[key]])} not known of {join_words_with_and(rows)}")
    return [f"cost per correct answer: {'; '.join(parts)}"]


def _verb_form(names: list[str]) -> str:
    return "are" if len(names) > 1 or names == [NAMES["tokens"]] else "is"


def explain_missing_cost(run: Run, key: str) -> str:
    if not count_correct_answers(run):
        return "no answer is right"
    is_on_server, is_counted = SERVER in run.params, COUNTED in run.metrics
    reasons = {
        "seconds": "all answers were reused, or an earlier version ran the job",
        "tokens": "they were not counted",
        "money": (
            "no model.price_in and model.price_out"
            if is_on_server
            else "no price_kwh"
            if is_counted
            else "no energy was counted"
        ),
        "joules": (
            "energy used by a server is not measured"
            if is_on_server
            else run.facts.get("energy") or "the machine has no readable energy counter"
        ),
    }
    return reasons[key]
