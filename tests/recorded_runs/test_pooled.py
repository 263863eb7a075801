"""--pool: one verdict for each setting over several sets of questions, and who has none."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from question_families import in_families
from stores import INT8, NF4, NONE, Store, marks

from runner_compare.statistics.paired_means import MeanDifference

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

SETS = ("test", "train", "hard")
BASELINE = ("--baseline", "quantization=none")


@pytest.fixture(scope="module")
def three_sets(store: Store) -> Store:
    """nf4 loses 6 of 100, 200 and 100 questions on each set; int8 is equal; fp4 lacks a set."""
    for split, n in zip(SETS, (100, 200, 100), strict=True):
        for quantization, right in (
            (NONE, marks(80, n)),
            (NF4, marks(80, n, 6)),
            (INT8, [*marks(79, n - 1), True]),
            ({"quantization.name": "fp4"}, marks(80, n, 6)),
        ):
            name = quantization["quantization.name"]
            if (name, split) != ("fp4", "hard"):
                config = {**quantization, "task.split": split, "task.limit": str(n)}
                store.job("pool", f"{name}-{split}", config, right, questions=split)
    return store


@pytest.fixture
def pooled(three_sets: Store, show: Any) -> Any:
    def run(*arguments: str) -> dict[str, Any]:
        code, out, err = show("pool", "--format", "json", *BASELINE, *arguments)
        assert (code, err) == (0, "")
        (table,) = json.loads(out)["pooled"]
        return dict(table)

    return run


def row_of(table: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(next(row for row in table["rows"] if row["config"]["quantization.name"] == name))


@pytest.mark.thorough
def test_a_loss_that_no_single_set_shows_is_shown_by_all_together(pooled: Any) -> None:
    table = pooled("--pool")
    assert table["weights"] == "questions"
    assert [name.split()[0] for name in table["sets"]] == ["hard", "test", "train"]
    nf4 = row_of(table, "nf4")
    assert {it["finding"] for it in nf4["differences"].values()} == {"no difference shown"}
    comparison = nf4["comparison"]
    assert (comparison["wins"], comparison["losses"], comparison["finding"]) == (0, 18, "worse")
    assert comparison["difference"] == pytest.approx(-18 / 400)
    assert row_of(table, "int8")["comparison"]["finding"] == "no difference shown"


@pytest.mark.thorough
def test_tasks_that_count_the_same(pooled: Any) -> None:
    comparison = row_of(pooled("--pool", "tasks"), "nf4")["comparison"]
    assert comparison["method"] == "weighted_flips"
    assert comparison["difference"] == pytest.approx(-(0.06 + 0.03 + 0.06) / 3)
    assert comparison["p"] < 0.002
    assert comparison["difference_high"] < 0


@pytest.mark.thorough
def test_holm_counts_the_settings_that_are_pooled(pooled: Any) -> None:
    comparison = row_of(pooled("--pool"), "nf4")["comparison"]
    assert comparison["p_holm"] == pytest.approx(2 * comparison["p"]), (
        "nf4 and int8: fp4 has no pooled verdict"
    )


@pytest.mark.thorough
def test_a_setting_that_lacks_a_set_is_named_and_has_no_verdict(pooled: Any, show: Any) -> None:
    fp4 = row_of(pooled("--pool"), "fp4")
    assert fp4["comparison"] is None
    assert fp4["note"] == "this configuration has no run on hard"
    _, out, _ = show("pool", *BASELINE, "--pool")
    assert "• quantization=fp4: not pooled, this configuration has no run on hard" in out


@pytest.mark.thorough
def test_the_margin_is_decided_on_the_pooled_difference(pooled: Any) -> None:
    table = pooled("--pool", "--margin", "2")
    assert row_of(table, "int8")["comparison"]["verdict"] == "as good"
    assert row_of(table, "nf4")["comparison"]["verdict"] == "worse by more"


def test_a_required_margin_is_decided_on_the_pooled_difference_too(three_sets: Store, show: Any) -> None:
    code, out, _ = show("pool", *BASELINE, "--pool", "--require", "margin=2", "--format", "json")
    assert code == 1
    (table,) = json.loads(out)["pooled"]
    assert row_of(table, "int8")["comparison"]["verdict"] == "as good"


def test_an_undecided_margin_says_how_many_more_questions_decide(pooled: Any, show: Any) -> None:
    table = pooled("--pool", "tasks", "--margin", "1")
    comparison = row_of(table, "int8")["comparison"]
    assert comparison["verdict"] == "undecided"
    assert comparison["questions_needed"] > 400
    _, out, _ = show("pool", *BASELINE, "--pool", "tasks", "--margin", "1")
    (line,) = (line for line in out.splitlines() if line.startswith("• int8") and "over 3 sets" in line)
    assert re.search(
        r"more questions would decide, [\d,]+ in total, with all question sets in the same proportion, if",
        line,
    )


@pytest.mark.thorough
def test_the_table_has_a_line_for_each_setting_and_a_column_for_each_set(
    three_sets: Store, show: Any
) -> None:
    code, out, _ = show("pool", "--format", "markdown", *BASELINE, "--pool")
    assert code == 0
    section = out.split("### accuracy over 3 sets of questions")[1]
    head, nf4 = (next(line for line in section.splitlines() if word in line) for word in ("| hard", "| nf4 "))
    assert "hard | test | train | pooled Δ points [simultaneous 95 %]" in head
    assert "−6.0 | −6.0 | −3.0 | −4.5 [" in nf4
    assert nf4.rstrip().endswith("| worse |")
    assert "Every question has equal weight, so larger sets have more weight" in section


def test_csv_has_a_line_for_each_pooled_setting(three_sets: Store, show: Any) -> None:
    _, out, _ = show("pool", "--format", "csv", *BASELINE, "--pool", "tasks")
    lines = [line for line in csv.DictReader(io.StringIO(out)) if line["task"] == "pooled"]
    assert {line["quantization.name"]: line["finding"] for line in lines}["nf4"] == "worse"
    assert {line["weights"] for line in lines} == {"tasks"}
    assert lines[0]["pooled_over"] == "hard; test; train"


@pytest.mark.thorough
@pytest.mark.slow
def test_the_page_begins_with_the_pooled_verdicts(three_sets: Store, show: Any, tmp_path: Any) -> None:
    code, _, _ = show("pool", *BASELINE, "--pool", "--save", str(tmp_path))
    assert code == 0
    page = (tmp_path / "comparison.html").read_text()
    assert 0 < page.index("accuracy over 3 sets of questions") < page.index("<h2>gsm8k")
    assert ": <b>worse</b> (Δ −4.5 points" in page


def test_opposite_differences_are_said_beside_the_mean(store: Store, show: Any) -> None:
    for split, right in (("test", marks(80, 200, 20)), ("train", marks(100, 200))):
        store.job("opposite", f"none-{split}", {**NONE, "task.split": split}, marks(80, 200), questions=split)
        store.job("opposite", f"nf4-{split}", {**NF4, "task.split": split}, right, questions=split)
    _, out, _ = show("opposite", *BASELINE, "--pool", "--margin", "5")
    (line,) = (line for line in out.splitlines() if "over 2 sets" in line and line.startswith("•"))
    assert "no difference shown" in line
    assert (
        "the mean does not apply to each set: by themselves: worse by more than 5 points on test, better on train"
        in line
    )


@pytest.mark.thorough
def test_a_small_set_that_is_worse_by_more_is_said_beside_a_mean_that_is_as_good(
    store: Store, show: Any
) -> None:
    """The mean of 30 and 3,000 questions hides that nf4 loses a third of the small set."""
    for split, n, lost in (("small", 30, 10), ("large", 3000, 0)):
        store.job("hidden", f"none-{split}", {**NONE, "task.split": split}, marks(n, n), questions=split)
        store.job("hidden", f"nf4-{split}", {**NF4, "task.split": split}, marks(n, n, lost), questions=split)
    _, out, _ = show("hidden", *BASELINE, "--pool", "--margin", "2")
    (line,) = (line for line in out.splitlines() if "over 2 sets" in line and line.startswith("•"))
    assert (
        ". Worse, but by less than 2 points. The question sets have different effects: the mean does not apply"
        in line
    )
    assert line.endswith("by themselves: worse by more than 2 points on small.")


def test_the_same_questions_twice_are_not_pooled(store: Store, show: Any) -> None:
    for extractor in ("strict", "flexible"):
        for quantization in (NONE, NF4):
            config = {**quantization, "task.extractor": extractor}
            store.job(
                "overlapping", f"{quantization['quantization.name']}-{extractor}", config, marks(80, 100)
            )
    _, out, _ = show("overlapping", *BASELINE, "--pool")
    assert re.search(r"not pooled, flexible and strict share (80|100) questions", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool",), "--pool questions: a pooled verdict needs a baseline: add --baseline KEY=VALUE"),
        (
            (*BASELINE, "--pool", "--where", "task.split=test"),
            "all runs answered the same set of questions: gsm8k",
        ),
        (("--pool", "--flips", "nf4-test", "none-test"), "leave out --pool"),
    ],
)
def test_mistakes(three_sets: Store, show: Any, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = show("pool", *arguments)
    assert code == 2
    assert message in err


def test_another_model_is_another_setting(store: Store, show: Any) -> None:
    for model, split in (("one", "test"), ("two", "train")):
        for quantization in (NONE, NF4):
            config = {**quantization, "task.split": split, "model.name": model}
            store.job(
                "models",
                f"{quantization['quantization.name']}-{model}",
                config,
                marks(8, 10),
                questions=split,
            )
    _, out, _ = show("models", *BASELINE, "--pool")
    assert "model=one, quantization=nf4: not pooled, this configuration has no run on train" in out
    assert "model=two, quantization=nf4: not pooled, this configuration has no run on test" in out


@pytest.mark.thorough
def test_a_cluster_that_several_sets_have_counts_once(store: Store, show: Any) -> None:
    """nf4 loses all questions of 4 of 20 templates, in both sets: 80 of 400 questions, and 4 of 20
    clusters."""
    for split in ("test", "train"):
        for name, config in (("none", NONE), ("nf4", NF4)):
            solved = [name == "none" or index // 10 >= 4 for index in range(200)]
            split_config = {**config, "task.split": split}
            job = f"{name}-{split}"
            in_families(store, "pooled families", job, split_config, solved, 10, questions=split)
    for weights in ("questions", "tasks"):
        asked = ("--format", "json", *BASELINE, "--pool", weights)
        _, out, _ = show("pooled families", *asked)
        (row,) = json.loads(out)["pooled"][0]["rows"]
        comparison = row["comparison"]
        assert (comparison["method"], comparison["clusters"]) == ("mean_flips", 20)
        assert (comparison["losses"], comparison["ties"]) == (80, 320)
        assert comparison["difference"] == pytest.approx(-0.2)
        by_clusters = MeanDifference.from_differences(
            [-1.0] * 40 + [0.0] * 160, [at // 10 for at in range(200)]
        )
        assert comparison["p"] == pytest.approx(by_clusters.p)
        assert comparison["p"] > 0.05, "80 independent losses would have a p of 1e-24"
