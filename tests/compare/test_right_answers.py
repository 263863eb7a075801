"""What a right answer costs, side by side for rows of several engines."""

from __future__ import annotations

import io
import json

from json_schema import SCHEMA, faults

from runner_compare.features.right_answers.render import TITLE
from runner_compare.features.right_answers.section import SECTION as RIGHT_ANSWERS
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.outcomes import Costs, QuestionCost
from runner_compare.reader import Reader
from runner_compare.render.output import FORMATS

TOKENS = {"n": 10.0, "correct": 5.0, "prompt_tokens": 100.0, "new_tokens": 400.0}
ENERGY = {
    "energy_net_j": 50.0,
    "energy_cost": 0.02,
    "joules_per_right_answer": 10.0,
    "energy_cost_per_right_answer": 0.004,
}
MODEL = "model.name"


def row(name: str, metrics: dict[str, float], engine: str | None = None, **facts: str) -> TableRow:
    params = {MODEL: name}
    if engine == "api":
        params["model.base_url"] = "http://example.org/v1"
    elif engine:
        params["model.engine.name"] = engine
    run = Run(name, name, "gsm8k", "1", "", params, {**TOKENS, **metrics}, facts=facts)
    return TableRow(run, {MODEL: name})


def table_of(*rows: TableRow) -> Table:
    return Table("gsm8k", [MODEL], [*rows])


def test_rows_of_all_engines_stand_side_by_side_and_what_is_not_known_is_said() -> None:
    table = table_of(
        row("local", {"right_answer_s": 2.0, **ENERGY}),
        row(
            "vllm",
            {"right_answer_s": 1.0},
            "vllm 0.25.1",
            energy="not counted: beside other work that used 1.0 of 2 cores, and the counters count",
        ),
        row("llama_cpp", {"right_answer_s": 4.0}, "llama.cpp b1"),
        row("api", {"right_answer_s": 0.5, "cost_usd": 0.05}, "api"),
        row("old", {}),
    )
    columns = {column.head: column.cells for column in RIGHT_ANSWERS.tables(table)[TITLE]}
    assert columns["s /right\nanswer"] == ["2", "1", "4", "0.5", "–"]
    assert columns["engine"] == ["runner", "vllm 0.25.1", "llama.cpp b1", "a server", "runner"]
    assert columns["tokens /right\nanswer"] == ["100.0"] * 5
    assert columns["money /right\nanswer"] == ["0.004", "–", "–", "0.01", "–"]
    assert columns["J /right\nanswer"] == ["10", "–", "–", "–", "–"]
    assert RIGHT_ANSWERS.sentences(table) == [
        "cost per correct answer: tokens are known of all rows; "
        "time is not known of old (all answers were reused, or an earlier version ran the job); "
        "money is not known of vllm, llama_cpp, old (no energy was counted); "
        "energy is not known of vllm (not counted: beside other work that used 1.0 of 2 cores, and the counters count), "
        "llama_cpp, old (the machine has no readable energy counter) "
        "and api (energy used by a server is not measured)"
    ]
    record = RIGHT_ANSWERS.row_record(table, table.rows[0])
    assert record["right_answer"] == {"seconds": 2.0, "tokens": 100.0, "money": 0.004, "joules": 10.0}
    assert RIGHT_ANSWERS.row_record(table, table.rows[3])["right_answer"]["money"] == 0.01


def test_rows_of_one_engine_without_energy_and_money_have_no_such_table() -> None:
    table = table_of(row("a", {"right_answer_s": 2.0}), row("b", {"right_answer_s": 1.0}))
    assert (
        RIGHT_ANSWERS.tables(table),
        RIGHT_ANSWERS.sentences(table),
        RIGHT_ANSWERS.legend(table, True),
    ) == ({}, [], "")


def test_no_right_answer_has_no_cost() -> None:
    table = table_of(row("a", {"correct": 0.0, "energy_net_j": 50.0}), row("b", ENERGY))
    assert RIGHT_ANSWERS.sentences(table)[0].startswith(
        "cost per correct answer: time is not known of a (no answer is right) and b (all answers were reused"
    )


def test_the_json_is_as_its_schema_says() -> None:
    energy = {**ENERGY, "energy_prefill_j": 20.0, "energy_decode_j": 30.0, "idle_w": 10.0}
    out = io.StringIO()
    FORMATS["json"](Comparison([table_of(row("a", energy), row("b", {}))]), out)
    first = json.loads(out.getvalue())["tables"][0]["rows"][0]
    assert first["energy"].keys() == {*energy} - {"joules_per_right_answer", "energy_cost_per_right_answer"}
    assert list(faults(json.loads(out.getvalue()), SCHEMA)) == []


class CostReader(Reader):
    """Each question's tokens, and whether its answer is right."""

    def __init__(self, costs: list[QuestionCost]) -> None:
        super().__init__()
        self.of_questions = costs

    def load_token_costs(self, run: Run) -> Costs:
        return {(at, f"q{at}", "1"): cost for at, cost in enumerate(self.of_questions)}


def test_costs_have_intervals_over_questions() -> None:
    """Each right answer takes 200 tokens, each wrong one 800: more right ones cost less."""
    costs = [
        QuestionCost(
            prompt=50 + at % 7,
            new=150 if at % 2 else 750,
            solved=bool(at % 2),
            cluster=None,
            failed=False,
            right=at % 2,
        )
        for at in range(100)
    ]
    table = table_of(
        row("local", {"n": 100.0, "correct": 50.0, "right_answer_s": 2.0, **ENERGY}),
        row("api", {"n": 100.0, "correct": 50.0, "right_answer_s": 1.0, "cost_usd": 0.05}, "api"),
    )
    RIGHT_ANSWERS.compute(table, CostReader(costs))
    local = RIGHT_ANSWERS.row_record(table, table.rows[0])["right_answer"]
    assert local["seconds"] == 2.0
    for key in ("seconds", "money", "joules"):
        value, low, high = (local[f"{key}{end}"] for end in ("", "_low", "_high"))
        assert 0.7 < low / value < 0.9
        assert 1.15 < high / value < 1.7
    interval = table.rows[0].run.accuracy_interval
    assert interval is not None
    accuracy_alone = 0.5 / interval[1]
    assert local["joules_high"] / local["joules"] > accuracy_alone, "wrong answers are the long ones"
    cells = {column.head: column.cells for column in RIGHT_ANSWERS.tables(table)[TITLE]}
    assert cells["J /right\nanswer"][0].startswith("10 [")
    assert cells["money /right\nanswer"][1].startswith("0.001 [")
    out = io.StringIO()
    FORMATS["json"](Comparison([table]), out)
    assert list(faults(json.loads(out.getvalue()), SCHEMA)) == []


def test_a_row_without_samples_has_costs_without_intervals() -> None:
    table = table_of(row("a", {"right_answer_s": 2.0, **ENERGY}), row("b", ENERGY))
    RIGHT_ANSWERS.compute(table, Reader())
    assert RIGHT_ANSWERS.row_record(table, table.rows[0])["right_answer"].keys() == {
        "seconds", "tokens", "money", "joules",
    }  # fmt: skip
