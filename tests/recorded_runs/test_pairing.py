"""What may be compared, what is rejected by name, and that the numbers are the textbook's; repeats,
and --flips A B."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats as reference
from stores import INT8, NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

BASELINE = "quantization=none"
SWEEP: dict[str, Any] = {"tags": {"task": "sweep"}}
REPEATED = {"task.name": "sweep", "task.repeats": "5"}


def test_other_prompts_are_rejected_and_counted(store: Store, rows: Any) -> None:
    store.job("prompts", "base", NONE, marks(50, 100))
    store.job("prompts", "nf4", NF4, marks(50, 100), prompts="reworded")
    row = rows("prompts", "--baseline", BASELINE)["nf4"]
    assert row["comparison"] is None
    assert row["note"] == "100 of 100 questions have different prompts in the run and in the baseline"


def test_prompts_may_differ_if_they_are_compared(store: Store, rows: Any) -> None:
    chat, text = {"task.prompt": "chat"}, {"task.prompt": "text"}
    store.job("wording", "chat", chat, marks(50, 100))
    store.job("wording", "text", text, marks(60, 100), prompts="reworded")
    row = rows("wording", "--baseline", "task.prompt=chat")["text"]
    assert (row["comparison"]["wins"], row["comparison"]["method"]) == (10, "mcnemar")
    assert row["comparison"]["remark"] == "the prompts of 100 of 100 questions differ"


@pytest.mark.thorough
def test_questions_that_one_side_leaves_out_are_not_paired(store: Store, rows: Any) -> None:
    chosen = {"task.unscored": "bad.txt"}
    store.job("left out", "base", {**NONE, "task.unscored": "null"}, marks(50, 100))
    store.job("left out", "nf4", {**NF4, **chosen}, marks(60, 100), left_out=[55, 56, 99])
    row = rows("left out", "--baseline", "quantization=none,task.unscored=null")["nf4"]
    comparison = row["comparison"]
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (8, 0, 89)
    assert comparison["remark"] == "paired on 97 questions (this run has 97, the baseline has 100)"
    store.job("left out", "clean", {**NONE, **chosen}, marks(50, 100), left_out=[55, 56, 99])
    comparison = rows("left out", "--baseline", BASELINE)["nf4"]["comparison"]
    assert (comparison["wins"], comparison["ties"], comparison["remark"]) == (8, 89, None), (
        "both leave out the same"
    )


@pytest.mark.thorough
def test_a_run_of_some_questions_is_paired_with_one_of_all(store: Store, rows: Any, show: Any) -> None:
    store.job("some", "base", {**NONE, "task.only": "null"}, marks(50, 100))
    some = [3, 51, 52, 53, 54, 55, 56, 99]
    store.job("some", "nf4", {**NF4, "task.only": "few.txt"}, [True] * 7 + [False], numbers_asked=some)
    comparison = rows("some", "--baseline", "quantization=none,task.only=null")["nf4"]["comparison"]
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (6, 0, 2)
    _, out, _ = show("some", "--flips", "base", "nf4", "--format", "json")
    flips = json.loads(out)
    assert "question 51" in json.dumps(flips)
    store.job("some", "other", {**INT8, "task.only": "few.txt"}, [True] * 2, numbers_asked=[3, 200])
    row = rows("some", "--baseline", "quantization=none,task.only=null")["other"]
    assert row["comparison"] is None, "question 200 is not among those of the baseline"
    assert row["note"] == "the run has 2 questions, the baseline has 100, and only 1 are equal"


@pytest.mark.thorough
def test_unpaired_takes_fishers_test(store: Store, rows: Any, show: Any) -> None:
    store.job("unpaired", "base", NONE, marks(90, 100))
    store.job("unpaired", "fewer", NF4, marks(50, 80))
    store.job("unpaired", "same", INT8, marks(70, 100))
    assert rows("unpaired", "--baseline", BASELINE)["fewer"]["comparison"] is None
    row_by_job = rows("unpaired", "--baseline", BASELINE, "--unpaired")
    comparison = row_by_job["fewer"]["comparison"]
    assert comparison["method"] == "fisher"
    assert comparison["p"] == pytest.approx(reference.fisher_exact([[50, 30], [90, 10]])[1])
    assert comparison["difference"] == pytest.approx(50 / 80 - 90 / 100)
    assert comparison["difference_low"] < comparison["difference"] < comparison["difference_high"] < 0
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (None, None, None)
    assert comparison["finding"] == "worse"
    assert (
        comparison["remark"]
        == "not paired question by question: the run has 80 questions, the baseline has 100, and only 80 are equal"
    )
    # runs that can be paired are paired
    assert row_by_job["same"]["comparison"]["method"] == "mcnemar"
    _, out, _ = show("unpaired", "--baseline", BASELINE, "--unpaired")
    assert "nf4 vs none (n=80 and 100, Fisher's exact test): worse" in out
    assert "Rows without wins are unpaired comparisons (Fisher's exact test, Newcombe's interval)" in out


def test_a_job_as_baseline_is_compared_with_all_others(grid: Store, rows: Any) -> None:
    row_by_job = rows("grid", "--baseline", "job_id=none-test")
    assert next(iter(row_by_job)) == "none-test"  # it comes before the others
    counts = {
        name: [row["comparison"][key] for key in ("wins", "losses")]
        for name, row in list(row_by_job.items())[1:]
    }
    # they differ in the split, too
    assert (counts["nf4-test"], counts["nf4-train"]) == ([0, 30], [9, 0])
    assert all(
        row["comparison"]["baseline_job_id"] == "none-test"
        for row in row_by_job.values()
        if not row["is_baseline"]
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"tags": {"task_version": "2"}},
            "the scoring is version 2 strict in the run and version 1 strict in the baseline",
        ),
        ({"prompts": "other"}, "100 of 100 questions have different prompts"),
        ({"gold": "43"}, "the gold answers differ"),
    ],
    ids=["version", "prompts", "gold"],
)
def test_unpaired_compares_each_rejected_pair(
    store: Store, rows: Any, changed: dict[str, Any], why: str, request: pytest.FixtureRequest
) -> None:
    experiment = f"refused-{request.node.callspec.id}"
    store.job(experiment, "base", NONE, marks(50, 100))
    store.job(experiment, "nf4", NF4, marks(40, 100), **changed)
    assert why in rows(experiment, "--baseline", BASELINE)["nf4"]["note"]
    remark = rows(experiment, "--baseline", BASELINE, "--unpaired")["nf4"]["comparison"]["remark"]
    assert remark.startswith("not paired question by question: ")
    assert why in remark


def test_the_numbers_are_scipys(grid: Store, rows: Any) -> None:
    row_by_job = rows("grid", "--baseline", BASELINE)
    ps = {}
    for name, row in row_by_job.items():
        comparison = row["comparison"]
        if comparison is not None:
            n = comparison["wins"] + comparison["losses"]
            ps[name] = reference.binomtest(comparison["wins"], n).pvalue if n else 1.0
            assert comparison["p"] == pytest.approx(ps[name])
            assert comparison["wins"] + comparison["losses"] + comparison["ties"] == row["metrics"]["n"]
    # Holm's step-down by its definition
    ordered = sorted(ps, key=lambda name: ps[name])
    for rank, name in enumerate(ordered):
        expected = max(min(1.0, (len(ps) - at) * ps[other]) for at, other in enumerate(ordered[: rank + 1]))
        assert row_by_job[name]["comparison"]["p_holm"] == pytest.approx(expected)


# ------------------------------------------------- sweeps and memory benchmarks have no verdicts:
# repeats are compared


def cells(*speeds: float, batch: int = 8) -> list[dict[str, Any]]:
    """A sweep's repeats of one cell."""
    return [
        {"measure": f"{figure}/batch_{batch}_prompt_64", "repeat": number, "value": value}
        for number, speed in enumerate(speeds, start=1)
        for figure, value in (("ttft_s", 1 / speed), ("decode_tok_per_s", speed), ("seconds", 1.0))
    ]


