"""lm-evaluation-harness's own tasks of multiple choice, in a process of its own.

Its code and its tasks are unchanged: only the data files are replaced. It reads a job as JSON from stdin and
writes the requests and scores to the file that the job names. See multiple_choice_vs_lmeval.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks._yaml_loader import load_yaml

METRICS = ("acc", "acc_norm", "acc_bytes")


class NoModel(LM):  # type: ignore[misc]
    """A model that gives each text the same likelihood, for the requests alone."""

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        return [(-1.0, False)] * len(requests)

    def generate_until(self, requests: list[Any], **_: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> Any:
        raise NotImplementedError


def task_config(task: dict[str, Any]) -> dict[str, Any]:
    """Return lm-eval's task with other data files, and with all metrics of its choices."""
    shipped: dict[str, Any] = load_yaml(Path(lm_eval.__file__).parent / "tasks" / task["yaml"])
    shipped.pop("tag", None)
    config = shipped | {"dataset_path": "json", "dataset_name": None, "num_fewshot": task["shots"]}
    config["dataset_kwargs"] = {"data_files": task["files"]}
    if "process_results" not in config:
        config["metric_list"] = [{"metric": metric} for metric in METRICS]
    return config


def make_model(job: dict[str, Any]) -> Any:
    if job["model"] is None:
        return NoModel()
    if job["engine"] == "runner":
        from runner.options.harness.model import EngineModel

        return EngineModel.create_from_arg_string(f"pretrained={job['model']},dtype={job['dtype']}")
    from lm_eval.models.huggingface import HFLM

    return HFLM(job["model"], device="cpu", dtype=job["dtype"], batch_size=8)


def main() -> None:
    """Evaluate, and write each question's requests, log-likelihoods and scores."""
    job = json.load(sys.stdin)
    model = make_model(job)
    found = {}
    for task in job["tasks"]:
        config = task_config(task)
        results = lm_eval.simple_evaluate(
            model, tasks=[config], log_samples=True, bootstrap_iters=0, verbosity="ERROR"
        )
        (samples,) = results["samples"].values()
        found[f"{task['name']}/{task['shots']}"] = [
            {
                "requests": [list(arguments) for arguments in sample["arguments"]],
                "nats": [float(answer[0][0]) for answer in sample["resps"]],
                "scores": {metric: float(sample[metric]) for metric in METRICS if metric in sample},
            }
            for sample in sorted(samples, key=lambda sample: sample["doc_id"])
        ]
    Path(job["answer"]).write_text(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
