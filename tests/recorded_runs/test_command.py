"""runner-compare on a real MLflow store on sqlite; every scenario is its own experiment."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raising import raises
from stores import INT8, NF4, NONE, Store, marks

from runner import compare
from runner.recorded_runs.key_rules import SchemaRules
from runner.recorded_runs.store_choice import choose_store_to_read
from runner.tracking import stores
from runner_base.errors import ConfigError
from runner_compare.model.baselines import find_baseline
from runner_compare.model.data import NotPaired, Run
from runner_compare.model.key_rules import select_distinguishing_keys
from runner_compare.render.margins import UNDECIDED

pytestmark = [
    # mlflow 3.17 still uses a loader strategy that SQLAlchemy 2.1 deprecates; nothing of ours calls
    # it.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
]

BASELINE = "quantization=none"


# ------------------------------------------------------------------------------------------ styles


@pytest.mark.thorough
def test_table_has_differing_keys_only_and_whole_numbers(grid: Store, show: Any) -> None:
    code, out, _ = show("grid", "--baseline", BASELINE)
    assert code == 0
    head = out.split("\n• ")[0]
    assert "quantization" in head
    assert "task.split" in head
    for absent in ("model", "tracking", "output_dir", "print", "double_quant", "threshold", "seed", "…"):
        assert absent not in head, absent
    assert "90.0 % [85.1, 93.4]" in out
    assert "-30 " not in out
    assert "−15.0 [−24.0, −8.3]" in out
    assert "0/30" in out


def test_table_says_what_the_test_shows_and_never_equal(grid: Store, show: Any) -> None:
    _, out, _ = show("grid", "--baseline", BASELINE)
    assert "nf4 vs none on task.split=test (n=200): worse (Δ −15.0 points" in out
    assert "int8 vs none on task.split=test (n=200): no difference shown (Δ −1.0 points" in out
    assert "detects differences of 7.1 points or more with ≥ 80 % power" in out
    assert "4 comparisons of this table" in out
    assert "equal" not in out


@pytest.mark.thorough
def test_a_margin_is_decided_for_each_row(grid: Store, show: Any, rows: Any) -> None:
    _, out, _ = show("grid", "--baseline", BASELINE, "--margin", "5")
    assert "nf4 vs none on task.split=test (n=200): worse (Δ −15.0 points" in out
    assert "Worse by more than 5 points" in out
    assert "no loss above 5 points" in out
    assert "No loss above the margin: a test shows" in out
    assert "equal" not in out
    verdicts = {
        row["comparison"]["verdict"]: row["comparison"]
        for row in rows("grid", "--baseline", BASELINE, "--margin", "5").values()
        if row["comparison"]
    }
    assert {"worse by more", "as good"} <= {*verdicts}
    assert verdicts["as good"]["margin"] == 0.05
    _, out, _ = show("grid", "--baseline", BASELINE, "--margin", "1")
    assert "Undecided within 1 point: about " in out
    _, out, _ = show("grid", "--baseline", BASELINE)
    assert "ndecided within" not in out
    assert "Margin:" not in out


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        (["two"], "--margin two: must be a number of percentage points"),
        (["0"], "--margin 0: must be a number"),
        (["nan"], "--margin nan: must be a number"),
        (["100"], "--margin 100: must be a number"),
        (["-0.1nats"], "--margin -0.1nats: must be a number"),
        (["0%"], "--margin 0%: must be a number"),
        (["1000%"], "--margin 1000%: must be a number"),
        (["5%", "6%"], "--margin 6%: two margins are set for the same measure"),
        (["2", "3"], "--margin 3: two margins are set for the same measure"),
    ],
)
def test_a_margin_that_is_none_is_refused(grid: Store, show: Any, margins: list[str], message: str) -> None:
    options = [f"--margin={margin}" for margin in margins]
    code, _, err = show("grid", "--baseline", BASELINE, *options)
    assert code == 2
    assert message in err
    code, _, err = show("grid", "--margin=2")
    assert code == 2
    assert "a margin needs a baseline: add --baseline KEY=VALUE" in err


def test_no_delta_without_a_baseline(grid: Store, show: Any) -> None:
    _, out, _ = show("grid")
    assert "Δ" not in out
    assert "Holm" not in out


def test_markdown(grid: Store, show: Any) -> None:
    _, out, _ = show("grid", "--baseline", BASELINE, "--format", "markdown")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    assert "- nf4 vs none on task.split=test" in out


def test_json_holds_every_number(grid: Store, rows: Any) -> None:
    row = rows("grid", "--baseline", BASELINE)["nf4-test"]
    assert row["config"] == {"quantization.name": "nf4", "task.split": "test"}
    assert row["metrics"]["n"] == 200
    assert row["metrics"]["accuracy_low"] == pytest.approx(0.6857, abs=1e-3)
    comparison = row["comparison"]
    assert (comparison["baseline_job_id"], comparison["wins"], comparison["losses"]) == ("none-test", 0, 30)
    assert comparison["finding"] == "worse"
    assert comparison["p"] == pytest.approx(2 / 2**30)
    assert comparison["p_holm"] == pytest.approx(8 / 2**30)


def test_csv_is_one_sheet(grid: Store, show: Any) -> None:
    _, out, _ = show("grid", "--baseline", BASELINE, "--format", "csv")
    lines = {line["job_id"]: line for line in csv.DictReader(io.StringIO(out))}
    assert len(lines) == 6
    assert lines["nf4-test"]["losses"] == "30"
    assert lines["none-test"]["is_baseline"] == "True"


# --------------------------------------------------------------------------------- which runs count


def test_failed_and_killed_runs_are_left_out(grid: Store, rows: Any) -> None:
    assert set(rows("grid")) == {
        f"{name}-{split}" for name in ("none", "int8", "nf4") for split in ("test", "train")
    }


def test_the_newest_run_of_a_job_counts(store: Store, rows: Any) -> None:
    store.job("newest", "same", NONE, marks(10, 100))
    store.job("newest", "same", NONE, marks(90, 100))
    store.job("newest", "same", NONE, marks(20, 100), status="KILLED")
    assert rows("newest")["same"]["metrics"]["correct"] == 90


def test_where_filters_with_numbers_as_numbers(grid: Store, rows: Any) -> None:
    row_by_job = rows("grid", "--where", "task.split=test", "--where", "generation.temperature=0")
    assert set(row_by_job) == {"none-test", "int8-test", "nf4-test"}
    assert set(rows("grid", "--where", "job_id=none-test")) == {"none-test"}


def test_tasks_without_accuracy_get_a_plain_table(store: Store, show: Any) -> None:
    for batch in ("1", "4"):
        config = {"task.name": "memory", "task.batch_size": batch}
        store.job(
            "mixed", f"memory-{batch}", config, tags={"task": "memory"}, metrics={"predicted_mib": 7.25}
        )
    store.job("mixed", "gsm8k-a", NONE, marks(5, 10))
    _, out, _ = show("mixed", "--baseline", BASELINE)
    assert out.index("gsm8k · 1 run") < out.index("memory · 2 runs")
    memory = out[out.index("memory · 2 runs") :]
    assert memory.splitlines()[1] == "2 runs could not be compared."
    assert memory.split("compared.\n")[1].split()[:6] == [
        "task.batch_size",
        "weight_mib",
        "peak_rss_mib",
        "decode_tok_per_s",
        "model_mib",
        "predicted_mib",
    ]
    assert "accuracy" not in memory
    _, out, _ = show("mixed", "--task", "memory")
    assert "gsm8k" not in out


# ---------------------------------------------------------------------------------------- baselines


def test_each_split_has_its_own_baseline(grid: Store, rows: Any) -> None:
    row_by_job = rows("grid", "--baseline", BASELINE)
    for split in ("test", "train"):
        assert row_by_job[f"none-{split}"]["is_baseline"]
        for name in ("int8", "nf4"):
            assert row_by_job[f"{name}-{split}"]["comparison"]["baseline_job_id"] == f"none-{split}"
    assert row_by_job["int8-train"]["comparison"]["p"] == 1.0  # no discordant pair


@pytest.mark.thorough
def test_keys_that_only_one_choice_has_are_in_brackets(store: Store, show: Any) -> None:
    store.job("brackets", "base", NONE, marks(50, 100))
    store.job("brackets", "double", NF4, marks(49, 100))
    store.job("brackets", "single", {**NF4, "quantization.double_quant": "false"}, marks(48, 100))
    _, out, _ = show("brackets", "--baseline", BASELINE)
    assert (
        "• nf4 (quantization.double_quant=false) and nf4 (quantization.double_quant=true) vs none (n=100 each): no "
        "difference shown. The largest difference is −2.0 points (nf4 (quantization.double_quant=false), "
        "simultaneous 95 % interval "
    ) in out


def test_a_row_without_baseline_says_what_differs(store: Store, show: Any, rows: Any) -> None:
    store.job("lonely", "base", NONE, marks(50, 100))
    store.job("lonely", "other", {**NF4, "seed": "1"}, marks(50, 100))
    row = rows("lonely", "--baseline", BASELINE)["other"]
    assert row["comparison"] is None
    assert row["note"].startswith(
        "no run can be the baseline. The most similar run differs in seed (0, here 1). "
    )
    _, out, _ = show("lonely", "--baseline", BASELINE)
    assert "quantization=nf4, seed=1: not compared, no run can be the baseline" in out


@pytest.mark.thorough
def test_two_possible_baselines_are_named_and_neither_is_used(store: Store, rows: Any) -> None:
    store.job("twins", "base-1", NONE, marks(50, 100))
    store.job("twins", "base-2", NONE, marks(60, 100))  # the same config, other weights
    store.job("twins", "nf4", NF4, marks(50, 100))
    row = rows("twins", "--baseline", BASELINE)["nf4"]
    assert row["comparison"] is None
    assert row["note"].startswith("2 runs can be the baseline (base-1, base-2)")
    row = rows("twins", "--baseline", "quantization=none,job_id=base-2")["nf4"]
    assert row["comparison"]["baseline_job_id"] == "base-2"


def test_a_key_that_both_have_must_agree() -> None:
    nf4, fp4 = NF4, {"quantization.name": "fp4", "quantization.double_quant": "false"}
    runs = [Run("", str(config), "gsm8k", "1", "", config, {}) for config in (nf4, fp4)]
    keys = SchemaRules().find_differing_keys([run.params for run in runs])
    with pytest.raises(NotPaired, match=r"quantization\.double_quant \(true, here false\)"):
        find_baseline(runs[1], runs[:1], {"quantization.name": "nf4"}, keys)


def test_columns_follow_the_config_and_distinguish_rows() -> None:
    configs: list[dict[str, str]] = [
        {"seed": "0", **NONE, "model.name": "a"},
        {"seed": "1", **NF4, "model.name": "b"},
        {"seed": "1", **NF4, "model.name": "b", "print": "json", "tracking.uri": "x", "model.cache_dir": "y"},
    ]
    keys = SchemaRules().find_differing_keys(configs)
    assert keys == ["model.name", "quantization.name", "quantization.double_quant", "seed"]
    assert select_distinguishing_keys(keys, configs) == ["model.name", "quantization.name", "seed"]
    configs.append({**configs[1], "quantization.double_quant": "false"})
    assert select_distinguishing_keys(keys, configs) == keys


def test_keys_of_an_engine_that_the_other_has_not_are_no_columns() -> None:
    engine = "model.engine.name"
    own = {**NONE, "model.name": "a.gguf", "model.attention": "auto"}
    other = {**NONE, "model.name": "a.gguf", engine: "llama.cpp b9235", "model.kv_keys": "f16"}
    configs: list[dict[str, str]] = [own, other]
    keys = SchemaRules().find_differing_keys(configs)
    assert {"model.attention", "model.kv_keys", engine} == {*keys}
    assert select_distinguishing_keys(keys, configs) == [engine]
    configs.append({**other, "model.kv_keys": "q4_0"})
    assert select_distinguishing_keys(keys, configs) == [engine, "model.kv_keys"]


def test_records_from_before_a_key_of_every_choice_have_its_default() -> None:
    new = {**NF4, "quantization.skip": "[]", "quantization.overrides": "{}"}
    assert SchemaRules().find_differing_keys([NF4, new]) == []
    assert SchemaRules().find_differing_keys([NF4, {**new, "quantization.skip": "[mlp]"}]) == [
        "quantization.skip"
    ]


def test_a_key_counts_by_the_task_that_has_it() -> None:
    def differ(task: str, key: str) -> list[str]:
        return SchemaRules().find_differing_keys([{"task.name": task, key: value} for value in ("a", "b")])

    assert differ("gsm8k", "task.split") == ["task.split"], (
        "it selects the questions; in a sweep their SHA-256 does"
    )
    assert differ("sweep", "task.split") == []
    assert differ("gsm8k", "task.prompt") == ["task.prompt"], (
        "chat or text; in other tasks it is a prompt, whose SHA-256 counts"
    )
    assert differ("generate", "task.prompt") == []


# ------------------------------------------------------------------------------------------ pairing


def test_other_questions_are_rejected(store: Store, rows: Any) -> None:
    store.job("others", "base", NONE, marks(50, 100))
    store.job("others", "fewer", NF4, marks(50, 80))
    store.job("others", "regraded", INT8, marks(50, 100), gold="43")
    row_by_job = rows("others", "--baseline", BASELINE)
    assert (
        row_by_job["fewer"]["note"] == "the run has 80 questions, the baseline has 100, and only 80 are equal"
    )
    assert row_by_job["regraded"]["note"].endswith("the gold answers differ")
    assert row_by_job["fewer"]["comparison"] is row_by_job["regraded"]["comparison"] is None


@pytest.mark.thorough
def test_other_scoring_is_rejected(store: Store, rows: Any) -> None:
    store.job("scoring", "base", NONE, marks(50, 100))
    store.job("scoring", "version", NF4, marks(50, 100), tags={"task_version": "2"})
    store.job("scoring", "extractor", {**NONE, "task.extractor": "flexible"}, marks(50, 100))
    assert rows("scoring", "--baseline", BASELINE)["version"]["note"] == (
        "the scoring is version 2 strict in the run and version 1 strict in the baseline"
    )
    row_by_job = rows("scoring", "--baseline", "task.extractor=strict,quantization=none")
    assert row_by_job["extractor"]["note"] == (
        "the scoring is version 1 flexible in the run and version 1 strict in the baseline"
    )


def test_a_job_of_before_is_read_as_it_was_judged_and_the_other_rules_are_named(
    store: Store, rows: Any
) -> None:
    store.job("gsm8k", "base", NONE, marks(50, 100), tags={"task_version": "2"})
    store.job("gsm8k", "before", NF4, marks(40, 100), tags={"task_version": "2"})
    store.job("gsm8k", "since", INT8, marks(40, 100), tags={"task_version": "3"})
    row_by_job = rows("gsm8k", "--baseline", BASELINE)
    comparison = row_by_job["before"]["comparison"]
    assert (comparison["wins"], comparison["losses"]) == (0, 10)
    assert row_by_job["since"]["note"] == (
        "the scoring is version 3 strict in the run and version 2 strict in the baseline (since version 3, only the "
        "text after the thinking is judged, and a boxed answer must be a number; run the older job again)"
    )
    assert row_by_job["since"]["comparison"] is None


def test_artifacts_are_read_if_the_folder_is_gone_or_was_changed(store: Store, rows: Any) -> None:
    base = store.job("moved", "base", NONE, marks(50, 100))
    changed = store.job("moved", "nf4", NF4, marks(40, 100))
    shutil.rmtree(base)
    (changed / "samples.jsonl").write_text('{"index": 0, "ver')  # a rerun in progress
    comparison = rows("moved", "--baseline", BASELINE)["nf4"]["comparison"]
    assert (comparison["wins"], comparison["losses"]) == (0, 10)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"verdict": "wrong"', '"verdict": "correct"', "checksum does not match"),
        ('"prompt_sha256": "prompt 45"', '"prompt_sha256": "prompt 44"', "checksum does not match"),
        ('"gold": "42"', '"gold": "\udcff"', "the line is not a valid sample ("),
        ("{", "", "the line is not a valid sample ("),
        (', "checksum"', ', "check"', "has no checksum"),
    ],
)
def test_a_damaged_line_is_named_and_the_rest_goes_on(
    store: Store, show: Any, old: str, new: str, why: str, request: pytest.FixtureRequest
) -> None:
    experiment = f"damaged {request.node.callspec.id.encode('ascii', 'replace').decode()}"
    for name, config, right in (("base", NONE, 50), ("int8", INT8, 30), ("nf4", NF4, 40)):
        folder = store.job(experiment, name, config, marks(right, 100))
    file = folder / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[45] = lines[45].replace(old, new, 1)
    changed = "".join(lines).encode(errors="surrogateescape")
    file.write_bytes(changed)
    arguments = ("--baseline", BASELINE, "--format", "json")
    code, out, err = show(experiment, *arguments)
    assert code == 0, err
    assert f"note: {file}, line 46: " in err
    assert why in err
    rows = {row["job_id"]: row for row in json.loads(out)["tables"][0]["rows"]}
    assert rows["nf4"]["comparison"]["losses"] == 10, "the copy in MLflow is whole"
    (store.output_dir / "artifacts" / store.run_ids[-1] / "artifacts" / "samples.jsonl").write_bytes(changed)
    code, out, err = show(experiment, *arguments)
    assert (code, err) == (0, "")
    rows = {row["job_id"]: row for row in json.loads(out)["tables"][0]["rows"]}
    assert rows["nf4"]["comparison"] is None
    assert rows["nf4"]["note"].startswith(
        "samples are missing, because samples.jsonl of job nf4 is damaged: "
    )
    assert "line 46: " in rows["nf4"]["note"]
    assert why in rows["nf4"]["note"]
    assert rows["int8"]["comparison"]["losses"] == 20, "the rest goes on"


def test_missing_samples_are_reported(store: Store, rows: Any) -> None:
    store.job("gone", "base", NONE, marks(50, 100))
    store.job("gone", "nf4", NF4, metrics={"n": 100, "correct": 50})
    note = rows("gone", "--baseline", BASELINE)["nf4"]["note"]
    assert note == (
        "samples are missing, because samples.jsonl of job nf4 is neither in the job's folder nor in MLflow"
    )


# ----------------------------------------------------------------------------------- user's
# mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "quantization=fp8"], "no finished run matches; quantization has int8, nf4, none"),
        (["--where", "task.split=dev"], "task.split has test, train"),
        (["--baseline", "quantisation=none"], "Did you mean quantization?"),
        (["--where", "task.spilt=test"], "Did you mean task.split?"),
        (["--where", "nf4"], "give KEY=VALUE"),
        (["--task", "gsm9k"], "Did you mean gsm8k?"),
    ],
)
def test_mistakes_get_one_message_and_exit_2(
    grid: Store, show: Any, arguments: list[str], message: str
) -> None:
    code, out, err = show("grid", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("runner-compare: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_misspelt_experiment_is_named(grid: Store, show: Any) -> None:
    code, out, err = show("grib")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Did you mean grid?" in err


def test_an_experiment_without_finished_runs(store: Store, show: Any) -> None:
    store.job("unfinished", "a", NONE, marks(1, 2), status="FAILED")
    code, _, err = show("unfinished")
    assert code == 2
    assert "--experiment unfinished: it contains no completed run" in err


def test_a_missing_database_is_reported_and_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for arguments in (["--output-dir", str(tmp_path)], ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]):
        assert compare.main(arguments) == 2
        assert str(tmp_path) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_text("hello")
    assert compare.main(["--output-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "file is not a database" in message
    assert message.count("\n") == 1


def test_a_password_stays_out_of_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = "http://me:secret@127.0.0.1:1"
    assert compare.main(["--output-dir", str(tmp_path), "--tracking-uri", uri]) == 2
    message = capsys.readouterr().err
    assert "secret" not in message
    assert "--tracking-uri http://***@127.0.0.1:1: the URI contains a password" in message


def test_which_store_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    (tmp_path / "mlflow.db").touch()
    assert choose_store_to_read(tmp_path, None, None) == stores.Store(
        f"sqlite:///{tmp_path}/mlflow.db", "runner", tmp_path
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert choose_store_to_read(tmp_path, None, None) == stores.Store("http://server", "theirs", tmp_path)
    assert choose_store_to_read(tmp_path, "http://given", "mine") == stores.Store(
        "http://given", "mine", tmp_path
    )
    with raises(ConfigError, "not_found"):
        choose_store_to_read(tmp_path, "sqlite:////nowhere/mlflow.db", None)


# ------------------------------------------------------------------------------------------ imports


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


PROBE = """
import sys
from runner_compare import entry
try:
    entry()