def sweep_runs(
    store: Store, experiment: str, name: str, config: dict[str, str], speeds: tuple[float, ...]
) -> None:
    """Log one run for each speed, with three repeats around it."""
    for speed in speeds:
        repeats = cells(speed - 1, speed, speed + 1)
        metrics = {line["measure"]: line["value"] for line in repeats if line["repeat"] == 2}
        store.job(experiment, name, {**config, **REPEATED}, repeats=repeats, metrics=metrics, **SWEEP)


@pytest.fixture(scope="session")
def sweeps(store: Store) -> Store:
    sweep_runs(store, "sweeps", "base", NONE, (100.0, 104.0, 101.0, 103.0, 102.0))
    sweep_runs(store, "sweeps", "nf4", NF4, (120.0, 124.0, 121.0, 122.0, 123.0))
    return store


@pytest.mark.thorough
def test_a_sweep_compares_its_cells_over_its_runs(sweeps: Store, rows: Any, show: Any) -> None:
    row = rows("sweeps", "--baseline", BASELINE)["nf4"]
    ratio_by_measure = {ratio["measure"]: ratio for ratio in row["ratios"]}
    assert set(ratio_by_measure) == {"decode_tok_per_s/batch_8_prompt_64", "ttft_s/batch_8_prompt_64"}
    ratio = ratio_by_measure["decode_tok_per_s/batch_8_prompt_64"]
    ours, theirs = np.log([120, 124, 121, 122, 123]), np.log([100, 104, 101, 103, 102])
    assert ratio["ratio"] == pytest.approx(np.exp(ours.mean() - theirs.mean()))
    distance = reference.ttest_ind(ours, theirs, equal_var=False).statistic
    assert ratio["p"] == ratio["p_holm"] == pytest.approx(max(2 * reference.t.sf(distance, 4), 2**-9))
    assert (ratio["finding"], ratio["method"]) == ("larger", "student_t")
    assert (ratio["runs"], ratio["baseline_runs"], ratio["repeats"], ratio["baseline_repeats"]) == (
        5,
        5,
        3,
        3,
    )
    assert ratio_by_measure["ttft_s/batch_8_prompt_64"]["finding"] == "smaller"
    _, out, _ = show("sweeps", "--baseline", BASELINE)
    assert "×1.2 [" in out
    assert "Student's t over the runs' logarithms" in out
    for style, text in (("markdown", "| ×1.2 ["), ("csv", "ratio/decode_tok_per_s/batch_8_prompt_64")):
        assert text in show("sweeps", "--baseline", BASELINE, "--format", style)[1]


