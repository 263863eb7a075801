"""lm-evaluation-harness's own task gsm8k in a process of its own: its prompts, its filters'
answers, and its scores.

Its code and its task are unchanged: only the task's data files are replaced. It reads a request as
JSON from stdin and writes the answer to the file that the request names. See gsm8k_vs_lmeval.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.model import LM
from lm_eval.models.utils import postprocess_generated_text

FILTERS = {"strict-match": "strict", "flexible-extract": "flexible"}


class GivenAnswers(LM):  # type: ignore[misc]
    """A model with given answers, for the prompts and the scores; lm-eval cuts off what is before
    `think_ends`."""

    def __init__(self, answers: list[str], think_ends: list[str | None]) -> None:
        super().__init__()
        self.answers = answers
        if think_ends:
            pairs = zip(answers, think_ends, strict=True)
            self.answers = [postprocess_generated_text(answer, None, end) for answer, end in pairs]

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        """Return the given answers in order, then empty ones."""
        return [*self.answers, *[""] * (len(requests) - len(self.answers))]

    def loglikelihood(self, requests: list[Any], **_: Any) -> Any:
        """Raise: gsm8k does not use it."""
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> Any:
        """Raise: gsm8k does not use it."""
        raise NotImplementedError


def task_of(folder: str) -> dict[str, Any]:
    """Return lm-eval's task with the data files of a folder."""
    shipped = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    task: dict[str, Any] = yaml.safe_load(shipped.read_text())
    files = {split: str(Path(folder, f"{split}.jsonl")) for split in ("train", "test")}
    return task | {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}


def main() -> None:
    """Evaluate, and write each question's prompt, text and scores."""
    request = json.load(sys.stdin)
    if request["model"]:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(request["model"], device="cpu", dtype=request["dtype"], batch_size=request["batch_size"])
    else:
        model = GivenAnswers(request["answers"], request.get("think_ends", []))
    tasks = [task_of(request["data"])]
    results = lm_eval.simple_evaluate(
        model, tasks=tasks, limit=request["limit"], log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    result_by_document: dict[int, dict[str, Any]] = {}
    for sample in results["samples"]["gsm8k"]:
        prompt, settings = sample["arguments"][0]
        result = {"prompt": prompt, "settings": settings, "text": sample["resps"][0][0]}
        document_result = result_by_document.setdefault(sample["doc_id"], result)
        name = FILTERS[sample["filter"]]
        document_result[name] = [sample["filtered_resps"][0], bool(sample["exact_match"])]
    Path(request["answer"]).write_text(
        json.dumps([result_by_document[place] for place in sorted(result_by_document)])
    )


if __name__ == "__main__":
    main()