except SystemExit as end:
    print(*(name for name in ("torch", "mlflow", "hydra") if name in sys.modules), file=sys.stderr)
    sys.exit(end.code)
"""


def test_help_imports_no_mlflow() -> None:
    done = python(PROBE, "--help")
    assert (done.returncode, done.stderr.split()) == (0, [])
    assert "--baseline" in done.stdout


@pytest.mark.slow
def test_comparing_imports_no_torch_and_fills_stdout_only(grid: Store) -> None:
    output_dir = ["--output-dir", str(grid.output_dir)]
    done = python(PROBE, *output_dir, "--experiment", "grid", "--baseline", BASELINE)
    assert (done.returncode, done.stderr.split()) == (0, ["mlflow"])
    assert f"nf4 is worse than the baseline on test and {UNDECIDED} on train." in done.stdout


def test_jobs_with_errors_are_left_out_by_name_unless_counted(store: Store, show: Any) -> None:
    store.job("erred", "whole", NONE, marks(8, 10))
    store.job("erred", "short", NF4, marks(5, 10), status="FAILED", metrics={"errors": 3})
    store.job("erred", "mended", INT8, marks(1, 10), status="FAILED", metrics={"errors": 9})
    store.job("erred", "mended", INT8, marks(8, 10))
    code, out, err = show("erred", "--baseline", "quantization=none")
    assert code == 0
    assert "nf4" not in out
    assert "int8" in out
    assert err == (
        "left out: short. 3 of 10 questions ended in an error. Run it again, or count them as not solved: "
        "--count-errors\n"
    )
    code, out, err = show("erred", "--baseline", "quantization=none", "--count-errors")
    assert code == 0
    assert "int8 and nf4 vs none (n=10 each)" in out
    assert err == "counted as not solved: short. 3 of 10 questions ended in an error.\n"
    code, _, err = show("erred", "--where", "quantization=nf4")
    assert code == 2
    assert "nothing is left to compare" in err
