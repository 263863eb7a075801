"""lm-eval's files, compared like our own runs; errors in them are reported by file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from full_table import with_everything
from lm_eval_out import TIME, lm_eval_folder
from stores import marks

import runner_compare as compare
from runner_compare.statistics.accuracy_intervals import accuracy_interval
from runner_compare.statistics.paired_means import MeanDifference
from runner_compare.statistics.ratios import compute_paired_ratio_interval
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value, compute_wilson_interval

N = 60
BASE, WORSE = marks(56, N), marks(56, N, 14)  # 14 were lost


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def show(*arguments: object, option: str = "--lm-eval") -> tuple[int, str, str]:
        code = compare.main([option, *with_everything(arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return show


def tables(run: Any, *arguments: object, **option: str) -> list[dict[str, Any]]:
    code, out, err = run(*arguments, "--format", "json", **option)
    assert code == 0, err
    tables_found: list[dict[str, Any]] = json.loads(out)["tables"]
    return tables_found


def of(solved: Sequence[bool]) -> list[float]:
    return [float(one) for one in solved]


def test_documents_are_paired_with_those_of_the_first_folder(run: Any, tmp_path: Path) -> None:
    strict, flexible = "strict-match", "flexible-extract"
    a, b = tmp_path / "a", tmp_path / "b"
    lm_eval_folder(
        a / "some__model", {strict: {"exact_match": of(BASE)}, flexible: {"exact_match": of(BASE)}}
    )
    lm_eval_folder(
        b / "some__model",
        {strict: {"exact_match": of(WORSE)}, flexible: {"exact_match": of(BASE)}},
        model="runner",
        model_args={"pretrained": "some/model", "dtype": "float32", "quantization": "nf4"},
    )
    (table,) = tables(run, a, b)
    assert table["task"] == "sums"
    assert table["baseline"] == {"output_dir": str(a)}
    rows = {(row["config"]["output_dir"], row["config"]["task.filter"]): row for row in table["rows"]}
    assert len(rows) == 4
    assert rows[str(a), strict]["is_baseline"]
    comparison = rows[str(b), strict]["comparison"]
    assert (comparison["wins"], comparison["losses"], comparison["ties"]) == (0, 14, N - 14)
    assert comparison["p"] == pytest.approx(compute_exact_mcnemar_p_value(0, 14))
    assert comparison["p_holm"] == pytest.approx(2 * comparison["p"])
    assert comparison["finding"] == "worse"
    assert comparison["baseline_job_id"] == f"{a}:sums:exact_match,{strict}"
    assert comparison["remark"] == "also different: quantization (none, here nf4), backend (hf, here runner)"
    assert rows[str(b), flexible]["comparison"]["ties"] == N
    assert rows[str(b), strict]["metrics"]["accuracy"] == 42 / N

    code, out, _ = run(a, b)
    assert code == 0
    assert "worse (Δ -23.3 points" in out.replace("−", "-")
    assert "or more with ≥ 80 % power" in out
    # and by config keys, like our own runs
    (table,) = tables(
        run, a, b, "--baseline", "quantization=none,backend=hf", "--where", "task.filter=strict-match"
    )
    assert [row["config"]["quantization.name"] for row in table["rows"]] == ["none", "nf4"]
    assert table["rows"][1]["comparison"]["losses"] == 14


def test_log_likelihoods_are_paired_by_bytes_or_by_texts(run: Any, tmp_path: Path) -> None:
    sizes = [20 + at for at in range(N)]
    base = [-1.5 * size for size in sizes]
    less = [
        nats - 0.01 * size * (1 + at % 3) for at, (nats, size) in enumerate(zip(base, sizes, strict=True))
    ]
    for name, nats in (("a", base), ("b", less)):
        pairs = [[value, size] for value, size in zip(nats, sizes, strict=True)]
        of_bytes = {"none": {"word_perplexity": pairs, "byte_perplexity": pairs, "bits_per_byte": pairs}}
        lm_eval_folder(tmp_path / name, of_bytes, task="pages", kind="loglikelihood_rolling")
        texts = {"none": {"perplexity": nats, "acc": of(BASE)}}
        lm_eval_folder(tmp_path / name, texts, task="words", kind="loglikelihood", time="2026-01-02T03-04-06")
    table_by_task = {table["task"]: table for table in tables(run, tmp_path / "a", tmp_path / "b")}
    assert sorted(table_by_task) == ["pages:likelihood", "words", "words:likelihood"]
    differences = [here - there for here, there in zip(less, base, strict=True)]
    pages, words = (table_by_task[f"{task}:likelihood"]["rows"][1]["shift"] for task in ("pages", "words"))
    assert (pages["unit"], pages["size"], pages["samples"], pages["finding"]) == (
        "byte",
        sum(sizes),
        N,
        "worse",
    )
    assert pages["difference"] == pytest.approx(sum(differences) / sum(sizes))
    assert (pages["difference_low"], pages["difference_high"]) == pytest.approx(
        compute_paired_ratio_interval(differences, sizes)
    )
    assert (words["unit"], words["size"]) == ("text", N)
    assert words["difference"] == pytest.approx(sum(differences) / N)
    assert table_by_task["words"]["rows"][1]["comparison"]["ties"] == N
    code, out, _ = run(tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "Δ nats/byte" in out
    assert f"(n={N}, {sum(sizes):,} bytes): worse (Δ −0.0" in out
    assert "nats per text, over the same texts" in out


def test_every_output_has_them(run: Any, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    lm_eval_folder(a, {"none": {"acc": of(BASE)}})
    lm_eval_folder(b, {"none": {"acc": of(WORSE)}})
    code, out, err = run(a, b, "--format", "csv", "--save", tmp_path / "saved")
    assert code == 0, err
    lines = {line["job_id"]: line for line in csv.DictReader(io.StringIO(out))}
    assert lines[f"{b}:sums:acc,none"]["losses"] == "14"
    page = (tmp_path / "saved" / "comparison.html").read_text()
    assert "<b>worse</b>" in page
    assert "What is 3?" in page  # a flip, with its question
    assert "hf says 3" in page
    assert {"accuracy.png", "comparison.md"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    code, out, _ = run(a, b, "--flips", f"output_dir={a}", f"output_dir={b}")
    assert code == 0
    assert "14 lost, 0 won, 42 solved by both, 4 solved by neither" in " ".join(out.split())


def test_the_tasks_of_a_group_share_one_table_and_can_be_pooled(run: Any, tmp_path: Path) -> None:
    for name, solved, options in (
        ("a", BASE, "pretrained=m"),
        ("b", WORSE, "pretrained=m,load_in_8bit=True"),
    ):
        for at, task in enumerate(("mmlu_x", "mmlu_y")):
            folder = tmp_path / name
            lm_eval_folder(
                folder,
                {"none": {"acc": of(solved)}},
                task=task,
                document=task,
                time=f"2026-01-02T03-04-0{at}",
                model_args=options,
                group_subtasks={"mmlu": ["mmlu_x", "mmlu_y"]},
            )
    (table,) = tables(run, tmp_path / "a", tmp_path / "b")
    assert (table["task"], len(table["rows"])) == ("mmlu", 4)
    (table,) = tables(
        run, tmp_path / "a", tmp_path / "b", "--by", "quantization", "--baseline", "quantization=none"
    )
    assert [row["config"]["quantization.name"] for row in table["rows"]] == ["none", "int8"]
    assert (table["rows"][1]["comparison"]["losses"], table["rows"][1]["metrics"]["n"]) == (28, 2 * N)


def test_the_newest_of_equal_runs_counts_and_other_runs_have_rows_of_their_own(
    run: Any, tmp_path: Path
) -> None:
    lm_eval_folder(tmp_path, {"none": {"acc": of(WORSE)}}, time="2026-01-01T00-00-00")
    lm_eval_folder(tmp_path, {"none": {"acc": of(BASE)}}, time="2026-01-02T00-00-00")
    (table,) = tables(run, tmp_path)
    assert [row["metrics"]["correct"] for row in table["rows"]] == [56]
    lm_eval_folder(
        tmp_path,
        {"none": {"acc": of(WORSE)}},
        time="2026-01-03T00-00-00",
        model_args="pretrained=some/model,dtype=float32,load_in_4bit=True,bnb_4bit_quant_type=nf4,batch_size=8",
    )
    (table,) = tables(run, tmp_path, "--baseline", "quantization=none")
    assert [row["config"]["quantization.name"] for row in table["rows"]] == ["none", "nf4"]
    assert table["rows"][1]["comparison"]["losses"] == 14


def test_a_number_of_each_document_is_compared_and_one_of_all_documents_left_out(
    run: Any, tmp_path: Path
) -> None:
    better = {"f1": True, "brier_score": False}
    for name, loss in (("a", 0.0), ("b", 0.1)):
        f1 = [0.25 + 0.01 * (at % 7) - loss * (at % 3) for at in range(N)]
        brier = [[1, [0.3 + loss * (at % 2), 0.7 - loss * (at % 2)]] for at in range(N)]
        metrics: dict[str, list[Any]] = {"acc": of(BASE), "f1": f1, "brier_score": brier, "mcc": [[1, 0]] * N}
        lm_eval_folder(tmp_path / name, {"none": metrics}, higher_is_better={"sums": better})
    a, b = tmp_path / "a", tmp_path / "b"
    code, out, err = run(a, b)
    assert code == 0
    assert "note: metrics without numbers per document are omitted: sums mcc,none" in err
    assert "(n=60): worse (Δ −0.1 f1, simultaneous 95 % interval" in out
    assert "mean f1 of a question" in out
    table_by_task = {table["task"]: table for table in tables(run, a, b)}
    assert sorted(table_by_task) == ["sums", "sums:brier_score", "sums:f1"]
    number = table_by_task["sums:brier_score"]["rows"][1]["number"]
    assert number["baseline_mean"] == pytest.approx(2 * 0.3**2)
    assert number["difference"] == pytest.approx((2 * 0.4**2 - 2 * 0.3**2) / 2)
    assert (number["finding"], number["questions"], number["method"]) == ("worse", N, "number_flips")
    (table,) = tables(run, a, b, "--metric", "f1")
    assert table["task"] == "sums:f1"
    assert table["rows"][1]["number"]["difference"] == pytest.approx(-0.1)
    code, _, err = run(a, b, "--metric", "f2")
    assert code == 2
    assert "--metric f2: no metric in these folders 'f2'" in err
    code, _, err = run(a, b, "--metric", "f1", "--save", tmp_path / "saved")
    assert code == 0, err
    assert "number_flips" in (tmp_path / "saved" / "comparison.csv").read_text()


def test_documents_of_one_family_count_as_one(run: Any, tmp_path: Path) -> None:
    for name, solved in (("a", BASE), ("b", WORSE)):
        file = lm_eval_folder(tmp_path / name, {"none": {"acc": of(solved)}})
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["doc"]["story"] = line["doc_id"] // 5
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (table,) = tables(run, tmp_path / "a", tmp_path / "b", "--cluster", "story")
    comparison = table["rows"][1]["comparison"]
    assert (comparison["method"], comparison["clusters"], comparison["losses"]) == ("mean_flips", 12, 14)
    differences = [float(worse) - base for worse, base in zip(WORSE, BASE, strict=True)]
    assert (
        comparison["p"]
        == MeanDifference.from_differences(differences, [number // 5 for number in range(N)]).p
    )
    families = [str(number // 5) for number in range(N)]
    for row, solved in zip(table["rows"], (BASE, WORSE), strict=True):
        ends = row["metrics"]["accuracy_low"], row["metrics"]["accuracy_high"]
        assert ends == accuracy_interval(solved, families) != compute_wilson_interval(sum(solved), N)
        assert row["metrics"]["families"] == 12
    code, _, err = run(tmp_path / "a", tmp_path / "b", "--cluster", "tale")
    assert code == 2
    assert "--cluster tale:" in err
    assert "line 1: the document has no field of this name with a text or number (question, story)" in err


def test_zeros_and_ones_beside_fractions_are_compared_as_numbers(run: Any, tmp_path: Path) -> None:
    """On one side every document is right or wrong by chance: the metric is a number on both
    sides."""
    a, b = tmp_path / "a", tmp_path / "b"
    for place, f1, acc in ((a, of(BASE), BASE), (b, [0.8 * it for it in of(BASE)], WORSE)):
        lm_eval_folder(place, {"none": {"f1": f1, "acc": of(acc)}}, higher_is_better={"sums": {"f1": True}})
    for option in ("--lm-eval", "--results"):
        for places, sign in (((a, b), -1), ((b, a), 1)):
            table_by_task = {it["task"]: it for it in tables(run, *places, option=option)}
            assert sorted(table_by_task) == ["sums", "sums:f1"]
            (row,) = (it for it in table_by_task["sums:f1"]["rows"] if not it["is_baseline"])
            number = row["number"]
            assert number["difference"] == pytest.approx(sign * 0.2 * sum(BASE) / N)
            assert (number["questions"], number["finding"]) == (N, "worse" if sign < 0 else "better")


def damage(path: Path, line: int, text: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("".join(f"{one}\n" for one in lines))


def test_an_error_in_a_file_is_reported_by_file_and_line(run: Any, tmp_path: Path) -> None:
    def assert_reported(change: Callable[[Path], None], expected: str) -> None:
        folder = tmp_path / "b"
        path = lm_eval_folder(folder, {"none": {"acc": of(BASE)}})
        change(path)
        code, out, err = run(tmp_path / "a", folder)
        assert (code, out) == (2, "")
        assert expected.format(path) in err
        assert "Traceback" not in err

    def edited(**more: Any) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            values = json.loads(path.read_text().splitlines()[4])
            damage(path, 5, json.dumps(values | more))

        return change

    lm_eval_folder(tmp_path / "a", {"none": {"acc": of(BASE)}})
    assert_reported(lambda path: damage(path, 3, '{"doc_id": 2, "doc_'), "{}, line 3: not JSON")
    assert_reported(
        lambda path: damage(path, 3, '{"doc_id": 2}'),
        "{}, line 3: this line is not an lm-eval sample: doc_hash is missing",
    )
    assert_reported(
        lambda path: damage(path, 3, None),
        f"{{}}, line {N - 1}: lines are missing before or after this line: results_{TIME}.json records {N} ",
    )
    assert_reported(edited(doc_id=3), "{}, line 5: document 3 is already in line 4")
    assert_reported(edited(acc=0.0), "{}: acc of filter none is 0.916667 over the lines")
    assert_reported(
        edited(doc_hash="other"), "{}, line 5: document 4 has a different document in " + str(tmp_path / "a")
    )
    assert_reported(
        edited(target="7"), "{}, line 5: document 4 has a different gold answer in " + str(tmp_path / "a")
    )
    assert_reported(
        lambda path: path.unlink(),
        f"samples_sums_{TIME}.jsonl is missing in the same folder. Run lm-eval with --log_samples",
    )

    lm_eval_folder(tmp_path / "b", {"none": {"acc": of(BASE[:30])}})
    code, _, err = run(tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert f"samples_sums_{TIME}.jsonl, line 31: document 30 is not in {tmp_path / 'b'}" in err
    (table,) = tables(run, tmp_path / "a", tmp_path / "b", "--unpaired")
    assert table["rows"][1]["comparison"]["method"] == "fisher"

    (tmp_path / "b" / f"results_{TIME}.json").write_text("{}")
    code, _, err = run(tmp_path / "b")
    assert code == 2
    assert f"results_{TIME}.json: no lm-eval results file" in err


def test_other_prompts_are_not_compared(run: Any, tmp_path: Path) -> None:
    lm_eval_folder(tmp_path / "a", {"none": {"acc": of(BASE)}})
    lm_eval_folder(tmp_path / "b", {"none": {"acc": of(WORSE)}}, prompt="other", shots=0)
    (table,) = tables(run, tmp_path / "a", tmp_path / "b")
    assert (
        table["rows"][1]["note"]
        == f"{N} of {N} questions have different prompts in the run and in the baseline"
    )
    (table,) = tables(run, tmp_path / "a", tmp_path / "b", "--baseline", "task.shots=5")
    assert table["rows"][1]["comparison"]["remark"] == f"the prompts of {N} of {N} questions differ"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "--lm-eval nowhere: there is no such folder"),
        (
            ["."],
            "--lm-eval .: the folder contains no lm-eval results (results_TIME.json). Run lm-eval with --output_path . --log_samples",
        ),
        (["notes.json"], "--lm-eval notes.json: this is not an lm-eval results file"),
        ([".", "--grid", "last"], "--grid: --lm-eval does not use an MLflow store"),
        ([".", "--log"], "--log: --lm-eval does not use an MLflow store"),
    ],
)
def test_unreadable_folders_are_rejected(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_tasks_are_pooled_for_each_folder(run: Any, tmp_path: Path) -> None:
    for folder, solved in (("a", BASE), ("b", marks(56, N, 5))):
        for task in ("sums", "products"):
            lm_eval_folder(tmp_path / folder / task, {"none": {"acc": of(solved)}}, task=task, document=task)
    code, out, err = run(tmp_path / "a", tmp_path / "b", "--format", "json", "--pool", "tasks")
    assert code == 0, err
    (table,) = json.loads(out)["pooled"]
    assert table["sets"] == ["products", "sums"]
    (row,) = table["rows"]
    assert row["config"] == {"output_dir": str(tmp_path / "b")}
    assert (row["comparison"]["losses"], row["comparison"]["finding"]) == (10, "worse")
