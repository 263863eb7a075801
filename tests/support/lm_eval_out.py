"""Writes folders like lm-evaluation-harness with --output_path and --log_samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIME = "2026-01-02T03-04-05.678901"

# by filter and metric, a value for each document
Metrics = Mapping[str, Mapping[str, Sequence[Any]]]

BY_AGGREGATION: dict[str, list[Any]] = {  # metrics of 60 documents
    "mean": [0.25 + 0.01 * (at % 7) for at in range(60)],
    "nanmean": [0.5] * 59 + [math.nan],
    "brier_score": [[1, [0.3, 0.7]]] * 59 + [[0, [0.1, 0.9]]],
    "perplexity": [-1.5 - 0.1 * (at % 3) for at in range(60)],
    "weighted_perplexity": [[-30.0 - at, 10 + at % 4] for at in range(60)],
    "bits_per_byte": [[-30.0 - at, 10 + at % 4] for at in range(60)],
}


def lm_eval_folder(
    folder: Path,
    metrics: Metrics,
    *,
    task: str = "sums",
    time: str = TIME,
    model: str = "hf",
    model_args: Any = "pretrained=some/model,dtype=float32",
    kind: str = "generate_until",
    document: str = "document",
    target: str = "42",
    prompt: str = "prompt",
    shots: int = 5,
    **more: Any,
) -> Path:
    """Write lm-eval's files of one task; returns the file of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(next(iter(next(iter(metrics.values())).values())))
    lines = [
        {
            "doc_id": at,
            "doc": {"question": f"{document} {at}"},
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": f"What is {at}?", "arg_1": {"until": ["\n"]}}},
            "resps": [[f"{model} says {at}"]],
            "filtered_resps": [f"{at}"],
            "filter": name,
            "metrics": list(of_filter),
            "doc_hash": f"{document} {at}",
            "prompt_hash": f"{prompt} {at}",
            "target_hash": target,
            **{metric: values[at] for metric, values in of_filter.items()},
        }
        for name, of_filter in metrics.items()
        for at in range(n)
    ]
    means = {
        f"{metric},{name}": sum(values) / n if all(isinstance(one, int | float) for one in values) else 0.5
        for name, of_filter in metrics.items()
        for metric, values in of_filter.items()
    }
    listed = [{"metric": metric, "aggregation": "mean"} for metric in next(iter(metrics.values()))]
    results = {
        "results": {task: {"name": task, "alias": task, "sample_len": n, **means, "acc_stderr,none": "N/A"}},
        "group_subtasks": {},
        "configs": {task: {"task": task, "output_type": kind, "metric_list": listed}},
        "versions": {task: 3.0},
        "n-shot": {task: shots},
        "higher_is_better": {task: {}},
        "n-samples": {task: {"original": 99, "effective": n}},
        "config": {"model": model, "model_args": model_args, "gen_kwargs": None, "limit": None},
        "model_name": "some/model",
        "lm_eval_version": "0.4.13",
        **more,
    }
    (folder / f"results_{time}.json").write_text(json.dumps(results))
    samples = folder / f"samples_{task}_{time}.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return samples