def test_a_margin_decides_about_speeds(sweeps: Store, rows: Any, show: Any) -> None:
    ratios = rows("sweeps", "--baseline", "quantization=nf4", "--margin", "5%")["base"]["ratios"]
    assert {(it["margin"], it["verdict"], it["runs_needed"]) for it in ratios} == {
        (0.05, "worse by more", None)
    }
    assert "worse by more than 5 %" in show("sweeps", "--baseline", "quantization=nf4", "--margin", "5%")[1]


def test_one_process_each_names_nothing(store: Store, rows: Any, show: Any) -> None:
    sweep_runs(store, "few", "base", NONE, (101.0,))
    sweep_runs(store, "few", "nf4", NF4, (201.0,))
    ratios = rows("few", "--baseline", BASELINE)["nf4"]["ratios"]
    assert {(it["finding"], it["method"], it["p"]) for it in ratios} == {
        ("no difference shown", "too_few_runs", None)
    }
    _, out, _ = show("few", "--baseline", BASELINE)
    assert (
        "nf4 vs none: one process each cannot show a difference in 1 comparison. Run both jobs 3 more times"
        in out
    )
    assert "within these processes only" in out


@pytest.mark.thorough
def test_a_run_beside_other_work_or_elsewhere_is_no_repeat(store: Store, rows: Any) -> None:
    for place, tags in (
        ("busy sweeps", {"fact.measured": "beside other work"}),
        ("sweeps elsewhere", {"fact.machine": "other"}),
    ):
        for name, config in (("base", NONE), ("nf4", NF4)):
            for number in range(4):
                kept = tags if number == 1 else {}
                job_tags = {**SWEEP["tags"], **kept}
                metrics = {"decode_tok_per_s/batch_8_prompt_64": 100.0 + number}
                store.job(
                    place,
                    name,
                    {**config, **REPEATED},
                    repeats=cells(100, 101),
                    metrics=metrics,
                    tags=job_tags,
                )
        speed = rows(place, "--baseline", BASELINE)["nf4"]["ratios"][0]
        assert (speed["runs"], speed["baseline_runs"]) == (3, 3), place


