"""Words for effects: each method has its entry, and its effects have the fields that the entry
uses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runner_base.tables import fit_table_to_width
from runner_compare.metrics import BetterDirection
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.render.columns import build_detailed_ratio_columns
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.effects import (
    build_effect_records_by_key,
    describe_margin_decision,
    format_detectable_difference,
    format_effect,
    format_effects_legend,
    format_pair_counts,
)
from runner_compare.render.findings import format_row_finding_sentence
from runner_compare.render.margins import UNDECIDED
from runner_compare.render.quantities import METHODS, REPEATS, MethodTexts, Quantity, find_quantity
from runner_compare.statistics import (
    RATIOS,
    Decision,
    Finding,
    FisherTest,
    McNemarTest,
    MeanFlipTest,
    Measurements,
    Method,
    MetricFlipTest,
    SeedTest,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    create_pooled_test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.paired_means import CAUTION
from runner_compare.statistics.pooling import PairedVerdicts, PoolingWeights

TESTS = [
    McNemarTest(3, 1, 100, 50),
    create_pooled_test([PairedVerdicts(3, 1, 100, 50), PairedVerdicts(2, 2, 40, 20)], PoolingWeights.tasks),
    MeanFlipTest([0.5, 0.0, -0.25, 1.0] * 2, [1, 1, 2, 3, 4, 5, 6, 7], "template", 4, 5),
    SeedTest(MeanFlipTest([0.5, 0.0, -0.25, 1.0] * 2, samples=3), [0.5, 0.6, 0.7], [0.4, 0.3]),
    FisherTest(40, 80, 50, 100),
    SequentialTest([(True, True), (True, False)]),
    SequentialTest([(True, True), (True, False)], 4),
    SignFlipTest([0.1, -0.3, 0.2], [3.0, 5.0, 2.0], "token"),
    MetricFlipTest(
        "f1", [0.1, -0.3, 0.2], [1.0, 1.0, 1.0], BetterDirection.higher, [0.6, 0.4, 0.5], [0.5, 0.7, 0.3]
    ),
    StudentTTest("load_s", Measurements([2.0], [2.0, 3.0, 2.5]), Measurements([1.0], [1.0, 5.5, 1.2])),
    StudentTTest("load_s", Measurements([2.0, 3.0], [2.5]), Measurements([1.0, 1.5], [1.25])),
]


EFFECTS = [decision for test in TESTS for decision in decide_comparisons_with_holm([test])]


def row(effect: Decision) -> TableRow:
    base = TableRow(Run("base", "base", "any", "1", "", {}, {}), {})
    return TableRow(Run("run", "run", "any", "1", "", {}, {}), {}, baseline=base, effects=[effect])


def test_every_method_has_words_and_an_effect_here() -> None:
    assert set(Method) <= set(METHODS) == {it.method for it in EFFECTS}


def processes(ours: int, theirs: int, *, fresh: bool = False) -> StudentTTest:
    """The same speed in so many runs each."""
    return StudentTTest(
        "load_s",
        Measurements([2.0, 3.0], [2.5] * ours, fresh),
        Measurements([1.0, 1.5], [1.25] * theirs, fresh),
    )


def test_too_few_runs_say_how_many_more_are_needed() -> None:
    def said(*tests: StudentTTest) -> str:
        effects = decide_comparisons_with_holm(tests)
        one = row(effects[0])
        one.effects = effects
        return format_row_finding_sentence(one, [])

    one_each = said(processes(1, 1))
    assert one_each.startswith("run vs base: one process each cannot show a difference in 1 comparison. ")
    assert "Run both jobs 3 more times with rerun=all " in one_each
    assert "workers=1 hydra.launcher.fresh=true" in one_each
    assert "4 runs per job detect a difference of 3 times the spread between runs" in one_each
    assert said(processes(2, 2)).startswith("run vs base: 2 runs of each job cannot show")
    assert said(processes(1, 9)).startswith("run vs base: 1 run of one job cannot show")
    repeated = said(processes(1, 1, fresh=True))
    assert "Run both jobs with task.repeats=4, " in repeated
    assert "rerun=all" not in repeated
    assert said(processes(3, 3)) == ""
    many = [processes(3, 3) for _ in range(12)]
    assert said(*many).startswith(
        "run vs base: 3 runs of each job cannot show a difference in 12 comparisons. Run both"
    )
    assert said(*[processes(5, 5) for _ in range(12)]) == ""


def test_what_is_not_tested_has_no_p_and_no_finding() -> None:
    (effect,) = decide_comparisons_with_holm([processes(1, 1)], {RATIOS: 0.05})
    cells = {
        column.head: column.cells[0]
        for column in build_detailed_ratio_columns(Table("any", [], [row(effect)]))
    }
    assert (cells["p"], cells["Holm"], cells["finding"]) == ("–", "–", "within these processes only")
    assert (cells["runs"], cells["ratio"], cells["margin"]) == (
        "1/1",
        "×2 [1.33, 3]",
        f"{UNDECIDED} within 5 %",
    )
    record = build_effect_records_by_key(row(effect))["ratios"][0]
    assert (record["p"], record["p_holm"], record["method"]) == (None, None, "too_few_runs")
    assert (record["repeats"], record["runs"], record["verdict"], record["runs_needed"]) == (
        2,
        1,
        "undecided",
        None,
    )
    text = format_effects_legend([effect])
    assert "within these processes only" in text
    assert "nothing is tested" in text
    assert "95 %" not in text, "no interval is promised"


def test_one_run_each_of_one_repeat_has_no_interval() -> None:
    (effect,) = decide_comparisons_with_holm(
        [StudentTTest("decode_tok_per_s", Measurements([710.0], [710.0]), Measurements([533.0], [533.0]))]
    )
    table = Table("any", [], [row(effect)])
    cells = {column.head: column.cells[0] for column in build_detailed_ratio_columns(table)}
    assert cells["ratio"] == "×1.33, one run each, no interval"
    (record,) = build_effect_records_by_key(row(effect))["ratios"]
    assert (record["ratio_low"], record["ratio_high"]) == (None, None)
    (several,) = decide_comparisons_with_holm(
        [
            StudentTTest(
                "decode_tok_per_s", Measurements([700.0, 720.0], [710.0]), Measurements([533.0], [533.0])
            )
        ]
    )
    assert format_effect(several) == "1.33, one run each, no interval", (
        "one side's repeats are no range of both"
    )


def test_the_table_of_ratios_names_both_sides_where_one_row_was_compared() -> None:
    """The caption said `compared with the baseline task.streams=2` where streams=1 is the
    baseline."""
    one = row(*decide_comparisons_with_holm([processes(1, 1)]))
    assert one.baseline is not None
    one.config, one.baseline.config = {"task.streams": "2"}, {"task.streams": "1"}
    table = Table("any", ["task.streams"], [one.baseline, one])
    assert build_detailed_ratio_columns(table)[0].cells == ["task.streams=2 vs task.streams=1"]
    one.effects = [*one.effects, *decide_comparisons_with_holm([processes(1, 1)])]
    fitted = fit_table_to_width(build_detailed_ratio_columns(table), 200)
    assert "comparison = task.streams=2 vs task.streams=1" in fitted.caption


def test_a_margin_of_a_ratio_has_words() -> None:
    (noisy,) = decide_comparisons_with_holm(
        [StudentTTest("load_s", *[Measurements([1.0], [1.0, 1.2, 0.9, 1.1])] * 2)], {RATIOS: 0.05}
    )
    (steady,) = decide_comparisons_with_holm(
        [StudentTTest("load_s", *[Measurements([1.0], [1.0, 1.001, 0.999, 1.0])] * 2)], {RATIOS: 0.05}
    )
    assert describe_margin_decision(noisy).startswith(f"{UNDECIDED} within 5 %: about 103 runs of each ")
    assert describe_margin_decision(steady) == "no loss above 5 %"
    assert (
        "above 1/1.05 of the baseline's, or that the time or memory is below 1.05 of the baseline's"
        in format_effects_legend([steady])
    )


def test_other_ratios_have_their_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    (few,) = decide_comparisons_with_holm([processes(1, 1)])
    counted = Quantity(record_key=REPEATS.record_key, keys=REPEATS.keys, write=REPEATS.write, counted="words")
    monkeypatch.setitem(METHODS, Method.fisher, MethodTexts(counted, sample="{n}/{baseline_n}"))
    other = replace(few, method=Method.fisher, measure="words")
    assert format_row_finding_sentence(row(other), []) == ""
    heads = {
        len(rows): build_detailed_ratio_columns(Table("any", [], rows))[3].head
        for rows in ([row(other)], [row(few), row(other)])
    }
    assert heads == {1: "words", 2: "runs/words"}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda it: it.method)
def test_what_is_written_and_recorded_of_an_effect(effect: Decision) -> None:
    record_by_key = build_effect_records_by_key(row(effect))
    record = (
        record_by_key["ratios"][0] if effect.is_ratio else record_by_key[find_quantity(effect).record_key]
    )
    assert list(record) == find_quantity(effect).keys.split()
    assert json.loads(json.dumps(record))["finding"] == "no difference shown"
    assert " [" in format_effect(effect)
    assert METHODS[effect.method].quantity.legend[0].split("{")[0] in format_effects_legend([effect])
    text = format_row_finding_sentence(row(effect), [])
    assert text.startswith("run vs base") or (effect.is_ratio and text == "")
    assert "{" not in text + format_pair_counts(effect) + format_detectable_difference(
        effect
    ) + format_effects_legend([effect])


def test_bets_that_decide_about_a_margin_are_one_clear_sentence() -> None:
    (decided,) = decide_comparisons_with_holm(
        [SequentialTest([(True, True)] * 34 + [(False, True)], 1)], {"accuracy": 0.2}
    )
    text = format_row_finding_sentence(row(decided), [])
    assert text.endswith(" No loss above 20 points after 35 questions.")
    assert UNDECIDED not in text
    (few,) = decide_comparisons_with_holm([SequentialTest([(True, True)] * 5, 1)], {"accuracy": 0.2})
    assert format_row_finding_sentence(row(few), []).endswith(
        " Undecided within 20 points after 5 questions."
    )


def test_the_legend_of_bets_does_not_say_holm() -> None:
    both = "Holm's correction covers findings and margin verdicts together"
    bets, exact = decide_comparisons_with_holm(
        [SequentialTest([(True, True)] * 34, 3), McNemarTest(1, 1, 100)], {"accuracy": 0.2}
    )
    adjusted = "p-value after Holm's correction"
    assert adjusted not in format_effects_legend([bets])
    assert adjusted in format_effects_legend([exact])
    assert both not in format_effects_legend([bets])
    assert "run's e-process excludes all differences below minus the margin" in format_effects_legend([bets])
    assert both in format_effects_legend([exact])
    assert "e-process" not in format_effects_legend([exact])
    assert both in format_effects_legend([bets, exact])


def test_a_row_that_is_worse_gets_no_advice_for_equal_ones() -> None:
    """`If neither is better, about 1,680 questions would decide` stood right after `worse (p =
    0.0054)`."""
    (worse,) = decide_comparisons_with_holm([McNemarTest(10, 27, 1000)], {"accuracy": 0.02})
    text = format_row_finding_sentence(row(worse), [])
    assert ": worse (" in text
    assert text.endswith(" Perhaps by more than 2 points.")
    assert "if neither is better" not in text
    (alike,) = decide_comparisons_with_holm([McNemarTest(0, 0, 50)], {"accuracy": 0.02})
    assert "Undecided within 2 points: about " in format_row_finding_sentence(row(alike), [])
    assert format_row_finding_sentence(row(alike), []).endswith(
        "if neither is better and they disagree as often."
    )


@pytest.mark.parametrize(
    "it", [it for it in EFFECTS if it.method in (Method.sign_flips, Method.number_flips)]
)
def test_the_legend_says_what_few_samples_cost_and_what_no_test_allows_for(it: Decision) -> None:
    text = format_effects_legend([it])
    assert "p is 2 times (3 times below 200, 4 times below 80 samples) the share" in text
    assert "s of a kind of which fewer than about 4 are expected in it, and no test allows for this." in text


def test_the_legend_of_families_says_what_its_test_allows_for() -> None:
    text = format_effects_legend([it for it in EFFECTS if it.method is Method.mean_flips])
    assert (
        f"If a kind of question may be all lost and absent from the sample, p is multiplied by {CAUTION:g}."
        in text
    )
    assert (
        "The sample may contain too few questions of a kind of which fewer than about 4 are expected in it."
        in text
    )


@pytest.mark.thorough
def test_few_families_are_told_what_would_show_more() -> None:
    """Twenty families show only large differences, however many questions are in each."""
    for families, is_told in ((20, True), (60, False)):
        for differences in ([0.5, 0.0, -0.5] * 400, [0.0, 0.0, 1.0] * 400):
            (it,) = decide_comparisons_with_holm(
                [MeanFlipTest(differences, [number % families for number in range(1200)], "template")]
            )
            more = " Use questions from new clusters: the clusters limit the precision, not the number of questions."
            assert (more in format_row_finding_sentence(row(it), [])) == (
                is_told and it.finding is Finding.open
            )
    (it,) = decide_comparisons_with_holm([MeanFlipTest([0.5, 0.0, -0.5] * 8, samples=2)])
    more = "se more questions: the questions limit the precision, not the answers per question"
    assert more in format_row_finding_sentence(row(it), [])
    assert "Add questions" in conclusion_text([row(it)])
