"""What a right answer costs in each row, as a table and in words."""

from __future__ import annotations

from runner_base import Column, Use, few
from runner_compare.features.right_answers.compute import COUNTED, SERVER, CostEstimates, costs_of, engines_of
from runner_compare.features.thinking.compute import right_answers
from runner_compare.features.thinking.render import metric_column, written_cost
from runner_compare.model.data import Run, Table
from runner_compare.render.columns import accuracy_of, naming
from runner_compare.render.findings import joined
from runner_compare.render.labels import MAX_NAMES, name_of

TITLE = "what a right answer costs, with the wrong ones"
OF_JOBS = (COUNTED, "energy_prefill_j", "energy_decode_j", "idle_w")
HEADS = {"seconds": "s", "tokens": "tokens", "money": "money", "joules": "J"}
NAMES = {"seconds": "time", "tokens": "tokens", "money": "money", "joules": "energy"}
LEGEND = (
    "Right answers: time by the clock, from the loaded model to the last answer; money is that of "
    "the server in USD, or of the energy with its idling at price_kwh; J are what the processors "
    "used above their idling. Intervals are over questions: that a job takes longer another time is "
    "not in them."
)


def cost_table(table: Table) -> list[Column]:
    """Return the columns: time, tokens, money and joules of a right answer, and the row's energy."""
    rows = table.rows
    costs = [costs_of(row.run) for row in rows]
    estimates = [table.of(CostEstimates).of_rows.get(row.run.run_id, {}) for row in rows]
    shown, engines = naming(table), engines_of(table)
    if len(set(engines)) > 1:
        shown.append(Column("engine", engines, False, use=Use.setting))
    shown.append(Column("accuracy", list(map(accuracy_of, rows)), use=Use.result))
    for key, head in HEADS.items():
        form = ",.1f" if key == "tokens" else ".3g"
        cells = [
            written_cost(cost.get(key), ends.get(key), form)
            for cost, ends in zip(costs, estimates, strict=True)
        ]
        shown.append(Column(f"{head} /right\nanswer", cells, use=Use.result))
    return shown + [
        metric_column(rows, key) for key in OF_JOBS if any(key in row.run.metrics for row in rows)
    ]


def missing_sentences(table: Table) -> list[str]:
    """Say what is not known of which rows' right answers, and why; empty if all is."""
    missing: dict[str, dict[str, list[str]]] = {}  # names of rows, by cost and reason
    costs = [costs_of(row.run) for row in table.rows]
    for key in HEADS:
        for row, cost in zip(table.rows, costs, strict=True):
            if key not in cost:
                names = missing.setdefault(key, {}).setdefault(why_missing(row.run, key), [])
                names.append(name_of(row, table.keys))
    if not missing:
        return []
    parts = []
    if known := [NAMES[key] for key in HEADS if key not in missing]:
        parts.append(f"{joined(known)} {_verb(known)} known of all rows")
    for key, rows_by_reason in missing.items():
        rows = [f"{few(names, MAX_NAMES)} ({why})" for why, names in rows_by_reason.items()]
        parts.append(f"{NAMES[key]} {_verb([NAMES[key]])} not known of {joined(rows)}")
    return [f"what a right answer costs: {'; '.join(parts)}"]


def _verb(names: list[str]) -> str:
    return "are" if len(names) > 1 or names == [NAMES["tokens"]] else "is"


def why_missing(run: Run, key: str) -> str:
    """Return why a cost of a run's right answers is not known."""
    if not right_answers(run):
        return "no answer is right"
    is_on_server, is_counted = SERVER in run.params, COUNTED in run.metrics
    reasons = {
        "seconds": "all its answers were reused, or an earlier version recorded them",
        "tokens": "they were not counted",
        "money": (
            "no model.price_in and model.price_out"
            if is_on_server
            else "no price_kwh"
            if is_counted
            else "no energy was counted"
        ),
        "joules": (
            "what a server uses is not counted here"
            if is_on_server
            else run.facts.get("energy") or "no counter of energy was read on its machine"
        ),
    }
    return reasons[key]
