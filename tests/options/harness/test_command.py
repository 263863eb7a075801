"""`runner-lm-eval` is lm-eval's command line, with one model more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from lm_eval.api.model import LM
from lm_eval.api.registry import Registry

from runner.options.harness import main
from runner.options.harness.command import add_default_model_argument
from runner.options.harness.model import EngineModel

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.parametrize(
    ("given", "more"),
    [
        (["--tasks", "a"], ["--model", "runner"]),
        (["run", "--tasks", "a"], ["--model", "runner"]),
        (["--model", "hf", "--tasks", "a"], []),
        (["--model=hf", "--tasks", "a"], []),
        (["run", "--config", "some.yaml"], []),
        (["ls", "tasks"], []),
        (["--help"], []),
        ([], []),
    ],
)
def test_an_evaluation_without_a_model_uses_ours(given: list[str], more: list[str]) -> None:
    assert add_default_model_argument(given) == given + more


def test_without_lm_eval_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lm_eval.__main__", raising=False)
    assert main(["--tasks", "a"]) == 2
    assert "pip install 'runner-llm[lm-eval]'" in capsys.readouterr().err


def test_the_entry_point_names_the_model() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["lm_eval.models"].items()
    registry = Registry("model", base_cls=LM)
    registry.register(name, target=EntryPoint(name, value, "lm_eval.models"))
    assert registry.get("runner") is EngineModel


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["ls", "-h"]])
def test_its_help_names_this_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: runner-lm-eval")
    assert not re.search(r"(?<!runner-)lm-eval (run|ls|--)|--model hf --|default: hf", printed)
    if arguments[:1] != ["ls"]:
        assert "--model_args" in printed
    if arguments[:1] == ["run"]:
        assert "(default: runner)" in printed
    else:
        assert "pretrained=gpt2" not in printed


def test_the_examples_of_its_help_name_our_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "which is the default of --model",
        "quantization=nf4",
        "lora=ADAPTER",
        "runner-compare --lm-eval",
    ):
        assert word in printed


@pytest.mark.thorough
def test_a_task_of_ones_own_runs_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    lines = [
        {"question": f"What is {n} + {n}?", "choices": [str(2 * n), str(n), "no"], "gold": 0}
        for n in range(3, 9)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=file))
    common = ["--tasks", "sums", "--include_path", str(tmp_path)]
    command = [
        sys.executable,
        "-c",
        "import sys; from runner.options.harness import main; sys.exit(main(sys.argv[1:]))",
    ]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *common, *more], capture_output=True, text=True, cwd=tmp_path, check=False
        )

    wrong = run("--model_args", "quantization=nf5")
    assert wrong.returncode == 2
    assert "quantization=nf5" in wrong.stderr
    assert "Traceback" not in wrong.stderr

    done = run(
        "--model_args",
        "pretrained=embedded,dtype=float32,quantization=nf4",
        "--output_path",
        "out",
        "--log_samples",
    )
    assert done.returncode == 0, done.stderr
    assert "runner ({'pretrained': 'embedded'" in done.stdout
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert 0 <= json.loads(results.read_text())["results"]["sums"]["acc,none"] <= 1
    (samples,) = (tmp_path / "out").rglob("samples_sums_*.jsonl")
    assert len(samples.read_text().splitlines()) == 6