def test_each_repeat_of_a_memory_benchmark_is_a_run(store: Store, rows: Any, show: Any) -> None:
    for name, config, size in (("base", NONE, 900.0), ("nf4", NF4, 700.0)):
        peaks = [
            {"measure": "peak_rss_mib", "repeat": number, "value": size + number} for number in range(1, 4)
        ]
        store.job("memory", name, {**config, "task.name": "memory", "task.repeats": "3"}, repeats=peaks,
                  tags={"task": "memory"})  # fmt: skip
    (ratio,) = rows("memory", "--baseline", BASELINE)["nf4"]["ratios"]
    assert (ratio["runs"], ratio["repeats"], ratio["finding"]) == (3, 3, "smaller")


def test_cells_that_only_one_sweep_measured_are_left_out(store: Store, rows: Any) -> None:
    both = cells(100, 101, 102, 103) + cells(200, 201, 202, 203, batch=16)
    store.job("cells", "base", {**NONE, **REPEATED}, repeats=cells(100, 101, 102, 103), **SWEEP)
    store.job("cells", "nf4", {**NF4, **REPEATED}, repeats=both, **SWEEP)
    measures = [it["measure"] for it in rows("cells", "--baseline", BASELINE)["nf4"]["ratios"]]
    assert measures == ["decode_tok_per_s/batch_8_prompt_64", "ttft_s/batch_8_prompt_64"]


def test_without_repeats_there_is_no_comparison(store: Store, rows: Any) -> None:
    store.job("bare", "base", {**NONE, **REPEATED}, repeats=cells(100, 101), **SWEEP)
    store.job("bare", "nf4", {**NF4, **REPEATED}, **SWEEP)
    note = rows("bare", "--baseline", BASELINE)["nf4"]["note"]
    assert note.startswith(
        "repeated measurements are missing, because repeats.jsonl of nf4 is neither in the job's folder nor in MLflow"
    )
    split: dict[str, Any] = {"tags": {"task": "split"}}
    store.job("parts", "base", {**NONE, "task.name": "split"}, **split)
    store.job("parts", "nf4", {**NF4, "task.name": "split"}, **split)
    assert rows("parts", "--baseline", BASELINE)["nf4"]["note"] == (
        "runs of task=split have neither verdicts nor repeated measurements to compare"
    )


# --------------------------------------- --flips A B: the questions that only one of two runs
# solved, side by side


@pytest.fixture(scope="session")
def flips(store: Store) -> Store:
    """Of ten questions the baseline solves 0 to 5, nf4 solves 2 to 6: two lost, one won."""
    store.job("flips", "base", NONE, marks(6, 10))
    store.job("flips", "four", NF4, [2 <= index <= 6 for index in range(10)])
    store.job("flips", "far", {**NF4, "seed": "3", "lora.name": "pth"}, marks(6, 10, 1))
    return store


