"""Models that think, compared: made jobs in which it is known who thinks longer, and what that is
worth."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from json_schema import SCHEMA, faults
from stores import NF4, NONE, Store, marks
from thinking_jobs import ANSWER_TOKENS, PROMPT_TOKENS, thinking_job

from runner_compare.features.thinking.compute import compute_usage_costs_per_correct_answer
from runner_compare.model.data import Run
from runner_compare.statistics.stats import compute_wilson_interval
from runner_compare.statistics.token_costs import Estimate, TokenCells, TokenCost

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N = 100
BUDGETS = (0, 16, 32, 64, 128, None)
BASELINE = ["--baseline", "quantization=none"]


def lengths(seed: int, longer: float = 1.0) -> list[int]:
    """Thinking tokens of N questions: hard ones take more, and each setting differs a little by
    chance."""
    hard = np.random.default_rng(99).normal(4.0, 0.5, N)
    return [int(it) for it in longer * np.exp(hard + np.random.default_rng(seed).normal(0, 0.2, N))]


@pytest.fixture(scope="module")
def thinkers(store: Store) -> Store:
    """A baseline, one that thinks 20 % longer, and one that thinks as long."""
    for name, words in (("none", lengths(0)), ("nf4", lengths(1, 1.2)), ("fp4", lengths(2))):
        thinking_job(store, "thinkers", name, marks(80, N), words, config={"quantization.name": name})
    return store


def test_a_planted_longer_thought_is_found_and_none_in_the_control(
    thinkers: Store, rows: Any, show: Any
) -> None:
    found = {name: row.get("thinking") for name, row in rows("thinkers", *BASELINE).items()}
    assert found["none"] is None
    assert (found["nf4"]["finding"], found["fp4"]["finding"]) == ("larger", "no difference shown")
    nf4 = found["nf4"]
    assert nf4["difference_low"] <= 0.2 * nf4["baseline_mean"] <= nf4["difference_high"]
    assert nf4["mean"] == pytest.approx(np.mean(lengths(1, 1.2)))
    _, out, _ = show("thinkers", *BASELINE)
    (line,) = (line for line in out.splitlines() if line.startswith("• thinking tokens"))
    assert "nf4 vs none: thinks longer, Δ +" in line
    assert "; no difference shown: fp4 vs none (Δ " in line
    assert "thinking tokens, and cost per correct answer" in out


def test_the_same_is_a_number_that_any_comparison_takes(thinkers: Store, rows: Any) -> None:
    as_number = rows("thinkers", *BASELINE, "--metric", "thinking_tokens")["nf4"]
    beside = rows("thinkers", *BASELINE)["nf4"]["thinking"]
    assert as_number["number"]["difference"] == beside["difference"]
    assert as_number["number"]["finding"] == "larger"
    assert as_number["metrics"]["thinking_tokens"] == beside["mean"]
    answers = rows("thinkers", *BASELINE, "--metric", "answer_tokens")["nf4"]
    assert (answers["metrics"]["answer_tokens"], answers["number"]["difference"]) == (ANSWER_TOKENS, 0)


@pytest.mark.thorough
def test_nothing_is_said_of_models_that_do_not_think(store: Store, rows: Any, show: Any) -> None:
    for name, config in (("plain-none", NONE), ("plain-nf4", NF4)):
        thinking_job(store, "no thinking", name, marks(80, N), None, config=config)
    found = rows("no thinking", *BASELINE)["plain-nf4"]
    assert found.keys().isdisjoint({"thinking", "right_answer_costs"})
    out, _, _ = show("no thinking", *BASELINE)[1].partition("\nNext:")  # which names the experiment
    assert "think" not in out.replace("generation.thinking_tokens", "")
    same = rows("no thinking", *BASELINE, "--metric", "thinking_tokens")["plain-nf4"]["number"]
    assert (same["mean"], same["finding"]) == (0, "no difference shown")


def budgets(store: Store, experiment: str, longer: float, n: int = 150) -> None:
    """Log a job for each budget of both settings: what they think is as good, and nf4 takes so many
    times as long."""
    hard, luck = np.random.default_rng(99).normal(3.6, 0.4, n), np.random.default_rng(98).random(n)
    for config, factor in ((NF4, longer), (NONE, 1.0)):
        need = (factor * np.exp(hard)).astype(int)
        for budget in BUDGETS:
            words = need if budget is None else np.minimum(need, budget)
            solved = luck < 0.2 + 0.7 * (words / need) ** 2
            name = f"{config['quantization.name']}-{budget}"
            thinking_job(store, experiment, name, solved.tolist(), words.tolist(), budget, config=config)


def compared(show: Any, experiment: str, *arguments: str) -> dict[str, Any]:
    """Return the only comparison at equal tokens, and check the whole document."""
    document = json.loads(show(experiment, *BASELINE, "--format", "json", *arguments)[1])
    assert list(faults(document, SCHEMA)) == []
    (found,) = document["tables"][0]["equal_tokens"]
    return dict(found)


def test_longer_thoughts_are_worse_at_equal_tokens_and_equal_ones_are_not(
    store: Store, show: Any, tmp_path: Path
) -> None:
    budgets(store, "longer", 1.5)
    budgets(store, "as-long", 1.0)
    longer, as_long = compared(show, "longer"), compared(show, "as-long")
    assert (longer["setting"], longer["baseline"]) == (
        {"quantization.name": "nf4"},
        {"quantization.name": "none"},
    )
    assert (longer["finding"], as_long["finding"]) == ("worse", "no difference shown")
    assert longer["outside"][-2:] == ["128", "no limit"], "the baseline never thinks as long"
    assert all(low["tokens"] <= longer["high_tokens"] for low in longer["points"])
    assert show("longer", *BASELINE, "--save", str(tmp_path))[0] == 0
    picture = (tmp_path / "thinking_budget.svg").read_text()
    assert picture.count("stroke-opacity: 0.45") == 2 * 2 * len(BUDGETS), "two panes, a bar for each job"
    assert all(f">{words}<" in picture for words in ("nf4", "none", "no limit", "16"))
    page = (tmp_path / "comparison.html").read_text()
    assert "at equal tokens, nf4 vs none (n=150): worse (Δ −" in page
    assert "128, no limit, because the baseline has no such token counts" in page
    with (tmp_path / "comparison.csv").open() as file:
        line = next(line for line in csv.DictReader(file) if line["job_id"] == "nf4-64")
    assert line["thinking_finding"] == "larger"
    assert float(line["right_answer_costs_tokens"]) > 0


def test_what_is_not_compared_is_said(store: Store, show: Any) -> None:
    budgets(store, "few that think", 1.5, 40)
    assert (
        compared(show, "few that think")["note"]
        == "only 40 questions were answered at every budget, but the test needs 50"
    )
    for config, least in ((NF4, 60), (NONE, 10)):
        for budget in (100, 200):
            words = [least + budget // 10] * 60
            thinking_job(
                store, "tokens apart", f"{least}-{budget}", marks(40, 60), words, budget, config=config
            )
    text = PROMPT_TOKENS + ANSWER_TOKENS
    assert compared(show, "tokens apart")["note"] == (
        f"the token counts do not overlap: {70 + text}.0 to {80 + text}.0 in this run, {20 + text}.0 to "
        f"{30 + text}.0 in the baseline"
    )


def test_what_a_right_answer_costs_has_an_interval_over_questions(
    thinkers: Store, rows: Any, show: Any
) -> None:
    found = rows("thinkers", *BASELINE)["nf4"]
    costs = found["right_answer_costs"]
    assert (
        0.7 * costs["tokens"]
        < costs["tokens_low"]
        < costs["tokens"]
        < costs["tokens_high"]
        < 1.3 * costs["tokens"]
    )
    accuracy = found["metrics"]["accuracy_high"] / found["metrics"]["accuracy"]
    assert costs["tokens"] / costs["tokens_low"] > accuracy**0.5, "not narrower than the accuracy allows"
    out = " ".join(show("thinkers", *BASELINE)[1].split())
    assert f"{costs['tokens']:,.1f} [{costs['tokens_low']:,.1f}, {costs['tokens_high']:,.1f}]" in out


@pytest.mark.thorough
def test_the_interval_of_a_right_answers_cost_holds() -> None:
    """The truth is the mean tokens over the accuracy; hard questions take longer and are solved
    less often."""
    generator, missed = np.random.default_rng(7), 0
    hard = generator.normal(0, 1, 200_000)
    truth = float(
        np.exp(4 + 0.5 * hard).mean() / (generator.random(200_000) < 1 / (1 + np.exp(hard - 1))).mean()
    )
    for _ in range(300):
        hard = generator.normal(0, 1, 120)
        solved = (generator.random(120) < 1 / (1 + np.exp(hard - 1))).tolist()
        tokens = [np.exp(4 + 0.5 * hard).tolist()]
        cost = TokenCost.from_cells(
            TokenCells(tokens, [[0.0] * 120], [list(map(float, solved))]),
            Estimate(sum(solved) / 120, *compute_wilson_interval(sum(solved), 120)),
        )
        assert cost is not None
        _, low, high = cost.correct_per_1000
        missed += not 1000 / high <= truth <= 1000 / low
    assert compute_wilson_interval(missed, 300)[0] <= 0.05


def test_a_right_answer_costs_the_wrong_ones_too() -> None:
    metrics = {"n": 10.0, "correct": 4.0, "prompt_tokens": 100.0, "new_tokens": 300.0, "cost_usd": 0.2}
    speeds = {"prefill_tok_per_s": 50.0, "decode_tok_per_s": 29.0, "computed_prompt_tokens": 100.0}
    costs = compute_usage_costs_per_correct_answer(Run("", "", "gsm8k", "1", "", {}, metrics | speeds))
    assert costs == {"tokens": 100.0, "usd": 0.05, "seconds": pytest.approx((100 / 50 + 290 / 29) / 4)}
    assert (
        compute_usage_costs_per_correct_answer(Run("", "", "gsm8k", "1", "", {}, metrics | {"correct": 0.0}))
        == {}
    )
