"""`runner-compare` reads lm-eval's results of its own backend and of ours, document by document."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lm_eval import evaluator_utils
from lm_eval.tasks import TaskManager
from torch.utils import collect_env

from runner import compare
from runner.options import harness
from runner_engine.embedded import MODEL_DIR

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

N = 50  # with fewer, no likelihoods are compared
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
"""
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean}, {metric: acc_norm, aggregation: mean}]
""",
    "answers": """
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 16}
metric_list: [{metric: exact_match, aggregation: mean}]
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "#### ([0-9]+)"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: regex, regex_pattern: "([0-9]+)", group_select: -1}, {function: take_first}]}
""",
    "words": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc, aggregation: mean}]
""",
    "pages": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that lm-eval's command has written with its own backend and with ours."""
    folder = tmp_path_factory.mktemp("lm_eval")
    file = folder / "sums.jsonl"
    lines = [
        {"question": f"What is {n} + {n}?", "choices": [str(2 * n), str(n), "no"], "gold": 0}
        for n in range(N)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON.format(file=file)}{text}")
    common = ["--include_path", str(folder), "--tasks", ",".join(TASKS), "--log_samples"]
    model = f"pretrained={MODEL_DIR},dtype=float32"
    sides = {"hf": ["--model", "hf", "--device", "cpu"], "runner": []}
    with pytest.MonkeyPatch.context() as patch:  # without what takes most of the time and is not read here
        patch.setattr(collect_env, "get_pretty_env_info", lambda: "left out")
        patch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
        patch.setattr(evaluator_utils, "stderr_for_metric", lambda **_: None)
        for name, options in sides.items():
            assert (
                harness.main([*options, "--model_args", model, *common, "--output_path", str(folder / name)])
                == 0
            )
    return folder


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, list[dict[str, Any]]]:
    capsys.readouterr()
    assert compare.main(["--lm-eval", *map(str, arguments), "--format", "json"]) == 0
    captured = capsys.readouterr()
    return {table["task"]: table["rows"] for table in json.loads(captured.out)["tables"]}


@pytest.mark.thorough
def test_other_backends_are_paired_with_ours(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = rows(capsys, outputs / "hf", outputs / "runner")
    assert sorted(tables) == ["answers", "choices", "pages:likelihood", "words", "words:likelihood"]
    filters = {row["config"]["task.filter"] for row in tables["answers"]}
    assert filters == {"strict-match", "flexible-extract"}
    assert {row["config"]["task.metric"] for row in tables["choices"]} == {"acc", "acc_norm"}
    for task, of_task in tables.items():
        assert [row["note"] for row in of_task] == [None] * len(of_task)
        assert sum(row["is_baseline"] for row in of_task) == len(of_task) / 2
        for row in (row for row in of_task if not row["is_baseline"]):
            if task.endswith(":likelihood"):
                assert abs(row["shift"]["difference"]) < 1e-5
                assert row["shift"]["samples"] == N
            else:
                assert row["comparison"]["ties"] == N
    # the metrics are lm-eval's own
    (written,) = (outputs / "runner").rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    pages = next(row for row in tables["pages:likelihood"] if not row["is_baseline"])
    assert pages["metrics"]["bits_per_byte"] == pytest.approx(results["pages"]["bits_per_byte,none"])
    words = next(row for row in tables["words:likelihood"] if not row["is_baseline"])
    assert words["metrics"]["perplexity"] == pytest.approx(results["words"]["perplexity,none"])


def test_settings_are_named_by_our_keys(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = outputs / "hf", outputs / "runner"
    tables = rows(capsys, *both, "--baseline", "backend=hf", "--task", "pages:likelihood")
    base, ours = tables["pages:likelihood"]
    assert (base["config"], ours["config"]) == ({"backend.name": "hf"}, {"backend.name": "runner"})
    assert ours["shift"]["unit"] == "byte"
    tables = rows(capsys, *both, "--where", "quantization=none,model.dtype=float32,task.metric=acc_norm")
    assert [row["metrics"]["n"] for row in tables["choices"]] == [N, N]