def test_side_by_side_in_the_terminal(flips: Store, show: Any) -> None:
    code, out, err = show("flips", "--flips", "base", "four")
    assert (code, err) == (0, "")
    assert "nf4 vs none: 2 lost, 1 won, 4 solved by both, 3 solved by neither" in out
    lost = out.index("lost #0 question 0  gold 42")
    assert lost < out.index("lost #1 question 1") < out.index("won #6 question 6")
    first = out[lost : out.index("lost #1")]
    # the baseline on the left
    assert first.index("none  correct: 42") < first.index("nf4  wrong: 7")
    line = next(line for line in first.splitlines() if "base thinks about question 0" in line)
    assert line.index("base thinks") < line.index("four thinks about question 0")
    assert "#2 " not in out


def test_everything_in_json(flips: Store, show: Any) -> None:
    _, out, _ = show(
        "flips", "--flips", "quantization=none", "quantization='nf4' and seed=0", "--format", "json"
    )
    table = json.loads(out)["tables"][0]
    flips_of_pair = table["flips"][0]
    assert (flips_of_pair["job_id"], flips_of_pair["baseline_job_id"]) == ("four", "base")
    assert (
        flips_of_pair["lost"],
        flips_of_pair["won"],
        flips_of_pair["both_right"],
        flips_of_pair["both_wrong"],
    ) == (2, 1, 4, 3)
    assert [(flip["index"], flip["won"]) for flip in flips_of_pair["questions"]] == [
        (0, False),
        (1, False),
        (6, True),
    ]
    won = flips_of_pair["questions"][2]
    assert won["ours"] == {
        "verdict": "correct",
        "answer": "42",
        "text": "four thinks about question 6\n#### 42",
    }
    assert won["theirs"]["answer"] == "7"
    comparison = {row["job_id"]: row["comparison"] for row in table["rows"]}["four"]
    assert (comparison["wins"], comparison["losses"]) == (1, 2)


def test_any_two_runs_that_answered_the_same_questions(flips: Store, show: Any) -> None:
    # they differ in three keys
    code, out, _ = show("flips", "--flips", "four", "far", "--format", "markdown")
    assert code == 0
    assert "- **lost, question 6:** question 6 Gold: 42" in out
    assert "- **won, question 1:**" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "base"], "both are base"),
        (["base", "quantization=nf4"], "2 runs match (far, four); they differ in lora, seed: name one"),
        (["base", "fuor"], "no finished job or run 'fuor'. Did you mean four?"),
        (["base", "four", "--baseline", "quantization=none"], "leave out --baseline"),
    ],
)
def test_flips_mistakes(flips: Store, show: Any, arguments: list[str], message: str) -> None:
    code, out, err = show("flips", "--flips", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_runs_that_cannot_be_compared_are_rejected(store: Store, show: Any) -> None:
    store.job("unlike", "base", NONE, marks(5, 10))
    store.job("unlike", "other", NF4, marks(5, 10), questions="puzzle")
    store.job("unlike", "speed", {"task.name": "sweep"}, tags={"task": "sweep"})
    code, _, err = show("unlike", "--flips", "base", "other")
    assert code == 2
    assert "--flips base other: the run has 10 questions, the baseline has 10, and only 0 are equal" in err
    store.job("unlike", "reworded", {"lora.name": "peft"}, marks(5, 10), prompts="reworded")
    store.job("unlike", "shots", {"task.shots": "8"}, marks(4, 10), prompts="reworded")
    code, _, err = show("unlike", "--flips", "base", "reworded")
    assert code == 2
    assert "10 of 10 questions have different prompts" in err
    # they differ in a key that changes the prompts
    code, out, _ = show("unlike", "--flips", "base", "shots")
    assert code == 0
    assert "he prompts of 10 of 10 questions differ" in out
    code, _, err = show("unlike", "--flips", "base", "speed")
    assert code == 2
    assert "task gsm8k and task sweep have no question in common" in err
