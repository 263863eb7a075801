"""What a right answer costs in each row: time, tokens, money and energy side by side, whoever
computes the model; and what the energy came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_base import Column, Use, few
from runner_compare.features.right_answers.intervals import estimate_costs
from runner_compare.features.thinking.section import (
    costs_record,
    metric_column,
    right_answer_costs,
    right_answers,
    written_cost,
)
from runner_compare.model.data import ENGINE, Run, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.columns import accuracy_of, naming
from runner_compare.render.findings import joined
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.section import Section
from runner_compare.statistics.token_costs import Estimate

TITLE = "what a right answer costs, with the wrong ones"
COUNTED = "energy_net_j"
OF_JOBS = (COUNTED, "energy_prefill_j", "energy_decode_j", "idle_w")
SERVER, A_SERVER = "model.base_url", "a server"
HEADS = {"seconds": "s", "tokens": "tokens", "money": "money", "joules": "J"}
NAMES = {"seconds": "time", "tokens": "tokens", "money": "money", "joules": "energy"}
LEGEND = (
    "Right answers: time by the clock, from the loaded model to the last answer; money is that of "
    "the server in USD, or of the energy with its idling at price_kwh; J are what the processors "
    "used above their idling. Intervals are over questions: that a job takes longer another time is "
    "not in them."
)


@dataclass
class CostEstimates:
    """What a right answer costs, with intervals, by run id and cost."""

    of_rows: dict[str, dict[str, Estimate]] = field(default_factory=dict)


class RightAnswers(Section):
    """What a right answer costs."""

    def add(self, table: Table, reader: Reader) -> None:
        """Estimate the costs of each row from its questions."""
        for row in table.rows if is_shown(table) else ():
            table.of(CostEstimates).of_rows[row.run.run_id] = estimate_costs(
                row.run, reader, costs_of(row.run)
            )

    def tables(self, table: Table) -> dict[str, list[Column]]:
        """Return the table by its title, if there is more to it than tokens and time here."""
        return {TITLE: cost_table(table)} if is_shown(table) else {}

    def sentences(self, table: Table) -> list[str]:
        """Say what is not known, and why."""
        return missing_sentences(table) if is_shown(table) else []

    def legend(self, table: Table, explain: bool) -> str:
        """Return what the columns are."""
        return LEGEND if is_shown(table) else ""

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return what a row's energy came to, and what a right answer costs it."""
        metrics = row.run.metrics
        energy = {key: metrics[key] for key in (*OF_JOBS, "energy_cost") if key in metrics}
        estimates = table.of(CostEstimates).of_rows.get(row.run.run_id, {})
        costs = costs_record(costs_of(row.run), estimates) if is_shown(table) else {}
        return {key: found for key, found in (("energy", energy), ("right_answer", costs)) if found}


def is_shown(table: Table) -> bool:
    """Whether the table is of several engines, or knows energy or money."""
    known = any(row.run.metrics.keys() & {COUNTED, "cost_usd"} for row in table.rows)
    return table.scored and (known or len(set(engines_of(table))) > 1)


def engines_of(table: Table) -> list[str]:
    """Return who has computed each row."""
    return [row.run.value(ENGINE) or A_SERVER for row in table.rows]


def costs_of(run: Run) -> dict[str, float]:
    """Return what a right answer costs, as far as it is known."""
    metrics, by_answers = run.metrics, right_answer_costs(run)
    costs = {
        "seconds": metrics.get("right_answer_s"),
        "tokens": by_answers.get("tokens"),
        "money": by_answers.get("usd", metrics.get("energy_cost_per_right_answer")),
        "joules": metrics.get("joules_per_right_answer"),
    }
    return {key: cost for key, cost in costs.items() if cost is not None}


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


SECTION = RightAnswers()
