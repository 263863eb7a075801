"""Real results of lighteval, compared like our own runs; damaged ones are rejected by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from changed_logs import wrong_type
from other_logs import LIGHTEVAL, lighteval_copy, rewrite_rows

WHOLE, CUT_OFF = LIGHTEVAL / "whole", LIGHTEVAL / "cut_off"
Rows = list[dict[str, Any]]


def test_samples_are_paired_with_those_of_the_first_path(tables: Any, run: Any) -> None:
    table_by_task = {table["task"]: table for table in tables(WHOLE, CUT_OFF)}
    assert sorted(table_by_task) == ["choices|0", "sums|0", "sums|0:f1"]
    assert table_by_task["sums|0:f1"]["rows"][1]["note"].startswith(
        "the test needs at least 50 questions, but the runs share only 24 (difference: "
    )
    base, cut_off = table_by_task["sums|0"]["rows"]
    # as lighteval's own table says
    assert (base["metrics"]["correct"], base["metrics"]["n"]) == (22, 24)
    assert (cut_off["comparison"]["losses"], cut_off["comparison"]["wins"]) == (22, 0)
    assert cut_off["comparison"]["remark"] == (
        "also different: model.dtype (float32, here bfloat16), generation.max_new_tokens (None, here 20)"
    )
    assert table_by_task["choices|0"]["rows"][1]["comparison"]["ties"] == 24
    code, out, err = run(WHOLE, CUT_OFF, "--task", "sums|0")
    assert code == 0
    assert "omitted" not in err
    assert "worse (Δ −91.7 points" in out


def test_flips_show_questions_answers_and_choices(run: Any, tmp_path: Path) -> None:
    ours = "--flips", f"output_dir={WHOLE}", f"output_dir={CUT_OFF}"
    code, out, err = run(WHOLE, CUT_OFF, "--task", "sums|0", *ours)
    assert code == 0, err
    assert "22 lost, 0 won" in " ".join(out.split())  # a long path wraps the line
    assert "Solve it step by step." in out
    results, sums = lighteval_copy(tmp_path / "copy")
    choices = next(sums.parent.glob("details_choices*"))
    rewrite_rows(choices, lambda rows: [row["metric"].update(acc=0) for row in rows])
    edit(results, lambda content: content["results"]["choices|0"].update(acc=0.0))
    theirs = "--flips", f"output_dir={WHOLE}", f"output_dir={tmp_path / 'copy'}"
    code, out, err = run(WHOLE, tmp_path / "copy", "--task", "choices|0", *theirs)
    assert code == 0, err
    assert "14 lost, 0 won" in " ".join(out.split())
    assert "-27.556 83" in out  # a choice with its log-likelihood


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_details_may_lie_beside_the_results(tables: Any, tmp_path: Path) -> None:
    results, sums = lighteval_copy(tmp_path / "copy")
    for file in [results, *sums.parent.iterdir()]:
        file.rename(tmp_path / file.name)
    assert len(tables(tmp_path / results.name)) == 3


def many(rows: Rows, value: float) -> None:
    """Let there be three times as many samples, with this f1."""
    for row in list(rows):
        for at in (1, 2):
            rows.append({**row, "doc": {**row["doc"], "id": f"{row['doc']['id']}-{at}"}})
    for row in rows:
        row["metric"] = {"f1": value}


def of_direction(content: dict[str, Any], direction: bool | None, value: float) -> None:
    """Let f1 have this direction and mean."""
    content["config_tasks"]["sums|0"]["metrics"][1].update(higher_is_better=direction)
    content["results"]["sums|0"]["f1"] = value


@pytest.mark.parametrize(("direction", "finding"), [(True, "better"), (False, "worse"), (None, "larger")])
def test_a_number_is_compared_in_its_own_direction(
    tables: Any, tmp_path: Path, direction: bool | None, finding: str
) -> None:
    for name, value in (("a", 0.25), ("b", 0.5)):
        results, sums = lighteval_copy(tmp_path / name)
        rewrite_rows(sums, partial(many, value=value))
        edit(results, partial(of_direction, direction=direction, value=value))
    (table,) = tables(tmp_path / "a", tmp_path / "b", "--task", "sums|0:f1")
    assert table["rows"][1]["number"]["finding"] == finding


def test_a_verdict_of_which_0_is_better_is_a_number(tables: Any, tmp_path: Path) -> None:
    results, _ = lighteval_copy(tmp_path / "copy")
    edit(
        results,
        lambda content: content["config_tasks"]["sums|0"]["metrics"][0].update(higher_is_better=False),
    )
    assert "sums|0:em" in {table["task"] for table in tables(tmp_path / "copy")}


def test_a_field_of_the_documents_names_families(tables: Any, rejected: Any, tmp_path: Path) -> None:
    _, sums = lighteval_copy(tmp_path / "copy")
    rewrite_rows(
        sums, lambda rows: [row["doc"].update(specific={"story": at // 3}) for at, row in enumerate(rows)]
    )
    (tmp_path / "again").symlink_to(tmp_path / "copy")
    assert "it has no such text or whole number (no fields)" in rejected(
        tmp_path / "copy", "--cluster", "story"
    )
    choices = next(sums.parent.glob("details_choices*"))
    rewrite_rows(
        choices, lambda rows: [row["doc"].update(specific={"story": at // 3}) for at, row in enumerate(rows)]
    )
    found = tables(tmp_path / "copy", tmp_path / "again", "--cluster", "story", "--task", "sums|0")
    assert found[0]["rows"][1]["comparison"]["clusters"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), "em of sums|0 is 0.913043 over the samples, but this file reports 0.91666"),
        (
            lambda rows: rows[0]["metric"].update(f1=0.5),
            "f1 of sums|0 is 0.961806 over the samples, but this file reports 0.98263",
        ),
        (lambda rows: rows.append(rows[0]), "sample 15 is duplicated"),
        (lambda rows: rows[0]["metric"].update(em=float("nan")), "em of sample 15 has no value (nan)"),
        (lambda rows: rows[0]["metric"].update(em=None), "em of sample 15 has no value (None)"),
        (lambda rows: rows[0].update(metric=None), "metric is missing in a row"),
        (lambda rows: rows[0]["doc"].update(query=None), "query is missing"),
        (
            lambda rows: [row.pop("model_response") for row in rows],
            "other columns: expected model_response (text, ",
        ),
        (
            lambda rows: [row["doc"].pop("id") for row in rows],
            "other columns: expected doc (id, query, choices",
        ),
        (
            lambda rows: [row.update(doc="text") for row in rows],
            "other columns: expected doc (id, query, choices",
        ),
    ],
)
def test_damaged_samples_are_rejected_by_name(
    rejected: Any, tmp_path: Path, change: Callable[[Rows], Any], message: str
) -> None:
    _, sums = lighteval_copy(tmp_path / "copy")
    rewrite_rows(sums, change)
    error = rejected(tmp_path / "copy")
    assert message in error
    assert str(tmp_path / "copy") in error


def test_files_that_are_no_samples_are_rejected(rejected: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    _, sums = lighteval_copy(folder)
    whole = sums.read_bytes()
    for content in (b"", whole[:100], whole[:-100], b"PAR1" + bytes(100) + b"PAR1"):
        sums.write_bytes(content)
        assert f"{sums}: the file is not a valid parquet file" in rejected(folder)
    sums.unlink()
    assert f"{sums.name} is missing in " in rejected(folder)
    assert "--save-details" in rejected(folder)
    os.mkfifo(sums)
    assert f"{sums}: this is not a file" in rejected(folder)


def test_a_damaged_results_file_is_rejected(rejected: Any, tmp_path: Path) -> None:
    for at, (change, message) in enumerate(
        (
            (lambda content: content.update(config_tasks=[]), wrong_type("config_tasks", "list", "object")),
            (lambda content: content["config_general"].pop("model_config"), "model_config is missing"),
            (
                lambda content: content["config_general"]["model_config"].pop("model_name"),
                "model_name is missing",
            ),
            (lambda content: content["results"].pop("sums|0"), "but this file reports None"),
            (lambda content: content["config_tasks"].update({"../evil": {}}), "details_../evil_"),
        )
    ):
        results, _ = lighteval_copy(tmp_path / str(at))
        edit(results, change)
        error = rejected(tmp_path / str(at))
        assert message in error
        assert str(results) in error
    results, _ = lighteval_copy(tmp_path / "named")
    moved = results.rename(tmp_path / "named" / "mine.json")
    assert f"{moved}: the file must be named results_TIME.json" in rejected(moved)
