"""Real logs of inspect_ai, compared like our own runs; damaged ones are rejected by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from changed_logs import wrong_type
from other_logs import INSPECT, Members, changed_log, log_of, unequal_questions

from runner_compare.statistics.stats import compute_exact_mcnemar_p_value, compute_wilson_interval

MODEL = "openai-api/runner/embedded"
VERDICTS = ("--task", "problems")  # and not the numbers of another score of these logs
NONE, CUT_OFF, NF4 = INSPECT / "none", INSPECT / "cut_off", INSPECT / "nf4"


def samples(members: Members) -> list[dict[str, Any]]:
    return [content for name, content in members.items() if name.startswith("samples/")]


def test_samples_are_paired_with_those_of_the_first_path(tables: Any, run: Any) -> None:
    numbers, table = sorted(tables(NONE, CUT_OFF, NF4), key=lambda it: str(it["task"]), reverse=True)
    assert numbers["task"] == "problems:digits"
    assert numbers["rows"][1]["note"].startswith(
        "the test needs at least 50 questions, but the runs share only 24 (difference: −0.0478"
    )
    assert table["task"] == "problems"
    assert table["baseline"] == {"model.name": MODEL, "generation.max_tokens": "64"}
    base, cut_off, nf4 = table["rows"]
    assert base["is_baseline"]
    # as inspect's own log says
    assert (base["metrics"]["correct"], base["metrics"]["n"]) == (22, 24)
    assert cut_off["config"] == {"model.name": MODEL, "generation.max_tokens": "16"}
    comparison = cut_off["comparison"]
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (0, 22, 2)
    assert comparison["p"] == pytest.approx(compute_exact_mcnemar_p_value(0, 22))
    assert comparison["finding"] == "worse"
    assert nf4["config"]["model.name"] == f"{MODEL}+nf4"
    assert nf4["comparison"]["ties"] == 24

    code, out, err = run(NONE, CUT_OFF)
    assert code == 0
    assert "omitted" not in err
    assert "generation.max_tokens=16 vs generation.max_tokens=64 (n=24): worse" in out


@pytest.mark.thorough
def test_other_options_work_as_for_our_own_runs(run: Any, tables: Any, tmp_path: Path) -> None:
    (table,) = tables(
        INSPECT / "none",
        NF4,
        CUT_OFF,
        "--baseline",
        f"model={MODEL}+nf4",
        "--where",
        "generation.max_tokens=64",
        *VERDICTS,
    )
    assert [row["is_baseline"] for row in table["rows"]] == [True, False]
    (table,) = tables(NONE, NF4, "--margin", "45", *VERDICTS)
    assert table["rows"][1]["comparison"]["verdict"] == "as good"
    code, out, err = run(NONE, CUT_OFF, "--flips", "generation.max_tokens=64", "generation.max_tokens=16")
    assert code == 0, err
    text = " ".join(out.split())
    assert "22 lost, 0 won, 0 solved by both, 2 solved by neither" in text
    assert "How many cards does Ana have?" in text
    code, out, err = run(NONE, CUT_OFF, "--format", "csv", "--save", tmp_path / "saved")
    assert code == 0, err
    assert out.startswith("task,")
    page = (tmp_path / "saved" / "comparison.html").read_text()
    assert "<b>worse</b>" in page
    assert "samples.html" in {path.name for path in (tmp_path / "saved").iterdir()}


def test_a_folder_of_several_logs_has_a_row_for_each_kind(tables: Any, tmp_path: Path) -> None:
    for name in ("none", "nf4", "cut_off"):
        log = log_of(name)
        (tmp_path / log.name).write_bytes(log.read_bytes())
    (table,) = tables(tmp_path, *VERDICTS)
    assert len(table["rows"]) == 3
    (table,) = tables(
        tmp_path, "--baseline", "model=" + MODEL, "--where", "generation.max_tokens=64", *VERDICTS
    )
    assert table["rows"][1]["comparison"]["ties"] == 24


def test_the_newest_of_equal_evaluations_in_a_folder_counts(tables: Any, tmp_path: Path) -> None:
    def older(members: Members) -> None:
        members["header.json"]["eval"]["created"] = "2020-01-01T00:00:00+00:00"
        members["header.json"]["results"]["scores"] = []
        for one in samples(members):
            one["scores"]["match"]["value"] = "I"

    changed_log(tmp_path / "zzz.eval", older)
    (tmp_path / "new.eval").write_bytes(log_of("none").read_bytes())
    (table,) = tables(tmp_path, *VERDICTS)
    assert [row["metrics"]["correct"] for row in table["rows"]] == [22]


def test_a_log_as_json_and_one_with_epochs(tables: Any) -> None:
    epochs, as_json = INSPECT / "epochs", INSPECT / "as_json"
    (table,) = tables(as_json, epochs, *VERDICTS)
    base, row = table["rows"]
    # a sample counts once, not once for each of three epochs
    assert base["metrics"]["n"] == row["metrics"]["n"] == 6
    assert row["config"]["task.epochs"] == "3"
    assert row["metrics"]["accuracy"] == pytest.approx(15 / 18), (
        "inspect's own: three samples have 2 of 3 epochs right"
    )
    comparison = row["comparison"]
    assert (comparison["ties"], comparison["losses"], comparison["samples_a_question"]) == (3, 3, 3)
    assert row["metrics"]["correct"] == 6
    assert comparison["difference"] == pytest.approx(-3 / 3 / 6)


def test_the_share_of_right_epochs_counts_and_other_reducers_are_named(
    tables: Any, run: Any, tmp_path: Path
) -> None:
    def change(members: Members) -> None:
        members["header.json"]["results"]["scores"] = []
        members["header.json"]["eval"]["config"]["epochs_reducer"] = ["mode"]
        for one in samples(members):
            right = {"problem-0": 1, "problem-1": 2}.get(one["id"], 3)
            one["scores"]["match"]["value"] = "C" if one["epoch"] <= right else "N"

    log = changed_log(tmp_path / "a.eval", change, source="epochs")
    (table,) = tables(log, *VERDICTS)
    metrics = table["rows"][0]["metrics"]
    assert (metrics["correct"], metrics["accuracy"]) == (5, pytest.approx((1 + 2 + 4 * 3) / 18))
    assert metrics["pass_at_k/3"] == 1.0
    assert f"{log}: inspect_ai aggregates the epochs of match by mode. " in run(log)[2]


@pytest.mark.parametrize(
    ("value", "is_compared"),
    [("C", True), ("N", True), (1, True), (False, True), ("P", True), (0.5, True), ("yes", False)],
)
def test_which_scores_are_compared(run: Any, tmp_path: Path, value: object, is_compared: bool) -> None:
    def change(members: Members) -> None:
        members["header.json"]["results"]["scores"] = []
        for one in samples(members):
            del one["scores"]["digits"]
        samples(members)[0]["scores"] = {"match": {"value": value}}

    code, _, err = run(changed_log(tmp_path / "a.eval", change))
    assert code == (0 if is_compared else 2)
    assert ("nothing in it can be compared" in err) != is_compared


def more_samples(members: Members, times: int = 3) -> None:
    """Let a log have more samples, without what its header says of their mean."""
    for name, one in [item for item in members.items() if item[0].startswith("samples/")]:
        for at in range(1, times):
            members[f"samples/{at}{name.removeprefix('samples/')}"] = {**one, "id": f"{one['id']}-{at}"}
    header = members["header.json"]
    header["results"] |= {"total_samples": times * 24, "scores": []}


def partly_right(name: str, members: Members) -> None:
    """Let every third sample be partly right, and more of them than in another log."""
    more_samples(members)
    for at, one in enumerate(samples(members)):
        value = {"a": "P" if at % 3 == 0 else "C", "b": "I" if at % 3 == 0 else "C"}[name]
        one["scores"] = {"match": {"value": value}}


def test_partly_right_samples_are_compared_as_numbers(tables: Any, run: Any, tmp_path: Path) -> None:
    paths = [changed_log(tmp_path / f"{name}.eval", partial(partly_right, name)) for name in "ab"]
    (table,) = tables(*paths)  # b says right or wrong for each sample, a does not
    assert table["task"] == "problems:match"
    number = table["rows"][1]["number"]
    assert (number["baseline_mean"], number["mean"], number["finding"]) == (
        pytest.approx(5 / 6),
        2 / 3,
        "worse",
    )
    code, out, err = run(*paths, "--metric", "match")
    assert code == 0, err
    assert "(n=72): worse (Δ −0.1667 match, 95 % interval" in out
    code, out, err = run(*paths, "--metric", "mach")
    assert code == 2
    assert "--metric mach: no metric in these files 'mach'. Did you mean match?" in err


def test_of_a_number_that_is_no_grade_neither_direction_is_better(tables: Any, tmp_path: Path) -> None:
    def change(value: float, members: Members) -> None:
        more_samples(members)
        for one in samples(members):
            one["scores"] = {"length": {"value": value}}

    paths = [changed_log(tmp_path / f"{value}.eval", partial(change, value)) for value in (3, 4.5)]
    (table,) = tables(*paths)
    assert table["rows"][1]["number"]["finding"] == "larger"


def in_families(members: Members) -> None:
    for at, one in enumerate(sorted(samples(members), key=lambda one: str(one["id"]))):
        one["metadata"] = {"story": at // 3, "depth": 0.5}


def test_a_field_of_the_metadata_names_families(tables: Any, rejected: Any, tmp_path: Path) -> None:
    paths = [changed_log(tmp_path / f"{name}.eval", in_families, source=name) for name in ("none", "nf4")]
    (table,) = (it for it in tables(*paths, "--cluster", "story") if it["task"] == "problems")
    comparison = table["rows"][1]["comparison"]
    assert (comparison["method"], comparison["clusters"]) == ("mean_flips", 8)
    metrics = table["rows"][0]["metrics"]
    assert metrics["families"] == 8
    assert metrics["accuracy_low"] < compute_wilson_interval(int(metrics["correct"]), metrics["n"])[0]
    error = rejected(*paths, "--cluster", "tale")
    assert f"--cluster tale: {paths[0]}, sample problem-" in error
    assert (
        "it has no such text or whole number (story). A field is a key of a sample's metadata (inspect_ai)"
        in error
    )
    assert "metadata (inspect_ai)" in rejected(NONE, NF4, "--cluster", "story")


def test_a_score_of_several_values_is_several_scores(tables: Any, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        for at, one in enumerate(samples(members)):
            one["scores"] = {"rubric": {"value": {"polite": 1, "true": at % 2}}}

    (table,) = tables(changed_log(tmp_path / "a.eval", change))
    assert {row["config"]["task.metric"]: row["metrics"]["correct"] for row in table["rows"]} == {
        "rubric.polite": 24,
        "rubric.true": 12,
    }


def test_samples_with_errors_are_named_and_count_only_if_asked_for(
    run: Any, tables: Any, tmp_path: Path
) -> None:
    def change(members: Members) -> None:
        for one in samples(members)[:2]:
            one |= {"scores": None, "error": {"message": "boom", "traceback": "", "traceback_ansi": ""}}

    path = changed_log(tmp_path / "a.eval", change)
    code, _, err = run(NONE, path)
    assert code == 0
    assert "2 of 24 questions ended in an error" in err
    (table,) = tables(NONE, path, "--count-errors", *VERDICTS)
    assert table["rows"][1]["comparison"]["losses"] == 2


def test_other_samples_are_not_paired(tables: Any, tmp_path: Path) -> None:
    """Ids are often just numbers: the question and the gold answer must agree, too."""

    def change(members: Members) -> None:
        samples(members)[0]["input"] = "another question"

    (table,) = tables(NONE, changed_log(tmp_path / "a.eval", change), *VERDICTS)
    assert table["rows"][1]["note"] == unequal_questions(24, 24, 23)
    (table,) = tables(NONE, tmp_path / "a.eval", "--unpaired", *VERDICTS)
    assert table["rows"][1]["comparison"]["method"] == "fisher"


def edit_header(**values: Any) -> Callable[[Members], None]:
    return lambda members: members["header.json"].update(values)


def edit_sample(**values: Any) -> Callable[[Members], None]:
    return lambda members: samples(members)[3].update(values)


def copy_sample(members: Members) -> None:
    name = next(name for name in members if name.startswith("samples/"))
    members["samples/copy.json"] = members[name]
    members["header.json"]["results"]["total_samples"] = 25


def wrong(members: Members) -> None:
    next(one for one in samples(members) if one["scores"]["match"]["value"] == "C")["scores"]["match"][
        "value"
    ] = "I"


def less_digits(members: Members) -> None:
    samples(members)[3]["scores"]["digits"]["value"] = 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_header(status="started"), "is not finished (status started)"),
        (edit_header(status="cancelled"), "is not finished (status cancelled)"),
        (
            edit_header(status="error", error={"message": "\x1b[2Jboom"}),
            r"is not finished (status error (\x1b[2Jboom))",
        ),
        (edit_header(invalidated=True), "the evaluation was invalidated"),
        (edit_header(status=None), "status is missing"),
        (edit_header(eval={}), "eval.task is missing"),
        (edit_header(eval=[]), wrong_type("eval", "list", "object")),
        (edit_header(results=None), "results.total_samples is missing"),
        (lambda members: members.pop("header.json"), "header.json is not in it"),
        (
            lambda members: members.pop(next(iter(members))),
            "the header records 24 samples, but the log has 23",
        ),
        (copy_sample, "is duplicated"),
        (wrong, "the accuracy by match is 0.875 over the samples, but its header reports 0.91666"),
        (less_digits, "the mean by digits is 0.186636 over the samples, but its header reports 0.1964"),
        (edit_sample(id=None), "problem-16_epoch_1.json: id is missing"),
        (edit_sample(epoch="1"), wrong_type("epoch", "text", "whole number")),
        (edit_sample(input=None), "input is missing"),
        (edit_sample(target=5), wrong_type("target", "whole number", "text or list")),
        (edit_sample(scores=[]), wrong_type("scores", "list", "object")),
        (edit_sample(scores={"match": {"value": float("nan")}}), "the score match has no value"),
        (edit_sample(scores={"match": {}}), "the score match has no value"),
    ],
)
def test_a_damaged_log_is_rejected_by_name(
    rejected: Any, tmp_path: Path, change: Callable[[Members], None], message: str
) -> None:
    path = changed_log(tmp_path / "bad.eval", change)
    error = rejected(path)
    assert message in error
    assert str(path) in error


def test_a_damaged_log_as_json_is_rejected_by_name(rejected: Any, tmp_path: Path) -> None:
    content = json.loads(log_of("as_json").read_text())
    path = tmp_path / "log.json"
    path.write_text(json.dumps(content | {"samples": None}))
    assert f"{path}: samples is missing" in rejected(path)
    path.write_text(json.dumps(content | {"samples": [5] * 6}))
    assert wrong_type(f"{path}, sample 1: what it holds", "whole number", "object") in rejected(path)
    path.write_text(json.dumps(content)[:5000])
    assert f"{path}: not JSON" in rejected(path)


def test_control_characters_of_a_log_are_escaped(run: Any, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        members["header.json"]["eval"]["model"] = "evil\x1b[2J"
        for one in samples(members):
            one["output"]["completion"] = "\x1b]0;title\x07"

    path = changed_log(tmp_path / "a.eval", change)
    for more in ([], ["--format", "csv"], ["--format", "markdown"]):
        code, out, err = run(CUT_OFF, path, *more)
        assert code == 0, err
        assert "\x1b" not in out + err
    code, out, err = run(CUT_OFF, path, "--flips", "generation.max_tokens=16", "generation.max_tokens=64")
    assert code == 0, err
    assert "\x1b" not in out + err
