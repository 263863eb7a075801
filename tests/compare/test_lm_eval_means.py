"""What lm-eval's results file says of a metric is checked by its documents, wherever it is a kind
of mean over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_out import BY_AGGREGATION, TIME, lm_eval_folder

import runner_compare as compare
from runner_compare.readers.lm_eval.means import recompute_metric


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = compare.main(["--lm-eval", *map(str, arguments)])
    return code, capsys.readouterr().err


def with_logged(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change what the results file of a folder says."""
    file = folder / f"results_{TIME}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "aggregation", ["mean", "brier_score", "perplexity", "weighted_perplexity", "bits_per_byte"]
)
def test_an_altered_document_is_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, aggregation: str
) -> None:
    metric = "f1" if aggregation == "mean" else aggregation.replace("weighted_", "byte_")
    logged = recompute_metric(aggregation, BY_AGGREGATION[aggregation])
    assert logged is not None

    def named(content: dict[str, Any]) -> None:
        content["results"]["sums"][f"{metric},none"] = logged
        content["configs"]["sums"] |= {
            "output_type": "loglikelihood",
            "metric_list": [{"metric": metric, "aggregation": aggregation}],
        }

    a, b = tmp_path / "a", tmp_path / "b"
    lm_eval_folder(a, {"none": {metric: BY_AGGREGATION[aggregation]}})
    assert answer(capsys, with_logged(a, named)) == (0, "")
    altered = [BY_AGGREGATION[aggregation][1], *BY_AGGREGATION[aggregation][1:]]
    if altered == BY_AGGREGATION[aggregation]:
        altered[0] = [0, [0.5, 0.5]]
    lm_eval_folder(b, {"none": {metric: altered}})
    code, err = answer(capsys, a, with_logged(b, named))
    assert code == 2
    changed = recompute_metric(aggregation, altered)
    assert f"{b}/samples_sums_{TIME}.jsonl: {metric} of filter none is {changed:.6g} over the lines" in err
    assert f"results_{TIME}.json reports {logged}. " in err


@pytest.mark.parametrize(
    ("config", "is_noticed"),
    [
        ({"metric_list": [{"metric": "acc"}]}, True),  # lm-eval's own aggregation of it is a mean
        ({"metric_list": None, "output_type": "multiple_choice"}, True),
        ({"metric_list": None, "output_type": "generate_until"}, False),  # a task's own metric
        (
            {
                "metric_list": [
                    {"metric": "acc", "aggregation": "def largest(values):\n    return max(values)\n"}
                ]
            },
            False,
        ),
        ({"metric_list": [{"metric": "acc", "aggregation": "median"}]}, False),
    ],
)
def test_only_a_figure_that_is_known_to_be_a_mean_is_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: dict[str, Any], is_noticed: bool
) -> None:
    def other(content: dict[str, Any]) -> None:
        content["results"]["sums"]["acc,none"] = 1.0
        content["configs"]["sums"] |= config

    lm_eval_folder(tmp_path, {"none": {"acc": [0.0, 1.0] * 30}})
    code, err = answer(capsys, with_logged(tmp_path, other))
    assert (code, "acc of filter none is 0.5 over the lines" in err) == (2 if is_noticed else 0, is_noticed)
